"""A results file as tables: table.md, and the cells that pages share with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from neurocodec.bench.curves import BPP_RANGE, METRICS, Curve, curves_of
from neurocodec.bench.rate_distortion import averages
from neurocodec.metrics import ms_ssim_db


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


def earlier_runs(results: dict[str, Any]) -> str:
    """Commit, date and processor of the runs of another commit or processor that a resumed file holds rows of."""
    return "; ".join(
        f"commit {run['commit'] or 'unknown'}, {run['date'] or 'no date'}, {run['cpu'] or 'unknown CPU'}"
        for run in results.get("earlier", ())
    )


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
    rates = [rate for rate in results["bd_rates"] if rate["reference"] == reference]
    others = other_measures(rates)
    heads = ["Curve", "BD-rate", "PSNR range (dB)", "BD-PSNR (dB)", "cubic", f"{low:g} to {high:g} bpp"]
    heads += ["PSNR range (dB)", *others.values()]
    last = f" The last columns: the whole overlap at equal {', '.join(others.values())}, in dB or logarithms."
    lines = [
        "Akima interpolation of ln(bpp) over PSNR, where both curves were measured, nothing extrapolated; negative is "
        "smaller. Brackets: 95 % bootstrap interval over the pictures. Cubic: the least-squares polynomial of "
        f"VCEG-M33. The part: where {reference} spends {low:g} to {high:g} bpp.{last if others else ''}",
        "",
        _row(heads),
        "|---" + "|---:" * (len(heads) - 1) + "|",
    ]
    for rate in rates:
        gain = "" if rate["bd_psnr"] is None else f"{rate['bd_psnr']:+.2f}"
        cells = [rate["curve"], *_delta(rate["whole"]), gain, percent(rate["cubic"]), *_delta(rate["part"])]
        lines.append(_row([*cells, *(percent(rate.get(key)) for key in others)]))
    return lines


def other_measures(rates: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Keys and titles of the measures besides PSNR that any of the BD-rates was computed for."""
    found = {key: metric.title for key, metric in METRICS.items() if key != "psnr"}
    return {key: title for key, title in found.items() if any(rate.get(key) is not None for rate in rates)}


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
    heads, rows = averages_cells(points)
    return [_row(heads), "|---:" * len(heads) + "|", *(_row(row) for row in rows)]


def averages_cells(points: Sequence[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the averages of a codec, with those measures that any setting has."""
    columns: dict[str, Callable[[dict[str, float]], str]] = {
        "Setting": lambda point: f"{point['setting']:g}",
        "bpp": lambda point: f"{point['bpp']:.4f}",
        "PSNR (dB)": lambda point: f"{point['psnr']:.3f}",
        "MS-SSIM": lambda point: f"{point['ms_ssim']:.5f}" if "ms_ssim" in point else "",
        "MS-SSIM (dB)": lambda point: f"{ms_ssim_db(point['ms_ssim']):.2f}" if "ms_ssim" in point else "",
        "LPIPS": lambda point: f"{point['lpips']:.4f}" if "lpips" in point else "",
        "DISTS": lambda point: f"{point['dists']:.4f}" if "dists" in point else "",
        "encode (s)": lambda point: f"{point['encode_s']:.4f}",
        "decode (s)": lambda point: f"{point['decode_s']:.4f}",
    }
    cells = {head: [write(point) for point in points] for head, write in columns.items()}
    kept = {head: column for head, column in cells.items() if any(column)}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def percent(value: float | None) -> str:
    """With its sign; nothing for None."""
    return "" if value is None else f"{value:+.1f} %"


def _facts(results: dict[str, Any], curves: Sequence[Curve]) -> list[str]:
    machine = results.get("machine", {})
    return [
        f"{len(results['dataset']['pictures'])} pictures, real files. Averages: "
        f"{results.get('averaging', 'unknown')}. bpp: bits of the whole file over pixels. PSNR: 8-bit RGB.",
        f"Made by `{results.get('command') or 'unknown'}`, commit {results.get('commit') or 'unknown'}, "
        f"{results.get('date', 'no date')}, "
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes: seconds are indicative, `neurocodec bench speed` measures them.",
        *([f"Rows were kept of earlier runs: {earlier_runs(results)}."] if results.get("earlier") else []),
        "",
        *(f"- {name}: {found.get('settings', '')}" for name, found in results["codecs"].items()),
        *(
            f"- {curve.label}: {curve.settings}{f'; from {curve.origin}' if curve.origin else ''}"
            for curve in curves
            if curve.source != "run"
        ),
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _delta(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return ["none", ""]
    interval = part["interval"]
    bounds = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
    return [f"{part['value']:+.1f} %{bounds}", f"{part['psnr_range'][0]:.2f} to {part['psnr_range'][1]:.2f}"]
