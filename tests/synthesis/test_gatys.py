"""Gatys' systems: their losses fall, their errors are one sentence, and the examples run; all with random weights."""

from __future__ import annotations

import itertools
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import PHOTO, ROOT
from PIL import Image
from torch import Tensor

from neurocodec import image
from neurocodec.cli.main import main
from neurocodec.errors import MissingWeightsError, OutputError
from neurocodec.models.pixels import to_tensor
from neurocodec.perceptual import features
from neurocodec.synthesis import gatys, pictures

SYSTEMS = {
    "style": ["photo.png", "painting.png"],
    "texture": ["painting.png"],
    "inversion": ["photo.png", "layer=relu2_1"],
}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the commands run, with two pictures: the bundled photograph, smaller, and stripes."""
    monkeypatch.chdir(tmp_path)
    with Image.open(PHOTO) as photo:
        photo.convert("RGB").resize((80, 64)).save("photo.png")
    rows, columns = np.mgrid[:48, :64]
    stripes = np.stack(((rows + columns) // 6 % 2 * 200, columns * 3, rows * 0 + 90), 2).astype(np.uint8)
    Image.fromarray(stripes).save("painting.png")
    return tmp_path


@pytest.mark.parametrize("name", SYSTEMS)
def test_runs_and_the_loss_falls(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = ["synth", "apply", name, *SYSTEMS[name], "-o", "out.png", "size=32", "iterations=6"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    losses = re.fullmatch(r"out\.png: loss from (\S+) to (\S+)\n", out)
    assert losses is not None
    assert 0 < float(losses[2]) < 0.7 * float(losses[1])
    assert re.search(r"^iteration    6  loss \S+  \d+ s$", err, re.MULTILINE)
    expected = {"style": (40, 32), "texture": (32, 32), "inversion": (40, 32)}[name]
    with Image.open("out.png") as im:
        assert im.size == expected
        before = im.tobytes()

    assert main(command) == 1
    assert "out.png" in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, "--force"]) == 0
    with Image.open("out.png") as im:
        assert im.tobytes() == before, "the same command gives the same picture"


@pytest.mark.parametrize("name", SYSTEMS)
def test_errors_are_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    command = ["synth", "apply", name, *SYSTEMS[name], "-o", "out.png", "iterations=1"]
    assert main([*command, "size=31"]) == 1
    assert capsys.readouterr().err == "neurocodec: options.size is 31, expected at least 32.\n"
    assert main([*command[:3], "nothing.png", *command[4:]]) == 1
    assert re.fullmatch(r"neurocodec: nothing\.png: .*\n", capsys.readouterr().err)

    def no_weights(part: str, *, download: bool) -> dict[str, Tensor]:
        raise MissingWeightsError("no weights vgg16 on this machine")

    monkeypatch.setattr(features, "load_weights", no_weights)
    assert main([*command, "size=32"]) == 1
    assert capsys.readouterr().err == "neurocodec: no weights vgg16 on this machine\n"
    assert not (folder / "out.png").exists()


@pytest.mark.parametrize("name", SYSTEMS)
def test_outputs_that_cannot_be_written_are_errors_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(pictures, "read", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for output, options, message in (
        ("painting.png", [], "painting.png exists; use --force (force=True in Python) to overwrite it"),
        ("out.txt", [], "out.txt has the suffix '.txt', expected a picture format that Pillow writes: use .png"),
        ("nosuch/out.png", [], "nosuch/out.png: there is no folder nosuch: make it first"),
        ("out.png", ["device=cuda"], "the device is cuda, but PyTorch finds no GPU: use cpu"),
    ):
        assert main(["synth", "apply", name, *SYSTEMS[name], "-o", output, *options]) == 1
        assert capsys.readouterr().err == f"neurocodec: {message}\n"


def test_a_layer_that_does_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "apply", "inversion", "photo.png", "layer=relu9", "-o", "out.png", "size=32"]) == 1
    assert "expected some of conv1_1, relu1_1" in capsys.readouterr().err


def test_inversion_of_an_early_layer_is_the_picture(folder: Path) -> None:
    x = pictures.read("photo.png", 32)
    inverted, losses = gatys.invert(x, "relu1_1", tv_weight=0.0, iterations=40, seed=1)
    assert losses[-1] < 0.01 * losses[0]
    assert (inverted - x).square().mean() < 0.02 * x.var()


def test_texture_does_not_copy(folder: Path) -> None:
    """Of another size than the source, with its colours, and another one for another seed."""
    texture = pictures.read("painting.png", 48)
    one, two = (gatys.synthesise(texture, 40, 8, seed)[0] for seed in (1, 2))
    assert one.shape == (1, 3, 40, 40)
    assert (one - two).abs().mean() > 0.02
    torch.testing.assert_close(one.mean((2, 3)), texture.mean((2, 3)), atol=0.12, rtol=0)


def test_more_content_weight_stays_nearer_to_the_photograph(folder: Path) -> None:
    content, style = pictures.read("photo.png", 32), pictures.read("painting.png", 32)
    near, far = (gatys.transfer(content, style, weight, 0.0, 8)[0] for weight in (10.0, 0.01))
    assert (near - content).square().mean() < 0.5 * (far - content).square().mean()


def test_minimise_finds_a_known_minimum() -> None:
    target = torch.tensor([0.3, 0.9, 0.5]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    x, losses = gatys.minimise(lambda x: (x - target).square().sum(), torch.full((1, 3, 4, 4), 0.5), 25)
    assert len(losses) == 26
    assert losses[0] == pytest.approx(16 * (0.04 + 0.16), rel=1e-4)
    assert all(b <= a for a, b in itertools.pairwise(losses))
    torch.testing.assert_close(x, target, atol=1e-3, rtol=0)
    outside, _ = gatys.minimise(lambda x: (x - 2).square().sum(), torch.zeros(1, 3, 2, 2), 10)
    assert 0.9 < outside.min() <= outside.max() <= 1


def test_reading_and_writing(folder: Path) -> None:
    assert pictures.read("photo.png", 32).shape == (1, 3, 32, 40)
    x = pictures.read("photo.png", 64)
    assert torch.equal(x, to_tensor(image.load("photo.png").rgb)), "nothing is changed at the picture's own size"
    pictures.write(x, "again.png", force=False)
    assert torch.equal(pictures.read("again.png", 64), x)
    with pytest.raises(OutputError, match=r"again\.png"):
        pictures.write(x, "again.png", force=False)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("style_transfer", ["photo.png", "painting.png"]),
        ("texture_synthesis", ["painting.png"]),
        ("feature_inversion", ["photo.png", "relu1_1"]),
    ],
)
def test_the_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, arguments: list[str]) -> None:
    """As programs, but on small pictures and for two iterations."""
    read, minimise, synthesise = pictures.read, gatys.minimise, gatys.synthesise
    monkeypatch.setattr(pictures, "read", lambda path, size: read(path, size // 8))
    monkeypatch.setattr(gatys, "minimise", lambda loss, start, _: minimise(loss, start, 2))
    monkeypatch.setattr(gatys, "synthesise", lambda x, size, iterations: synthesise(x, size // 8, iterations))
    monkeypatch.setattr(sys, "argv", [script, *arguments, "out.png"])
    runpy.run_path(str(ROOT / "examples" / f"{script}.py"), run_name="__main__")
    with Image.open("out.png") as im:
        assert min(im.size) == 32
