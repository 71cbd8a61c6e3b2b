"""A results file made readable: table.md with BD-rates and averages, rd.png and rd.svg with the curves, report.html.

Everything but the gallery of crops is read from the results alone, so that a results file can be shown anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocodec import image
from neurocodec.evaluation.curves import BPP_RANGE, Curve, curves_of
from neurocodec.evaluation.figure import figure
from neurocodec.evaluation.gallery import Panel
from neurocodec.evaluation.page import page
from neurocodec.evaluation.rate_distortion import averages
from neurocodec.metrics import ms_ssim_db


def write(results: dict[str, Any], folder: Path, panels: Sequence[Panel] = ()) -> str:
    """Write table.md, rd.png, rd.svg and report.html into `folder` and return the text of the table.

    results: with what `curves.summarise` adds. Raises MissingPackageError without Matplotlib.
    """
    text = table(results)
    curves = curves_of(results, [])
    folder.mkdir(parents=True, exist_ok=True)
    image.write_bytes_atomic(folder / "table.md", text.encode(), force=True)
    figure(curves, title(results), [folder / "rd.png", folder / "rd.svg"])
    image.write_bytes_atomic(folder / "report.html", page(results, panels).encode(), force=True)
    return text


def title(results: dict[str, Any]) -> str:
    """The data set and how many pictures of it."""
    pictures = len(results["dataset"]["pictures"])
    return f"{results['dataset']['name']}, {pictures} picture{'s' * (pictures != 1)}"


def table(results: dict[str, Any], *, level: int = 1, fold: bool = False) -> str:
    """The text of table.md: where the numbers come from, what is missing, BD-rates, averages by setting.

    level: of its heading. fold: whether averages open on a click, where Markdown may hold HTML.
    """
    notes: list[str] = []
    curves = curves_of(results, notes)
    notes += [note for note in results.get("notes", ()) if note not in notes]
    sub = "#" * (level + 1)
    lines = ["#" * level + f" Rate and distortion: {results['dataset']['name']}", "", *_facts(results, curves), ""]
    lines += missing_lines(results)
    for reference in list(dict.fromkeys(rate["reference"] for rate in results.get("bd_rates", ()))):
        lines += [f"{sub} BD-rate against {reference}", "", *bd_table(results, reference), ""]
    if results.get("patches"):
        lines += [f"{sub} {results['patches']['names'][0]}", "", *patches_table(results), ""]
    for name in results["codecs"]:
        points = averages(results, name)
        if points and fold:
            lines += ["<details>", f"<summary>{name}, by setting</summary>", "", *averages_table(points), ""]
            lines += ["</details>", ""]
        elif points:
            lines += [f"{sub} {name}", "", *averages_table(points), ""]
    if notes:
        lines += [f"{sub} Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def missing_lines(results: dict[str, Any]) -> list[str]:
    """What is not installed or not available, and why; nothing if nothing is missing."""
    return [
        *(f"- not installed: {name}: {why}" for name, why in results.get("not_installed", {}).items()),
        *(f"- not available: {name}: {why}" for name, why in results.get("not_available", {}).items()),
        *([""] if results.get("not_installed") or results.get("not_available") else []),
    ]


def bd_table(results: dict[str, Any], reference: str) -> list[str]:
    """BD-rates of every curve against one, as lines of Markdown."""
    low, high = results.get("bpp_range", BPP_RANGE)
    lines = [
        "Akima interpolation of ln(bpp) over PSNR, where both curves were measured, nothing extrapolated; negative is "
        "smaller. Brackets: 95 % bootstrap interval over the pictures. Cubic: the least-squares polynomial of "
        f"VCEG-M33. The part: where {reference} spends {low:g} to {high:g} bpp. The last columns are BD-rates at equal "
        "MS-SSIM (dB) and equal LPIPS (its logarithm), over their whole overlap.",
        "",
        f"| Curve | BD-rate | PSNR range (dB) | BD-PSNR (dB) | cubic | {low:g} to {high:g} bpp | PSNR range (dB) "
        "| MS-SSIM | LPIPS |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for rate in results["bd_rates"]:
        if rate["reference"] == reference:
            gain = "" if rate["bd_psnr"] is None else f"{rate['bd_psnr']:+.2f}"
            cells = [*_delta(rate["whole"]), gain, percent(rate["cubic"]), *_delta(rate["part"])]
            cells += [percent(rate["ms_ssim"]), percent(rate["lpips"])]
            lines.append(f"| {rate['curve']} | " + " | ".join(cells) + " |")
    return lines


def patches_table(results: dict[str, Any]) -> list[str]:
    """Distances between sets of patches, with the name of the network in every heading, as lines of Markdown."""
    found = results["patches"]
    frechet, kernel = found["names"]
    return [
        f"{found['network']}; {found['patches']} patches; {found['note']}.",
        "",
        f"| Codec | Setting | bpp | {frechet} | {kernel} |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {point['codec']} | {point['setting']:g} | {point['bpp']:.4f} | {point['frechet']:.4g} "
            f"| {point['kernel']:.4g} |"
            for point in found["points"]
        ),
    ]


def averages_table(points: Sequence[dict[str, float]]) -> list[str]:
    """Averages of a codec by setting, as lines of Markdown."""
    lines = [
        "| Setting | bpp | PSNR (dB) | MS-SSIM | MS-SSIM (dB) | LPIPS | encode (s) | decode (s) |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        similarity, distance = point.get("ms_ssim"), point.get("lpips")
        shown = ("", "") if similarity is None else (f"{similarity:.5f}", f"{ms_ssim_db(similarity):.2f}")
        lines.append(
            f"| {point['setting']:g} | {point['bpp']:.4f} | {point['psnr']:.3f} | {shown[0]} | {shown[1]} "
            f"| {'' if distance is None else f'{distance:.4f}'} | {point['encode_s']:.4f} | {point['decode_s']:.4f} |"
        )
    return lines


def percent(value: float | None) -> str:
    """With its sign; nothing for None."""
    return "" if value is None else f"{value:+.1f} %"


def _facts(results: dict[str, Any], curves: Sequence[Curve]) -> list[str]:
    machine = results.get("machine", {})
    return [
        f"{len(results['dataset']['pictures'])} pictures, real files. Averages: "
        f"{results.get('averaging', 'unknown')}. bpp: bits of the whole file over pixels. PSNR: 8-bit RGB.",
        f"Commit {results.get('commit') or 'unknown'}, {results.get('date', 'no date')}, "
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes: seconds are indicative, `neurocodec bench speed` measures them.",
        "",
        *(f"- {name}: {found.get('settings', '')}" for name, found in results["codecs"].items()),
        *(
            f"- {curve.label}: {curve.settings}{f'; from {curve.origin}' if curve.origin else ''}"
            for curve in curves
            if curve.source != "run"
        ),
    ]


def _delta(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return ["none", ""]
    interval = part["interval"]
    bounds = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
    return [f"{part['value']:+.1f} %{bounds}", f"{part['psnr_range'][0]:.2f} to {part['psnr_range'][1]:.2f}"]
