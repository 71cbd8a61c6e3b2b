"""Rate-distortion curves as figures by Matplotlib: files for papers and README files, SVG text for pages."""

from __future__ import annotations

import html
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec import files
from neurocodec.bench.curves import Curve, Points
from neurocodec.bench.quality import METRICS, Metric
from neurocodec.packages import require

MAX_BPP = 2.0
"""Right end of the figure."""
COLOURS = {
    "nic": "#c8374b",
    "jpeg": "#30638e",
    "jpeg-444": "#6aa0c7",
    "mozjpeg": "#1d8aa8",
    "webp": "#3a7d44",
    "avif": "#c17817",
    "avif-psnr": "#8f5a0a",
    "heic": "#6b4fa0",
    "bpg": "#4a3380",
    "jxl": "#1b8a7a",
    "jpeg2000": "#7a5c3e",
}
MORE_COLOURS = ("#e07a5f", "#b0439a", "#5f7d00", "#007a99", "#96505a", "#5a5a8c")
"""Of codecs without a colour of their own, in turn."""
ANCHOR_COLOUR = "#6b6b6b"


def colours(curves: Sequence[Curve]) -> list[str]:
    """A colour, #rrggbb, for each curve; anchors are gray."""
    others = [c.name for c in curves if c.source == "run" and c.name not in COLOURS]
    more = {name: MORE_COLOURS[i % len(MORE_COLOURS)] for i, name in enumerate(others)}
    return [(COLOURS | more)[c.name] if c.source == "run" else ANCHOR_COLOUR for c in curves]


def save(curves: Sequence[Curve], title: str, paths: Sequence[Path]) -> None:
    """PSNR over bpp, written to each of the paths in the format that its ending names.

    Each curve is named at its right end; anchors are gray and dashed. Raises MissingPackageError without Matplotlib,
    OutputError if a file cannot be written.
    """
    with _style():
        figure = _figure(curves, METRICS["psnr"], title)
        for path in paths:
            kind = path.suffix.removeprefix(".")
            with files.writing(path, force=True) as file:
                figure.savefig(file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)


def svg(curves: Sequence[Curve], metric: Metric) -> str:
    """Any metric over bpp as an `<svg>` element with a tooltip for each point; empty if no curve has the metric."""
    if not any(_shown(curve, metric) for curve in curves):
        return ""
    out, tooltips = io.StringIO(), list[str]()
    with _style():
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        _figure(curves, metric, "", tooltips).savefig(out, format="svg", metadata=none)
    text = out.getvalue()
    text = (
        f'<svg role="img" aria-label="{html.escape(metric.axis)} over bits per pixel" {text[text.index("<svg") + 5 :]}'
    )

    def add_title(match: re.Match[str]) -> str:
        return f"{match[0]}<title>{html.escape(tooltips[int(match[1])])}</title>"

    return re.sub(r'<g id="point-(\d+)">', add_title, text)


def spread(heights: Sequence[float], gap: float, high: float) -> list[float]:
    """Rising heights moved apart to at least `gap`, and down again where they would leave the top."""
    apart: list[float] = []
    for height in heights:
        apart.append(max(height, apart[-1] + gap) if apart else height)
    return [min(height, high - gap * (len(apart) - 1 - i)) for i, height in enumerate(apart)]


def _style() -> Any:
    matplotlib: Any = require("matplotlib", "Matplotlib", "the figure")
    return matplotlib.rc_context({"svg.hashsalt": "neurocodec", "svg.fonttype": "none", "font.size": 11})


def _figure(curves: Sequence[Curve], metric: Metric, title: str, tooltips: list[str] | None = None) -> Any:
    """The figure. Adds the text of each point to `tooltips`; its group in the SVG is point-N, N the index there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes: Any = figure.add_subplot()
    lines = [(c, colour, _shown(c, metric)) for c, colour in zip(curves, colours(curves), strict=True)]
    lines = [line for line in lines if line[2]]
    styles = itertools.cycle(("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1))))
    right = min(MAX_BPP, max((points[-1][0] for *_, points in lines), default=MAX_BPP))
    ends: list[tuple[float, float, str, str]] = []
    for curve, colour, points in lines:
        x, y = np.array(points).T
        if curve.source == "run":
            axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=2, zorder=3)
        else:
            axes.plot(x, y, color=colour, linestyle=next(styles), linewidth=1.4, zorder=2)
        for bpp, height in points:
            if tooltips is not None and bpp <= right:
                axes.plot(bpp, height, "o", alpha=0, markersize=12, zorder=4, gid=f"point-{len(tooltips)}")
                reading = f"{10**height:.4f}" if metric.falls else f"{height:.2f} dB"
                tooltips.append(f"{curve.label}: {bpp:.3f} bpp, {metric.title} {reading}")
        end = min(float(x[-1]), right)
        ends.append((end, float(np.interp(end, x, y)), curve.label, colour))
    inside = [y for *_, points in lines for x, y in points if x <= right] + [end[1] for end in ends] or [20.0, 45.0]
    margin = 0.04 * (max(inside) - min(inside)) or 0.1
    low, high = min(inside) - margin, max(inside) + margin
    axes.set_xlim(0, right)
    axes.set_ylim(low, high)
    if metric.falls:
        ticks = [digit * 10.0**power for power in range(-9, 2) for digit in (1, 2, 5)]
        ticks = [value for value in ticks if low <= math.log10(value) <= high]
        axes.set_yticks([math.log10(value) for value in ticks], [f"{value:g}" for value in ticks])
    _name_ends(axes, ends, low, high, right)
    axes.set_xlabel("bits per pixel (whole file)")
    axes.set_ylabel(metric.axis)
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _shown(curve: Curve, metric: Metric) -> Points:
    """bpp and height of each point that can be drawn: in dB below infinity, or the logarithm of what falls."""
    values = curve.values.get(metric.key, curve.points if metric.key == "psnr" else ())
    if metric.falls:
        return tuple((bpp, math.log10(value)) for bpp, value in values if value > 0)
    return tuple((bpp, metric.shown(value)) for bpp, value in values if metric.shown(value) < math.inf)


def _name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], low: float, high: float, right: float) -> None:
    """Names right of the axes at the height where the curves end, moved apart where they would touch."""
    order = sorted(ends, key=lambda end: end[1])
    heights = spread([end[1] for end in order], (high - low) / max(20, len(order)), high)
    for (x, y, label, colour), height in zip(order, heights, strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            label, (x, y), (right * 1.025, height), color=colour, va="center", annotation_clip=False, arrowprops=line
        )
