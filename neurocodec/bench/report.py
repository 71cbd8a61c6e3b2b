"""A results file made readable: table.md, rows.csv, rd.png and rd.svg with the curves, report.html.

results ─sections→ headings, notes, lists, tables ─→ Markdown, HTML, terminal. report.html needs no other file;
everything but its crops is read from the results alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurocodec import files
from neurocodec.bench import figure, pages
from neurocodec.bench.curves import BPP_RANGE, Curve, curves_of
from neurocodec.bench.pages import Html, fill, join
from neurocodec.bench.quality import METRICS
from neurocodec.bench.results import Row, averages
from neurocodec.metrics import ms_ssim_db

FILES = ("table.md", "rows.csv", "rd.png", "rd.svg", "report.html")
FEW_PICTURES = 10
"""Intervals from fewer pictures come with a warning."""
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


@dataclass(frozen=True)
class Section:
    """A note, a list and a table, each of which may be empty. The first `text` columns of the table are words; fold:
    whether it is long, and opens on a click where that is possible."""

    heading: str
    note: str = ""
    items: Sequence[str] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: int = 1
    fold: bool = False


def write(results: dict[str, Any], folder: Path, crops: str = "") -> None:
    """Writes FILES into `folder`. results: with what `curves.summarise` adds.

    Raises MissingPackageError without Matplotlib, OutputError.
    """
    files.make_folder(folder)
    files.write_bytes(folder / "table.md", markdown(results).encode(errors="backslashreplace"), force=True)
    files.write_bytes(folder / "rows.csv", _csv(results["rows"]).encode(errors="backslashreplace"), force=True)
    figure.save(curves_of(results, []), title(results), [folder / "rd.png", folder / "rd.svg"])
    files.write_bytes(folder / "report.html", page(results, crops).encode(errors="backslashreplace"), force=True)


def title(results: dict[str, Any]) -> str:
    """The data set and its number of pictures."""
    pictures = len(results["dataset"]["pictures"])
    return f"{_dataset(results)}, {pictures} picture{'s' * (pictures != 1)}"


def sections(results: dict[str, Any]) -> list[Section]:
    """How the numbers were made, what was not measured, BD-rates, distances of patches, averages by setting, notes."""
    notes: list[str] = []
    curves = curves_of(results, notes)
    notes += [note for note in results.get("notes", ()) if note not in notes]
    missing = [
        f"{key.replace('_', ' ')}: {name}: {why}"
        for key in ("not_installed", "not_available")
        for name, why in results.get(key, {}).items()
    ]
    chosen = [
        _facts(results, curves),
        Section("Not measured", items=missing),
        *_bd_rates(results),
        *_patches(results),
        *(_averages(results, codec) for codec in results["codecs"]),
        Section("Notes", items=notes),
    ]
    return [section for section in chosen if section.note or section.items or section.rows]


def markdown(results: dict[str, Any], *, level: int = 1, fold: bool = False) -> str:
    """The text of table.md. level: of its heading; fold: whether the file may hold HTML, where sections open on a
    click."""
    first, *others = sections(results)
    lines = ["#" * level + f" Rate and distortion: {_dataset(results)}", "", first.note, "", *_list(first), ""]
    for section in others:
        folded = fold and section.fold
        opening = ["<details>", f"<summary>{section.heading}</summary>"]
        lines += [*(opening if folded else ["#" * (level + 1) + f" {section.heading}"]), ""]
        lines += [section.note, ""] if section.note else []
        lines += [*_list(section), *_table(section), ""]
        lines += ["</details>", ""] if folded else []
    return "\n".join(lines)


def brief(results: dict[str, Any]) -> str:
    """The sections of table.md for a terminal: no averages, unless there are no BD-rates."""
    shown = [section for section in sections(results)[1:] if not (section.fold and results["bd_rates"])]
    texts = ["\n".join([section.heading, *_list(section), *_table(section)]) for section in shown]
    return "\n\n".join(texts)


def page(results: dict[str, Any], crops: str = "") -> str:
    """The text of report.html. crops: what `gallery.html` makes."""
    curves = curves_of(results, [])
    plots = [(metric.axis, Html(figure.svg(curves, metric))) for metric in METRICS.values()]
    plots.insert(1, (f"{METRICS['psnr'].axis}, logarithmic rate", Html(figure.svg(curves, METRICS["psnr"], log=True))))
    plot = '<h3>$axis</h3><div class="plot">$svg</div>'
    return pages.page(
        "report.html",
        title=f"Rate and distortion: {title(results)}",
        curves=join(fill(plot, axis=axis, svg=svg) for axis, svg in plots if svg),
        sections=join(_html(section) for section in sections(results)),
        crops=crops,
        script=pages.script("slider.js", "crops.js") if crops else "",
    )


def _dataset(results: dict[str, Any]) -> str:
    """A folder of the user's is not to be mistaken for the data set of that name."""
    dataset = results["dataset"]
    return f"the folder {dataset['name']}" if dataset.get("folder") else str(dataset["name"])


def _facts(results: dict[str, Any], curves: Sequence[Curve]) -> Section:
    machine = results.get("machine", {})
    measured = [m.title for key, m in METRICS.items() if any(row.get(key) is not None for row in results["rows"])]
    runs = [
        ", ".join(f"{key} {run[key]}" for key in ("command", "commit", "date", "cpu") if run.get(key))
        for run in results.get("earlier", ())
    ]
    lines = [
        f"{len(results['dataset']['pictures'])} pictures, real files. Averages: per setting, mean over the pictures of "
        f"{', '.join(['bpp', *measured])}. bpp: bits of the whole file over pixels. PSNR: 8-bit RGB.",
        f"Made by `{results.get('command') or 'unknown'}`, commit {results.get('commit') or 'unknown'}, "
        f"{results.get('date', 'no date')}, "
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes: seconds are indicative, `neurocodec bench speed` measures them.",
    ]
    lines += [f"Some rows are from earlier runs: {'; '.join(runs)}."] if runs else []
    items = [f"{name}: {configuration.get('settings', '')}" for name, configuration in results["codecs"].items()]
    for curve in curves:
        if curve.source != "run":
            items.append(f"{curve.label}: {curve.settings}{f'; from {curve.origin}' if curve.origin else ''}")
    return Section("How this was measured", "\n".join(lines), items)


def _bd_rates(results: dict[str, Any]) -> list[Section]:
    """BD-rates of every curve, one section for each reference."""
    low, high = results.get("bpp_range", BPP_RANGE)
    pictures = len(results["dataset"]["pictures"])
    few = f"; {pictures} pictures are too few for a reliable one" if pictures < FEW_PICTURES else ""
    made = []
    for reference in dict.fromkeys(rate["reference"] for rate in results.get("bd_rates", ())):
        rates = [rate for rate in results["bd_rates"] if rate["reference"] == reference]
        others = {key: m.title for key, m in METRICS.items() if any(rate.get(key) is not None for rate in rates)}
        note = (
            "Akima interpolation of ln(bpp) over PSNR, where both curves were measured, nothing extrapolated; negative "
            f"is smaller. Brackets: 95 % bootstrap interval over the pictures{few}. The part: where {reference} spends "
            f"{low:g} to {high:g} bpp."
        )
        if others:
            note += f" The last columns: the whole overlap at equal {', '.join(others.values())}, in dB or logarithms."
        heads = ["Curve", "BD-rate", "PSNR range (dB)", f"{low:g} to {high:g} bpp", "PSNR range (dB)", *others.values()]
        rows = []
        for rate in rates:
            last = ("" if rate.get(key) is None else f"{rate[key]:+.1f} %" for key in others)
            rows.append([rate["curve"], *_delta(rate["whole"]), *_delta(rate["part"]), *last])
        made.append(Section(f"BD-rate against {reference}", note, heads=heads, rows=rows))
        made.append(_by_picture(results, reference, rates))
    return made


def _by_picture(results: dict[str, Any], reference: str, rates: Sequence[dict[str, Any]]) -> Section:
    """The BD-rate of each picture, where the pictures of both curves are known."""
    known = [rate for rate in rates if rate.get("pictures")]
    names = [picture["name"] for picture in results["dataset"]["pictures"]] if known else []
    rows = [
        [name, *("none" if rate["pictures"][i] is None else f"{rate['pictures'][i]:+.1f} %" for rate in known)]
        for i, name in enumerate(names)
    ]
    heads = ["Picture", *(rate["curve"] for rate in known)]
    return Section(f"BD-rate against {reference}, by picture", heads=heads, rows=rows, fold=True)


def _csv(rows: Sequence[Row]) -> str:
    """A line for each row of the results."""
    out = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _delta(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return ["none", ""]
    bounds = "" if part["interval"] is None else " [{:+.1f}, {:+.1f}]".format(*part["interval"])
    return [f"{part['value']:+.1f} %{bounds}", "{:.2f} to {:.2f}".format(*part["psnr_range"])]


def _patches(results: dict[str, Any]) -> list[Section]:
    """Distances between sets of patches, if measured, with the name of the network in every heading."""
    distances = results.get("patches")
    if not distances:
        return []
    rows = [
        [point["codec"], f"{point['setting']:g}", f"{point['bpp']:.4f}", f"{point['frechet']:.4g}"]
        for point in distances["points"]
    ]
    name, note = distances["names"][0], f"{distances['network']}; {distances['patches']} patches; {distances['note']}."
    return [Section(name, note, heads=["Codec", "Setting", "bpp", name], rows=rows)]


def _averages(results: dict[str, Any], codec: str) -> Section:
    """Averages of a codec, without the columns that no setting has."""
    points = averages(results, codec)
    for point in points:
        if "ms_ssim" in point:
            point["ms_ssim_db"] = ms_ssim_db(point["ms_ssim"])
    columns = {head: pair for head, pair in _COLUMNS.items() if any(pair[0] in point for point in points)}
    rows = [[format(p[key], text) if key in p else "" for key, text in columns.values()] for p in points]
    return Section(f"{codec}, by setting", heads=list(columns), rows=rows, text=0, fold=True)


def _list(section: Section) -> list[str]:
    return [f"- {item}" for item in section.items]


def _table(section: Section) -> list[str]:
    """Lines of Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (section.heads, *section.rows)]
    rule = "|---" * section.text + "|---:" * (len(section.heads) - section.text) + "|"
    return [lines[0], rule, *lines[1:]] if section.rows else []


def _html(section: Section) -> Html:
    def each(template: str, values: Iterable[str]) -> Html:
        return join(fill(template, value=value) for value in values)

    outer = "<h2>$heading</h2>\n$parts"
    if section.fold:
        outer = "<details><summary>$heading</summary>\n$parts\n</details>"
    parts = []
    if section.note:
        parts.append(fill('<p class="note">$note</p>', note=section.note))
    if section.items:
        parts.append(fill("<ul>$items</ul>", items=each("<li>$value</li>", section.items)))
    if section.rows:
        rows = each("<tr>$value</tr>", (each("<td>$value</td>", row) for row in section.rows))
        heads = each('<th scope="col">$value</th>', section.heads)
        parts.append(fill('<div class="scroll"><table><tr>$heads</tr>$rows</table></div>', heads=heads, rows=rows))
    return fill(outer, heading=section.heading, parts=join(parts))
