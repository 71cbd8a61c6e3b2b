"""A results file made readable: table.md with BD-rates and averages, rd.png and rd.svg with the curves, report.html.

report.html needs no other file. Everything but its crops is read from the results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocodec import files
from neurocodec.bench import figure, pages, summary
from neurocodec.bench.curves import Curve
from neurocodec.bench.gallery import Crop, Panel
from neurocodec.bench.pages import Html, fill, join
from neurocodec.bench.quality import METRICS, Metric
from neurocodec.bench.rivals import is_ours

FILES = ("table.md", "rd.png", "rd.svg", "report.html")


def write(results: dict[str, Any], folder: Path, panels: Sequence[Panel] = ()) -> str:
    """Writes FILES into `folder` and returns the text of the table.

    results: with what `curves.summarise` adds. Raises MissingPackageError without Matplotlib, OutputError.
    """
    text = summary.markdown(results)
    files.make_folder(folder)
    files.write_bytes(folder / "table.md", text.encode(), force=True)
    curves, _ = summary.curves_and_notes(results)
    figure.save(curves, summary.title(results), [folder / "rd.png", folder / "rd.svg"])
    files.write_bytes(folder / "report.html", page(results, panels).encode(), force=True)
    return text


def page(results: dict[str, Any], panels: Sequence[Panel] = ()) -> str:
    """The text of report.html."""
    curves, notes = summary.curves_and_notes(results)
    pictures = len(results["dataset"]["pictures"])
    rates = join(_section("<h3>$heading</h3>", section) for section in summary.bd_rates(results))
    codecs = "<details><summary>$heading</summary>"
    return pages.page(
        "report.html",
        title=f"Rate and distortion on {results['dataset']['name']}",
        counts=f"{len(results['codecs'])} codecs on {pictures} picture{'s' * (pictures != 1)}",
        rates=_around("<h2>BD-rate</h2><p>How many more bits a curve needs for the same quality, on average over the "
                      "range that both curves cover; negative is smaller.</p>$inside", rates),
        missing=_missing(results),
        curves=join(_curves(curves, metric) for metric in METRICS.values()),
        gallery=_gallery(panels),
        patches=join(_section("<h2>$heading</h2>", section) for section in summary.patches(results)),
        averages=join(_section(codecs, section, "</details>") for section in summary.averages_by_setting(results)),
        facts=join(fill("<dt>$k</dt><dd>$v</dd>", k=k, v=v) for k, v in _facts(results, curves).items()),
        pictures=_pictures(results),
        notes=_around("<h3>Notes</h3><ul>$inside</ul>", join(fill("<li>$note</li>", note=note) for note in notes)),
    )  # fmt: skip


def _around(template: str, inside: Html, **values: object) -> Html:
    """The template around some HTML; nothing around nothing."""
    return fill(template, inside=inside, **values) if inside else inside


def _section(heading: str, section: summary.Section, end: str = "") -> Html:
    own = [is_ours(row[0]) for row in section.rows]
    note = _around('<p class="note">$inside</p>', fill("$note", note=section.note))
    return join(
        [fill(heading, heading=section.heading), note, pages.table(section.heads, section.rows, own), Html(end)]
    )


def _missing(results: dict[str, Any]) -> Html:
    item = "<li><b>$name</b>, $kind: $why</li>"
    items = join(fill(item, name=name, kind=kind, why=why) for kind, name, why in summary.missing(results))
    return _around("<h2>Not measured</h2><ul>$inside</ul>", items)


def _curves(curves: Sequence[Curve], metric: Metric) -> Html:
    svg = Html(figure.svg(curves, metric))
    return _around('<h3>$axis</h3><div class="plot">$inside</div>', svg, axis=metric.axis)


def _gallery(panels: Sequence[Panel]) -> Html:
    section = '<section><h3>$name at about $target bits per pixel</h3><div class="crops">$crops</div></section>'
    sections = join(
        fill(section, name=panel.picture, target=f"{panel.target:g}", crops=join(_crop(c, panel) for c in panel.crops))
        for panel in panels
    )
    note = (
        "Lossless crops of decoded pictures, where the original has most structure. Bits, PSNR and LPIPS are of the "
        "whole picture. A codec that cannot get near the rate shows its nearest."
    )
    return _around('<h2>Crops at about the same bits</h2><p class="note">$note</p>$inside', sections, note=note)


def _crop(crop: Crop, panel: Panel) -> Html:
    alt, caption = f"Original crop of {panel.picture}", fill("<b>$codec</b>", codec=crop.codec)
    if crop.bpp is not None:
        numbers = f"{crop.bpp:.3f} bpp, {'lossless' if crop.psnr is None else f'{crop.psnr:.2f} dB'}"
        numbers += "" if crop.lpips is None else f", LPIPS {crop.lpips:.3f}"
        alt = f"The same crop of {panel.picture} by {crop.codec} at {numbers}"
        caption = Html(caption + fill(", setting $setting<br>$numbers", setting=f"{crop.setting:.4g}", numbers=numbers))
    image = '<figure><img src="$source" alt="$alt" loading="lazy"><figcaption>$caption</figcaption></figure>'
    return fill(image, source=pages.data_url("webp", crop.webp), alt=alt, caption=caption)


def _facts(results: dict[str, Any], curves: Sequence[Curve]) -> dict[str, str]:
    machine = results.get("machine", {})
    facts = {key: results.get(key) or "unknown" for key in ("command", "commit", "date")}
    if results.get("earlier"):
        facts["rows kept of earlier runs"] = summary.earlier_runs(results)
    facts["machine"] = (
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('processes', 1)} processes; seconds in the tables are indicative"
    )
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    facts["averages"] = results.get("averaging", "unknown")
    for name, configuration in results["codecs"].items():
        named = (value if key == "settings" else f"{key} {value}" for key, value in configuration.items())
        facts[name] = ", ".join(named)
    return facts | {curve.label: summary.anchor_facts(curve) for curve in curves if curve.source != "run"}


def _pictures(results: dict[str, Any]) -> Html:
    pictures = results["dataset"]["pictures"]
    if not all("sha256" in picture for picture in pictures):
        return Html()
    rows = [[p["name"], f"{p['width']}×{p['height']}", fill("<code>$s…</code>", s=p["sha256"][:16])] for p in pictures]
    table = pages.table(["Picture", "Size", "SHA-256 of the file"], rows)
    template = "<details><summary>$count pictures with checksums</summary>$inside</details>"
    return _around(template, table, count=len(rows))
