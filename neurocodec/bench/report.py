"""A results file made readable: table.md with BD-rates and averages, rd.png and rd.svg with the curves, report.html.

Everything but the gallery of crops is read from the results alone, so that a results file can be shown anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocodec import files
from neurocodec.bench import tables
from neurocodec.bench.curves import curves_of
from neurocodec.bench.figure import figure
from neurocodec.bench.gallery import Panel
from neurocodec.bench.page import page

FILES = ("table.md", "rd.png", "rd.svg", "report.html")


def write(results: dict[str, Any], folder: Path, panels: Sequence[Panel] = ()) -> str:
    """Write table.md, rd.png, rd.svg and report.html into `folder` and return the text of the table.

    results: with what `curves.summarise` adds. Raises MissingPackageError without Matplotlib.
    """
    text = tables.table(results)
    curves = curves_of(results, [])
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / "table.md", text.encode(), force=True)
    figure(curves, tables.title(results), [folder / "rd.png", folder / "rd.svg"])
    files.write_bytes(folder / "report.html", page(results, panels).encode(), force=True)
    return text
