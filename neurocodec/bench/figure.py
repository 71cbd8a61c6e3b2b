"""Rate-distortion curves as figures by Matplotlib: files for papers and README files, SVG text for pages."""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocodec import files
from neurocodec.bench.curves import Curve
from neurocodec.bench.quality import METRICS, Metric
from neurocodec.packages import require

MAX_BPP = 2.0
"""Right end of the figure."""
COLOURS = ("#c8374b", "#30638e", "#3a7d44", "#c17817", "#6b4fa0", "#1b8a7a", "#e07a5f", "#b0439a", "#6aa0c7", "#7a5c3e")
ANCHOR_COLOUR, ANCHOR_STYLES = "#6b6b6b", ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def save(curves: Sequence[Curve], title: str, paths: Sequence[Path]) -> None:
    """PSNR over bpp, written to each of the paths in the format that its ending names.

    Anchors are gray and broken. Raises MissingPackageError without Matplotlib, OutputError if a file cannot be written.
    """
    with _style():
        figure = _figure(curves, METRICS["psnr"], title, tooltips=False)
        for path in paths:
            kind = path.suffix.removeprefix(".")
            with files.writing(path, force=True) as file:
                figure.savefig(file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)


def svg(curves: Sequence[Curve], metric: Metric) -> str:
    """Any metric over bpp as an `<svg>` element with a tooltip for each point; empty if no curve has the metric."""
    if not any(metric.finite(curve.values.get(metric.key, ())) for curve in curves):
        return ""
    out = io.StringIO()
    with _style():
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        _figure(curves, metric, "", tooltips=True).savefig(out, format="svg", metadata=none)
    text = out.getvalue()
    label = f'role="img" aria-label="{html.escape(metric.axis)} over bits per pixel"'
    text = re.sub(r'<g id="point: ([^"]*)">', r"<g><title>\1</title>", text[text.index("<svg") + 4 :])
    return f"<svg {label}{text}"


def _style() -> Any:
    matplotlib: Any = require("matplotlib", "Matplotlib", "the figure")
    options = {"svg.hashsalt": "neurocodec", "svg.fonttype": "none", "font.size": 11, "text.parse_math": False}
    return matplotlib.rc_context(options)


def _figure(curves: Sequence[Curve], metric: Metric, title: str, *, tooltips: bool) -> Any:
    """The figure. tooltips: whether the group of each point in an SVG is named "point: " and what a tooltip says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes: Any = figure.add_subplot()
    colours, styles = itertools.cycle(COLOURS), itertools.cycle(ANCHOR_STYLES)
    for curve in curves:
        points = [point for point in metric.finite(curve.values.get(metric.key, ())) if point[0] <= MAX_BPP]
        if not points:
            continue
        bpps, heights = zip(*points, strict=True)
        if curve.source == "run":
            axes.plot(bpps, heights, "o-", color=next(colours), markersize=3.5, linewidth=2, label=curve.label)
        else:
            axes.plot(bpps, heights, color=ANCHOR_COLOUR, linestyle=next(styles), linewidth=1.4, label=curve.label)
        for bpp, height in points if tooltips else ():
            reading = f"{height:.4f}" if metric.falls else f"{height:.2f} dB"
            tooltip = f"{curve.label}: {bpp:.3f} bpp, {metric.title} {reading}"
            axes.plot(bpp, height, "o", alpha=0, markersize=12, zorder=4, gid=f"point: {tooltip}")
    axes.set_xlim(left=0)
    if metric.falls:
        axes.set_yscale("log")
    axes.set_xlabel("bits per pixel (whole file)")
    axes.set_ylabel(metric.axis)
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    return figure
