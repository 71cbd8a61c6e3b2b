"""Evaluation: codecs, results that resume, reports, anchors, real-file points, speed, and `neurocodec bench`."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from neurocodec import codec, container
from neurocodec.checkpoint import Model
from neurocodec.cli.main import main
from neurocodec.entropy.integer import PASSES, EntropyNetwork
from neurocodec.errors import ConfigError, ImageError
from neurocodec.evaluation import codecs, rate_distortion, report, speed
from neurocodec.evaluation.quick import real_file_points
from neurocodec.image import Picture
from neurocodec.metrics import psnr

SMALL = Path(__file__).parent / "golden" / "model" / "small.safetensors"
RGB = codecs.synthetic_picture(48, 80, seed=5)


@dataclass
class Steps:
    """Quantises to a step and counts calls: a codec without a library. It shares the name of nothing else."""

    version: str = "1"
    name: str = "steps"
    calls: int = 0

    def settings(self) -> tuple[float, ...]:
        return (64, 16, 4)

    def describe(self) -> dict[str, str]:
        return {"settings": "step", "version": self.version}

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        self.calls += 1
        header = bytes([int(setting), *rgb.shape[:2]])
        return header + (rgb // int(setting)).tobytes()[:: int(setting) // 2] + bytes(4096 // int(setting))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        step, height, width = data[:3]
        return np.full((height, width, 3), 128 - step, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures that differ, and a file that is none."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        Image.fromarray(codecs.synthetic_picture(40, 56 + 8 * seed, seed)).save(pictures / f"{seed}.png")
    (pictures / "notes.txt").write_text("no picture")
    return pictures


@pytest.mark.parametrize("name", ["jpeg", "jpeg-444", "webp"])
def test_codecs_spend_more_and_lose_less(name: str) -> None:
    (one,) = codecs.create([name])
    assert one.name == name
    settings = one.settings()
    assert list(settings) == sorted(set(settings))
    files = [one.encode(RGB, setting) for setting in (settings[0], settings[len(settings) // 2], settings[-1])]
    assert [len(data) for data in files] == sorted(len(data) for data in files)
    decoded = [one.decode(data) for data in files]
    assert all(d.shape == RGB.shape and d.dtype == np.uint8 for d in decoded)
    assert psnr(RGB, decoded[0]) < psnr(RGB, decoded[1]) < psnr(RGB, decoded[2])


def test_jpeg_subsampling_is_in_the_file() -> None:
    def sampling(data: bytes) -> int:
        at = data.index(b"\xff\xc0")
        return data[at + 11]  # of the first component: horizontal and vertical factors

    assert sampling(codecs.Jpeg().encode(RGB, 50)) == 0x22
    assert sampling(codecs.Jpeg("4:4:4").encode(RGB, 50)) == 0x11


def test_nic_is_the_codec(small_model: Model) -> None:
    for nic in (codecs.Nic(small_model), codecs.Nic(SMALL), codecs.Nic(str(SMALL))):
        data = nic.encode(RGB, 50)
        assert data == codec.encode(RGB, quality=50, model=small_model)
        np.testing.assert_array_equal(nic.decode(data), codec.decode_picture(container.read(data), small_model).rgb)
        assert nic.describe()["model_id"] == small_model.model_id.hex()
    assert codecs.Nic().settings() == (1, *range(5, 101, 5))


@pytest.mark.parametrize(
    ("name", "setting"), [("jpeg", 0), ("jpeg", 50.5), ("jpeg", 101), ("webp", -1), ("nic", 0), ("nic", 101)]
)
def test_settings_that_do_not_exist(name: str, setting: float) -> None:
    (one,) = codecs.create([name])
    with pytest.raises(ConfigError, match="expected"):
        one.encode(RGB, setting)


@pytest.mark.parametrize("names", [["jpg"], ["jpeg", "jpeg"], []])
def test_names_that_do_not_fit(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        codecs.create(names)


def test_synthetic_pictures_repeat() -> None:
    np.testing.assert_array_equal(codecs.synthetic_picture(48, 80, 5), RGB)
    assert (codecs.synthetic_picture(48, 80, 6) != RGB).any()
    assert codecs.synthetic_picture(1, 1).shape == (1, 1, 3)


def test_rows_are_what_the_files_are(folder: Path, tmp_path: Path) -> None:
    jpeg = codecs.Jpeg()
    dataset = rate_distortion.load_dataset(str(folder))
    output = tmp_path / "out" / "results.json"
    results = rate_distortion.run(dataset, [jpeg], output, settings=[80, 20], command="a command")
    assert [(row["setting"], row["image"]) for row in results["rows"]] == [
        (quality, f"{seed}.png") for quality in (20, 80) for seed in range(3)
    ]
    rgb = np.asarray(Image.open(folder / "1.png"))
    row = results["rows"][4]
    data = jpeg.encode(rgb, 80)
    assert row["bytes"] == len(data)
    assert row["bpp"] == 8 * len(data) / (40 * 64)
    assert row["psnr"] == psnr(rgb, jpeg.decode(data))
    assert row["ms_ssim"] is None  # too small a picture
    assert row["encode_s"] > 0
    assert row["decode_s"] > 0

    points = rate_distortion.averages(results, "jpeg")
    assert [point["setting"] for point in points] == [20, 80]
    assert points[1]["psnr"] == pytest.approx(np.mean([r["psnr"] for r in results["rows"][3:]]))
    assert "ms_ssim" not in points[0]

    assert rate_distortion.load(output) == results
    assert results["command"] == "a command"
    assert results["machine"]["cores"] >= 1
    assert {"python", "numpy", "pillow"} <= results["versions"].keys()
    assert results["dataset"]["pictures"][0].keys() == {"name", "width", "height", "sha256"}
    assert str(tmp_path) not in output.read_text()


def test_resume_measures_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    dataset = rate_distortion.load_dataset(str(folder))

    def calls(steps: Steps, settings: list[float]) -> int:
        rate_distortion.run(dataset, [steps], output, settings=settings)
        return steps.calls - 3  # less those of the fingerprint

    assert calls(Steps(), [64, 16]) == 6
    assert calls(Steps(), [64, 16]) == 0
    assert calls(Steps(), [16, 4]) == 3
    assert len(rate_distortion.load(output)["rows"]) == 9
    Image.fromarray(codecs.synthetic_picture(40, 64, 9)).save(folder / "1.png")
    assert calls(Steps(), [64, 16, 4]) == 3  # of the picture that changed
    assert calls(Steps(version="2"), [64]) == 3  # a codec that changed: its rows are gone
    assert len(rate_distortion.load(output)["rows"]) == 3


def test_other_codecs_keep_their_rows(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    dataset = rate_distortion.load_dataset(str(folder), 2)
    rate_distortion.run(dataset, [codecs.Jpeg()], output, settings=[50])
    results = rate_distortion.run(dataset, [codecs.WebP()], output, settings=[50])
    assert {row["codec"] for row in results["rows"]} == {"jpeg", "webp"} == results["codecs"].keys()
    assert len(results["rows"]) == 4


def test_what_was_measured_before_an_error_is_kept(folder: Path, tmp_path: Path) -> None:
    class Failing(Steps):
        def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
            if rgb.shape[1] == 72:  # the last picture
                raise ImageError("cannot encode this one")
            return super().encode(rgb, setting)

    output = tmp_path / "results.json"
    with pytest.raises(ImageError, match="this one"):
        rate_distortion.run(rate_distortion.load_dataset(str(folder)), [Failing()], output, settings=[64])
    assert [row["image"] for row in rate_distortion.load(output)["rows"]] == ["0.png", "1.png"]


def test_processes_give_the_same_rows(folder: Path, tmp_path: Path) -> None:
    dataset = rate_distortion.load_dataset(str(folder), 2)
    one, two = (
        rate_distortion.run(dataset, [codecs.Jpeg()], tmp_path / f"{n}.json", settings=[30, 60], processes=n)["rows"]
        for n in (1, 2)
    )
    clocks = {"encode_s", "decode_s"}
    assert [{k: v for k, v in row.items() if k not in clocks} for row in one] == [
        {k: v for k, v in row.items() if k not in clocks} for row in two
    ]


def test_lossless_pictures_are_null_in_json_and_infinite_in_averages(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (128, 128, 128)).save(tmp_path / "flat.png")
    output = tmp_path / "results.json"
    results = rate_distortion.run(rate_distortion.load_dataset(str(tmp_path)), [codecs.Jpeg()], output, settings=[90])
    assert results["rows"][0]["psnr"] is None
    assert rate_distortion.averages(results, "jpeg")[0]["psnr"] == math.inf
    assert "settings at which a picture comes back without any error" in report.write(results, tmp_path)


def test_datasets(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rate_distortion.load_dataset(str(folder), 2)
    assert found.name == "pictures"
    assert [path.name for path in found.paths] == ["0.png", "1.png"]
    (tmp_path / "kodak").mkdir()
    Image.fromarray(RGB).save(tmp_path / "kodak" / "kodim01.png")
    monkeypatch.setenv("NEUROCODEC_DATA", str(tmp_path))
    assert rate_distortion.load_dataset("kodak").paths == (tmp_path / "kodak" / "kodim01.png",)
    with pytest.raises(ConfigError, match="no folder"):
        rate_distortion.load_dataset("clic2025-validation")
    monkeypatch.delenv("NEUROCODEC_DATA")
    with pytest.raises(ConfigError, match="NEUROCODEC_DATA, which is not set"):
        rate_distortion.load_dataset("kodak")
    with pytest.raises(ConfigError, match="expected --images from 1 to 3"):
        rate_distortion.load_dataset(str(folder), 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no pictures"):
        rate_distortion.load_dataset(str(tmp_path / "empty"))


def test_results_files_that_are_none(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    output.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as a results file"):
        rate_distortion.run(rate_distortion.load_dataset(str(folder)), [Steps()], output)
    output.write_text("{}")
    with pytest.raises(ConfigError, match="is no results file"):
        rate_distortion.load(output)
    output.unlink()
    rate_distortion.run(rate_distortion.load_dataset(str(folder)), [Steps()], output)
    folder.rename(tmp_path / "others")
    with pytest.raises(ConfigError, match="holds results on pictures, not on others"):
        rate_distortion.run(rate_distortion.load_dataset(str(tmp_path / "others")), [Steps()], output)


def made(curves: dict[str, list[tuple[float, float]]], dataset: str = "kodak", pictures: int = 2) -> dict[str, Any]:
    """Results whose averages are these points: half the pictures are 0.01 bpp and 1 dB above, half below."""
    names = [f"kodim{n:02}.png" for n in range(1, pictures + 1)]
    signs = [1 if n % 2 else -1 for n in range(pictures)]
    rows = [
        {"image": image, "codec": name, "setting": setting, "bytes": 1, "bpp": bpp + 0.01 * sign, "psnr": psnr + sign}
        | {"ms_ssim": 0.99, "encode_s": 0.1, "decode_s": 0.1}
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
    found = [
        {"q": q, "bpp": bpp, "psnr": psnr}
        | ({"per_image": [{"file": f, "bpp": bpp / (1 + (i > 0)), "psnr": psnr + 2 * (i > 0)}
                          for i, f in enumerate(files)]} if files else {})
        for q, (bpp, psnr) in enumerate(points)
    ]  # fmt: skip
    path.write_text(json.dumps({"codec": path.stem, "dataset": "kodak", "settings": "as set", "points": found} | more))
    return path


def test_report(tmp_path: Path) -> None:
    results = made({"nic": HALF, "jpeg": CURVE})
    text = report.write(results, tmp_path, bpp_range=(0.3, 0.9))
    assert (tmp_path / "table.md").read_text() == text
    assert "| nic | -50.0 % | 25.00 to 37.00 |" in text
    assert "| -50.0 % | 29.00 to 33.00 | 0.300 to 0.900 |" in text
    assert "| 2 | 0.4500 | 33.000 | 0.99000 | 20.00 | 0.1000 | 0.1000 |" in text
    assert "## Notes" not in text
    with Image.open(tmp_path / "rd.png") as figure:
        assert figure.size == (1280, 800)
        assert len(figure.convert("RGB").getcolors(2**20) or ()) > 10
    svg = (tmp_path / "rd.svg").read_text()
    assert ">nic<" in svg
    assert ">jpeg<" in svg
    report.write(results, tmp_path, bpp_range=(0.3, 0.9))
    assert (tmp_path / "rd.svg").read_text() == svg


def test_curves_that_cannot_be_compared_say_so(tmp_path: Path) -> None:
    falling = [(0.1, 25.0), (0.3, 24.0)]
    results = made({"nic": falling, "webp": [(3.0, 45.0), (4.0, 46.0)], "jpeg": CURVE})
    del results["rows"][-1]  # one picture of JPEG's best setting
    text = report.write(results, tmp_path)
    assert "| nic | none |" in text
    assert "the test curve is not increasing" in text
    assert "| webp | none |" in text
    assert "share no PSNR interval" in text
    assert "jpeg: left out, as not measured on every picture: setting 3." in text


def test_anchors_are_cut_to_the_pictures_of_the_run(tmp_path: Path) -> None:
    results = made({"jpeg": CURVE}, pictures=1)
    notes: list[str] = []
    both = anchor_file(tmp_path / "both.json", CURVE, ["kodim01.png", "kodim02.png"])
    curve = report.load_anchor(both, results, notes)
    assert curve is not None
    assert curve.points == tuple(CURVE)
    assert curve.label == "both (anchor)"
    assert notes == ["Anchor both is averaged over the 1 pictures of this run, of 2."]


def test_anchors_that_do_not_fit_are_left_out_aloud(tmp_path: Path) -> None:
    results = made({"jpeg": CURVE})
    one = anchor_file(tmp_path / "one.json", CURVE, ["kodim01.png"])
    clic = anchor_file(tmp_path / "clic.json", CURVE, [], dataset="clic2025-validation")
    known = anchor_file(tmp_path / "known.json", CURVE, [], source="a paper")
    text = report.write(results, tmp_path, [one, clic, known])
    assert "Anchor one is left out: it covers 1 pictures" in text
    assert "Anchor clic is left out: it was measured on clic2025-validation, not on kodak" in text
    assert "Anchor known is left out: only its average over the whole of kodak is known" in text
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ConfigError, match="cannot be read as an anchor"):
        report.write(results, tmp_path, [tmp_path / "bad.json"])


def test_published_anchors_are_marked(tmp_path: Path) -> None:
    published = anchor_file(tmp_path / "paper.json", HALF, [], source="a paper")
    text = report.write(made({"jpeg": CURVE}, pictures=24), tmp_path, [published])
    assert "| paper (published) | -50.0 % |" in text
    assert "## BD-rate against paper (published)" in text
    assert "| jpeg | +100.0 % |" in text
    assert ">paper (published)<" in (tmp_path / "rd.svg").read_text()


def test_real_file_points(small_model: Model, photo: NDArray[np.uint8]) -> None:
    pictures = [photo[:64, :96], photo[100:140, 50:101]]
    found = real_file_points(small_model, pictures, 7.51)
    files = [codec.encode_picture(Picture(rgb), small_model, round(64 * 7.51)) for rgb in pictures]
    bpps = [8 * len(data) / (rgb.shape[0] * rgb.shape[1]) for data, rgb in zip(files, pictures, strict=True)]
    decoded = [codec.decode_picture(container.read(data), small_model).rgb for data in files]
    assert found == {
        "file_bpp": pytest.approx(np.mean(bpps)),
        "file_psnr": pytest.approx(np.mean([psnr(a, b) for a, b in zip(pictures, decoded, strict=True)])),
    }
    with pytest.raises(ValueError, match="no pictures"):
        real_file_points(small_model, [], 1.0)


def test_speed_rows(small_model: Model, folder: Path) -> None:
    results = speed.run(
        [codecs.Nic(small_model), codecs.Jpeg()], [(70, 50)], threads=[1, 2], bpp=2.0, repeats=1,
        picture=folder / "0.png",
    )  # fmt: skip
    assert [(row["codec"], row["threads"]) for row in results["rows"]] == [("nic", 1), ("nic", 2), ("jpeg", 1)]
    for row in results["rows"]:
        assert (row["width"], row["height"]) == (70, 50)
        assert 0 < row["encode_min_s"] <= row["encode_median_s"]
        assert 0 < row["decode_min_s"] <= row["decode_median_s"]
    encode, decode = (results["rows"][0][f"{way}_stages_s"] for way in ("encode", "decode"))
    assert encode.keys() == {"g_a", "h_a", "h_s and context", "range coder and rest"}
    assert decode.keys() == {"h_s and context", "g_s", "range coder and rest"}
    assert all(seconds > 0 for seconds in [*encode.values(), *decode.values()])
    text = speed.table(results)
    assert "| jpeg | 70×50 | 1 |" in text
    assert "- nic, 70×50, 2 threads, decode: " in text
    assert results["picture"] == "0.png"


def test_stages_count_every_pass_of_the_entropy_network(small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = EntropyNetwork.predict

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.03)
        return predict(*arguments, **options)

    monkeypatch.setattr(EntropyNetwork, "predict", slow)
    for stages in speed.stage_seconds(small_model, RGB, 50, 1):
        assert stages["h_s and context"] > PASSES * 0.03
        assert stages["range coder and rest"] < PASSES * 0.03


def test_setting_near_a_rate() -> None:
    jpeg = codecs.Jpeg()
    sizes = {setting: 8 * len(jpeg.encode(RGB, setting)) / (48 * 80) for setting in jpeg.settings()}
    for target in (0.01, 2.0, 4.0, 100.0):
        nearest = min(sizes, key=lambda s: abs(math.log(sizes[s] / target)))
        assert speed.setting_near(jpeg, RGB, target) == nearest


def test_bench_rd_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "rd", "--dataset", str(folder), "--codecs", "nic,jpeg", "--images", "1", "--qualities", "20,90"]
    command += ["--model", str(SMALL), "-o", str(tmp_path / "out")]
    for _ in range(2):
        assert main(command) == 0
        assert "## BD-rate against jpeg" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "table.md", "rd.png", "rd.svg"}


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--codecs", "jpg"], 1, "expected one of nic"),
        (["--codecs", "jpeg", "--qualities", "0"], 1, "expected an integer from 1 to 100"),
        (["--model", "nowhere"], 1, "nowhere"),
        (["--images", "9"], 1, "expected --images from 1 to 3"),
        (["--anchors", "nowhere.json"], 1, "no such anchor"),
        (["--qualities", "high"], 2, "--qualities"),
        (["-j", "0"], 2, "-j"),
    ],
)
def test_bench_rd_errors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, message: str
) -> None:
    def call() -> int:
        try:
            return main(["bench", "rd", "--dataset", str(folder), "-o", str(tmp_path / "out"), *options])
        except SystemExit as end:
            return int(end.code or 0)

    assert call() == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert status == 2 or error.count("\n") == 1


def test_bench_speed_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "speed.json"
    command = ["bench", "speed", "--codecs", "jpeg", "--sizes", "64x48,32x32", "--repeats", "2", "-o", str(output)]
    assert main(command) == 0
    assert "| jpeg | 64×48 |" in capsys.readouterr().out
    assert [row["height"] for row in json.loads(output.read_text())["rows"]] == [48, 32]
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "speed", "--sizes", "64"])


@pytest.mark.parametrize(("name", "anchor"), [("jpeg", "jpeg_420"), ("jpeg-444", "jpeg_444"), ("webp", "webp_m6")])
def test_anchors_are_reproduced(data_folder: Path, name: str, anchor: str) -> None:
    """Points measured elsewhere with other builds of the same libraries: within 1 % in bpp and 0.05 dB."""
    path = data_folder / "anchors" / "kodak" / f"{anchor}.json"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in the data folder")
    points = {point["q"]: point["per_image"] for point in json.loads(path.read_text())["points"]}
    (one,) = codecs.create([name])
    for file in ("kodim05.png", "kodim23.png"):
        rgb = np.asarray(Image.open(data_folder / "kodak" / file).convert("RGB"))
        for quality in (10, 50):
            expected = next(row for row in points[quality] if row["file"] == file)
            row = rate_distortion.measure(
                one, rgb, quality, with_ms_ssim=(name, file, quality) == ("jpeg", "kodim05.png", 50)
            )
            assert row["bpp"] == pytest.approx(expected["bpp"], rel=0.01)
            assert row["psnr"] == pytest.approx(expected["psnr"], abs=0.05)
            if row["ms_ssim"] is not None:
                assert row["ms_ssim"] == pytest.approx(expected["ms_ssim"], abs=1e-3)
