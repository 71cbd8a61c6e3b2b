"""PSNR over bits as a picture, for papers and README files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec.bench.curves import Curve
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

_ANCHOR_STYLES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


def colours(curves: Sequence[Curve]) -> list[str]:
    """One for each curve; anchors are gray."""
    more, found = 0, []
    for curve in curves:
        colour = ANCHOR_COLOUR if curve.source != "run" else COLOURS.get(curve.name, "")
        if not colour:
            colour = MORE_COLOURS[more % len(MORE_COLOURS)]
            more += 1
        found.append(colour)
    return found


def figure(curves: Sequence[Curve], title: str, paths: Sequence[Path], *, max_bpp: float = MAX_BPP) -> None:
    """PSNR over bpp, written to each of the paths, in the kind that its ending names; each curve is named at its right
    end, anchors are gray and not continuous. Raises MissingPackageError without Matplotlib.
    """
    require("matplotlib", "Matplotlib", "the figure")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "neurocodec", "svg.fonttype": "none", "font.size": 11}):
        plot = Figure(figsize=(8.0, 5.0), layout="constrained")
        axes = plot.add_subplot()
        right = min(max_bpp, max((bpp for curve in curves for bpp, _ in curve.points), default=max_bpp))
        ends: list[tuple[float, float, str, str]] = []
        styles = list(_ANCHOR_STYLES)
        for curve, colour in zip(curves, colours(curves), strict=True):
            x, y = np.array(curve.points).T
            if curve.source == "run":
                axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=2, zorder=3, clip_on=True)
            else:
                style = styles.pop(0)
                styles.append(style)
                axes.plot(x, y, color=colour, linestyle=style, linewidth=1.4, zorder=2)
            end = min(float(x[-1]), right)
            ends.append((end, float(np.interp(end, x, y)), curve.label, colour))
        axes.set_xlim(0, right)
        low, high = vertical_range(curves, right)
        axes.set_ylim(low, high)
        _name_ends(axes, ends, low, high, right)
        axes.set_xlabel("bits per pixel (whole file)")
        axes.set_ylabel("PSNR, 8-bit RGB (dB)")
        axes.set_title(title, loc="left", fontsize=12)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        for path in paths:
            plot.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


def vertical_range(curves: Sequence[Curve], right: float) -> tuple[float, float]:
    """From below the lowest point to above where the highest curve leaves the figure."""
    if not curves:
        return 20.0, 45.0
    tops = [float(np.interp(min(c.points[-1][0], right), *np.array(c.points).T)) for c in curves]
    return min(curve.points[0][1] for curve in curves) - 0.7, max(tops) + 0.7


def spread(heights: Sequence[float], gap: float, high: float) -> list[float]:
    """Rising heights moved apart to at least `gap`, and down again where they would leave the top."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + gap) if found else height)
    for index in reversed(range(len(found))):
        found[index] = min(found[index], high - gap * (len(found) - 1 - index))
    return found


def _name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], low: float, high: float, right: float) -> None:
    """Names right of the axes at the height where the curves end, moved apart where they would touch."""
    order = sorted(ends, key=lambda end: end[1])
    for (x, y, label, colour), height in zip(
        order, spread([end[1] for end in order], (high - low) / max(20, len(order)), high), strict=True
    ):
        axes.annotate(
            label,
            (x, y),
            (right * 1.025, height),
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
        )
