"""`neurocodec encode DIR`: whole trees, several processes, runs that are continued; and the plan for them."""

from __future__ import annotations

import functools
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cli.commands import end, interrupt, make_picture
from paths import ROOT, SMALL_MODEL

import neurocodec
from neurocodec import collection, workers
from neurocodec.cli import encode
from neurocodec.cli.main import main


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small golden model is installed, for worker processes too."""
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(SMALL_MODEL.parent))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three pictures in a tree, and files that are not pictures."""
    folder = tmp_path / "in"
    for number, name in enumerate(("b.png", "sub/a.jpg", "sub/deep er/C.WEBP")):
        make_picture(folder / name, number)
    (folder / "notes.txt").write_text("no picture")
    (folder / "video.mpg").write_text("no picture either")
    (folder / ".hidden").mkdir()
    make_picture(folder / ".hidden" / "d.png")
    make_picture(folder / ".e.png")
    return folder


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], list[str]]:
    """Status, lines of stdout and lines of stderr of `neurocodec encode`."""
    status = main(["encode", "--model", "small", *(str(word) for word in words)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def counts(lines: list[str]) -> str:
    """What the last line says of the files, without their sizes."""
    return lines[-1].partition(";")[0]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_tree_becomes_the_same_tree(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path, jobs: int
) -> None:
    out = tmp_path / "made" / "out"
    status, lines, errors = run(capsys, tree, "-o", out, "-j", jobs, "-q", "30")
    assert (status, errors) == (0, [])
    names = ["b.nic", "sub/a.nic", "sub/deep er/C.nic"]
    assert [line.split(":")[0] for line in lines[:-1]] == [str(out / name) for name in names]
    assert counts(lines) == "3 encoded, 0 skipped, 0 failed"
    files = tree_of(out)
    assert list(files) == names
    for name, source in zip(names, ("b.png", "sub/a.jpg", "sub/deep er/C.WEBP"), strict=True):
        assert files[name] == neurocodec.encode(tree / source, quality=30, model="small", device="cpu")


def test_a_second_run_skips_the_files_that_exist(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(capsys, tree, "-o", out)
    first = tree_of(out)
    (out / "sub" / "a.nic").unlink()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.nic")}
    status, lines, _ = run(capsys, tree, "-o", out, "-q", "90")
    assert (status, counts(lines)) == (0, "1 encoded, 2 skipped, 0 failed")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(tree_of(out)["sub/a.nic"]) > len(first["sub/a.nic"])

    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_file", lambda *_, **__: pytest.fail("encoded for nothing"))
        assert run(capsys, tree, "-o", out, "--model", "nowhere") == (0, ["0 encoded, 3 skipped, 0 failed"], [])
    assert counts(run(capsys, tree, "-o", out, "--force")[1]) == "3 encoded, 0 skipped, 0 failed"
    assert tree_of(out) == first


def test_without_output_files_are_next_to_the_pictures(capsys: pytest.CaptureFixture[str], tree: Path) -> None:
    before = tree_of(tree)
    assert run(capsys, tree)[0] == 0
    after = tree_of(tree)
    assert after.keys() - before.keys() == {"b.nic", "sub/a.nic", "sub/deep er/C.nic"}
    assert {name: after[name] for name in before} == before
    assert run(capsys, tree)[1] == ["0 encoded, 3 skipped, 0 failed"]  # .nic files are no pictures to encode


@pytest.mark.parametrize("jobs", [1, 2])
def test_problems_come_at_the_end_and_stop_nothing(
    capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path, jobs: int
) -> None:
    (tree / "a.png").write_text("no picture at all")
    make_picture(tree / "twice.png")
    make_picture(tree / "twice.webp")
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "b.nic").write_text("somebody's notes")
    (out / "sub" / "a.nic").mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    status, lines, errors = run(capsys, tree, empty, tmp_path / "missing.png", "-o", out, "-j", jobs)
    assert status == 1
    assert counts(lines) == "1 encoded, 0 skipped, 7 failed"
    assert all(error.startswith("neurocodec: ") for error in errors)
    for words in (
        "a.png is not a picture",
        "b.nic exists; use --force",
        "a.nic is a folder",
        "twice.png: another input becomes",
        "twice.webp: another input becomes",
        "empty contains no pictures",
        "missing.png: No such file",
    ):
        assert sum(words in error for error in errors) == 1, words
    assert len(errors) == 7
    assert (out / "b.nic").read_text() == "somebody's notes"
    assert (
        counts(run(capsys, tree / "b.png", tree / "sub", "-o", out, "--force")[1]) == "3 encoded, 0 skipped, 0 failed"
    )
    assert (out / "b.nic").read_bytes()[:4] == b"\x8fNIC"


@pytest.mark.parametrize("name", ["a.heic", "a.JXL"])
def test_a_folder_does_not_hide_pictures_that_need_a_package(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    make_picture(tmp_path / "b.png")
    start = b"\xff\x0a" if name.endswith("JXL") else b"\0\0\0\x18ftypheic"
    (tmp_path / name).write_bytes(start + bytes(40))
    status, lines, errors = run(capsys, tmp_path)
    assert (status, counts(lines)) == (1, "1 encoded, 0 skipped, 1 failed")
    assert f"{name} needs pillow-" in errors[0]


def test_files_and_folders_together(capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path) -> None:
    other = make_picture(tmp_path / "x" / "other.png", 9)
    assert run(capsys, tree / "sub", other, "-o", tmp_path / "out")[0] == 0
    assert list(tree_of(tmp_path / "out")) == ["a.nic", "deep er/C.nic", "other.nic"]


def test_a_picture_in_two_inputs_is_encoded_once(
    capsys: pytest.CaptureFixture[str], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    status, lines, errors = run(capsys, ".", os.path.join("..", tree.name), "sub", os.path.join("sub", "a.jpg"))
    assert (errors, status, counts(lines)) == ([], 0, "3 encoded, 0 skipped, 0 failed")


def test_an_output_that_is_a_file(capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    status, lines, errors = run(capsys, tree, "-o", tmp_path / "out")
    assert (status, lines, len(errors)) == (1, [], 1)
    assert "out is not a folder" in errors[0]


def test_a_missing_model_is_one_error(capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path) -> None:
    status, lines, errors = run(capsys, tree, "-o", tmp_path / "out", "--model", "nowhere")
    assert (status, lines, len(errors)) == (1, [], 1)
    assert "'nowhere'" in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads and writes everywhere")
def test_folders_without_permission(capsys: pytest.CaptureFixture[str], tree: Path, tmp_path: Path) -> None:
    (tree / "sub" / "deep er").chmod(0)
    try:
        status, lines, errors = run(capsys, tree, "-o", tmp_path / "out")
    finally:
        (tree / "sub" / "deep er").chmod(0o700)
    assert (status, counts(lines), len(errors)) == (1, "2 encoded, 0 skipped, 1 failed", 1)
    assert "deep er: Permission denied" in errors[0]


def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "sub" / "again").symlink_to(tree)
    assert len(collection.plan([str(tree)])) == 3


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="finds the process in /proc")
def test_a_worker_that_dies_costs_only_its_own_picture(tree: Path) -> None:
    sources = [make_picture(tree / f"{number}.png", number, (8, 8)) for number in range(25)]
    sources[3].unlink()
    os.mkfifo(sources[3])  # the worker that opens it waits
    work = functools.partial(neurocodec.encode, model=str(SMALL_MODEL))
    outcomes = workers.map_in_order(work, [str(path) for path in sources], 2, int)
    results = [next(outcomes) for _ in range(3)]
    killer = _kill_reader_of(sources[3])
    results += list(outcomes)
    assert killer.wait(60) == 0
    assert "a worker process died" in str(results[3])
    for source, result in zip(sources, results, strict=True):
        if source != sources[3]:
            assert result == neurocodec.encode(source, model="small", device="cpu")


def _kill_reader_of(fifo: Path) -> subprocess.Popen[bytes]:
    """A process that kills the child of this one that has the FIFO open."""
    script = (
        "import os, signal, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY)\n"  # returns when the reader opens it
        "time.sleep(0.3)\n"
        "for entry in os.listdir('/proc'):\n"
        "    if entry.isdigit() and int(entry) != os.getpid():\n"
        "        try:\n"
        "            links = [os.readlink(f'/proc/{entry}/fd/{n}') for n in os.listdir(f'/proc/{entry}/fd')]\n"
        "        except OSError:\n"
        "            continue\n"
        "        if sys.argv[1] in links:\n"
        "            os.kill(int(entry), signal.SIGKILL)\n"
    )
    return subprocess.Popen([sys.executable, "-c", script, fifo])


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_an_interrupted_run_can_be_continued(tmp_path: Path) -> None:
    for number in range(30):
        make_picture(tmp_path / "in" / f"{number}.png", number, (500, 500))
    command = [sys.executable, "-m", "neurocodec", "encode", tmp_path / "in", "-o", tmp_path / "out", "-j", "2"]
    command += ["--model", "small"]
    interrupt(command)
    first = tree_of(tmp_path / "out")
    assert first
    assert all(re.fullmatch(r"\d+\.nic", name) for name in first)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert counts(done.stdout.splitlines()) == f"{30 - len(first)} encoded, {len(first)} skipped, 0 failed"
    assert len(tree_of(tmp_path / "out")) == 30


def test_effort_reaches_the_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_picture(tmp_path / "a.png")
    for jobs in (1, 2):
        target = tmp_path / f"{jobs}.nic"
        assert run(capsys, source, "-o", target, "--effort", "2", "-j", jobs)[0] == 0
        assert target.read_bytes() == neurocodec.encode(source, effort=2, model="small")
    assert target.read_bytes() != neurocodec.encode(source, model="small")
    for effort in ("0", "11", "2.5", "much"):
        with pytest.raises(SystemExit, match="2"):
            main(["encode", str(source), "--effort", effort])
        assert "--effort" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_search_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("tqdm")
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [sys.executable, "-m", "neurocodec", "encode", str(make_picture(tmp_path / "a.png"))]
    done = subprocess.run(
        [*command, "--model", "small", "--effort", "2"], stderr=slave, stdout=subprocess.PIPE, cwd=ROOT
    )
    shown = os.read(master, 1 << 16)  # while the other end is open: afterwards what was written is gone
    os.close(slave)
    os.close(master)
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert b"search" in shown


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_leaves_no_orphans_and_no_parts(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM, SIGHUP and SIGKILL of `encode -j 2`, sent to the command alone, end its workers as well."""
    for i in range(30):
        make_picture(tmp_path / "in" / f"{i}.png", i, (500, 500))
    command = [sys.executable, "-m", "neurocodec", "encode", tmp_path / "in", "-o", tmp_path / "out", "-j", "2"]
    status, errors = end([*command, "--model", "small"], number)
    assert (status, errors) == (-number if number == signal.SIGKILL else 128 + number, b"")
    files = tree_of(tmp_path / "out")
    assert 0 < len(files) < 30
    if number != signal.SIGKILL:
        assert all(re.fullmatch(r"\d+\.nic", name) for name in files)


def test_layout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Another stream, of 32 lanes, that every decoder reads to the same pixels."""
    picture = make_picture(tmp_path / "a.png")
    for layout in ("cpu", "gpu"):
        assert run(capsys, picture, "-o", tmp_path / f"{layout}.nic", "--layout", layout)[0] == 0
    streams = [neurocodec.container.read((tmp_path / f"{n}.nic").read_bytes()).tiles[0].stream for n in ("cpu", "gpu")]
    assert [stream[0] & 7 for stream in streams] == [0, 5]
    assert neurocodec.decode(tmp_path / "cpu.nic") == neurocodec.decode(tmp_path / "gpu.nic")
    with pytest.raises(ValueError, match="layout"):
        neurocodec.encode(picture, layout="tpu", model="small")
    with pytest.raises(SystemExit):
        run(capsys, picture, "--layout", "tpu")
