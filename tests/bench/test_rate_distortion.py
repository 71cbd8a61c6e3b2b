"""Results that resume, what they hold, and `neurocodec bench rd`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paths import ROOT, SMALL_MODEL
from PIL import Image

from neurocodec.bench import curves, datasets, provenance, quality, rate_distortion, report, rivals
from neurocodec.bench import results as results_file
from neurocodec.bench.quality import Metrics, frechet_distance
from neurocodec.cli import bench
from neurocodec.cli.main import main
from neurocodec.errors import ConfigError, ImageError, MissingWeightsError
from neurocodec.metrics import ms_ssim_available, psnr

JPEG, WEBP = rivals.RIVALS["jpeg"], rivals.RIVALS["webp"]


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


@pytest.fixture(autouse=True)
def networks_of_this_test() -> Iterator[None]:
    """No network is left from another test, nor for one."""
    quality.network.cache_clear()
    yield
    quality.network.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures that differ, and a file that is none."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        Image.fromarray(rivals.synthetic_picture(40, 56 + 8 * seed, seed)).save(pictures / f"{seed}.png")
    (pictures / "notes.txt").write_text("no picture")
    return pictures


def test_rows_are_what_the_files_are(folder: Path, tmp_path: Path) -> None:
    dataset = datasets.load_dataset(str(folder))
    output = tmp_path / "out" / "results.json"
    results = rate_distortion.run(
        dataset, [JPEG], output, settings={"jpeg": [80, 20]}, command="a command", metrics=Metrics(ms_ssim=True)
    )
    assert [(row["setting"], row["image"]) for row in results["rows"]] == [
        (quality, f"{seed}.png") for quality in (20, 80) for seed in range(3)
    ]
    rgb = np.asarray(Image.open(folder / "1.png"))
    row = results["rows"][4]
    data = JPEG.encode(rgb, 80)
    assert row["bytes"] == len(data)
    assert row["bpp"] == 8 * len(data) / (40 * 64)
    assert row["psnr"] == psnr(rgb, JPEG.decode(data))
    assert row["ms_ssim"] is None  # too small a picture
    assert row["lpips"] is None  # not asked for
    assert row["encode_s"] > 0
    assert row["decode_s"] > 0

    points = results_file.averages(results, "jpeg")
    assert [point["setting"] for point in points] == [20, 80]
    assert points[1]["psnr"] == pytest.approx(np.mean([r["psnr"] for r in results["rows"][3:]]))
    assert "ms_ssim" not in points[0]

    assert results_file.load(output) == results
    assert results["command"] == "a command"
    assert results["machine"]["cores"] >= 1
    assert {"python", "numpy", "pillow"} <= results["versions"].keys()
    assert results["dataset"]["pictures"][0].keys() == {"name", "width", "height", "sha256"}
    assert str(tmp_path) not in output.read_text()


def test_resume_measures_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    dataset = datasets.load_dataset(str(folder))

    def calls(steps: Steps, settings: list[float]) -> int:
        rate_distortion.run(dataset, [steps], output, settings={"steps": settings}, metrics=Metrics())
        return steps.calls - 3  # less those of the fingerprint

    assert calls(Steps(), [64, 16]) == 6
    assert calls(Steps(), [64, 16]) == 0
    assert calls(Steps(), [16, 4]) == 3
    assert len(results_file.load(output)["rows"]) == 9
    Image.fromarray(rivals.synthetic_picture(40, 64, 9)).save(folder / "1.png")
    assert calls(Steps(), [64, 16, 4]) == 3  # of the picture that changed
    assert calls(Steps(version="2"), [64]) == 3  # a codec that changed: its rows are gone
    assert len(results_file.load(output)["rows"]) == 3


def test_every_run_that_made_rows_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, output = datasets.load_dataset(str(folder), 1), tmp_path / "results.json"

    def run(commit: str, setting: float, command: str = "one") -> list[tuple[str, str]]:
        monkeypatch.setattr(provenance, "commit", lambda: commit)
        settings = {"steps": [setting]}
        results = rate_distortion.run(dataset, [Steps()], output, settings=settings, metrics=Metrics(), command=command)
        return [(earlier["commit"], earlier["command"]) for earlier in results.get("earlier", ())]

    for setting in (64, 16):
        assert run("aaa", setting) == []
    assert run("bbb", 4) == [("aaa", "one")]
    assert run("bbb", 4, "two") == [("aaa", "one"), ("bbb", "one")]
    results = results_file.load(output)
    assert "Some rows are from earlier runs: command one, commit aaa, date 20" in report.markdown(results)
    assert "Some rows are from earlier runs: command one, commit aaa, date 20" in report.page(results)
    assert run("aaa", 4) == [("bbb", "one"), ("bbb", "two")]


def test_fewer_pictures_do_not_throw_results_away(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    rate_distortion.run(
        datasets.load_dataset(str(folder)), [Steps()], output, settings={"steps": [64]}, metrics=Metrics()
    )
    before = output.read_bytes()
    with pytest.raises(ConfigError, match=r"pictures that are not asked for now, such as 1.png"):
        rate_distortion.run(datasets.load_dataset(str(folder), 1), [Steps()], output, metrics=Metrics())
    assert output.read_bytes() == before


def test_other_codecs_keep_their_rows(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    dataset = datasets.load_dataset(str(folder), 2)
    missing = {"heic": "why", "webp": "because"}
    rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [50]}, metrics=Metrics(), not_installed=missing)
    results = rate_distortion.run(dataset, [WEBP], output, settings={"webp": [50]}, metrics=Metrics())
    assert {row["codec"] for row in results["rows"]} == {"jpeg", "webp"} == results["codecs"].keys()
    assert len(results["rows"]) == 4
    assert results["not_installed"] == {"heic": "why"}  # WebP was found after all


def test_what_was_measured_before_an_error_is_kept(folder: Path, tmp_path: Path) -> None:
    class Failing(Steps):
        def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
            if rgb.shape[1] == 72:  # the last picture
                raise ImageError("cannot encode this one")
            return super().encode(rgb, setting)

    output = tmp_path / "results.json"
    with pytest.raises(ImageError, match="this one"):
        rate_distortion.run(
            datasets.load_dataset(str(folder)), [Failing()], output, settings={"steps": [64]}, metrics=Metrics()
        )
    assert [row["image"] for row in results_file.load(output)["rows"]] == ["0.png", "1.png"]


def test_settings_that_do_not_exist_are_found_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    steps, output = Steps(), tmp_path / "results.json"
    with pytest.raises(ConfigError, match="jpeg quality 0"):
        rate_distortion.run(
            datasets.load_dataset(str(folder)),
            [steps, JPEG],
            output,
            settings={"jpeg": [50, 0]},
            metrics=Metrics(),
        )
    assert steps.calls == 3  # its fingerprint
    assert not output.exists()


def test_processes_give_the_same_rows(folder: Path, tmp_path: Path) -> None:
    dataset = datasets.load_dataset(str(folder), 2)
    one, two = (
        rate_distortion.run(
            dataset, [JPEG], tmp_path / f"{n}.json", settings={"jpeg": [30, 60]}, processes=n, metrics=Metrics()
        )["rows"]
        for n in (1, 2)
    )
    clocks = {"encode_s", "decode_s"}
    assert [{k: v for k, v in row.items() if k not in clocks} for row in one] == [
        {k: v for k, v in row.items() if k not in clocks} for row in two
    ]


def test_lossless_pictures_are_null_in_json_and_infinite_in_averages(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (128, 128, 128)).save(tmp_path / "flat.png")
    output = tmp_path / "results.json"
    dataset = datasets.load_dataset(str(tmp_path))
    results = rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [90]}, metrics=Metrics())
    assert results["rows"][0]["psnr"] is None
    assert results_file.averages(results, "jpeg")[0]["psnr"] == math.inf
    assert "settings at which a picture comes back without any error" in report.markdown(curves.summarise(results))


def test_results_files_that_are_none(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    output.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as a results file"):
        rate_distortion.run(datasets.load_dataset(str(folder)), [Steps()], output, metrics=Metrics())
    output.unlink()
    output.symlink_to("/dev/zero")
    for load in (results_file.load, results_file.load_anchor):
        with pytest.raises(ConfigError, match=r"cannot be read as .*more than 67,108,864 bytes"):
            load(output)
    output.unlink()
    output.write_text("[]")
    with pytest.raises(ConfigError, match="is not a results file of bench rd"):
        results_file.load(output)
    output.unlink()
    rate_distortion.run(datasets.load_dataset(str(folder)), [Steps()], output, metrics=Metrics())
    folder.rename(tmp_path / "others")
    with pytest.raises(ConfigError, match="holds results on pictures, not on others"):
        rate_distortion.run(datasets.load_dataset(str(tmp_path / "others")), [Steps()], output, metrics=Metrics())


SOUND: dict[str, Any] = {
    "dataset": {"name": "a", "pictures": [{"name": "b"}]},
    "codecs": {"jpeg": {"settings": "q"}},
    "rows": [{"image": "b", "codec": "jpeg", "setting": 1, "bpp": 1.5, "psnr": None}],
    "not_installed": {"bpg": "why"},
    "earlier": [{"date": None, "command": "c"}],
    "patches": {"network": "n", "names": ["d"], "note": "", "patches": 3, "points": []},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[((key,), None) for key in SOUND],
        *[((key,), 1) for key in SOUND],
        (("dataset", "name"), 1),
        (("dataset", "pictures", 0), {}),
        (("dataset", "pictures", 0, "name"), ["b"]),
        (("codecs", "jpeg"), "q"),
        (("codecs", "jpeg", "settings"), {"<script>": 1}),
        (("rows", 0), {"image": "b"}),
        (("rows", 0, "image"), None),
        (("rows", 0, "setting"), "1"),
        (("rows", 0, "bpp"), math.nan),
        (("rows", 0, "bpp"), True),
        (("rows", 0, "psnr"), "30"),
        (("rows", 0, "lpips"), [0.1]),
        (("not_installed", "bpg"), 3),
        (("earlier", 0, "commit"), 3),
        (("patches", "points"), [{"codec": "jpeg"}]),
    ],
)
def test_wrong_types_in_results_are_a_sentence(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    output = tmp_path / "results.json"
    output.write_text(json.dumps(SOUND))
    assert results_file.load(output) == SOUND
    damaged = inner = json.loads(json.dumps(SOUND))
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    output.write_text(json.dumps(damaged))
    with pytest.raises(ConfigError, match=rf"results\.json is not a results file of bench rd: {path[0]}"):
        results_file.load(output)


def test_text_of_a_results_file_is_escaped_in_the_page(folder: Path, tmp_path: Path) -> None:
    """Every text that somebody may have written into results.json."""

    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: hostile(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [hostile(inner) for inner in value]
        return f"<script>{value}</script>" if isinstance(value, str) else value

    output = tmp_path / "results.json"
    results = rate_distortion.run(
        datasets.load_dataset(str(folder)), [JPEG, WEBP], output, metrics=Metrics(), not_installed={"bpg": "why"}
    )
    results = hostile(curves.summarise(results, resamples=1, notes=["note"]))
    results["codecs"] = {hostile(name): about for name, about in results["codecs"].items()}
    results_file.save(results, output)
    page = report.page(results_file.load(output) | {"patches": hostile(SOUND["patches"])})
    assert page.count("&lt;script&gt;") > 20
    assert "<script" not in page


def fake_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS and AlexNet of random weights, so that tests need none."""
    from neurocodec.perceptual import features, lpips

    torch.manual_seed(1)
    network = features.AlexNet()
    made = lpips.LPIPS(network, [torch.ones(n) for n in (64, 192, 384, 256, 256)])
    monkeypatch.setattr(lpips, "load_lpips", lambda *_, **__: made)
    monkeypatch.setattr(features, "load_alexnet", lambda *_, **__: network)


def test_a_measure_that_was_missing_is_taken_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results.json"
    dataset = datasets.load_dataset(str(folder), 1)
    rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [50]}, metrics=Metrics())
    fake_lpips(monkeypatch)
    (row,) = rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [50]}, metrics=Metrics(lpips=True))["rows"]
    assert row["lpips"] > 0
    steps = Steps()
    rate_distortion.run(dataset, [steps], output, settings={"steps": [64]}, metrics=Metrics(lpips=True))
    rate_distortion.run(dataset, [steps], output, settings={"steps": [64]}, metrics=Metrics())  # what is there stays
    assert steps.calls == 3 + 1 + 3
    assert all(row["lpips"] is not None for row in results_file.load(output)["rows"])


def test_distances_of_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept beside the results and resumed; what the table says is what the features give; the network is named."""
    fake_lpips(monkeypatch)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rgb = [rivals.synthetic_picture(260, 520, seed) for seed in (1, 2)]
    for seed, values in enumerate(rgb):
        Image.fromarray(values).save(pictures / f"{seed}.png")
    dataset, output = datasets.load_dataset(str(pictures)), tmp_path / "out" / "results.json"
    metrics = Metrics(patches="alexnet")
    distances = rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [5, 80]}, metrics=metrics)["patches"]
    features = [
        np.concatenate([quality.patch_features(v, "alexnet") for v in values])
        for values in (rgb, [JPEG.decode(JPEG.encode(v, 80)) for v in rgb])
    ]
    assert distances["patches"] == 4
    low, high = distances["points"]
    assert (low["codec"], low["setting"], high["setting"]) == ("jpeg", 5, 80)
    assert high["frechet"] == pytest.approx(frechet_distance(*features))
    assert low["frechet"] > high["frechet"]
    files = {path: path.stat().st_mtime_ns for path in (output.parent / "features").iterdir()}
    assert len(files) == 2 + 4
    results = rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [5, 80]}, metrics=metrics)
    assert results["patches"] == distances
    assert {path: path.stat().st_mtime_ns for path in files} == files
    text = report.markdown(curves.summarise(results))
    assert "## Fréchet distance, AlexNet features" in text
    assert "not comparable to published FID" in text
    assert (
        rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [5]}, metrics=Metrics())["patches"] == distances
    )
    other = dataclasses.replace(WEBP, name="jpeg")  # the name is the same, the codec is not
    assert "patches" not in rate_distortion.run(dataset, [other], output, settings={"jpeg": [5]}, metrics=Metrics())


def test_dists_is_measured_at_the_size_of_its_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurocodec.perceptual import dists

    shapes = []

    def network(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(x.shape), tuple(y.shape)))
        return (x - y).abs().mean((1, 2, 3))

    monkeypatch.setattr(dists, "load_dists", lambda *_, **__: network)
    metrics = Metrics(dists=True)
    for height, width, expected in ((512, 700, (256, 350)), (100, 90, (100, 90))):
        a, b = np.full((height, width, 3), 100, np.uint8), np.full((height, width, 3), 151, np.uint8)
        assert metrics.of(a, b) == {"ms_ssim": None, "lpips": None, "dists": pytest.approx(0.2)}
        assert shapes.pop() == ((1, 3, *expected),) * 2
    small = np.zeros((15, 90, 3), np.uint8)
    assert metrics.of(small, small)["dists"] is None
    assert metrics.defined({"height": 16, "width": 90}) == ["dists"]
    assert metrics.defined({"height": 15, "width": 90}) == []


def test_averages_that_small_pictures_cost_are_named(tmp_path: Path) -> None:
    Image.fromarray(rivals.synthetic_picture(170, 180)).save(tmp_path / "large.png")
    Image.fromarray(rivals.synthetic_picture(160, 180)).save(tmp_path / "small.png")
    results = rate_distortion.run(
        datasets.load_dataset(str(tmp_path)),
        [JPEG],
        tmp_path / "r.json",
        settings={"jpeg": [50]},
        metrics=Metrics(True),
    )
    assert [row["ms_ssim"] is None for row in results["rows"]] == [False, True]
    why = "no averages, as pictures such as small.png are below 161 pixels"
    assert results["not_available"] == {"MS-SSIM": why}
    assert f"- not available: MS-SSIM: {why}" in report.markdown(results)


def test_measures_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named with its reason, which holds no path of the user's home."""
    from neurocodec.perceptual import dists, features, lpips

    def absent(*_: object, **__: object) -> None:
        raise MissingWeightsError(f"no weights in {tmp_path}/cache: NEUROCODEC_WEIGHTS names a folder")

    for module, name in ((lpips, "load_lpips"), (dists, "load_dists"), (features, "load_alexnet")):
        monkeypatch.setattr(module, name, absent)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    metrics, missing = quality.available(dists=True, fid=True)
    assert metrics == Metrics(ms_ssim=ms_ssim_available())
    assert {"LPIPS", "DISTS", "FID/256", "Fréchet distance, AlexNet features"} <= missing.keys()
    assert "NEUROCODEC_WEIGHTS" in missing["LPIPS"]
    assert "neurocodec[fid]" in missing["FID/256"]
    assert str(tmp_path) not in str(missing)


def test_codecs_without_distances_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_distortion, "patch_features", lambda rgb, key: np.eye(3, dtype=np.float32))
    dataset, output = datasets.load_dataset(str(folder), 1), tmp_path / "results.json"
    rate_distortion.run(dataset, [JPEG], output, settings={"jpeg": [50]}, metrics=Metrics())
    for codec, without in ((WEBP, True), (JPEG, False)):
        results = rate_distortion.run(
            dataset, [codec], output, settings={codec.name: [50]}, metrics=Metrics(patches="alexnet")
        )
        assert results["patches"]["note"].endswith("; not of jpeg, measured without them") == without


def test_pictures_without_patches_have_no_distances(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_lpips(monkeypatch)
    dataset = datasets.load_dataset(str(folder), 1)
    results = rate_distortion.run(
        dataset, [JPEG], tmp_path / "results.json", settings={"jpeg": [50]}, metrics=Metrics(patches="alexnet")
    )
    assert results["patches"]["points"] == []
    assert "fewer than two patches" in results["patches"]["note"]


def test_bench_rd_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "rd", "--dataset", str(folder), "--codecs", "nic,jpeg", "--images", "1", "--qualities", "20,90"]
    command += ["--model", str(SMALL_MODEL), "--qualities", "jpeg=30,70,90", "-o", str(tmp_path / "out")]
    for _ in range(2):
        assert main(command) == 0
        assert "BD-rate against jpeg" in capsys.readouterr().out
    written = {"results.json", "rows.csv", "table.md", "rd.png", "rd.svg", "report.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == written
    results = results_file.load(tmp_path / "out" / "results.json")
    settings = [(row["codec"], row["setting"]) for row in results["rows"]]
    assert settings == [("jpeg", 30), ("jpeg", 70), ("jpeg", 90), ("nic", 20), ("nic", 90)]
    assert [(rate["reference"], rate["curve"]) for rate in results["bd_rates"]] == [("jpeg", "nic")]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img ") == 2 * 3  # two rates of the original, JPEG and nic
    assert str(tmp_path) not in page


def test_bench_rd_overwrites_no_files_of_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert main(["bench", "rd", "--dataset", str(folder), "--codecs", "jpeg", "-o", str(tmp_path)]) == 1
    assert "holds report.html but no results.json: name another folder with -o" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"


def test_settings_of_one_codec_replace_those_for_all() -> None:
    chosen: list[rivals.Codec] = [JPEG, WEBP, rivals.RIVALS["jxl"]]
    given = [("jpeg", [30.0, 50.0]), ("", [20.0, 40.0]), ("bpg", [30.0])]
    expected = {"webp": [20.0, 40.0], "jpeg": [30.0, 50.0], "bpg": [30.0]}
    assert bench.choose_settings(given, chosen, {"bpg": "not installed"}) == expected


def test_commands_are_recorded_without_folders() -> None:
    words = ["/usr/bin/neurocodec", "bench", "--dataset", "/data/kodak/", "--codecs", "jpeg,nic:/a/b.safetensors@1"]
    expected = "neurocodec bench --dataset .../kodak --codecs jpeg,nic:.../b.safetensors@1 -o out/here '\\udcff'"
    assert provenance.command_line([*words, "-o", "out/here", "\udcff"]) == expected


def test_bench_rd_says_what_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(quality, "available", lambda **_: (Metrics(), {"LPIPS": "no weights <here>"}))
    command = ["bench", "rd", "--dataset", str(folder), "--codecs", "jpeg,bpg", "--qualities", "20,90"]
    assert main([*command, "--gallery", "0", "-o", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    page = (tmp_path / "out" / "report.html").read_text()
    table = (tmp_path / "out" / "table.md").read_text()
    assert "- not installed: bpg: BPG needs bpgenc" in out
    assert "| 20 | " in out, "the averages, where there is no BD-rate to show"
    assert "left out: bpg: BPG needs bpgenc" in err
    assert "- not installed: bpg: BPG needs bpgenc" in table
    assert "- not available: LPIPS: no weights <here>" in table
    assert "<li>not installed: bpg: BPG needs bpgenc" in page
    assert "<li>not available: LPIPS: no weights &lt;here&gt;" in page
    assert "<img " not in page


CHILDREN = "/proc/{0}/task/{0}/children"


@pytest.mark.skipif(not os.path.exists(CHILDREN.format(os.getpid())), reason="needs Linux's list of child processes")
@pytest.mark.parametrize("words", [["rd", "-j", "2", "--gallery", "0"], ["speed", "--sizes", "24"]])
def test_an_interrupt_ends_all_processes_without_a_traceback(folder: Path, tmp_path: Path, words: list[str]) -> None:
    """While they still import what they need, which is when Python would print the most."""
    if words[0] == "rd":
        words = [*words, "--dataset", str(folder), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "neurocodec", "bench", *words, "--codecs", "webp,jpeg"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(Path(CHILDREN.format(process.pid)).read_text().split()) < (3 if words[0] == "rd" else 2):
        assert process.poll() is None
        time.sleep(0.05)  # the processes, and multiprocessing's resource tracker
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if not line.startswith("left out: ")] == []


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--codecs", "jpg"], 1, "expected one of nic"),
        (["--codecs", "jpeg", "--qualities", "0"], 1, "expected an integer from 1 to 100"),
        (["--model", "nowhere"], 1, "nowhere"),
        (["--images", "9"], 1, "expected --images from 1 to 3"),
        (["--anchors", "nowhere.json"], 1, "nowhere.json cannot be read as an anchor"),
        (["--anchors", "."], 1, "holds no JSON files"),
        (["--qualities", "heic=20"], 1, "expected one of the codecs nic, jpeg, webp"),
        (["--codecs", "jpeg", "--qualities", "30,60", "--against", "vtm"], 1, "found vtm to compare against"),
        (["--codecs", "jpeg2000", "--qualities", "20"], 1, "none of jpeg2000 has qualities of 1 to 100"),
        (["--qualities", "jpeg=high"], 2, "'jpeg=high' is not a list of numbers, such as 20,50"),
        (["--qualities", "high"], 2, "'high' is not a list of numbers, such as 20,50"),
        (["-j", "0"], 2, "-j"),
    ],
)
def test_bench_rd_errors(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    def call() -> int:
        try:
            return main(["bench", "rd", "--dataset", str(folder), "-o", str(tmp_path / "out"), *options])
        except SystemExit as end:
            return int(end.code or 0)

    assert call() == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if not line.startswith("left out: ")]  # weights that are not here
    assert status == 2 or len(lines) == 1
    assert not (tmp_path / "out").exists() or "from 1 to 100" in message, "found before anything is measured"


def test_distance_of_patches_rises_as_jpeg_falls(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures of CLIC, with Inception where its weights are, else with AlexNet."""
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(data_folder / "weights"))
    monkeypatch.setenv("NEUROCODEC_DATA", str(data_folder))
    metrics, missing = quality.available(fid=True)
    if not metrics.patches:
        pytest.skip(f"no network for patches: {missing}")
    rgb = [
        np.asarray(Image.open(path).convert("RGB"))[:512, :1024]
        for path in datasets.load_dataset("clic2025-validation", 2).pictures.values()
    ]
    decoded = [[JPEG.decode(JPEG.encode(picture, quality)) for picture in rgb] for quality in (60, 20, 5)]
    originals, *sets = (
        np.concatenate([quality.patch_features(picture, metrics.patches) for picture in pictures])
        for pictures in (rgb, *decoded)
    )
    distances = [frechet_distance(originals, features) for features in sets]
    assert distances == sorted(distances)
    assert distances[0] > frechet_distance(originals, originals)
