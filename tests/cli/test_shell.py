"""What the commands share with other tools of the shell: pipes, folders, JSON, silence."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
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
from neurocodec.conformance import VECTORS

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


def test_json_tells_of_skipped_and_failed_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    good, bad = make_picture(folder / "a.png"), folder / "b.png"
    words = ["encode", str(folder), "-o", str(out), "--json", "--model", "small"]
    assert main(words) == 0
    capsys.readouterr()
    bad.write_text("no picture")
    assert main([*words[:2], str(tmp_path / "missing.png"), *words[2:]]) == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [(row["file"], row["status"]) for row in rows] == [
        (str(good), "skipped"),
        (str(bad), "failed"),
        (str(tmp_path / "missing.png"), "failed"),
    ]
    assert [f"neurocodec: {row['error']}" for row in rows[1:]] == captured.err.splitlines()
    assert main(["info", str(out / "a.nic"), str(bad), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert "not a .nic file" in rows[1]["error"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_a_closed_pipe_ends_the_command_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.nic"
    path.write_bytes(neurocodec.encode(np.zeros((8, 8, 3), np.uint8), model="small"))
    names = [str(path)] * 600  # more text than a pipe holds
    process = subprocess.Popen([*COMMAND, "info", *names], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


@pytest.mark.parametrize(
    "words",
    [
        ["encode", ""],
        ["decode", "a.nic", "-o", "b.png", ""],
        ["info", ""],
        ["view", ""],
        ["compare", "", "-o", "a.html"],
    ],
)
def test_an_empty_file_name_is_named(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "name is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["encode", "a.png", "--unknown"], "encode"),
        (["decode", "a.nic", "--device", "tpu"], "decode"),
        (["view", "a.nic", "b.nic"], "view"),
        (["bench", "speed", "--unknown"], "bench speed"),
    ],
)
def test_a_usage_error_shows_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str], words: list[str], command: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    error = capsys.readouterr().err
    assert error.startswith(f"usage: neurocodec {command} ")
    assert error.splitlines()[-1].startswith(f"neurocodec {command}: error: ")


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


def test_info_writes_a_thumbnail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.nic", tmp_path / "a.png"
    source.write_bytes(neurocodec.encode(PHOTO))
    assert main(["info", str(source), "--thumbnail", str(target)]) == 0
    assert "512 x 512" in capsys.readouterr().out
    assert Image.open(target).size == (256, 256)
    piped = pipe("info", source, "--thumbnail", "-", "--size", "48")
    with Image.open(BytesIO(piped.stdout)) as im:
        assert (piped.returncode, im.format, im.size) == (0, "PNG", (48, 48))
        assert im.tobytes() == neurocodec.preview(source, 48).tobytes()
    assert main(["info", str(source), "--thumbnail", str(target), "--size", "48"]) == 1
    assert capsys.readouterr().err.startswith(f"neurocodec: {target} exists; use --force")
    assert main(["info", str(source), "--thumbnail", str(target), "--size", "48", "--force"]) == 0
    assert Image.open(target).size == (48, 48)
    assert main(["info", str(source), "--thumbnail", str(tmp_path / "b.docx")]) == 1
    for words in ([str(source), "--thumbnail", "b.png"], ["--size", "48"], ["--force"]):
        with pytest.raises(SystemExit, match="2"):
            main(["info", str(source), *words])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_large_picture_shows_its_progress_on_a_terminal_alone(tmp_path: Path) -> None:
    pytest.importorskip("tqdm")
    import fcntl
    import pty
    import termios

    source, target = make_picture(tmp_path / "a.png", size=(2100, 40)), tmp_path / "a.nic"
    for words, verb in ((["encode", source, "--model", "small"], b"encode "), (["decode", target], b"decode ")):
        for options in ([], ["--quiet"]):
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
            command = [*COMMAND, *map(str, words), "--force", *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, cwd=ROOT)
            os.write(slave, b"end")
            shown = os.read(master, 1 << 16)
            os.close(slave)
            os.close(master)
            assert done.returncode == 0
            assert (verb in shown) == (not options)


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


def test_bash_completes_commands_options_and_file_names(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    bash = shutil.which("bash") or pytest.skip("no bash here")
    command = [*COMMAND[:2], "shtab", "--shell=bash", "neurocodec.cli.main.build_parser"]
    script = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    (tmp_path / "photo.png").touch()
    lines = {
        "neurocodec enc": ["encode"],
        "neurocodec bench sp": ["speed"],
        "neurocodec encode --eff": ["--effort"],
        "neurocodec encode ph": ["photo.png"],
        "neurocodec encode a.png -o ph": ["photo.png"],
        "neurocodec bench speed --picture ph": ["photo.png"],
        "neurocodec encode --layout g": ["gpu"],
        "neurocodec encode --device ph": [],
    }
    for line, expected in lines.items():
        words = line.split()
        program = (
            f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}\n"
            f"_shtab_neurocodec neurocodec {words[-1]} {words[-2]} 2>/dev/null\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run([bash, "-c", program], cwd=tmp_path, check=True, capture_output=True)
        assert done.stdout.decode().split() == expected, line


def test_a_pipeline_of_a_shell_is_binary_clean(tmp_path: Path) -> None:
    bash = shutil.which("bash") or pytest.skip("no bash here")
    source = make_picture(tmp_path / "photo.png")
    command = f"'{sys.executable}' -m neurocodec"
    line = f"set -o pipefail; cat photo.png | {command} encode - -o - | {command} decode - -o - > out.png"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "-c", line], cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    data = neurocodec.encode(source)
    with Image.open(tmp_path / "out.png") as im:
        assert (np.asarray(im) == np.asarray(neurocodec.decode(data))).all()
    (tmp_path / "photo.png").write_bytes(b"no picture")
    done = subprocess.run([bash, "-c", line], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 1
    assert [line.partition(b": -: ")[0] for line in done.stderr.splitlines()] == [b"neurocodec"] * 2


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encode - -o {0}/b.nic <&-", "standard input is closed"),
        ("decode - -o {0}/b.png <&-", "standard input is closed"),
        ("info - <&-", "standard input is closed"),
        ("encode {0}/a.png -o - >&-", "standard output is closed"),
        ("info {1} --thumbnail - >&-", "standard output is closed"),
        ("encode {0}/a.png -o - >/dev/full", "standard output cannot be written: No space left on device"),
    ],
)
def test_closed_or_full_standard_streams_are_one_sentence(tmp_path: Path, words: str, message: str) -> None:
    if "/dev/full" in words and not os.path.exists("/dev/full"):
        pytest.skip("Linux has /dev/full")
    make_picture(tmp_path / "a.png")
    nic = shlex.quote(str(VECTORS / "gray-90x50-q333.nic"))
    line = f"{shlex.quote(sys.executable)} -m neurocodec {words.format(shlex.quote(str(tmp_path)), nic)}"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"neurocodec: .*{message}.*\n", done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_verbose_says_what_was_chosen_and_names_skipped_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_picture(tmp_path / "a.png")
    for lossless, facts in (([], "quality 50, 1 tile, format 1"), (["--lossless"], "quality 5.02, 1 tile, format 2")):
        assert main(["encode", str(tmp_path / "a.png"), "--verbose", "--force", *lossless]) == 0
        model_id = neurocodec.info(tmp_path / "a.nic").model_id
        assert capsys.readouterr().out.endswith(f" s; {facts}, model {model_id}\n")
        assert main(["decode", str(tmp_path / "a.nic"), "-v", "-o", str(tmp_path / "b.png"), "--force"]) == 0
        assert capsys.readouterr().out.endswith(f" s; {facts}, model {model_id}\n")
    (tmp_path / "in").mkdir()
    make_picture(tmp_path / "in" / "c.png")
    assert main(["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["encode", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-v"]) == 0
    skipped, total = capsys.readouterr().out.splitlines()
    assert skipped == f"{tmp_path / 'out' / 'c.nic'}: skipped, it exists"
    assert total == "0 encoded, 1 skipped, 0 failed"
