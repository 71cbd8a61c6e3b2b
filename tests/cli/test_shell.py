"""What the commands share with other tools of the shell: pipes, folders, JSON, silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from cli.commands import make_picture
from paths import PHOTO, ROOT, SMALL_MODEL
from PIL import Image

import neurocodec
from neurocodec.cli.main import main

COMMAND = [sys.executable, "-m", "neurocodec"]


@pytest.fixture(autouse=True)
def small_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(SMALL_MODEL.parent))


def pipe(*words: object, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(str, words)], input=data, capture_output=True, cwd=ROOT)


def test_pictures_go_through_pipes(tmp_path: Path) -> None:
    source = make_picture(tmp_path / "a.png")
    encoded = pipe("encode", "-", "-o", "-", "--model", "small", data=source.read_bytes())
    assert (encoded.returncode, encoded.stderr) == (0, b"")
    assert encoded.stdout == neurocodec.encode(source, model="small")
    decoded = pipe("decode", "-", data=encoded.stdout)  # stdout is the default of stdin
    assert (decoded.returncode, decoded.stderr) == (0, b"")
    with Image.open(BytesIO(decoded.stdout)) as im:
        assert im.format == "PNG"
        assert (np.asarray(im) == np.asarray(neurocodec.decode(encoded.stdout))).all()
    jpeg = pipe("decode", "-", "-o", "-", "--format", "jpg", data=encoded.stdout)
    assert Image.open(BytesIO(jpeg.stdout)).format == "JPEG"
    described = pipe("info", "-", "--json", data=encoded.stdout)
    assert json.loads(described.stdout)["bytes"] == len(encoded.stdout)


def test_one_end_may_be_a_file(tmp_path: Path) -> None:
    source = make_picture(tmp_path / "a.png")
    to_file = pipe("encode", "-", "-o", tmp_path / "b.nic", "--model", "small", data=source.read_bytes())
    assert to_file.returncode == 0
    assert (tmp_path / "b.nic").read_bytes() == pipe("encode", source, "-o", "-", "--model", "small").stdout
    again = pipe("encode", "-", "-o", tmp_path / "b.nic", data=source.read_bytes())
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"exists" in again.stderr


@pytest.mark.parametrize(
    ("words", "data", "message"),
    [
        (["encode", "-"], b"no picture", b"neurocodec: -: "),
        (["encode", "-"], b"", b"neurocodec: -: "),
        (["decode", "-"], b"\x8fNIC and no more", b"neurocodec: -: "),
        (["encode", "-", "a.png"], b"", b"give one input"),
        (["encode", ".", "-o", "-"], b"", b"give one input"),
        (["encode", "-", "-o", "a.png"], b"", b"expected .nic"),
        (["decode", "missing.nic", "-o", "-"], b"", b"No such file"),
    ],
)
def test_what_is_wrong_with_a_pipe_is_one_sentence(words: list[str], data: bytes, message: bytes) -> None:
    done = pipe(*words, data=data)
    assert (done.returncode, done.stdout) == (1, b"")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_of_nic_files_becomes_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int
) -> None:
    data = neurocodec.encode(np.asarray(Image.open(PHOTO))[:32, :48], model="small")
    for name in ("in/a.nic", "in/sub/b.nic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "in" / "notes.txt").write_text("no file to decode")
    words = ["decode", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-j", str(jobs)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 decoded, 0 skipped, 0 failed; ")
    found = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert found == [Path("a.png"), Path("sub/b.png")]
    assert (np.asarray(Image.open(tmp_path / "out" / "a.png")) == np.asarray(neurocodec.decode(data))).all()
    assert main(words) == 0
    assert capsys.readouterr().out == "0 decoded, 2 skipped, 0 failed\n"
    assert main([*words[:2], "-o", str(tmp_path / "webp"), "--format", "webp"]) == 0
    assert (tmp_path / "webp" / "sub" / "b.webp").exists()


def test_keep_suffix_keeps_two_pictures_of_one_stem_apart(tmp_path: Path) -> None:
    sources = [make_picture(tmp_path / name) for name in ("a.png", "a.webp")]
    assert main(["encode", *map(str, sources), "--keep-suffix", "--model", "small"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.nic")) == ["a.png.nic", "a.webp.nic"]


def test_json_has_an_object_for_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(make_picture(tmp_path / f"{i}.png", i)) for i in range(2)]
    assert main(["encode", *sources, "--json", "--model", "small"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == sources
    assert [row["bytes"] for row in rows] == [os.path.getsize(row["output"]) for row in rows]
    assert all(row["seconds"] > 0 and row["bpp"] > 0 for row in rows)
    assert main(["info", *(row["output"] for row in rows), "--json"]) == 0
    assert [json.loads(line)["bytes"] for line in capsys.readouterr().out.splitlines()] == [r["bytes"] for r in rows]


def test_quiet_prints_errors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(make_picture(tmp_path / "a.png"))
    assert main(["encode", source, str(tmp_path / "b.png"), "--quiet", "--model", "small"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert (tmp_path / "a.nic").exists()


def test_info_of_several_files_goes_on_after_a_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [tmp_path / "a.nic", tmp_path / "c.nic"]
    for path in good:
        path.write_bytes(neurocodec.encode(np.zeros((8, 8, 3), np.uint8), model="small"))
    bad = tmp_path / "b.nic"
    bad.write_bytes(b"nothing")
    assert main(["info", str(good[0]), str(bad), str(good[1])]) == 1
    out, err = capsys.readouterr()
    assert [block.splitlines()[0].split()[1] for block in out.split("\n\n")] == [str(path) for path in good]
    assert err.startswith(f"neurocodec: {bad}: ")


def test_threads_change_no_byte(tmp_path: Path) -> None:
    source = make_picture(tmp_path / "a.png")
    sizes = [pipe("encode", source, "-o", "-", "--threads", n, "--model", "small").stdout for n in (1, 3)]
    assert sizes[0] == sizes[1] == neurocodec.encode(source, model="small")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="xdg-open is Linux's")
def test_view_hands_the_picture_to_a_viewer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, viewer, shown = tmp_path / "a.nic", tmp_path / "bin" / "xdg-open", tmp_path / "shown.png"
    path.write_bytes(neurocodec.encode(np.zeros((8, 9, 3), np.uint8)))
    viewer.parent.mkdir()
    monkeypatch.setenv("PATH", str(viewer.parent), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for status in (0, 3):
        viewer.write_text(f'#!/bin/sh\ncp "$1" {shown}\nexit {status}\n')
        viewer.chmod(0o755)
        assert main(["view", str(path)]) == (1 if status else 0)
        with Image.open(shown) as im:
            assert im.size == (9, 8)
    assert "no picture viewer" in capsys.readouterr().err
    path.write_bytes(b"nothing")
    assert main(["view", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"neurocodec: {path}: ")


def test_the_man_page_and_completions_name_every_command(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    pytest.importorskip("build_manpages")
    page = tmp_path / "neurocodec.1"
    parser = "neurocodec.cli.main"
    program = [Path(sys.executable).with_name("argparse-manpage"), "--module", parser, "--function", "build_parser"]
    subprocess.run([*program, "--output", page], cwd=ROOT, check=True)
    completion = subprocess.run(
        [*COMMAND[:2], "shtab", "--shell=bash", f"{parser}.build_parser"], cwd=ROOT, check=True, capture_output=True
    )
    for command in ("encode", "decode", "info", "view", "compare", "bench", "train", "synth", "doctor", "demo"):
        assert command in page.read_text()
        assert command in completion.stdout.decode()
