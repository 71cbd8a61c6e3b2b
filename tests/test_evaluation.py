"""Evaluation: real-file points, and speed."""

from __future__ import annotations

import json
import math
import time
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
from neurocodec.evaluation import codecs, speed
from neurocodec.evaluation.quick import real_file_points
from neurocodec.image import Picture
from neurocodec.metrics import psnr

SMALL = Path(__file__).parent / "golden" / "model" / "small.safetensors"
RGB = codecs.synthetic_picture(48, 80, seed=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures that differ, and a file that is none."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        Image.fromarray(codecs.synthetic_picture(40, 56 + 8 * seed, seed)).save(pictures / f"{seed}.png")
    (pictures / "notes.txt").write_text("no picture")
    return pictures


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
