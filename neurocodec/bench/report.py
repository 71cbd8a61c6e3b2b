"""A results file made readable: table.md with BD-rates and averages, rd.png and rd.svg with the curves, report.html.

report.html needs no other file. Everything but its crops is read from the results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocodec import files
from neurocodec.bench import figure, pages, summary
from neurocodec.bench.curves import BPP_RANGE, Curve
from neurocodec.bench.gallery import Crop, Panel
from neurocodec.bench.pages import Html, fill, join
from neurocodec.bench.quality import METRICS
from neurocodec.bench.results import averages
from neurocodec.bench.rivals import is_ours

FILES = ("table.md", "rd.png", "rd.svg", "report.html")


def write(results: dict[str, Any], folder: Path, panels: Sequence[Panel] = ()) -> str:
    """Writes FILES into `folder` and returns the text of the table.

    results: with what `curves.summarise` adds. Raises MissingPackageError without Matplotlib.
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
    return pages.page(
        "report.html",
        title=f"Rate and distortion on {results['dataset']['name']}",
        counts=f"{len(results['codecs'])} codecs on {pictures} picture{'s' * (pictures != 1)}",
        rates=_rates(results),
        missing=_missing(results),
        curves=join(_curves(curves, key) for key in METRICS),
        gallery=_gallery(panels),
        patches=_patches(results),
        averages=join(_averages(results, codec) for codec in results["codecs"]),
        facts=join(fill("<dt>$k</dt><dd>$v</dd>", k=k, v=v) for k, v in _facts(results, curves).items()),
        pictures=_pictures(results),
        notes=_section("<h3>Notes</h3><ul>$parts</ul>", [fill("<li>$note</li>", note=note) for note in notes]),
    )


def _section(template: str, parts: Sequence[Html], **values: object) -> Html:
    """Nothing if it has no parts."""
    return fill(template, parts=join(parts), **values) if parts else Html()


def _rates(results: dict[str, Any]) -> Html:
    low, high = results.get("bpp_range", BPP_RANGE)
    parts = []
    for reference in summary.references(results):
        heads, rows = summary.bd_cells(results, reference)
        parts.append(fill("<h3>Against $reference</h3>", reference=reference) + _table(heads, rows))
        parts.append(fill('<p class="note">$note</p>', note=summary.bd_note(results, reference)))
    return _section(
        "<h2>BD-rate</h2><p>How many more bits a curve needs for the same quality, on average over the range that both "
        "curves cover; negative is smaller.</p>$parts", [Html(part) for part in parts],
    )  # fmt: skip


def _missing(results: dict[str, Any]) -> Html:
    kinds = {"not installed": results.get("not_installed", {}), "not available": results.get("not_available", {})}
    parts = [
        fill("<li><b>$name</b>, $kind: $why</li>", name=name, kind=kind, why=why)
        for kind, reasons in kinds.items()
        for name, why in reasons.items()
    ]
    return _section("<h2>Not measured</h2><ul>$parts</ul>", parts)


def _curves(curves: Sequence[Curve], key: str) -> Html:
    svg = figure.svg(curves, METRICS[key])
    return _section('<h3>$axis</h3><div class="plot">$parts</div>', [Html(svg)] * bool(svg), axis=METRICS[key].axis)


def _gallery(panels: Sequence[Panel]) -> Html:
    parts = [
        _section(
            '<section><h3>$picture at about $target bits per pixel</h3><div class="crops">$parts</div></section>',
            [_crop(crop, panel) for crop in panel.crops], picture=panel.picture, target=f"{panel.target:g}",
        )
        for panel in panels
    ]  # fmt: skip
    return _section(
        '<h2>Crops at about the same bits</h2><p class="note">Lossless crops of decoded pictures, where the original '
        "has most structure. Bits, PSNR and LPIPS are of the whole picture. A codec that cannot get near the rate "
        "shows its nearest.</p>$parts", parts,
    )  # fmt: skip


def _crop(crop: Crop, panel: Panel) -> Html:
    alt, caption = f"Original crop of {panel.picture}", fill("<b>$codec</b>", codec=crop.codec)
    if crop.bpp is not None:
        numbers = f"{crop.bpp:.3f} bpp, {'lossless' if crop.psnr is None else f'{crop.psnr:.2f} dB'}"
        numbers += "" if crop.lpips is None else f", LPIPS {crop.lpips:.3f}"
        alt = f"The same crop of {panel.picture} by {crop.codec} at {numbers}"
        caption = Html(caption + fill(", setting $setting<br>$numbers", setting=f"{crop.setting:.4g}", numbers=numbers))
    image = '<figure><img src="$source" alt="$alt" loading="lazy"><figcaption>$caption</figcaption></figure>'
    return fill(image, source=pages.data_url("webp", crop.webp), alt=alt, caption=caption)


def _patches(results: dict[str, Any]) -> Html:
    if not results.get("patches"):
        return Html()
    template, heading = '<h2>$heading</h2><p class="note">$note</p>$parts', results["patches"]["names"][0]
    table = _table(*summary.patches_cells(results))
    return _section(template, [table], heading=heading, note=summary.patches_note(results))


def _averages(results: dict[str, Any], codec: str) -> Html:
    points = averages(results, codec)
    parts = [pages.table(*summary.averages_cells(points))] if points else []
    return _section("<details><summary>$codec</summary>$parts</details>", parts, codec=codec)


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
    template = "<details><summary>$count pictures with checksums</summary>$parts</details>"
    return _section(template, [pages.table(["Picture", "Size", "SHA-256 of the file"], rows)], count=len(rows))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """With the rows of this project's codec marked."""
    return pages.table(heads, rows, [is_ours(row[0]) for row in rows])
