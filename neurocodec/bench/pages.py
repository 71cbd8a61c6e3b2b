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
    return fill(_template(template), **values)


def script(*names: str) -> Html:
    """A script of files of the folder templates; slider.js is the element <picture-slider>."""
    texts = [_template(name) for name in names]
    return Html("\n".join(['<script type="module">', *texts, "</script>"]))


def join(parts: Iterable[str]) -> Html:
    """Several pieces, each on a line of its own; pieces that are not `Html` are escaped."""
    return Html("\n".join(_escaped(part) for part in parts))


def data_url(kind: str, data: bytes) -> str:
    """A picture inside the page. kind: such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _template(name: str) -> str:
    return (resources.files("neurocodec.bench") / "templates" / name).read_text(encoding="utf-8")


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))
