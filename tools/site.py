"""Hooks of mkdocs.yml: how pages and docstrings become the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)[^)]*\)")
_NAMES = r"([a-z]\w*(?:, [a-z]\w*)*): (?=\S)"
_DRAWING = re.compile(r"[─├└│]| = |->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to source files, which are not part of the site, become plain text."""
    return _OUTSIDE.sub(r"\1", markdown)


class Docstrings(griffe.Extension):
    """Drawings and code in docstrings of modules are set as such; names of parameters begin the items of a list."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object when its members are known."""
        if obj.docstring is not None:
            change = _fence if obj.is_module else _list_parameters
            obj.docstring.value = "\n\n".join(map(change, obj.docstring.value.split("\n\n")))


def _fence(paragraph: str) -> str:
    lines = paragraph.splitlines()
    drawn = sum(map(bool, map(_DRAWING.search, lines))) > 1
    return f"```text\n{paragraph}\n```" if drawn else paragraph


def _list_parameters(paragraph: str) -> str:
    if not re.match(_NAMES, paragraph):
        return paragraph
    return re.sub(rf"(?:^ *|(?<=[.;]) +){_NAMES}", r"\n- **\1**: ", paragraph, flags=re.MULTILINE)
