"""A results file as tables: table.md, and the cells that report.html shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurocodec.bench.curves import BPP_RANGE, Curve, curves_of
from neurocodec.bench.quality import METRICS
from neurocodec.bench.results import averages
from neurocodec.metrics import ms_ssim_db

Cells = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def title(results: dict[str, Any]) -> str:
    """The data set and its number of pictures."""
    pictures = len(results["dataset"]["pictures"])
    return f"{results['dataset']['name']}, {pictures} picture{'s' * (pictures != 1)}"


def markdown(results: dict[str, Any], *, level: int = 1, fold: bool = False) -> str:
    """The text of table.md: how the numbers were made, what is missing, BD-rates, averages by setting.

    level: of its heading. fold: whether averages open on a click, where Markdown may hold HTML.
    """
    curves, notes = curves_and_notes(results)
    sub = "#" * (level + 1)
    lines = ["#" * level + f" Rate and distortion: {results['dataset']['name']}", "", *_facts(results, curves), ""]
    lines += [f"- {line}" for line in missing(results)] + [""] * bool(missing(results))
    for reference in references(results):
        lines += [f"{sub} BD-rate against {reference}", "", bd_note(results, reference), ""]
        lines += [*_table(*bd_cells(results, reference), left=1), ""]
    if distances := results.get("patches"):
        lines += [f"{sub} {distances['names'][0]}", "", patches_note(results), ""]
        lines += [*_table(*patches_cells(results), left=1), ""]
    for name in results["codecs"]:
        if points := averages(results, name):
            before = ["<details>", f"<summary>{name}, by setting</summary>"] if fold else [f"{sub} {name}"]
            lines += [*before, "", *_table(*averages_cells(points)), "", *(["</details>", ""] if fold else [])]
    if notes:
        lines += [f"{sub} Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def curves_and_notes(results: dict[str, Any]) -> tuple[list[Curve], list[str]]:
    """The curves of results, and notes on everything left out."""
    notes: list[str] = []
    curves = curves_of(results, notes)
    return curves, notes + [note for note in results.get("notes", ()) if note not in notes]


def references(results: dict[str, Any]) -> list[str]:
    """The curves that BD-rates are given against."""
    return list(dict.fromkeys(rate["reference"] for rate in results.get("bd_rates", ())))


def earlier_runs(results: dict[str, Any]) -> str:
    """Commit, date and processor of the earlier runs that a resumed file holds rows of."""
    return "; ".join(
        f"commit {run['commit'] or 'unknown'}, {run['date'] or 'no date'}, {run['cpu'] or 'unknown CPU'}"
        for run in results.get("earlier", ())
    )


def missing(results: dict[str, Any]) -> list[str]:
    """What is not installed or not available, and why."""
    kinds = {"not installed": results.get("not_installed", {}), "not available": results.get("not_available", {})}
    return [f"{kind}: {name}: {why}" for kind, reasons in kinds.items() for name, why in reasons.items()]


def bd_cells(results: dict[str, Any], reference: str) -> Cells:
    """BD-rates of every curve against one."""
    low, high = results.get("bpp_range", BPP_RANGE)
    others = _other_metrics(results, reference)
    heads = ["Curve", "BD-rate", "PSNR range (dB)", "BD-PSNR (dB)", "cubic", f"{low:g} to {high:g} bpp"]
    rows = []
    for rate in _rates(results, reference):
        gain = "" if rate["bd_psnr"] is None else f"{rate['bd_psnr']:+.2f}"
        cells = [rate["curve"], *_delta(rate["whole"]), gain, _percent(rate["cubic"]), *_delta(rate["part"])]
        rows.append([*cells, *(_percent(rate.get(key)) for key in others)])
    return [*heads, "PSNR range (dB)", *others.values()], rows


def patches_note(results: dict[str, Any]) -> str:
    """What the distances between sets of patches are."""
    distances = results["patches"]
    return f"{distances['network']}; {distances['patches']} patches; {distances['note']}."


def patches_cells(results: dict[str, Any]) -> Cells:
    """Distances between sets of patches, with the name of the network in every heading."""
    formats = {"setting": "g", "bpp": ".4f", "frechet": ".4g", "kernel": ".4g"}
    points = results["patches"]["points"]
    rows = [[point["codec"], *(format(point[key], text) for key, text in formats.items())] for point in points]
    return ["Codec", "Setting", "bpp", *results["patches"]["names"]], rows


def averages_cells(points: Sequence[dict[str, float]]) -> Cells:
    """Averages of a codec, without the columns that no setting has."""
    points = [p | ({"ms_ssim_db": ms_ssim_db(p["ms_ssim"])} if "ms_ssim" in p else {}) for p in points]
    columns = {
        "Setting": ("setting", "g"),
        "bpp": ("bpp", ".4f"),
        "PSNR (dB)": ("psnr", ".3f"),
        "MS-SSIM": ("ms_ssim", ".5f"),
        "MS-SSIM (dB)": ("ms_ssim_db", ".2f"),
        "LPIPS": ("lpips", ".4f"),
        "DISTS": ("dists", ".4f"),
        "encode (s)": ("encode_s", ".4f"),
        "decode (s)": ("decode_s", ".4f"),
    }
    heads = [head for head, (key, _) in columns.items() if any(key in point for point in points)]
    pairs = [columns[head] for head in heads]
    return heads, [[format(point[key], text) if key in point else "" for key, text in pairs] for point in points]


def _facts(results: dict[str, Any], curves: Sequence[Curve]) -> list[str]:
    machine = results.get("machine", {})
    return [
        f"{len(results['dataset']['pictures'])} pictures, real files. Averages: "
        f"{results.get('averaging', 'unknown')}. bpp: bits of the whole file over pixels. PSNR: 8-bit RGB.",
        f"Made by `{results.get('command') or 'unknown'}`, commit {results.get('commit') or 'unknown'}, "
        f"{results.get('date', 'no date')}, "
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes: seconds are indicative, `neurocodec bench speed` measures them.",
        *([f"Some rows are from earlier runs: {earlier_runs(results)}."] if results.get("earlier") else []),
        "",
        *(f"- {name}: {configuration.get('settings', '')}" for name, configuration in results["codecs"].items()),
        *(f"- {curve.label}: {anchor_facts(curve)}" for curve in curves if curve.source != "run"),
    ]


def anchor_facts(curve: Curve) -> str:
    """The settings and the origin of an anchor."""
    return f"{curve.settings}{f'; from {curve.origin}' if curve.origin else ''}"


def _rates(results: dict[str, Any], reference: str) -> list[dict[str, Any]]:
    return [rate for rate in results["bd_rates"] if rate["reference"] == reference]


def _other_metrics(results: dict[str, Any], reference: str) -> dict[str, str]:
    """Keys and titles of the metrics besides PSNR that BD-rates were computed for."""
    rates = _rates(results, reference)
    others = {key: metric.title for key, metric in METRICS.items() if key != "psnr"}
    return {key: title for key, title in others.items() if any(rate.get(key) is not None for rate in rates)}


def bd_note(results: dict[str, Any], reference: str) -> str:
    low, high = results.get("bpp_range", BPP_RANGE)
    others = ", ".join(_other_metrics(results, reference).values())
    last = f" The last columns: the whole overlap at equal {others}, in dB or logarithms." if others else ""
    return (
        "Akima interpolation of ln(bpp) over PSNR, where both curves were measured, nothing extrapolated; negative is "
        "smaller. Brackets: 95 % bootstrap interval over the pictures. Cubic: the least-squares polynomial of "
        f"VCEG-M33. The part: where {reference} spends {low:g} to {high:g} bpp.{last}"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Lines of Markdown. left: how many columns are text."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return [lines[0], "|---" * left + "|---:" * (len(heads) - left) + "|", *lines[1:]]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def _delta(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return ["none", ""]
    interval = part["interval"]
    bounds = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
    return [f"{part['value']:+.1f} %{bounds}", f"{part['psnr_range'][0]:.2f} to {part['psnr_range'][1]:.2f}"]
