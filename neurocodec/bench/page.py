"""report.html: one page that needs nothing else: BD-rates, what is not installed, curves, a gallery of crops."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

from neurocodec.bench.codecs import is_ours
from neurocodec.bench.curves import BPP_RANGE, METRICS, Curve, curves_of
from neurocodec.bench.figure import colours
from neurocodec.bench.gallery import Crop, Panel
from neurocodec.bench.plot import plot, swatch
from neurocodec.bench.rate_distortion import averages
from neurocodec.bench.tables import averages_cells, earlier_runs, other_measures

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --soft: #5d5d5d; --rule: #e2e2e0; --back: #f6f6f4; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181a; --ink: #e8e8e6; --soft: #a4a6a8; --rule: #34373a; --back: #202326; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, li { max-width: 46rem; }
p.note, figcaption, .legend, dd { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; min-width: 5rem; }
th:first-child, td:first-child { text-align: left; }
td small { display: block; color: var(--soft); }
tr.own td { font-weight: 600; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
svg text { fill: var(--ink); font-size: 13px; }
svg .grid path { stroke: var(--rule); }
svg .grid text { fill: var(--soft); }
svg text.e { text-anchor: end; }
svg text.m { text-anchor: middle; }
svg .line { fill: none; stroke: var(--c); stroke-width: 2; }
svg .measured .line, svg .published .line, svg.measured .line, svg.published .line { stroke-width: 1.4; }
svg .dot { fill: var(--c); }
svg .measured .dot, svg .published .dot { opacity: 0; }
svg .hit { fill: transparent; }
svg .hit:hover + .dot { r: 5px; opacity: 1; }
svg .lead { fill: none; stroke: var(--c); stroke-width: .6; opacity: .6; }
svg.wide { display: block; width: 100%; height: auto; }
svg.narrow { display: none; }
.swatch { width: 28px; height: 10px; vertical-align: middle; margin-right: .4rem; }
.legend { display: none; list-style: none; margin: 0; padding: 0; }
.legend li { display: inline-block; margin-right: 1rem; white-space: nowrap; }
.crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(288px, 100%), 288px)); gap: 1.25rem; }
figure { margin: 0; }
.crops img { display: block; max-width: 100%; height: auto; background: var(--back); }
figcaption b { color: var(--ink); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .875rem; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  svg.wide { display: none; }
  svg.narrow { display: block; width: 100%; height: auto; }
  .legend { display: block; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; }
}
"""


def page(results: dict[str, Any], panels: Sequence[Panel] = ()) -> str:
    """The text of report.html. results: with what `curves.summarise` adds. It asks for nothing from anywhere."""
    notes: list[str] = []
    curves = curves_of(results, notes)
    notes += [note for note in results.get("notes", ()) if note not in notes]
    dataset = results["dataset"]
    name = f"Rate and distortion on {dataset['name']}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_e(name)}</title><style>{_STYLE}{_colour_rules(curves)}</style></head><body><main>",
        f"<h1>{_e(name)}</h1>",
        f"<p>{_e(_introduction(results))}</p>",
        *_rates(results),
        _missing(results),
        *_plots(curves),
        *_gallery(panels),
        *_patches(results),
        "<h2>Averages by setting</h2>",
        *(_averages(results, codec) for codec in results["codecs"]),
        *_method(results, curves, notes),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _introduction(results: dict[str, Any]) -> str:
    pictures = len(results["dataset"]["pictures"])
    return (
        f"{len(results['codecs'])} codecs on {pictures} picture{'s' * (pictures != 1)}: every number is from a real "
        "file, written, read back and compared. Bits per pixel are those of the whole file, headers included; PSNR is "
        "of 8-bit RGB; curves are means over the pictures at each setting."
    )


def _missing(results: dict[str, Any]) -> str:
    kinds = {"not installed": results.get("not_installed", {}), "not available": results.get("not_available", {})}
    found = [
        f"<li><b>{_e(name)}</b>, {kind}: {_e(why)}</li>" for kind, items in kinds.items() for name, why in items.items()
    ]
    return f"<h2>Not measured</h2><ul>{''.join(found)}</ul>" if found else ""


def _rates(results: dict[str, Any]) -> Iterable[str]:
    rates = results.get("bd_rates", ())
    if not rates:
        return
    low, high = results.get("bpp_range", BPP_RANGE)
    yield "<h2>BD-rate</h2>"
    yield (
        "<p>How many more bits a curve needs for the same quality, on average over the range that both curves cover; "
        "negative is smaller. In brackets, the 95&nbsp;% bootstrap interval over the pictures.</p>"
    )
    others = other_measures(rates)
    for reference in dict.fromkeys(rate["reference"] for rate in rates):
        rows = []
        for rate in rates:
            if rate["reference"] == reference:
                rows.append(
                    [
                        _e(rate["curve"]),
                        _delta(rate["whole"]),
                        _delta(rate["part"]),
                        "" if rate["bd_psnr"] is None else f"{rate['bd_psnr']:+.2f} dB",
                        _percent(rate["cubic"]),
                        *(_percent(rate.get(key)) for key in others),
                    ]
                )
        heads = ["Curve", "BD-rate, PSNR", f"{low:g} to {high:g} bpp", "BD-PSNR", "BD-rate, cubic"]
        heads += [f"BD-rate, {title}" for title in others.values()]
        yield f"<h3>Against {_e(reference)}</h3>" + _table(heads, rows)
    yield (
        '<p class="note">Akima interpolation of ln(bpp) over PSNR, never beyond the ends of a curve; below each number '
        f"the PSNR range it holds for. Second column: where the reference spends {low:g} to {high:g} bpp. Cubic: "
        "the polynomial of VCEG-M33 instead. The last columns: MS-SSIM in dB, the others as logarithms.</p>"
    )


def _plots(curves: Sequence[Curve]) -> Iterable[str]:
    yield "<h2>Curves</h2>"
    kept = "solid, measured in this run; dashed, measured before (anchor) or published elsewhere, as the name says"
    yield f'<p class="note">Point at a dot for its numbers. Lines: {kept}.</p>'
    for metric in METRICS.values():
        drawn = [(i, curve) for i, curve in enumerate(curves) if metric.key in curve.values]
        if wide := plot(curves, metric, 960, max(480, 80 + 15 * len(drawn)), named=True):
            narrow = plot(curves, metric, 360, 330, named=False)
            items = "".join(f"<li>{swatch(i, curve)}{_e(curve.label)}</li>" for i, curve in drawn)
            yield f'<h3>{_e(metric.axis)}</h3>{wide}{narrow}<ul class="legend">{items}</ul>'


def _gallery(panels: Sequence[Panel]) -> Iterable[str]:
    if not panels:
        return
    yield "<h2>Crops at about the same bits</h2>"
    yield (
        '<p class="note">Lossless crops of decoded pictures, at the place where the original has most structure. Bits, '
        "PSNR and LPIPS are of the whole picture. Where a codec cannot get near the rate, it shows the nearest.</p>"
    )
    for panel in panels:
        figures = "".join(_figure(crop, panel) for crop in panel.crops)
        heading = f"{panel.picture} at about {panel.target:g} bits per pixel"
        yield f'<section><h3>{_e(heading)}</h3><div class="crops">{figures}</div></section>'


def _figure(crop: Crop, panel: Panel) -> str:
    if crop.bpp is None:
        told, numbers = f"Original crop of {panel.picture}", "original"
        caption = f"<b>{_e(crop.codec)}</b>"
    else:
        numbers = f"{crop.bpp:.3f} bpp, {'lossless' if crop.psnr is None else f'{crop.psnr:.2f} dB'}"
        numbers += "" if crop.lpips is None else f", LPIPS {crop.lpips:.3f}"
        told = f"The same crop of {panel.picture} by {crop.codec} at {numbers}"
        caption = f"<b>{_e(crop.codec)}</b>, setting {crop.setting:.4g}<br>{_e(numbers)}"
    data = base64.b64encode(crop.webp).decode()
    return (
        f'<figure><img src="data:image/webp;base64,{data}" alt="{_e(told)}" loading="lazy">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _patches(results: dict[str, Any]) -> Iterable[str]:
    found = results.get("patches")
    if not found:
        return
    yield f"<h2>{_e(found['names'][0])}</h2>"
    yield f'<p class="note">{_e(found["network"])}; {found["patches"]} patches; {_e(found["note"])}.</p>'
    rows = [
        [_e(p["codec"]), f"{p['setting']:g}", f"{p['bpp']:.4f}", f"{p['frechet']:.4g}", f"{p['kernel']:.4g}"]
        for p in found["points"]
    ]
    yield _table(["Codec", "Setting", "bpp", *found["names"]], rows)


def _averages(results: dict[str, Any], codec: str) -> str:
    points = averages(results, codec)
    if not points:
        return ""
    heads, rows = averages_cells(points)
    return f"<details><summary>{_e(codec)}</summary>{_table(heads, rows)}</details>"


def _method(results: dict[str, Any], curves: Sequence[Curve], notes: Sequence[str]) -> Iterable[str]:
    machine = results.get("machine", {})
    facts = {
        "command": results.get("command") or "unknown",
        "commit": results.get("commit") or "unknown",
        "date": results.get("date", "unknown"),
        **({"rows kept of earlier runs": earlier_runs(results)} if results.get("earlier") else {}),
        "machine": f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes; seconds in the tables are indicative",
        "versions": ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items()),
        "averages": results.get("averaging", "unknown"),
        **{
            name: ", ".join(_named(key, value) for key, value in found.items())
            for name, found in results["codecs"].items()
        },
        **{c.label: f"{c.settings}{f'; from {c.origin}' if c.origin else ''}" for c in curves if c.source != "run"},
    }
    yield "<h2>How this was measured</h2><dl>"
    yield "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in facts.items())
    yield "</dl>"
    pictures = results["dataset"]["pictures"]
    if all("sha256" in picture for picture in pictures):
        rows = [[_e(p["name"]), f"{p['width']}×{p['height']}", f"<code>{p['sha256'][:16]}…</code>"] for p in pictures]
        table = _table(["Picture", "Size", "SHA-256 of the file"], rows)
        yield f"<details><summary>{len(rows)} pictures with checksums</summary>{table}</details>"
    if notes:
        yield f"<h3>Notes</h3><ul>{''.join(f'<li>{_e(note)}</li>' for note in notes)}</ul>"


def _named(key: str, value: str) -> str:
    return value if key == "settings" else f"{key} {value}"


def _colour_rules(curves: Sequence[Curve]) -> str:
    """A colour for each curve, and a lighter one for dark pages."""
    found = list(enumerate(colours(curves)))
    light = "".join(f".c{i}{{--c:{colour}}}" for i, colour in found)
    dark = "".join(f".c{i}{{--c:{_lighter(colour)}}}" for i, colour in found)
    return f"{light}@media (prefers-color-scheme: dark){{{dark}}}"


def _lighter(colour: str) -> str:
    channels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(channel + 0.42 * (255 - channel)):02x}" for channel in channels)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """heads are text, cells HTML; rows of this project's codec are marked."""
    head = "".join(f'<th scope="col">{_e(cell)}</th>' for cell in heads)
    body = "".join(
        f"<tr{' class=own' * is_ours(row[0])}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _delta(part: dict[str, Any] | None) -> str:
    if part is None:
        return "none"
    interval = part["interval"]
    bounds = f" [{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else ""
    low, high = part["psnr_range"]
    return f"{part['value']:+.1f}&nbsp;%{bounds}<small>{low:.1f} to {high:.1f} dB</small>"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}&nbsp;%"


def _e(text: str) -> str:
    return html.escape(text)
