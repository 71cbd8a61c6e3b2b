"""A results file as tables: table.md, and the cells that report.html shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurocodec.bench.curves import BPP_RANGE, Curve, curves_of
from neurocodec.bench.quality import METRICS
from neurocodec.bench.results import averages
from neurocodec.metrics import ms_ssim_db


@dataclass(frozen=True)
class Section:
    """A note and a table, whose first `text` columns are words."""

    heading: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1


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
    absent = missing_lines(results)
    lines += [*absent, *([""] if absent else [])]
    for section in [*bd_rates(results), *patches(results)]:
        lines += [f"{sub} {section.heading}", "", section.note, "", *_table(section), ""]
    for section in averages_by_setting(results):
        folded = ["<details>", f"<summary>{section.heading}, by setting</summary>"]
        lines += [*(folded if fold else [f"{sub} {section.heading}"]), "", *_table(section), ""]
        lines += ["</details>", ""] if fold else []
    if notes:
        lines += [f"{sub} Notes", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def curves_and_notes(results: dict[str, Any]) -> tuple[list[Curve], list[str]]:
    """The curves of results, and notes on everything left out."""
    notes: list[str] = []
    curves = curves_of(results, notes)
    return curves, notes + [note for note in results.get("notes", ()) if note not in notes]


def earlier_runs(results: dict[str, Any]) -> str:
    """Commit, date and processor of the earlier runs that a resumed file holds rows of."""
    return "; ".join(
        f"commit {run['commit'] or 'unknown'}, {run['date'] or 'no date'}, {run['cpu'] or 'unknown CPU'}"
        for run in results.get("earlier", ())
    )


def missing(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """("not installed" or "not available", the name of a codec or metric, why) for whatever was not measured."""
    kinds = {"not installed": results.get("not_installed", {}), "not available": results.get("not_available", {})}
    return [(kind, name, why) for kind, reasons in kinds.items() for name, why in reasons.items()]


def missing_lines(results: dict[str, Any]) -> list[str]:
    """The items of `missing` as a list in Markdown."""
    return [f"- {kind}: {name}: {why}" for kind, name, why in missing(results)]


def bd_rates(results: dict[str, Any]) -> list[Section]:
    """BD-rates of every curve, one section for each reference."""
    low, high = results.get("bpp_range", BPP_RANGE)
    heads = ["Curve", "BD-rate", "PSNR range (dB)", "BD-PSNR (dB)", "cubic", f"{low:g} to {high:g} bpp"]
    by_reference: dict[str, list[dict[str, Any]]] = {}
    for rate in results.get("bd_rates", ()):
        by_reference.setdefault(rate["reference"], []).append(rate)
    sections = []
    for reference, rates in by_reference.items():
        others = {key: m.title for key, m in METRICS.items() if any(rate.get(key) is not None for rate in rates)}
        last = f" The last columns: the whole overlap at equal {', '.join(others.values())}, in dB or logarithms."
        note = (
            "Akima interpolation of ln(bpp) over PSNR, where both curves were measured, nothing extrapolated; negative "
            "is smaller. Brackets: 95 % bootstrap interval over the pictures. Cubic: the least-squares polynomial of "
            f"VCEG-M33. The part: where {reference} spends {low:g} to {high:g} bpp.{last if others else ''}"
        )
        rows = []
        for rate in rates:
            gain = "" if rate["bd_psnr"] is None else f"{rate['bd_psnr']:+.2f}"
            cells = [rate["curve"], *_delta(rate["whole"]), gain, _percent(rate["cubic"]), *_delta(rate["part"])]
            rows.append([*cells, *(_percent(rate.get(key)) for key in others)])
        all_heads = [*heads, "PSNR range (dB)", *others.values()]
        sections.append(Section(f"BD-rate against {reference}", note, all_heads, rows))
    return sections


def patches(results: dict[str, Any]) -> list[Section]:
    """Distances between sets of patches, if measured, with the name of the network in every heading."""
    distances = results.get("patches")
    if not distances:
        return []
    rows = [
        [p["codec"], f"{p['setting']:g}", f"{p['bpp']:.4f}", f"{p['frechet']:.4g}", f"{p['kernel']:.4g}"]
        for p in distances["points"]
    ]
    note = f"{distances['network']}; {distances['patches']} patches; {distances['note']}."
    return [Section(distances["names"][0], note, ["Codec", "Setting", "bpp", *distances["names"]], rows)]


def averages_by_setting(results: dict[str, Any]) -> list[Section]:
    """Averages of each codec, without the columns that no setting has."""
    sections = []
    for codec in results["codecs"]:
        points = [
            p | ({"ms_ssim_db": ms_ssim_db(p["ms_ssim"])} if "ms_ssim" in p else {}) for p in averages(results, codec)
        ]
        columns = {head: pair for head, pair in _COLUMNS.items() if any(pair[0] in point for point in points)}
        rows = [[format(p[key], text) if key in p else "" for key, text in columns.values()] for p in points]
        sections += [Section(codec, "", list(columns), rows, 0)] if points else []
    return sections


_COLUMNS = {
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


def _table(section: Section) -> list[str]:
    """Lines of Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (section.heads, *section.rows)]
    return [lines[0], "|---" * section.text + "|---:" * (len(section.heads) - section.text) + "|", *lines[1:]]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def _delta(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return ["none", ""]
    interval = part["interval"]
    bounds = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
    return [f"{part['value']:+.1f} %{bounds}", f"{part['psnr_range'][0]:.2f} to {part['psnr_range'][1]:.2f}"]
