"""The scripts in benchmarks/ and tools/: the slider beside other codecs, points measured by others, the gallery."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paths import ROOT, SMALL_MODEL, script

from neurocodec import codec, container
from neurocodec.image import Picture
from neurocodec.metrics import psnr
from neurocodec.model import GeneratorConfig, Model
from neurocodec.models import generators
from neurocodec.models.hific import Generator

PICTURES = ("one.png", "two.png")


def results(points: dict[str, list[tuple[float, float, float, float]]]) -> dict[str, Any]:
    """points: by codec, (setting, bpp, PSNR, LPIPS) of either picture."""
    rows = [
        {"image": name, "codec": codec, "setting": setting, "bpp": bpp, "psnr": psnr, "lpips": lpips}
        | {"encode_s": 0.1, "decode_s": 0.1}
        for codec, curve in points.items()
        for setting, bpp, psnr, lpips in curve
        for name in PICTURES
    ]
    pictures = [{"name": name} for name in PICTURES]
    return {"dataset": {"name": "two", "pictures": pictures}, "codecs": {key: {} for key in points}, "rows": rows}


def anchor(points: list[tuple[float, float, float]]) -> dict[str, Any]:
    """points: (setting, bpp, PSNR)."""
    return {
        "codec": "theirs",
        "points": [
            {"q": q, "per_image": [{"file": name, "bpp": bpp, "psnr": psnr} for name in PICTURES]}
            for q, bpp, psnr in points
        ],
    }


def test_the_slider_stands_beside_the_others_at_the_same_bits_and_at_twice_as_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measurements = results(
        {
            "nic": [(30, 0.2, 30.0, 0.2), (60, 0.8, 36.0, 0.1)],
            "nic@1": [(30, 0.2, 29.0, 0.1), (60, 0.8, 35.0, 0.05)],
            "jpeg": [(10, 0.1, 24.0, 0.5), (50, 0.4, 28.0, 0.3)],
        }
    )
    (tmp_path / "results.json").write_text(json.dumps(measurements))
    realism = script("realism")
    output = tmp_path / "realism.json"
    assert realism.main([str(tmp_path / "results.json"), "--targets", "0.22", "0.7", "-o", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["target_bpp"], row["codec"], row["bpp"]) for row in rows] == [
        *[(0.22, "nic", 0.2), (0.22, "nic@1", 0.2), (0.22, "jpeg", 0.2), (0.22, "jpeg", 0.4)],
        *[(0.7, "nic", 0.8), (0.7, "nic@1", 0.8), (0.7, "jpeg", 0.8), (0.7, "jpeg", 1.6)],
    ]
    assert rows[2]["psnr"] == pytest.approx(26.0), "halfway between 0.1 and 0.4 bpp on a logarithmic scale"
    assert rows[2]["lpips"] == pytest.approx(0.4)
    assert rows[3]["lpips"] == pytest.approx(0.3)
    assert rows[6]["psnr"] is None, "nothing is extrapolated"
    assert "| 0.22 | nic@1 | 0.200 | 29.00 | 0.1000 |  |" in capsys.readouterr().out


def test_points_that_are_reproduced_and_points_that_are_not(tmp_path: Path) -> None:
    anchors = script("anchors")
    measurements = results({"jpeg": [(10, 0.1, 24.0, 0.5), (50, 0.4, 28.0, 0.3), (90, 1.4, 36.0, 0.1)]})
    close = anchors.compare(measurements, "jpeg", anchor([(10, 0.1, 24.0), (50, 0.403, 28.04), (95, 2.0, 40.0)]))
    assert (close["settings"], close["reproduced"]) == (2, True)
    assert close["bpp_percent"] == pytest.approx(100 * (0.4 / 0.403 - 1))
    assert not anchors.compare(measurements, "jpeg", anchor([(10, 0.1, 24.06), (50, 0.4, 28.0)]))["reproduced"]
    assert not anchors.compare(measurements, "jpeg", anchor([(10, 0.102, 24.0), (50, 0.4, 28.0)]))["reproduced"]
    (tmp_path / "results.json").write_text(json.dumps(measurements))
    (tmp_path / "off.json").write_text(json.dumps(anchor([(10, 0.2, 24.0), (50, 0.8, 28.0)])))
    assert anchors.main([str(tmp_path / "results.json"), f"jpeg={tmp_path / 'off.json'}"]) == 1


def test_results_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    measurements = results({"jpeg": [(10, 0.1, 24.0, 0.5)]})
    with pytest.raises(SystemExit, match="lacks some of the 2 pictures"):
        script("anchors").compare(measurements, "jpeg", {"codec": "published", "points": [{"bpp": 0.1, "psnr": 24.0}]})
    with pytest.raises(SystemExit, match="no setting of webp"):
        script("anchors").compare(measurements, "webp", anchor([(10, 0.1, 24.0)]))
    with pytest.raises(SystemExit, match="expected nic@R"):
        script("realism").rows(measurements, [0.2])
    apart = results({"nic": [(30, 0.2, 30.0, 0.2)], "nic@1": [(60, 0.8, 35.0, 0.05)]})
    with pytest.raises(SystemExit, match="nic, nic@1 share no setting"):
        script("realism").rows(apart, [0.2])
    (tmp_path / "results.json").write_text(json.dumps(measurements))
    (tmp_path / "other.json").write_text('{"codec": "theirs"}')
    for pair in ("jpeg", *(f"jpeg={path}" for path in (tmp_path / "nowhere.json", __file__, tmp_path / "other.json"))):
        with pytest.raises(SystemExit, match="expected CODEC=FILE"):
            script("anchors").main([str(tmp_path / "results.json"), pair])


def test_curves_that_share_nothing_are_a_sentence() -> None:
    measurements = results({"heic": [(10, 0.1, 24.0, 0.5), (20, 0.2, 26.0, 0.4)]})
    with pytest.raises(SystemExit, match="heic cannot be compared with theirs: the curves share no PSNR interval"):
        script("anchors").compare(measurements, "heic", anchor([(31, 0.1, 44.0), (30, 0.2, 46.0)]))


def test_targets_that_are_no_rates_are_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("0", "-1", "nan"):
        with pytest.raises(SystemExit) as stopped:
            script("realism").main([str(tmp_path / "results.json"), "--targets", target])
        assert stopped.value.code == 2
        assert "bits per pixel" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "more"), [("anchors", ["jpeg=jpeg.json"]), ("realism", [])])
def test_no_results_are_a_sentence(name: str, more: list[str]) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "nowhere.json", *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("nowhere.json cannot be read as a results file")
    assert "Traceback" not in done.stderr


def test_a_quality_and_a_quantiser_are_compared_by_their_curves() -> None:
    measurements = results({"heic": [(10, 0.1, 24.0, 0.5), (20, 0.2, 26.0, 0.4), (50, 0.8, 30.0, 0.3)]})
    row = script("anchors").compare(measurements, "heic", anchor([(20, 0.05, 24.0), (10, 0.4, 30.0)]))
    assert row["settings"] == 0
    assert row["bd_rate_percent"] == pytest.approx(100.0)
    assert math.isfinite(row["bd_rate_percent"])


def test_the_gallery_counts_picture_data_and_takes_the_nearest_file() -> None:
    gallery = script("gallery", "tools")

    def file(size: int) -> bytes:
        boxes = ((b"ftyp", 16), (b"mdat", size), (b"meta", 400))
        return b"".join((8 + count).to_bytes(4, "big") + kind + bytes(count) for kind, count in boxes)

    class Codec:
        def encode(self, rgb: object, setting: float) -> bytes:
            return file(10 * int(setting))

    assert gallery.picture_data(file(300)) == 300
    assert gallery.picture_data(gallery.nearest_heic(Codec(), None, 444)) == 440
    assert gallery.picture_data(gallery.nearest_heic(Codec(), None, 5000)) == 1000
    assert gallery.picture_data(gallery.nearest_heic(Codec(), None, 1)) == 0


def test_the_slider_gets_another_end(small_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    generator = generators.new(GeneratorConfig(channels=32, blocks=1, fine_blocks=1), small_model).eval()
    for gain in (generator.blocks[0].gain, generator.fine_blocks[0].gain, generator.gain):
        gain.weight.data.normal_()  # type: ignore[union-attr, operator]
    generators.freeze(generator, small_model).save(tmp_path / "in.safetensors")
    y_hat, index = torch.randn(1, small_model.config.latent_channels, 3, 3), torch.tensor([4.0])
    command = [str(tmp_path / "in.safetensors"), "--model", str(SMALL_MODEL)]
    output = tmp_path / "out.safetensors"
    assert script("slider").main([*command, "--end", "0.7", "--amount", "1.5", "-o", str(output)]) == 0
    changed = generators.load(output, small_model)

    @torch.no_grad()
    def detail(network: Generator, beta: float) -> torch.Tensor:
        return network(y_hat, index, torch.tensor([beta])) - network(y_hat, index, torch.zeros(1))  # type: ignore[no-any-return]

    def alike(one: torch.Tensor, other: torch.Tensor) -> bool:  # up to the rounding of weights
        return torch.allclose(one, other, atol=0.02 * float(other.abs().max()))

    assert alike(detail(changed, 1.0), 1.5 * detail(generator, 0.7))
    for beta in (0.2, 0.5):
        assert alike(detail(changed, beta), detail(generator, beta))
    half, between, full = (changed.gain(torch.tensor([beta])) for beta in (0.5, 0.9, 1.0))
    assert alike(between, 0.2 * half + 0.8 * full)
    for words in (["--end", "0.7"], ["--end", "0.3", "-o", str(output)], [], ["--end", "1", "-o", "x", "photo.png"]):
        with pytest.raises(SystemExit) as stopped:
            script("slider").main([*command, *words])
        assert stopped.value.code == 2
        assert "expected" in (said := capsys.readouterr().err) or "--end is from" in said


def test_the_slider_is_scanned(small_model: Model, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generators.new(GeneratorConfig(channels=32, blocks=1, fine_blocks=1), small_model).eval()
    slider = script("slider")
    monkeypatch.setattr(slider, "lpips", lambda rgb, x_hat: float(np.abs(rgb.astype(int) - x_hat).mean()))
    points = slider.scan(generator, small_model, [photo[:50, :70]], 40.0)
    assert [row[:2] for row in points] == [(beta, amount) for beta in slider.BETAS for amount in slider.AMOUNTS]
    network, index = codec.network_of(small_model), codec.quality_index(40)
    data = container.write(codec.code_picture(Picture(photo[:50, :70]), network=network, index=index))
    x_hat = codec.decode(
        data, model=dataclasses.replace(small_model, generator=generators.freeze(generator, small_model)), realism=0.8
    )
    at = next(row for row in points if row[:2] == (0.8, 1.0))
    assert at[3] == pytest.approx(psnr(photo[:50, :70], np.asarray(x_hat)), abs=0.01)
