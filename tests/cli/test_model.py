"""`neurocodec model decoder`: the file decodes to the same pixels and cannot encode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli.commands import make_picture
from paths import ROOT, SMALL_MODEL

import neurocodec
from neurocodec import model
from neurocodec.cli.main import main


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """The decoder's part of the small model."""
    path = tmp_path / "viewer" / "decoder.safetensors"
    path.parent.mkdir()
    assert main(["model", "decoder", str(SMALL_MODEL), "-o", str(path)]) == 0
    return path


def test_the_file_decodes_to_the_same_pixels(decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = neurocodec.encode(make_picture(tmp_path / "a.png"), model=SMALL_MODEL)
    expected = neurocodec.decode(data, model=model.load(SMALL_MODEL))
    (tmp_path / "a.nic").write_bytes(data)
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(decoder.parent))
    assert main(["decode", str(tmp_path / "a.nic"), "-o", str(tmp_path / "b.png")]) == 0
    assert neurocodec.image.load(tmp_path / "b.png").rgb.tobytes() == expected.tobytes()


def test_encoding_with_it_is_one_sentence(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [str(make_picture(tmp_path / name)) for name in ("a.png", "b.png")]
    capsys.readouterr()
    assert main(["encode", *pictures, "--model", str(decoder)]) == 1
    model_id = model.load(SMALL_MODEL).model_id.hex()
    expected = f"the file of model {model_id} is for decoding alone: encode with the whole model file."
    assert capsys.readouterr().err == f"neurocodec: {expected}\n"
    with pytest.raises(neurocodec.ModelMismatchError, match="for decoding alone"):
        neurocodec.encode(pictures[0], model=decoder)


def test_a_file_that_exists_is_kept(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = decoder.stat().st_size
    decoder.write_bytes(b"mine")
    words = ["model", "decoder", str(SMALL_MODEL), "-o", str(decoder)]
    capsys.readouterr()
    assert main(words) == 1
    assert (
        capsys.readouterr().err == f"neurocodec: {decoder} exists; use --force (force=True in Python) to overwrite it\n"
    )
    assert decoder.read_bytes() == b"mine"
    assert main([*words, "--force"]) == 0
    model_id = model.load(SMALL_MODEL).model_id.hex()
    assert capsys.readouterr().out == f"{decoder}: {size:,} bytes, model {model_id}\n"
    assert model.load(decoder).model_id.hex() == model_id


def test_a_name_under_which_no_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "decoder", "base", "-o", str(tmp_path / "decoder.bin")]) == 1
    assert "does not end in .safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_decoder_of_the_shipped_model_is_small(tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    command = [sys.executable, "-m", "neurocodec", "model", "decoder", "base", "-o", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert path.stat().st_size <= 7_000_000
    assert model.load(path).model_id == model.load("base").model_id
