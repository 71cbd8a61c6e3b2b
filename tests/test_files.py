"""Files that appear whole or not at all, and verified downloads."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from PIL import Image

from neurocodec import OutputError, files, image

DATA = bytes(range(256)) * 40


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with files.writing(path) as file:
        file.write(DATA[:100])
        file.flush()
        assert not path.exists()
        file.write(DATA[100:])
        file.seek(5)
        assert file.read(3) == DATA[5:8]
    assert path.read_bytes() == DATA
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("force", [False, True])
def test_an_error_leaves_nothing_behind(tmp_path: Path, error: type[BaseException], force: bool) -> None:
    if force:
        (tmp_path / "a.bin").write_bytes(b"old")
    before = os.listdir(tmp_path)
    with pytest.raises(error), files.writing(tmp_path / "a.bin", force=force) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert os.listdir(tmp_path) == before
    assert not force or (tmp_path / "a.bin").read_bytes() == b"old"


def test_an_output_error_in_the_block_keeps_its_text(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^use \.png$"), files.writing(tmp_path / "a.bin"):
        raise OutputError("use .png")
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"precious")
    for check in (files.check_output, partial(files.write_bytes, data=DATA)):
        with pytest.raises(OutputError, match=r"a\.bin exists; use --force \(force=True in Python\)"):
            check(path)
    assert path.read_bytes() == b"precious"
    files.check_output(path, force=True)
    files.write_bytes(path, DATA, force=True)
    assert path.read_bytes() == DATA
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    path = tmp_path / "a.bin"
    with pytest.raises(OutputError, match="exists"), files.writing(path) as file:  # noqa: PT012
        file.write(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    files.write_bytes(tmp_path / "a.bin", DATA)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["a.bin"]


def _no_links(*_: Any) -> None:
    raise PermissionError("no links here")


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_an_overwritten_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(mode)
    files.write_bytes(path, DATA, force=True)
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    link.symlink_to(real)
    real.write_bytes(b"first")
    with pytest.raises(OutputError, match="link exists"):
        files.write_bytes(link, b"second")
    files.write_bytes(link, b"second", force=True)
    assert link.is_symlink()
    assert real.read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert os.listdir(tmp_path / "folder") == ["real"]


KILLED = """
import os, signal, sys
from neurocodec import files

with files.writing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_part_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.bin"], cwd=ROOT)
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part"
    os.utime(part, (0, 0))
    files.write_bytes(tmp_path / "b.bin", DATA)
    assert os.listdir(tmp_path) == ["b.bin"]


def test_parts_in_use_and_other_files_are_not_swept(tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".neurocodec-1.part", "a.part", f".neurocodec-{'0' * 16}.part.jpg")]
    link = tmp_path / f".neurocodec-{'1' * 16}.part"
    for path in others:
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    link.symlink_to(others[0])
    new = tmp_path / f".neurocodec-{'2' * 16}.part"
    new.write_bytes(b"being written elsewhere")
    script = "import sys; from neurocodec import files; files.write_bytes(sys.argv[1], b'other')"
    with files.writing(tmp_path / "slow.bin") as file:
        file.write(b"half")
        file.flush()
        (part,) = set(tmp_path.iterdir()) - {*others, link, new}
        os.utime(part, (0, 0))
        subprocess.run([sys.executable, "-c", script, tmp_path / "other.bin"], cwd=ROOT, check=True)
        assert part.exists()
        file.write(b" and half")
    assert (tmp_path / "slow.bin").read_bytes() == b"half and half"
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in others),
        *(link.name, new.name, "slow.bin", "other.bin"),
    }


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_dangling_link(tmp_path: Path, force: bool) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nothing.png")
    for write in (
        lambda: files.check_output(link, force=force),
        lambda: files.write_bytes(link, DATA, force=force),
        lambda: image.save_pil(Image.new("RGB", (2, 2)), link, force=force),
    ):
        with pytest.raises(OutputError, match=r"link\.png is a link to .*nothing\.png, which does not exist"):
            write()
    assert os.listdir(tmp_path) == ["link.png"]


class Pieces:
    """A pipe, as far as reading goes: what it gives is gone."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def read(self, size: int) -> bytes:
        piece, self.left = self.left[: min(size, 7)], self.left[min(size, 7) :]
        return piece


def test_what_a_pipe_gave_can_be_read_again() -> None:
    pipe = Pieces(DATA)
    with files.reading(pipe) as file:  # type: ignore[arg-type]
        assert file.read(4) == DATA[:4]
        assert len(pipe.left) >= len(DATA) - 7  # no more was read than was needed
        file.seek(0)
        assert file.read(10) == DATA[:10]
        assert file.seek(-6, os.SEEK_END) == len(DATA) - 6
        assert file.read() == DATA[-6:]
        file.seek(100)
        assert (file.read(5), file.tell()) == (DATA[100:105], 105)
        file.seek(0)
        assert file.read() == DATA
        assert file.read() == b""


def test_a_pipe_without_end_is_read_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 5_000_000)
    with open("/dev/zero", "rb") as zero, files.reading(zero) as file, pytest.raises(OSError, match="too large"):
        file.read()


def test_text_is_read_to_a_limit(tmp_path: Path) -> None:
    """A file from anywhere may have any size, or no end."""
    path = tmp_path / "a.json"
    path.write_bytes("größer".encode())
    assert files.read_text(path, 8) == "größer"
    with path.open("r+b") as file:
        file.truncate(10 << 30)  # a hole, where the file system has them
    for name in (path, "/dev/zero"):
        tracemalloc.start()
        with pytest.raises(OSError, match=r"it has more than 1,000 bytes: .*(a\.json|zero)"):
            files.read_text(name, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    path.unlink()


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is a folder"), (os.devnull, "is not a regular file")):
        for check in (files.check_output, partial(files.write_bytes, data=DATA)):
            with pytest.raises(OutputError, match=words):
                check(path, force=True)


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="there is no folder"):
        files.write_bytes(tmp_path / "new" / "a", DATA)
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "new" / "a"):
        with pytest.raises(OutputError, match="file is not a folder"):
            files.check_output(path, make_folders=True)
    files.check_output(tmp_path / "new" / "er" / "a", make_folders=True)
    assert os.listdir(tmp_path) == ["file"]
    for _ in range(2):
        files.make_folder(tmp_path / "new" / "er")
    files.write_bytes(tmp_path / "new" / "er" / "a", DATA)
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=f"the folder {path} cannot be made"):
            files.make_folder(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    for path in (folder / "a", folder / "new" / "a"):
        with pytest.raises(OutputError, match=f"the folder {folder} is not writable"):
            files.check_output(path, make_folders=True)
    with pytest.raises(OutputError, match="is not writable"):
        files.write_bytes(folder / "a", DATA)


FULL_DISK = """
import resource, signal, sys
from neurocodec import OutputError, files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    files.write_bytes(sys.argv[1], bytes(20_000))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
def test_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, tmp_path / "a.bin"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
    assert out == f"{tmp_path / 'a.bin'} cannot be written: File too large\n"
    assert os.listdir(tmp_path) == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has the file data.bin."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "data.bin").write_bytes(DATA)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_download(server: str, tmp_path: Path) -> None:
    pytest.importorskip("pooch")
    target = tmp_path / "made" / "here" / "a.bin"
    sha256 = hashlib.sha256(DATA).hexdigest()
    files.download(f"{server}/data.bin", sha256, target)
    assert target.read_bytes() == DATA
    files.download(f"{server}/none.bin", sha256, target)  # it has the file already
    target.write_bytes(b"damaged")
    files.download(f"{server}/data.bin", sha256, target)
    assert target.read_bytes() == DATA
    assert os.listdir(target.parent) == ["a.bin"]


def test_downloads_that_fail_leave_nothing_behind(server: str, tmp_path: Path) -> None:
    pytest.importorskip("pooch")
    target = tmp_path / "a.bin"
    with pytest.raises(OSError, match=r"data\.bin does not have the SHA-256 00000000"):
        files.download(f"{server}/data.bin", "0" * 64, target)
    with pytest.raises(OSError, match="404"):
        files.download(f"{server}/none.bin", "0" * 64, target)
    with pytest.raises(OSError, match="127"):
        files.download("http://127.0.0.1:9/data.bin", "0" * 64, target)
    assert os.listdir(tmp_path) == ["server"]
