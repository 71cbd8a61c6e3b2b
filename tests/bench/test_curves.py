"""Curves, anchors and BD-rates of results; the table, figures, the page and its gallery."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT
from PIL import Image

from neurocodec.bench import curves, datasets, figure, gallery, rate_distortion, report, rivals
from neurocodec.bench import results as results_file
from neurocodec.bench.bd_rate import bd_rate, bootstrap
from neurocodec.bench.pages import Html
from neurocodec.bench.quality import METRICS, Metrics
from neurocodec.bench.report import page
from neurocodec.errors import ConfigError, OutputError
from neurocodec.metrics import psnr


def made(curves: dict[str, list[tuple[float, float]]], dataset: str = "kodak", pictures: int = 2) -> dict[str, Any]:
    """Results whose averages are these points: half the pictures are 0.01 bpp and 1 dB above, half below."""
    names = [f"kodim{n:02}.png" for n in range(1, pictures + 1)]
    signs = [1 if n % 2 else -1 for n in range(pictures)]
    rows = [
        {"image": image, "codec": name, "setting": setting, "bytes": 1, "bpp": bpp + 0.01 * sign, "psnr": psnr + sign}
        | {"ms_ssim": 0.99, "lpips": 0.4 - 0.1 * setting, "encode_s": 0.1, "decode_s": 0.1}
        for name, points in curves.items()
        for setting, (bpp, psnr) in enumerate(points)
        for image, sign in zip(names, signs, strict=True)
    ]
    return {
        "dataset": {"name": dataset, "pictures": [{"name": name} for name in names]},
        "codecs": {name: {"settings": f"{name} as set"} for name in curves},
        "rows": rows,
    }


CURVE = [(0.1, 25.0), (0.3, 29.0), (0.9, 33.0), (1.8, 37.0)]
HALF = [(bpp / 2, psnr) for bpp, psnr in CURVE]


def anchor_file(path: Path, points: list[tuple[float, float]], files: list[str], **more: Any) -> Path:
    """An anchor; per-image rows are `points` at the first file, and half the bits with 2 dB more at every other."""
    entries = [
        {"q": q, "bpp": bpp, "psnr": psnr}
        | ({"per_image": [{"file": f, "bpp": bpp / (1 + (i > 0)), "psnr": psnr + 2 * (i > 0)}
                          for i, f in enumerate(files)]} if files else {})
        for q, (bpp, psnr) in enumerate(points)
    ]  # fmt: skip
    path.write_text(
        json.dumps({"codec": path.stem, "dataset": "kodak", "settings": "as set", "points": entries} | more)
    )
    return path


def test_table(tmp_path: Path) -> None:
    results = curves.summarise(made({"nic": HALF, "jpeg": CURVE}))
    report.write(results, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text == report.markdown(results)
    row = next(line for line in text.splitlines() if line.startswith("| nic |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert re.fullmatch(r"-50\.0 % \[-5\d\.\d, -4\d\.\d\]", cells[1])
    assert cells[2] == "25.00 to 37.00"
    assert cells[3].startswith("-50.0 % [")
    low, high = (float(end) for end in cells[4].split(" to "))
    assert 25 < low < 29 < 33 < high < 37, "where JPEG spends 0.15 to 1 bpp"
    assert cells[5:] == ["-50.0 %"]  # LPIPS; MS-SSIM is the same everywhere and has no column
    assert "| 2 | 0.4500 | 33.000 | 0.99000 | 20.00 | 0.2000 | 0.1000 | 0.1000 |" in text
    assert "Akima interpolation" in text
    assert "interval over the pictures; 2 pictures are too few for a reliable one." in text
    assert "mean over the pictures of bpp, PSNR, MS-SSIM, LPIPS. bpp" in text, "no metric that was not measured"
    assert "## Notes" not in text
    assert "too few" not in report.markdown(
        curves.summarise(made({"nic": HALF, "jpeg": CURVE}, pictures=10), resamples=1)
    )


def test_each_picture_has_its_bd_rate() -> None:
    results = curves.summarise(made({"nic": HALF, "jpeg": CURVE}), resamples=1)
    (rate,) = results["bd_rates"]
    assert rate["pictures"] == pytest.approx([-51.6, -48.4], abs=0.3)
    assert f"| kodim01.png | {rate['pictures'][0]:+.1f} % |" in report.markdown(results)
    assert "<summary>BD-rate against jpeg, by picture</summary>" in report.page(results)


def test_rows_as_csv_are_those_of_the_results(tmp_path: Path) -> None:
    results = curves.summarise(made({"nic": HALF, "jpeg": CURVE}), resamples=1)
    report.write(results, tmp_path)
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["codec"], float(row["bpp"])) for row in rows] == [
        (row["image"], row["codec"], row["bpp"]) for row in results["rows"]
    ]


def test_figure_repeats(tmp_path: Path) -> None:
    four = curves.curves_of(made({"nic": HALF, "jpeg": CURVE, "a": CURVE, "b": HALF}), [])
    paths = [tmp_path / "rd.png", tmp_path / "rd.svg"]
    figure.save(four, "title", paths)
    with Image.open(tmp_path / "rd.png") as im:
        assert im.size == (1280, 800)
        assert len(im.convert("RGB").getcolors(2**20) or ()) > 10
    svg = (tmp_path / "rd.svg").read_text()
    assert all(f">{name}<" in svg for name in ("nic", "jpeg", "a", "b"))
    assert len(set(re.findall(r"stroke: (#\w+)", svg)) & set(figure.COLOURS)) == 4
    figure.save(four, "title", paths)
    assert (tmp_path / "rd.svg").read_text() == svg


def test_axes_have_plain_numbers() -> None:
    results = curves.summarise(made({"nic": HALF, "jpeg": CURVE}), resamples=1)
    lines = curves.curves_of(results, [])
    for plot in (figure.svg(lines, METRICS["lpips"]), figure.svg(lines, METRICS["psnr"], log=True)):
        assert "mathdefault" not in plot
        assert ">0.2<" in plot


def test_dollars_in_names_are_dollars(tmp_path: Path) -> None:
    results = made({"nic:a$b": HALF, "jpeg$_c": CURVE}, dataset="my $pictures$")
    figure.save(curves.curves_of(results, []), report.title(results), [tmp_path / "rd.svg", tmp_path / "rd.png"])
    svg = (tmp_path / "rd.svg").read_text()
    assert all(f">{text}<" in svg for text in ("my $pictures$, 2 pictures", "nic:a$b", "jpeg$_c"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_full_disk_leaves_no_part_of_a_figure(tmp_path: Path) -> None:
    import resource

    results = curves.summarise(made({"nic": HALF, "jpeg": CURVE}), resamples=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"rd\.png cannot be written"):
            report.write(results, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "rows.csv"}


def test_curves_that_cannot_be_compared_say_so() -> None:
    falling = [(0.1, 25.0), (0.3, 24.0)]
    results = made({"nic": falling, "webp": [(3.0, 45.0), (4.0, 46.0)], "jpeg": CURVE})
    del results["rows"][-1]  # one picture of JPEG's best setting
    text = report.markdown(curves.summarise(results, resamples=1))
    assert "| nic | none |" in text
    assert "the test curve is not increasing" in text
    assert "| webp | none |" in text
    assert "share no PSNR interval" in text
    assert "jpeg: left out, as not measured on every picture: setting 3." in text


def test_lpips_above_one_counts() -> None:
    nic = [(0.02, 25.0), *HALF[1:]]  # saves more at the lowest point than elsewhere
    results = made({"nic": nic, "jpeg": CURVE})
    for row in results["rows"]:
        row["lpips"] = (1.6, 0.3, 0.2, 0.1)[row["setting"]]
    (rate,) = curves.summarise(results, resamples=1)["bd_rates"]
    heights = [-10 * math.log10(value) for value in (1.6, 0.3, 0.2, 0.1)]
    reference, curve = ([(bpp, y) for (bpp, _), y in zip(c, heights, strict=True)] for c in (CURVE, nic))
    assert rate["lpips"] == pytest.approx(bd_rate(reference, curve).value)
    assert rate["lpips"] < -51


def test_intervals_are_those_of_the_pictures() -> None:
    """The interval of a BD-rate is the bootstrap over per-image rows, in the order of the results' pictures."""
    rng = np.random.default_rng(5)
    results = made({"nic": HALF, "jpeg": CURVE}, pictures=6)
    for row in results["rows"]:
        row["bpp"] *= rng.uniform(0.9, 1.1)
    rate = curves.summarise(results, resamples=200)["bd_rates"][0]
    points = {(row["codec"], row["image"], row["setting"]): (row["bpp"], row["psnr"]) for row in results["rows"]}
    names = [picture["name"] for picture in results["dataset"]["pictures"]]
    a, b = (
        np.array([[points[codec, name, setting] for setting in range(4)] for name in names])
        for codec in ("jpeg", "nic")
    )
    assert rate["whole"]["interval"] == bootstrap(a, b, resamples=200)
    assert rate["whole"]["value"] == pytest.approx(bd_rate(a.mean(0), b.mean(0)).value)
    assert rate["whole"]["interval"][0] < rate["whole"]["value"] < rate["whole"]["interval"][1]


def loaded(paths: list[Path], results: dict[str, Any]) -> tuple[list[curves.Curve], list[str]]:
    """The anchors that fit the pictures of results, and the notes on them."""
    notes: list[str] = []
    names = [picture["name"] for picture in results["dataset"]["pictures"]]
    return curves.load_anchors(paths, results["dataset"]["name"], names, notes), notes


def test_anchors_are_cut_to_the_pictures_of_the_run(tmp_path: Path) -> None:
    both = anchor_file(tmp_path / "both.json", CURVE, ["kodim01.png", "kodim02.png"])
    (curve,), notes = loaded([both], made({"jpeg": CURVE}, pictures=1))
    assert curve.points == CURVE
    assert curve.label == "both (anchor)"
    assert curve.rows is not None
    assert curve.rows.shape == (1, 4, 2)
    assert notes == ["Anchor both is averaged over the 1 picture of this run, of 2."]


def test_anchors_that_do_not_fit_are_left_out_aloud(tmp_path: Path) -> None:
    results = made({"jpeg": CURVE})
    one = anchor_file(tmp_path / "one.json", CURVE, ["kodim01.png"])
    clic = anchor_file(tmp_path / "clic.json", CURVE, [], dataset="clic2025-validation")
    known = anchor_file(tmp_path / "known.json", CURVE, [], source="a paper")
    anchors, notes = loaded([one, clic, known], results)
    assert anchors == []
    text = report.markdown(curves.summarise(results, notes=notes, resamples=1))
    assert "Anchor one is left out: it covers 1 pictures" in text
    assert "Anchor clic is left out: it was measured on clic2025-validation, not on kodak" in text
    assert "Anchor known is left out: only its average over the whole of kodak is known" in text
    rows = '{"codec": "x", "dataset": "kodak", "points": [{"bpp": 1, "psnr": 30, "per_image": [%s]}]}'
    for text, why in (
        ("[]", "is not an anchor: its outermost value"),
        ('{"codec": "x", "points": []}', "holds no points"),
        ('{"codec": "x", "points": [{"bpp": 1, "psnr": NaN}]}', r"points\[0\]\.psnr"),
        (rows % '{"file": "kodim01.png", "bpp": 1}', r"points\[0\]\.per_image\[0\]\.psnr is missing"),
        (rows % '{"bpp": 1, "psnr": 30}', "file"),
        ("{", "cannot be read as an anchor"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError, match=why):
            loaded([tmp_path / "bad.json"], results)
    with pytest.raises(ConfigError, match="cannot be read as an anchor"):
        loaded([tmp_path / "nowhere"], results)


def test_published_anchors_are_marked_and_kept(tmp_path: Path) -> None:
    """A folder of anchors; the stored results need them no more."""
    folder = tmp_path / "published"
    folder.mkdir()
    anchor_file(folder / "paper.json", HALF, [], source="a paper, table 2")
    anchor_file(folder / "vtm.json", [(bpp / 3, psnr) for bpp, psnr in CURVE], [], source="theirs")
    results = made({"jpeg": CURVE}, pictures=24)
    results = curves.summarise(results, loaded([folder], results)[0], ["paper"], resamples=1)
    results_file.save(results, tmp_path / "results.json")
    results = results_file.load(tmp_path / "results.json")
    report.write(results, tmp_path)
    text = (tmp_path / "table.md").read_text()
    for reference in ("jpeg", "vtm (published)", "paper (published)"):
        assert f"## BD-rate against {reference}" in text
    assert "| paper (published) | -50.0 % | 25.00 to 37.00 |" in text
    assert "| jpeg | +100.0 % |" in text
    assert "- paper (published): as set; from a paper, table 2" in text
    assert ">paper (published)<" in (tmp_path / "rd.svg").read_text()
    document = page(results)
    assert ">paper (published)<" in document
    assert "<title>paper (published): 0.050 bpp, PSNR 25.00 dB</title>" in document


def test_references(tmp_path: Path) -> None:
    """JPEG; BPG itself, else its anchor, else HEIC; what else is asked for."""

    def references(names: list[str], anchors: list[str], *against: str) -> list[str]:
        paths = [anchor_file(tmp_path / f"{name}.json", HALF, ["kodim01.png", "kodim02.png"]) for name in anchors]
        results = made(dict.fromkeys(names, CURVE))
        rates = curves.summarise(results, loaded(paths, results)[0], against, resamples=1)["bd_rates"]
        return list(dict.fromkeys(rate["reference"] for rate in rates))

    assert references(["nic", "jpeg", "heic", "bpg"], ["bpg_444_x265"]) == ["jpeg", "bpg"]
    assert references(["nic", "heic"], ["bpg_420", "bpg_444_x265"]) == ["bpg_444_x265 (anchor)"]
    assert references(["nic", "heic"], ["vtm"]) == ["heic (HEVC intra)", "vtm (anchor)"]
    assert references(["nic", "webp"], [], "webp") == ["webp"]
    with pytest.raises(ConfigError, match="found av1 to compare against, expected one of nic"):
        references(["nic"], [], "av1")


def test_older_results_files_are_read(tmp_path: Path) -> None:
    """Without LPIPS, not_installed, anchors and BD-rates, as version 0.1.0 wrote them."""
    results = made({"nic": HALF, "jpeg": CURVE})
    for row in results["rows"]:
        del row["lpips"]
    assert "## nic" in report.markdown(results)
    assert "| nic | -50.0 %" in report.markdown(curves.summarise(results, resamples=1))
    assert "<summary>nic, by setting</summary>" in page(results)
    for path in sorted((ROOT / "benchmarks" / "results").glob("rd-*.json")):
        assert curves.curves_of(results_file.load(path), [])


class Page(HTMLParser):
    """Checks nesting, and collects pictures and every address outside the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")]
        self.addresses += [link for link in links if not link.startswith("#")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "rect", "circle", "use")
        self.addresses += [value or "" for name, value in attrs if name == "xlink:href" and value and value[0] != "#"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_nothing_else(folder: Path) -> None:
    results, crops = measured(folder)
    results["codecs"]["jpeg"]["settings"] = "<script>alert(1)</script>"
    document = page(results | {"not_installed": {"bpg": "not <here>"}}, crops)
    parsed = Page(document)
    assert all(address.startswith("data:image/webp;base64,") for address in parsed.addresses)
    assert "url(http" not in document
    assert document.count("<script") == document.count("customElements.define") == 1
    assert "<script" not in page(results)
    assert "&lt;script&gt;" in document
    assert "<li>not_installed: bpg: not &lt;here&gt;</li>".replace("_", " ") in document
    assert len(parsed.images) == 3 * 2 * 4
    assert all(image["alt"] for image in parsed.images)
    assert "prefers-color-scheme: dark" in document
    assert 'name="viewport"' in document
    assert len(document) < 5_000_000


def test_plots_tell_their_numbers() -> None:
    both = curves.curves_of(made({"nic": HALF, "jpeg": CURVE}), [])
    svg = figure.svg(both, METRICS["psnr"])
    assert "<title>nic: 0.150 bpp, PSNR 29.00 dB</title>" in svg
    assert ">jpeg</text>" in svg
    lpips = figure.svg(both, METRICS["lpips"])
    assert "<title>jpeg: 0.100 bpp, LPIPS 0.4000</title>" in lpips
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]+"', "", lpips)
    points = re.findall(r'<title>nic: [^<]+</title>.*?<use [^>]*y="([\d.]+)"', lpips, re.DOTALL)
    heights = [float(y) for y in points]
    assert len(heights) == 4
    assert heights == sorted(heights)  # less is lower
    assert figure.svg([], METRICS["psnr"]) == ""


def test_a_point_without_any_error_is_not_drawn() -> None:
    """A smooth picture has an MS-SSIM of 1, which is infinitely many dB, long before it comes back exactly."""
    results = made({"nic": HALF, "jpeg": CURVE})
    best = {codec: max(row["setting"] for row in results["rows"] if row["codec"] == codec) for codec in ("nic", "jpeg")}
    for row in results["rows"]:
        row["ms_ssim"] = 1.0 if row["setting"] == best[row["codec"]] else 0.9
    (curve, _), metric = curves.curves_of(results, []), METRICS["ms_ssim"]
    assert figure.svg([curve], metric).count("<title>") == len(curve.values["ms_ssim"]) - 1
    for row in results["rows"]:
        row["ms_ssim"] = 1.0
    assert figure.svg(curves.curves_of(results, []), metric) == ""
    assert "<h3>MS-SSIM" not in page(results)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, the smoothest last."""
    for index, strength in enumerate((1.0, 0.6, 0.1)):
        rgb = rivals.synthetic_picture(300, 400, index).astype(float)
        Image.fromarray((128 + strength * (rgb - 128)).astype(np.uint8)).save(tmp_path / f"{index}.png")
    return tmp_path


def measured(folder: Path, count: int = 3) -> tuple[dict[str, Any], Html]:
    chosen = [rivals.RIVALS[name] for name in ("jpeg", "webp", "jpeg-444")]
    dataset, settings = datasets.load_dataset(str(folder)), {codec.name: [5.0, 50.0] for codec in chosen}
    results = rate_distortion.run(dataset, chosen, folder / "results.json", settings=settings, metrics=Metrics())
    results = curves.summarise(results, resamples=10)
    return results, gallery.html(results, dataset, chosen, count)


def test_gallery(folder: Path) -> None:
    """The original first, every crop from the same place, at the measured setting that is nearest to the rate."""
    crops = measured(folder, 2)[1]
    images = [pixels(url) for url in re.findall(r'src="([^"]+)"', crops)]
    captions = re.findall(r"<figcaption><b>([^<]+)</b>([^<]*)</figcaption>", crops)
    headings = [f"{name} at about {bpp:g} bits per pixel" for name in ("0.png", "2.png") for bpp in gallery.TARGETS]
    assert re.findall("<h3>([^<]+)</h3>", crops) == headings
    assert [codec for codec, _ in captions] == ["original", "jpeg", "webp", "jpeg-444"] * 4
    assert re.findall('data-name="([a-z0-9-]+)', crops) == [codec for codec, _ in captions]
    assert crops.count(f'width="{gallery.WIDTH}" height="{gallery.HEIGHT}"') == len(captions)
    jpeg = rivals.RIVALS["jpeg"]
    for at, name, target in ((0, "0.png", gallery.TARGETS[0]), (12, "2.png", gallery.TARGETS[1])):
        rgb = np.asarray(Image.open(folder / name))
        x, y = gallery.most_structure(rgb)
        cut = np.s_[y : y + gallery.HEIGHT, x : x + gallery.WIDTH]
        np.testing.assert_array_equal(images[at], rgb[cut])
        data = {setting: jpeg.encode(rgb, setting) for setting in (5, 50)}
        bpp = {setting: 8 * len(file) / (300 * 400) for setting, file in data.items()}
        nearest = min(bpp, key=lambda setting: abs(math.log(bpp[setting] / target)))
        np.testing.assert_array_equal(images[at + 1], jpeg.decode(data[nearest])[cut])
        numbers = f"{bpp[nearest]:.3f} bpp, {psnr(rgb, jpeg.decode(data[nearest])):.2f} dB"
        assert captions[at + 1][1] == f", setting {nearest}: {numbers}"
    assert measured(folder, 0)[1] == ""


def test_crops_are_taken_where_there_is_something() -> None:
    rgb = np.full((500, 700, 3), 90, np.uint8)
    rgb[300:420, 404:560] = rivals.synthetic_picture(120, 156)
    x, y = gallery.most_structure(rgb)
    assert x <= 404
    assert x + gallery.WIDTH >= 560
    assert y <= 300
    assert y + gallery.HEIGHT >= 420
    assert gallery.most_structure(rgb[:100, :100]) == (0, 0)
    assert gallery.most_structure(rgb[:3, :3]) == (0, 0)


def pixels(url: str) -> NDArray[np.uint8]:
    kind, data = url.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
