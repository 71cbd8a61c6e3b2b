"""A results file made readable: table.md with averages and BD-rates, rd.png and rd.svg with the curves.

Anchors are curves that someone else measured, or that were measured before: JSON files with codec, dataset, settings
and points (bpp, psnr and, where known, per_image rows). They are always marked as such.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurocodec import image
from neurocodec.errors import ConfigError
from neurocodec.evaluation.rate_distortion import DATASETS, averages
from neurocodec.metrics import bd_psnr, bd_rate, ms_ssim_db
from neurocodec.metrics.packages import require

BPP_RANGE = (0.15, 1.0)
"""Where pictures are usually kept; BD-rates are given over it and over all that two curves share."""
MAX_BPP = 2.0
"""Right end of the figure."""

_COLOURS = {"nic": "#d1495b", "jpeg": "#30638e", "jpeg-444": "#6aa0c7", "webp": "#3a7d44"}
_MORE_COLOURS = ("#8f5fa8", "#c17817", "#1b8a8f", "#7a5c3e")
_ANCHOR_STYLES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Curve:
    """points: (bpp, PSNR in dB), from the smallest. source: measured in this run, measured before, or published."""

    name: str
    points: tuple[tuple[float, float], ...]
    source: Literal["run", "measured", "published"] = "run"
    settings: str = ""

    @property
    def label(self) -> str:
        return {"run": self.name, "measured": f"{self.name} (anchor)", "published": f"{self.name} (published)"}[
            self.source
        ]


def write(
    results: dict[str, Any],
    folder: Path,
    anchors: Sequence[Path] = (),
    *,
    bpp_range: tuple[float, float] = BPP_RANGE,
) -> str:
    """Write table.md, rd.png and rd.svg into `folder` and return the text of the table.

    An anchor that does not fit the pictures of the results is left out, and the table says why. Raises ConfigError if
    an anchor cannot be read, MissingPackageError without SciPy or Matplotlib.
    """
    notes: list[str] = []
    curves = [_measured(results, codec, notes) for codec in results["codecs"]]
    curves = [curve for curve in curves if curve.points]
    for path in anchors:
        curve = load_anchor(path, results, notes)
        if curve is not None:
            curves.append(curve)
    text = table(results, curves, notes, bpp_range)
    folder.mkdir(parents=True, exist_ok=True)
    image.write_bytes_atomic(folder / "table.md", text.encode(), force=True)
    pictures = len(results["dataset"]["pictures"])
    figure(curves, f"{results['dataset']['name']}, {pictures} picture{'s' * (pictures != 1)}", folder)
    return text


def load_anchor(path: Path, results: dict[str, Any], notes: list[str]) -> Curve | None:
    """An anchor's curve over just the pictures of `results`; None, and a note, if it does not have all of them."""
    try:
        anchor = json.loads(path.read_text(encoding="utf-8"))
        name, points = str(anchor["codec"]), list(anchor["points"])
        source: Literal["measured", "published"] = "published" if "source" in anchor else "measured"
        per_image = [{row["file"]: row for row in point.get("per_image", ())} for point in points]
        averaged = [(float(point["bpp"]), float(point["psnr"])) for point in points]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as an anchor, a JSON file with codec and points: {error}") from error

    dataset = results["dataset"]["name"]
    wanted = {picture["name"] for picture in results["dataset"]["pictures"]}
    if anchor.get("dataset") != dataset:
        notes.append(f"Anchor {name} is left out: it was measured on {anchor.get('dataset')}, not on {dataset}.")
        return None
    if any(rows and rows.keys() != wanted for rows in per_image) and all(wanted <= rows.keys() for rows in per_image):
        averaged = [tuple(np.mean([[rows[n]["bpp"], rows[n]["psnr"]] for n in wanted], axis=0)) for rows in per_image]
        notes.append(f"Anchor {name} is averaged over the {len(wanted)} pictures of this run, of {len(per_image[0])}.")
    elif any(rows and rows.keys() != wanted for rows in per_image):
        notes.append(f"Anchor {name} is left out: it covers {len(per_image[0])} pictures, not all of this run's.")
        return None
    elif not all(per_image) and len(wanted) != DATASETS.get(dataset):
        notes.append(f"Anchor {name} is left out: only its average over the whole of {dataset} is known.")
        return None
    points_of = tuple(sorted((float(bpp), float(psnr)) for bpp, psnr in averaged))
    return Curve(name, points_of, source, str(anchor.get("settings", "")))


def table(
    results: dict[str, Any],
    curves: Sequence[Curve],
    notes: Sequence[str] = (),
    bpp_range: tuple[float, float] = BPP_RANGE,
) -> str:
    """The text of table.md: where the numbers come from, BD-rates against JPEG and each anchor, averages by setting."""
    dataset, machine = results["dataset"], results.get("machine", {})
    lines = [
        f"# Rate and distortion: {dataset['name']}",
        "",
        f"{len(dataset['pictures'])} pictures, real files. Averages: {results.get('averaging', 'unknown')}. "
        "bpp: bits of the whole file over pixels. PSNR: 8-bit RGB.",
        f"Commit {results.get('commit') or 'unknown'}, {results.get('date', 'no date')}, "
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes: seconds are indicative, `neurocodec bench speed` measures them.",
        "",
        *(f"- {name}: {found.get('settings', '')}" for name, found in results["codecs"].items()),
        *(f"- {curve.label}: {curve.settings}" for curve in curves if curve.source != "run"),
        "",
    ]
    problems = list(notes)
    for reference in [c for c in curves if c.name == "jpeg" and c.source == "run"] + [
        c for c in curves if c.source != "run"
    ]:
        others = [c for c in curves if c is not reference and (c.source == "run" or reference.source == "run")]
        if others:
            lines += _bd_table(reference, others, bpp_range, problems)
    for name in results["codecs"]:
        points = averages(results, name)
        if points:
            lines += _averages_table(name, points)
    if problems:
        lines += ["## Notes", "", *(f"- {problem}" for problem in problems), ""]
    return "\n".join(lines)


def figure(curves: Sequence[Curve], title: str, folder: Path, max_bpp: float = MAX_BPP) -> None:
    """rd.png and rd.svg: PSNR over bpp, each curve named at its right end; anchors are gray and not continuous."""
    require("matplotlib", "Matplotlib", "the figure")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "neurocodec", "svg.fonttype": "none", "font.size": 11}):
        plot = Figure(figsize=(8.0, 5.0), layout="constrained")
        axes = plot.add_subplot()
        right = min(max_bpp, max((bpp for curve in curves for bpp, _ in curve.points), default=max_bpp))
        ends: list[tuple[float, float, str, str]] = []
        colours, styles = list(_MORE_COLOURS), list(_ANCHOR_STYLES)
        for curve in curves:
            x, y = np.array(curve.points).T
            if curve.source == "run":
                colour = _COLOURS.get(curve.name) or colours.pop(0)
                axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=2, zorder=3, clip_on=True)
            else:
                style = styles.pop(0)
                styles.append(style)
                colour = "#666666"
                axes.plot(x, y, color=colour, linestyle=style, linewidth=1.4, zorder=2)
            end = min(float(x[-1]), right)
            ends.append((end, float(np.interp(end, x, y)), curve.label, colour))
        axes.set_xlim(0, right)
        tops = [y for _, y, _, _ in ends]
        bottoms = [curve.points[0][1] for curve in curves]
        low, high = (min(bottoms) - 0.7, max(tops) + 0.7) if curves else (20.0, 45.0)
        axes.set_ylim(low, high)
        _name_ends(axes, ends, low, high, right)
        axes.set_xlabel("bits per pixel (whole file)")
        axes.set_ylabel("PSNR, 8-bit RGB (dB)")
        axes.set_title(title, loc="left", fontsize=12)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        folder.mkdir(parents=True, exist_ok=True)
        plot.savefig(folder / "rd.png", dpi=160)
        plot.savefig(folder / "rd.svg", metadata={"Date": None})


def _name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], low: float, high: float, right: float) -> None:
    """Names right of the axes at the height where the curves end, moved apart where they would touch."""
    gap = (high - low) / 20
    heights: list[float] = []
    order = sorted(ends, key=lambda end: end[1])
    for _, y, _, _ in order:
        heights.append(max(y, heights[-1] + gap) if heights else y)
    over = max(0.0, heights[-1] - high) if heights else 0.0
    for index in reversed(range(len(heights))):  # push the pile down again if it left the axes
        heights[index] = min(heights[index], high - gap * (len(heights) - 1 - index)) if over else heights[index]
    for (x, y, label, colour), height in zip(order, heights, strict=True):
        axes.annotate(
            label,
            (x, y),
            (right * 1.025, height),
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
        )


def _measured(results: dict[str, Any], codec: str, notes: list[str]) -> Curve:
    points = averages(results, codec)
    finite = [point for point in points if math.isfinite(point["psnr"])]
    asked = {float(row["setting"]) for row in results["rows"] if row["codec"] == codec}
    if missing := sorted(asked - {point["setting"] for point in points}):
        settings = ", ".join(f"{setting:g}" for setting in missing)
        notes.append(f"{codec}: left out, as not measured on every picture: setting {settings}.")
    if len(finite) < len(points):
        notes.append(f"{codec}: settings at which a picture comes back without any error are not in the curve.")
    return Curve(codec, tuple((point["bpp"], point["psnr"]) for point in finite))


def _bd_table(
    reference: Curve, others: Sequence[Curve], bpp_range: tuple[float, float], problems: list[str]
) -> list[str]:
    low, high = bpp_range
    lines = [
        f"## BD-rate against {reference.label}",
        "",
        "Akima interpolation of ln(bpp) over PSNR, where both curves were measured; negative is smaller. The last "
        f"columns count only that part where {reference.label} spends {low:g} to {high:g} bpp.",
        "",
        "| Curve | BD-rate | PSNR range (dB) | BD-PSNR (dB) "
        f"| BD-rate, {low:g} to {high:g} bpp | PSNR range (dB) | bpp of {reference.label} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for curve in others:
        cells = []
        try:
            whole = bd_rate(reference.points, curve.points)
            gain = bd_psnr(reference.points, curve.points)
            cells += [f"{whole.value:+.1f} %", _span(whole.psnr_range, 2), f"{gain.value:+.2f}"]
        except ValueError as error:
            cells += ["none", "", ""]
            problems.append(f"BD-rate of {curve.label} against {reference.label}: {error}.")
        try:
            part = bd_rate(reference.points, curve.points, bpp_range=bpp_range)
            cells += [f"{part.value:+.1f} %", _span(part.psnr_range, 2), _span(part.bpp_range, 3)]
        except ValueError as error:
            cells += ["none", "", ""]
            if cells[0] != "none":
                problems.append(f"BD-rate of {curve.label} against {reference.label}: {error}.")
        lines.append(f"| {curve.label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _averages_table(name: str, points: Sequence[dict[str, float]]) -> list[str]:
    lines = [
        f"## {name}",
        "",
        "| Setting | bpp | PSNR (dB) | MS-SSIM | MS-SSIM (dB) | encode (s) | decode (s) |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        similarity = point.get("ms_ssim")
        shown = ("", "") if similarity is None else (f"{similarity:.5f}", f"{ms_ssim_db(similarity):.2f}")
        lines.append(
            f"| {point['setting']:g} | {point['bpp']:.4f} | {point['psnr']:.3f} | {shown[0]} | {shown[1]} "
            f"| {point['encode_s']:.4f} | {point['decode_s']:.4f} |"
        )
    return [*lines, ""]


def _span(interval: tuple[float, float], digits: int) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
