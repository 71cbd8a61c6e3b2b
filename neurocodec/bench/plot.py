"""Curves as SVG inside a page: they follow its light or dark colours and say at each point what was measured there."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np

from neurocodec.bench.curves import Curve, Metric, Points
from neurocodec.bench.figure import MAX_BPP, spread

_DASHES = ("7 4", "2 3", "8 3 2 3", "12 4")


def plot(curves: Sequence[Curve], metric: Metric, width: int, height: int, *, named: bool) -> str:
    """An `<svg>` of those curves that have the metric, and nothing if none has.

    Each curve is a group of class `c0`, `c1` and so on, by its place among `curves`; the page gives the classes their
    colours. named: whether names stand at the right ends, where there is room for them.
    """
    shown = [
        (i, curve, points)
        for i, curve in enumerate(curves)
        if (points := _scaled(curve.values.get(metric.key, ()), metric))
    ]
    if not shown:
        return ""
    left, top, right, bottom = 46, 14, width - (150 if named else 14), height - 42
    end = min(MAX_BPP, max(points[-1][0] for _, _, points in shown))
    inside = [y for _, _, points in shown for x, y in points if x <= end]
    inside += [_at(points, end) for _, _, points in shown]
    margin = 0.03 * (max(inside) - min(inside)) or 0.1
    low, high = min(inside) - margin, max(inside) + margin

    def x_of(bpp: float) -> float:
        return left + (right - left) * bpp / end

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    clip = f"clip-{metric.key}-{width}"
    parts = [
        f'<svg viewBox="0 0 {width} {height}" class="{"wide" if named else "narrow"}" role="img" '
        f'aria-label="{html.escape(metric.axis)} over bits per pixel; the tables below hold the numbers">',
        f'<clipPath id="{clip}"><rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/></clipPath>',
        '<g class="grid">',
    ]
    levels = _log_ticks(low, high) if metric.falls else {at: f"{at:g}" for at in ticks(low, high, 5 if named else 4)}
    for value, written in levels.items():
        y = y_of(value)
        parts.append(
            f'<path d="M{left} {y:.1f}H{right}"/><text x="{left - 7}" y="{y + 4:.1f}" class="e">{written}</text>'
        )
    for bpp in ticks(0.0, end, 6 if named else 4):
        parts.append(f'<path d="M{x_of(bpp):.1f} {top}V{bottom}"/>')
        parts.append(f'<text x="{x_of(bpp):.1f}" y="{bottom + 17}" class="m">{bpp:g}</text>')
    parts.append(f'<text x="{(left + right) / 2:.0f}" y="{bottom + 35}" class="m">bits per pixel</text></g>')
    for index, curve, points in shown:
        parts.append(f'<g class="c{index} {curve.source}"><g clip-path="url(#{clip})">')
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in points)
        dashes = "" if curve.source == "run" else f' stroke-dasharray="{_DASHES[index % len(_DASHES)]}"'
        parts.append(f'<path d="M{path}" class="line"{dashes}/>')
        for x, y in points:
            if x <= end:
                reading = f"{10**y:.4f}" if metric.falls else f"{y:.2f} dB"
                told = f"{curve.label}: {x:.3f} bpp, {metric.title} {reading}"
                parts.append(
                    f'<g><title>{html.escape(told)}</title><circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="9" '
                    f'class="hit"/><circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.6" class="dot"/></g>'
                )
        parts.append("</g></g>")
    if named:
        order = sorted(shown, key=lambda item: -_at(item[2], end))
        ends = [y_of(_at(points, end)) for _, _, points in order]
        for (index, curve, points), y, at in zip(order, spread(ends, 15, bottom + 6), ends, strict=True):
            start = x_of(min(points[-1][0], end))
            written = curve.label if curve.source == "run" else curve.name  # dashes say the rest
            parts.append(
                f'<g class="c{index}"><path d="M{start + 4:.1f} {at:.1f}L{right + 8} {y:.1f}" class="lead"/>'
                f'<text x="{right + 12}" y="{y + 4:.1f}">{html.escape(written)}</text></g>'
            )
    parts.append("</svg>")
    return "".join(parts)


def swatch(index: int, curve: Curve) -> str:
    """A short piece of a curve's line, for a legend."""
    dashes = "" if curve.source == "run" else f' stroke-dasharray="{_DASHES[index % len(_DASHES)]}"'
    return (
        f'<svg viewBox="0 0 28 10" class="swatch c{index} {curve.source}" aria-hidden="true">'
        f'<path d="M0 5H28" class="line"{dashes}/></svg>'
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, near `about` of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> dict[float, str]:
    """Logarithms between low and high of 1, 2 and 5 times powers of ten, and how these are written."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = {math.log10(digit) + power: f"{digit * 10.0**power:g}" for power in powers for digit in (1, 2, 5)}
    return {at: written for at, written in sorted(found.items()) if low <= at <= high}


def _scaled(points: Points, metric: Metric) -> Points:
    """Heights in the plot: dB, or the logarithm of what falls. Points of infinitely many dB are left out."""
    shown = [(bpp, value) for bpp, value in ((bpp, metric.shown(value)) for bpp, value in points) if value < math.inf]
    return tuple((bpp, math.log10(max(value, 1e-9)) if metric.falls else value) for bpp, value in shown)


def _at(points: Points, bpp: float) -> float:
    x, y = np.array(points).T
    return float(np.interp(bpp, x, y))
