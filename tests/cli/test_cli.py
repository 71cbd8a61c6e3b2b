"""The command line: exit statuses, sentences, what is written and what is left alone."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.commands import interrupt, make_picture
from paths import ROOT, SMALL_MODEL
from PIL import Image

import neurocodec
from neurocodec import codec, container, files, image
from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.models import generators


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch, small_model: Any) -> None:
    """`base` is the small golden model: these tests are about files, not about pictures."""
    monkeypatch.setattr(model_files, "load", lambda *_, **__: small_model)
    monkeypatch.setattr(model_files, "find", lambda *_, **__: small_model)


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    """A PNG of 40 x 30 pixels."""
    return make_picture(tmp_path / "a.png")


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command; usage errors are SystemExit in argparse."""
    try:
        status = main([str(word) for word in argv])
    except SystemExit as error:
        status = int(error.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def fails_with(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one sentence of a command that must end with 1."""
    status, out, err = run(capsys, *argv)
    assert (status, out) == (1, "")
    assert err.startswith("neurocodec: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# encode


def test_encode_writes_beside_the_input_and_prints_a_line(capsys: pytest.CaptureFixture[str], photo_file: Path) -> None:
    status, out, err = run(capsys, "encode", photo_file)
    target = photo_file.with_suffix(".nic")
    assert (status, err) == (0, "")
    size = target.stat().st_size
    assert re.fullmatch(rf"{re.escape(str(target))}: {size:,} bytes, [\d.]+ bpp, [\d.]+ s\n", out)
    assert target.read_bytes() == neurocodec.encode(photo_file)
    assert names(photo_file.parent) == ["a.nic", "a.png"]


def test_encode_options_reach_the_codec(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    data = neurocodec.encode(photo_file)
    monkeypatch.setattr(codec, "encode", lambda source, **options: calls.append(options) or data)
    for words in (["-q", "30"], ["--bpp", "0.5"], ["--bytes", "900"], ["--psnr", "33"], ["--model", "m.safetensors"]):
        assert run(capsys, "encode", photo_file, "--force", "--device", "cpu", *words)[0] == 0
    common = {"model": "base", "device": "cpu", "max_pixels": 2**27, "effort": 1, "layout": "cpu", "lossless": False}
    assert calls == [
        {**common, "quality": 30.0},
        {**common, "target_bpp": 0.5},
        {**common, "target_bytes": 900},
        {**common, "target_psnr": 33.0},
        {**common, "model": "m.safetensors"},
    ]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["encode"],
        ["encode", "a.png", "-q", "0"],
        ["encode", "a.png", "-q", "101"],
        ["encode", "a.png", "-q", "nan"],
        ["encode", "a.png", "-q", "best"],
        ["encode", "a.png", "--bpp", "0"],
        ["encode", "a.png", "--bytes", "0"],
        ["encode", "a.png", "--psnr", "inf"],
        ["encode", "a.png", "-q", "50", "--bpp", "1"],
        ["encode", "a.png", "-j", "0"],
        ["encode", "a.png", "-o", ""],
        ["encode", "a.png", "--max-pixels", "0"],
        ["encode", "a.png", "--max-pixels", "1e6"],
        ["decode", "a.nic", "--max-pixels", str(2**30 + 1)],
        ["encode", "a.png", "--unknown", "--", "-b.png"],
        ["view", "a.nic", "--", "-b.nic"],
        ["encode", "a.png", "--unknown"],
        ["encode", "a.png", "--qual", "3"],
        ["decode", "a.nic", "-o", ""],
        ["decode", "a.nic", "--realism", "1.5"],
        ["decode", "a.nic", "--region", "0", "0", "8"],
        ["info"],
        ["encode", "a.png", "--json", "--quiet"],
        ["encode", "a.png", "--threads", "0"],
        ["decode", "a.nic", "--format", "docx"],
        ["view", "a.nic", "b.nic"],
        ["compare", "a.png"],
        ["train"],
        ["synth"],
        ["synth", "train", "dcgan"],
        ["shrink", "a.png"],
    ],
)
def test_usage_errors_end_with_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("usage: neurocodec")


def test_inputs_may_continue_after_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        make_picture(tmp_path / name)
    assert run(capsys, "encode", tmp_path / "a.png", "-q", "20", tmp_path / "b.png")[0] == 0
    assert names(tmp_path) == ["a.nic", "a.png", "b.nic", "b.png"]


@pytest.mark.parametrize(
    "words",
    [
        ["a.png", "-q", "20", "--", "-b.png"],
        ["a.png", "--", "-b.png"],
        ["-q", "20", "--", "a.png", "-b.png"],
        ["a.png", "-q", "20", "--force", "--", "-b.png"],
    ],
)
def test_what_follows_two_dashes_is_a_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    for name in ("a.png", "-b.png"):
        make_picture(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "encode", *words)[0] == 0
    assert names(tmp_path) == ["-b.nic", "-b.png", "a.nic", "a.png"]
    assert run(capsys, "info", "--", "-b.nic")[0] == 0
    assert "-q: No such file" in fails_with(capsys, "decode", "--force", "--", "-q")


def test_encode_to_a_folder_that_is_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sources = [make_picture(tmp_path / name) for name in ("a.png", "b.webp")]
    out = tmp_path / "made" / "here"
    assert run(capsys, "encode", *sources, "-o", out)[0] == 0
    assert names(out) == ["a.nic", "b.nic"]
    assert run(capsys, "encode", sources[0], "-o", f"{tmp_path}/other/")[0] == 0
    assert names(tmp_path / "other") == ["a.nic"]


def test_several_inputs_need_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sources = [make_picture(tmp_path / name) for name in ("a.png", "b.png")]
    assert "-o" in fails_with(capsys, "encode", *sources, "-o", tmp_path / "c.nic")
    assert "-o" in fails_with(capsys, "encode", *sources, "-o", sources[0])
    for target in ("c.png", "c.JPG"):
        assert "several inputs" in fails_with(capsys, "decode", "a.nic", "b.nic", "-o", tmp_path / target)
    assert names(tmp_path) == ["a.png", "b.png"]


@pytest.mark.filterwarnings("error")
def test_the_limit_on_pixels_is_that_of_the_codec(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pillows in (40 * 30 // 2 - 1, 40 * 30 - 1):  # an error; a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert run(capsys, "encode", photo_file, "--force")[0] == 0
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert run(capsys, "compare", photo_file, "-o", photo_file.with_suffix(".html"), "--force")[0] == 0


def test_existing_outputs_are_refused_before_encoding(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = photo_file.with_suffix(".nic")
    target.write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr(codec, "encode", lambda *_, **__: pytest.fail("encoded for nothing"))
        message = fails_with(capsys, "encode", photo_file)
    assert f"{target} exists; use --force" in message
    assert target.read_bytes() == b"mine"
    assert run(capsys, "encode", photo_file, "--force")[0] == 0
    assert target.read_bytes() == neurocodec.encode(photo_file)


def test_two_inputs_of_one_output_are_both_left(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "b.png"):
        make_picture(tmp_path / name)
    status, _, err = run(capsys, "encode", *sorted(tmp_path.iterdir()))
    assert status == 1
    assert [line.count("another input becomes") for line in err.splitlines()] == [1, 1]
    assert names(tmp_path) == ["a.png", "a.webp", "b.nic", "b.png"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_inputs_do_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(_weights_folder(tmp_path)))  # worker processes see no patches
    pictures = tmp_path / "in"
    pictures.mkdir()
    (pictures / "text.png").write_text("not a picture")
    good = [make_picture(pictures / f"{i}.png", seed=i) for i in range(3)]
    words = [good[0], pictures / "text.png", good[1], pictures / "missing.png", good[2]]
    status, out, err = run(capsys, "encode", *words, "-o", tmp_path / "out", "-j", jobs, "--model", "small")
    assert status == 1
    *made, counts = out.splitlines()
    assert [line.split(":")[0] for line in made] == [str(tmp_path / "out" / f"{i}.nic") for i in range(3)]
    assert counts.startswith("3 encoded, 0 skipped, 2 failed; ")
    lines = err.splitlines()
    assert len(lines) == 2
    for name, line in zip(("text.png", "missing.png"), lines, strict=True):
        assert line.startswith("neurocodec: ")
        assert line.count(str(pictures / name)) == 1
    assert names(tmp_path / "out") == ["0.nic", "1.nic", "2.nic"]
    for i, path in enumerate(good):
        assert (tmp_path / "out" / f"{i}.nic").read_bytes() == neurocodec.encode(path)


def _weights_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "small.safetensors").write_bytes((SMALL_MODEL).read_bytes())
    return folder


def test_encode_says_what_is_wrong(capsys: pytest.CaptureFixture[str], photo_file: Path) -> None:
    folder = photo_file.parent
    data = neurocodec.encode(photo_file)
    (folder / "b.NIC.png").write_bytes(data)
    assert "is a .nic file already" in fails_with(capsys, "encode", folder / "b.NIC.png")
    assert "expected .nic" in fails_with(capsys, "encode", photo_file, "-o", folder / "c.jpg")
    assert "there is no folder" in fails_with(capsys, "encode", photo_file, "-o", folder / "no" / "c.nic")
    assert "cannot be reached" in fails_with(capsys, "encode", photo_file, "--bytes", "1")
    (folder / "truncated.png").write_bytes(photo_file.read_bytes()[:300])
    assert "truncated.png" in fails_with(capsys, "encode", folder / "truncated.png")
    assert names(folder) == ["a.png", "b.NIC.png", "truncated.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_write_permission(capsys: pytest.CaptureFixture[str], photo_file: Path) -> None:
    photo_file.parent.chmod(0o500)
    try:
        assert "not writable" in fails_with(capsys, "encode", photo_file)
    finally:
        photo_file.parent.chmod(0o700)


def test_unknown_model_is_named(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert "'nope'" in fails_with(capsys, "encode", photo_file, "--model", "nope")


# Pipes, devices and large pictures


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="no /dev/stdin")
def test_pipes_are_opened_and_read_once(tmp_path: Path) -> None:
    photo, fifo = make_picture(tmp_path / "a.png"), tmp_path / "f.png"
    expected = neurocodec.encode(photo, model=model_files.load(SMALL_MODEL))
    command = [sys.executable, "-m", "neurocodec"]
    keywords: dict[str, Any] = {
        "cwd": ROOT,
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "check": True,
        "timeout": 60,
    }
    model = ["--model", str(SMALL_MODEL)]
    for name, data in {"stdin": photo.read_bytes(), "fifo": None}.items():
        source, out = "/dev/stdin", tmp_path / f"{name}.nic"
        if data is None:
            os.mkfifo(fifo)
            source = str(fifo)
            threading.Thread(target=lambda: fifo.write_bytes(photo.read_bytes()), daemon=True).start()
        subprocess.run([*command, "encode", source, "-o", out, *model], input=data, **keywords)
        assert out.read_bytes() == expected
    done = subprocess.run([*command, "info", "--json", "/dev/stdin"], input=expected, capture_output=True, **keywords)
    assert json.loads(done.stdout)["bytes"] == len(expected)


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_a_fifo_in_a_folder_is_no_picture(capsys: pytest.CaptureFixture[str], photo_file: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(photo_file.parent / "b.png")
    os.mkfifo(photo_file.parent / "a.nic")
    status, out, _ = run(capsys, "encode", photo_file.parent, "-o", photo_file.parent / "out")
    assert (status, out.splitlines()[-1].partition(";")[0]) == (0, "1 encoded, 0 skipped, 0 failed")
    assert "is not a regular file" in fails_with(capsys, "encode", photo_file)
    assert "is not a regular file" in fails_with(capsys, "encode", photo_file, "--force")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")
def test_a_device_without_end_is_refused_by_its_first_bytes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)  # what reads on fails, rather than fill the memory
    assert "not a .nic file: it starts with 00 00 00 00" in fails_with(capsys, "info", "/dev/zero")
    assert "not a .nic file" in fails_with(capsys, "decode", "/dev/zero", "-o", tmp_path / "a.png")
    assert "/dev/zero is not a picture" in fails_with(capsys, "encode", "/dev/zero", "-o", tmp_path / "a.nic")


def test_the_limit_on_pixels_can_be_changed(capsys: pytest.CaptureFixture[str], photo_file: Path) -> None:
    message = fails_with(capsys, "encode", photo_file, "--max-pixels", 40 * 30 - 1)
    assert "a.png is 40 x 30 pixels, more than the limit of 1199: raise max_pixels (--max-pixels)" in message
    assert run(capsys, "encode", photo_file, "--max-pixels", 40 * 30)[0] == 0
    nic, png = photo_file.with_suffix(".nic"), photo_file.with_name("b.png")
    assert "more than the limit of 1199" in fails_with(capsys, "decode", nic, "-o", png, "--max-pixels", 1199)
    assert run(capsys, "decode", nic, "-o", png, "--max-pixels", 1199, "--region", 0, 0, 9, 9)[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_force_keeps_the_permissions_and_dangling_links_are_refused(
    capsys: pytest.CaptureFixture[str], photo_file: Path
) -> None:
    target, link = photo_file.with_suffix(".nic"), photo_file.with_name("link.nic")
    target.write_bytes(b"mine")
    target.chmod(0o600)
    assert run(capsys, "encode", photo_file, "--force")[0] == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    link.symlink_to(photo_file.with_name("nothing.nic"))
    for words in ([], ["--force"]):
        assert "which does not exist" in fails_with(capsys, "encode", photo_file, "-o", link, *words)
    assert names(photo_file.parent) == ["a.nic", "a.png", "link.nic"]


# decode


@pytest.fixture
def nic_file(photo_file: Path) -> Path:
    """a.nic, alone in its folder."""
    target = photo_file.with_suffix(".nic")
    target.write_bytes(neurocodec.encode(photo_file))
    photo_file.unlink()
    return target


def test_decode_gives_what_the_api_gives(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    status, out, err = run(capsys, "decode", nic_file)
    target = nic_file.with_suffix(".png")
    assert (status, err) == (0, "")
    assert out.startswith(f"{target}: 40 x 30, RGB")
    assert (np.asarray(Image.open(target)) == np.asarray(neurocodec.decode(nic_file))).all()
    assert f"{target} exists" in fails_with(capsys, "decode", nic_file)
    assert run(capsys, "decode", nic_file, "--force")[0] == 0
    assert names(nic_file.parent) == ["a.nic", "a.png"]


def test_decode_region_and_format(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    target = nic_file.with_name("part.webp")
    assert run(capsys, "decode", nic_file, "-o", target, "--region", 4, 5, 20, 10)[0] == 0
    with Image.open(target) as im:
        assert (im.format, im.size) == ("WEBP", (20, 10))


def test_decode_keeps_the_depth_where_the_format_can(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fine = np.random.default_rng(1).integers(0, 65536, (30, 40, 4), dtype=np.uint16)
    source = tmp_path / "fine.nic"
    source.write_bytes(neurocodec.encode(fine))
    expected = neurocodec.decode_array(source)
    assert (expected[..., 3] == fine[..., 3]).all()
    for name in ("a.png", "a.tif"):
        out = run(capsys, "decode", source, "-o", tmp_path / name)[1]
        assert "RGBA, 16 bits" in out
        assert (image.samples(image.load(tmp_path / name, full_depth=True)) == expected).all()
    assert "RGBA, 8 of 16 bits" in run(capsys, "decode", source, "-o", tmp_path / "a.webp")[1]
    assert (np.asarray(Image.open(tmp_path / "a.webp")) == np.asarray(neurocodec.decode(source))).all()
    assert "RGBA, 8 of 16 bits" in run(capsys, "decode", source, "-o", tmp_path / "b.png", "--size", 20)[1]
    assert "PPM cannot hold the alpha" in fails_with(capsys, "decode", source, "-o", tmp_path / "a.ppm")
    line = json.loads(run(capsys, "decode", source, "-o", tmp_path / "c.png", "--json", "--region", 3, 4, 5, 6)[1])
    assert (line["depth"], line["bytes"]) == (16, (tmp_path / "c.png").stat().st_size)
    part = image.samples(image.load(tmp_path / "c.png", full_depth=True))
    assert (part == expected[4:10, 3:8]).all()


@pytest.mark.parametrize("jobs", [1, 2])
def test_damage_in_a_later_tile_leaves_no_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, jobs: int, small_model: Any
) -> None:
    """The first row of tiles is written when the second is found to be damaged."""
    nic = container.read(neurocodec.encode(np.zeros((2100, 32, 3), np.uint8)))
    *first, last = nic.tiles
    wrong = container.Tile(last.stream, last.symbols_crc ^ 1)
    damaged = container.write(dataclasses.replace(nic, tiles=(*first, wrong)))
    rows = codec.decode_bands(container.read(damaged), small_model)
    assert next(rows).shape == (1024, 32, 3)
    (tmp_path / "a.nic").write_bytes(damaged)
    (tmp_path / "old.png").write_bytes(b"old")
    for target in ("b.png", "old.png"):
        words = ("decode", tmp_path / "a.nic", "-o", tmp_path / target, "--force", "-j", jobs)
        assert "do not match" in fails_with(capsys, *words)
    assert names(tmp_path) == ["a.nic", "old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_decode_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], nic_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = nic_file.parent
    assert "region" in fails_with(capsys, "decode", nic_file, "--region", 0, 0, 400, 300)
    assert "realism" in fails_with(capsys, "decode", nic_file, "--realism", "0.5")
    with monkeypatch.context() as patch:
        patch.setattr(codec, "parse", lambda *_, **__: pytest.fail("decoded for nothing"))
        for name in ("a.xyz", "b.nic"):
            assert "use .png" in fails_with(capsys, "decode", nic_file, "-o", folder / name)
    data = nic_file.read_bytes()
    for name, content in (("cut", data[:-3]), ("text", b"hello"), ("flip", data[:-1] + bytes([data[-1] ^ 1]))):
        (folder / f"{name}.nic").write_bytes(content)
        assert str(folder / f"{name}.nic") in fails_with(capsys, "decode", folder / f"{name}.nic")
        (folder / f"{name}.nic").unlink()
    assert names(folder) == ["a.nic"]


def test_decode_goes_on_after_a_bad_input(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    (nic_file.parent / "bad.nic").write_bytes(b"")
    status, _, err = run(capsys, "decode", nic_file.parent / "bad.nic", nic_file, "-o", nic_file.parent / "out")
    assert status == 1
    assert err.count("\n") == 1
    assert names(nic_file.parent / "out") == ["a.png"]


def test_an_input_is_never_its_own_output(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    disguised = nic_file.rename(nic_file.with_suffix(".png"))
    data = disguised.read_bytes()
    assert "its own output" in fails_with(capsys, "decode", disguised, "--force")
    assert "is not a .nic file" in fails_with(capsys, "decode", make_picture(disguised.with_name("picture.png")))
    assert disguised.read_bytes() == data


# info


def test_info(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    status, out, err = run(capsys, "info", nic_file)
    assert (status, err) == (0, "")
    about = neurocodec.info(nic_file)
    for part in ("40 x 30, RGB", f"{about.bytes:,} bytes", about.model_id):
        assert part in out
    status, out, _ = run(capsys, "info", "--json", nic_file)
    parsed = json.loads(out)
    assert (parsed.pop("file"), parsed.pop("status")) == (str(nic_file), "ok")
    assert parsed == vars(about)


def test_info_says_what_is_wrong(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    assert "No such file" in fails_with(capsys, "info", nic_file.parent / "none.nic")
    assert str(nic_file.parent) in fails_with(capsys, "info", nic_file.parent)
    nic_file.write_bytes(nic_file.read_bytes()[:40])
    assert str(nic_file) in fails_with(capsys, "info", nic_file)


def test_info_imports_nothing_heavy(nic_file: Path) -> None:
    script = (
        "import sys; from neurocodec.cli.main import main; status = main(['info', sys.argv[1]]);"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[2].split(','))), status)"
    )
    heavy = "torch,numpy,safetensors,tqdm,scipy,matplotlib,compressai,constriction,pandas,torchvision"
    done = subprocess.run(
        [sys.executable, "-c", script, nic_file, heavy], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] 0"


# compare, demo


def test_compare_makes_one_self_contained_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = make_picture(tmp_path / "a & <b>.png", size=(200, 180))
    page = tmp_path / "page.html"
    status, out, err = run(capsys, "compare", source, "-o", page, "-q", 30)
    assert (status, err) == (0, "")
    assert str(page) in out
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 1 + text.count("<th scope=row>") >= 3
    assert not re.search(r"https?://|@[A-Z]+@|<link|src=\"(?!data:)", text)
    assert "a &amp; &lt;b&gt;.png" in text
    assert "<b>" not in text
    assert f"{len(neurocodec.encode(source, quality=30)):,}" in text
    assert re.search(r"<th scope=row>JPEG, quality \d+<td>", text)
    assert "exists" in fails_with(capsys, "compare", source, "-o", page)
    assert run(capsys, "compare", source, "-o", page, "--force")[0] == 0
    assert names(tmp_path) == ["a & <b>.png", "page.html"]


def test_compare_takes_any_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    source = make_picture(tmp_path / "@ROWS@@IMAGES@.png")
    assert run(capsys, "compare", source, "-o", page)[0] == 0
    text = page.read_text()
    assert text.count("<title>@ROWS@@IMAGES@.png") == 1
    assert text.count("data:image/png;base64,") == 1 + text.count("<th scope=row>") >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_compare_takes_a_name_that_is_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    source = tmp_path / "a\udce9.png"
    make_picture(tmp_path / "a.png").rename(source)
    assert run(capsys, "compare", source, "-o", page)[0] == 0
    assert "<title>a\\udce9.png" in page.read_text()


def test_compare_of_a_picture_too_small_for_ms_ssim(capsys: pytest.CaptureFixture[str], photo_file: Path) -> None:
    page = photo_file.with_suffix(".html")
    assert run(capsys, "compare", photo_file, "-o", page)[0] == 0
    assert "<td>-\n" in page.read_text()


def test_compare_shows_both_ends_of_realism(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_model: Any
) -> None:
    from neurocodec.bench import quality
    from neurocodec.model import GeneratorConfig

    torch.manual_seed(1)
    generator = generators.new(GeneratorConfig(channels=32, blocks=1, fine_blocks=1), small_model)
    generator.head.weight.data.normal_(0.0, 0.02)
    with_generator = dataclasses.replace(small_model, generator=generators.freeze(generator.eval(), small_model))
    monkeypatch.setattr(model_files, "load", lambda *_, **__: with_generator)
    monkeypatch.setattr(quality, "available", lambda: (quality.Metrics(lpips=True), {}))
    monkeypatch.setattr(quality, "lpips", lambda a, b: float(np.abs(a.astype(int) - b).mean()))
    source, page = make_picture(tmp_path / "a.png", size=(60, 50)), tmp_path / "page.html"
    status, out, err = run(capsys, "compare", source, "-o", page)
    assert (status, err) == (0, "")
    assert "realism 0 and 1" in out
    text = page.read_text()
    assert "<th scope=col>LPIPS" in text
    rows = re.findall(r"<th scope=row>(.*?)<td>([\d,]+)<td>.*<td>([\d.]+)\n", text)
    data, original = neurocodec.encode(source, model=with_generator), np.asarray(Image.open(source)).astype(int)
    for (name, size, lpips), realism in zip(rows, (0, 1), strict=False):
        decoded = np.asarray(neurocodec.decode(data, model=with_generator, realism=realism))
        assert name == f"neurocodec, quality 50, realism {realism}"
        assert int(size.replace(",", "")) == len(data)
        assert float(lpips) == pytest.approx(np.abs(original - decoded).mean(), abs=1e-4)
    assert [row[0].split(",")[0] for row in rows[:3]] == ["neurocodec", "neurocodec", "JPEG"]
    assert len(set(re.findall(r'src="(data:[^"]+)"', text))) == 1 + len(rows)

    monkeypatch.setattr(quality, "available", lambda: (quality.Metrics(), {"LPIPS": "no weights"}))
    status, out, _ = run(capsys, "compare", source, "-o", page, "--force")
    assert status == 0
    assert "no LPIPS: no weights" in out
    assert "LPIPS" not in page.read_text()


def test_compare_with_a_model_that_is_not_installed(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    model, page = SMALL_MODEL, photo_file.with_suffix(".html")
    assert run(capsys, "compare", photo_file, "-o", page, "--model", model)[::2] == (0, "")
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 1 + text.count("<th scope=row>") >= 3


def test_compare_says_what_is_wrong(capsys: pytest.CaptureFixture[str], nic_file: Path) -> None:
    assert ".html" in fails_with(capsys, "compare", nic_file, "-o", nic_file.with_suffix(".png"))
    assert "is a .nic file" in fails_with(capsys, "compare", nic_file, "-o", nic_file.with_suffix(".html"))
    assert names(nic_file.parent) == ["a.nic"]


def test_jpeg_has_at_least_the_bytes_it_is_compared_with(photo: np.ndarray) -> None:
    from neurocodec.bench.rivals import RIVALS
    from neurocodec.cli.compare import rival_variant

    part = photo[:200, :240]
    for size in (1, 2500, 6000):
        chosen = rival_variant(part, size)
        quality = int(chosen.name.split()[-1])
        assert len(chosen.data) >= size
        assert quality == 1 or len(RIVALS["jpeg"].encode(part, quality - 1)) < size
    assert rival_variant(part, 10**9).name.endswith("quality 100")


def test_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurocodec.cli import demo

    monkeypatch.setattr(demo, "QUALITIES", (10, demo.SHOWN))
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "demo")
    assert (status, err) == (0, "")
    left = tmp_path / "demo-output"
    assert names(left) == ["compare.html", "comparison.png", "photo-decoded.png", "photo.nic"]
    data = (left / "photo.nic").read_bytes()
    assert (np.asarray(Image.open(left / "photo-decoded.png")) == np.asarray(neurocodec.decode(data))).all()
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == [str(demo.SHOWN)])
    assert len(row) == 9
    assert int(row[1].replace(",", "")) == len(data) <= int(row[5].replace(",", ""))
    assert "demo-output" in fails_with(capsys, "demo")
    monkeypatch.setattr(demo, "QUALITIES", (demo.SHOWN,))
    assert run(capsys, "demo", "--force")[0] == 0


# train


def test_train_passes_its_arguments_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurocodec.training import loop
    from neurocodec.training.rate_distortion import RateDistortion

    calls: list[tuple[Any, ...]] = []

    def fake(config: Any, folder: str, objective: type, *, resume: bool) -> Path:
        assert objective is RateDistortion
        calls.append((config.training.batch, config.training.steps, folder, resume))
        return Path(folder, "model.safetensors")

    monkeypatch.setattr(loop, "train", fake)
    config = tmp_path / "tiny.toml"
    config.write_text("[training]\nbatch = 2\nsteps = 3\n")
    assert run(capsys, "train", config)[0] == 0
    assert run(capsys, "train", config, "training.batch=5", "--run", "here", "training.steps=7")[0] == 0
    assert run(capsys, "train", "base", "training.steps=4")[0] == 0
    names = [os.path.join("runs", name) for name in ("tiny", "base")]
    assert calls == [(2, 3, names[0], False), (5, 7, "here", False), (4, 4, names[1], False)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.steps=3"], "name a configuration"),
        (["--init-from", "mine"], "name the folder of the new run"),
        (["base", "--resume", "mine"], "a run continues with its own settings: leave out base"),
        (["base", "--resume", "mine", "--init-from", "other"], "give one of them"),
    ],
)
def test_usage_of_train(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", *words])
    assert message in capsys.readouterr().err


def test_train_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "none.toml" in fails_with(capsys, "train", tmp_path / "none.toml")
    config = tmp_path / "tiny.toml"
    config.write_text("[training]\nbatches = 2\n")
    assert "batches" in fails_with(capsys, "train", config)


@pytest.mark.parametrize("name", ["base", "base-gpu", "realism", "hific"])
def test_shipped_configurations_load(name: str) -> None:
    from neurocodec.training.config import load_config

    assert load_config(name).training.steps > 0


# the process


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"neurocodec {neurocodec.__version__}\n", "")
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for command in ("encode", "decode", "info", "compare", "train", "synth", "demo"):
        assert command in out


def test_unexpected_errors_are_a_sentence_too(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(codec, "encode", broken)
    assert "unexpected RuntimeError: first line second line" in fails_with(capsys, "encode", photo_file)
    monkeypatch.setattr(codec, "encode", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    assert "out of memory" in fails_with(capsys, "encode", photo_file)


def test_interrupt_is_quiet(
    capsys: pytest.CaptureFixture[str], photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(codec, "encode", interrupted)
    assert run(capsys, "encode", photo_file) == (130, "", "")
    assert names(photo_file.parent) == ["a.png"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_interrupt_ends_the_workers(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sources = [make_picture(tmp_path / "in" / f"{i}.png", size=(900, 900)) for i in range(12)]
    command = [sys.executable, "-m", "neurocodec", "encode", *sources, "-o", tmp_path / "out", "-j", "2"]
    environment = os.environ | {"NEUROCODEC_WEIGHTS": str(_weights_folder(tmp_path))}
    interrupt([*command, "--model", "small"], environment)
    assert all(name.endswith(".nic") for name in names(tmp_path / "out"))


def test_a_reader_that_leaves_is_no_traceback(nic_file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "neurocodec", "info", nic_file],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_names_that_stdout_cannot_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [make_picture(tmp_path / name) for name in ("a\u00e9.png", "b.png")]
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["encode", *map(str, sources)]) == 0
    assert names(tmp_path) == ["a\u00e9.nic", "a\u00e9.png", "b.nic", "b.png"]
    *lines, _ = stdout.buffer.getvalue().decode("ascii").splitlines()  # type: ignore[attr-defined]
    assert [line.split(":")[0] for line in lines] == [rf"{tmp_path}{os.sep}a\xe9.nic", f"{tmp_path}{os.sep}b.nic"]


def test_stdout_may_be_closed(
    capsys: pytest.CaptureFixture[str], nic_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["decode", str(nic_file), "-o", str(nic_file.with_suffix(".tif"))]) == 0
    assert capsys.readouterr().err == ""
