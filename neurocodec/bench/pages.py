"""HTML from templates: values are escaped unless they are HTML already."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from importlib import resources
from string import Template


class Html(str):
    """Text that is HTML already."""


def fill(template: str, **values: object) -> Html:
    """A template with a value for each of its $names. `Html` values are inserted as they are, others are escaped."""
    return Html(Template(template).substitute({name: _escaped(value) for name, value in values.items()}))


def page(template: str, **values: object) -> Html:
    """`fill` for a file of the folder templates."""
    path = resources.files("neurocodec.bench") / "templates" / template
    return fill(path.read_text(encoding="utf-8"), **values)


def slider() -> Html:
    """The element <picture-slider>, for a page's script."""
    path = resources.files("neurocodec.bench") / "templates" / "slider.js"
    return Html(path.read_text(encoding="utf-8"))


def join(parts: Iterable[str]) -> Html:
    """Several pieces, each on a line of its own; pieces that are not `Html` are escaped."""
    return Html("\n".join(_escaped(part) for part in parts))


def data_url(kind: str, data: bytes) -> str:
    """A picture inside the page. kind: such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))
