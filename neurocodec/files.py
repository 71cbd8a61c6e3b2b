"""Opens inputs once, writes outputs that appear whole or not at all, and verifies downloads.

This is the only module that renames files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from neurocodec.errors import ArgumentTypeError, MissingPackageError, OutputError

TIMEOUT_S = 30
"""Seconds without data after which a download fails."""
NEW_S = 5
"""Temporary files younger than this many seconds count as in use, because their writer may not have locked them yet."""
_PART = re.compile(r"\.neurocodec-[0-9a-f]{16}\.part")
MAX_BYTES = 2**31
"""Maximum size of a .nic file, and of what is read from a pipe or a device."""
TEXT_BYTES = 2**26
"""Maximum size of a results file, a log or an index."""
_CHUNK_BYTES = 2**20


@contextlib.contextmanager
def reading(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[BinaryIO]:
    """Opens a path, or wraps an open file from its current position, as a binary file that can be read and sought.

    A path is opened only once; bytes from a pipe are buffered so that its start can be read again. A file passed in
    open stays open. Raises OSError, also for a pipe of more than MAX_BYTES, and ArgumentTypeError for anything but a
    path or a binary file.
    """
    if isinstance(source, (str, os.PathLike)):
        try:
            opened = open(os.fspath(source), "rb")  # noqa: SIM115 (closed below)
        except ValueError as error:  # a zero byte, or a character that is not allowed in file names
            raise OSError(errno.EINVAL, f"no file has this name ({error})") from error
        with opened as file:
            yield file if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else Rewindable(file)  # type: ignore[misc]
    elif hasattr(source, "read"):
        yield Rewindable(source)  # type: ignore[misc]
    else:
        raise ArgumentTypeError(f"the input is of type {type(source).__name__}; it must be a path or an open file.")


def read_text(path: str | os.PathLike[str], most: int = TEXT_BYTES) -> str:
    """The text of an untrusted UTF-8 file of at most `most` bytes.

    Raises OSError, also for a larger or endless file, and UnicodeDecodeError.
    """
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    return data.decode("utf-8")


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256, in hexadecimal, of the rest of an open file."""
    import hashlib

    digest = hashlib.sha256()
    while block := file.read(_CHUNK_BYTES):
        digest.update(block)
    return digest.hexdigest()


class Rewindable(io.RawIOBase):
    """A file or pipe from its current position on; bytes already read are buffered and can be read again."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._buffer, self._ended = source, io.BytesIO(), False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._buffer.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self._fill(MAX_BYTES + 1)
        return self._buffer.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        at = self._buffer.tell()
        self._fill(MAX_BYTES + 1 if size is None or size < 0 else at + size)
        return self._buffer.read(size)

    def _fill(self, end: int) -> None:
        """Reads until the buffer holds `end` bytes or the source ends."""
        at = self._buffer.tell()
        size = self._buffer.seek(0, os.SEEK_END)
        while size < end and not self._ended:
            piece = self._source.read(min(end - size, _CHUNK_BYTES))
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise ArgumentTypeError(
                    f"reading the input gave a {type(piece).__name__}, not bytes; open it in binary mode."
                )
            size += self._buffer.write(piece)
            self._ended = not piece
        if size > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._buffer.seek(at)


def check_output(path: str | os.PathLike[str], *, force: bool = False, make_folders: bool = False) -> None:
    """Raises OutputError if it is already clear that the file cannot be written.

    make_folders: the caller will create missing folders with `make_folder` first.
    """
    name = os.fspath(path)
    target = os.path.realpath(name)
    if os.path.lexists(target):
        if not os.path.isfile(target):
            kind = "a folder" if os.path.isdir(target) else "not a regular file"
            raise OutputError(f"{name} is {kind}: give another name for the output")
        if not force:
            raise OutputError(_exists(name))
    elif os.path.islink(name):
        raise OutputError(f"{name} is a link to {target}, which does not exist: give another name for the output")
    folder = os.path.dirname(target if os.path.islink(name) else name) or "."
    while make_folders and not os.path.lexists(folder):
        folder = os.path.dirname(folder) or "."
    if not os.path.lexists(folder):
        raise OutputError(f"{name}: there is no folder {folder}: make it first")
    if not os.path.isdir(folder):
        raise OutputError(f"{name}: {folder} is not a folder: give another name for the output")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{name}: the folder {folder} is not writable: give another name for the output")


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write (and read), which becomes `path` when the block ends without an error.

    Until then it has a temporary name in the same folder; after an error it is removed. Symbolic links are followed,
    and an overwritten file keeps its permissions. Raises OutputError if the file exists and `force` is not set, or if
    it cannot be written.
    """
    check_output(path, force=force)
    name = os.fspath(path)
    target = os.path.realpath(name)
    _sweep(os.path.dirname(target))
    part = os.path.join(os.path.dirname(target), f".neurocodec-{os.urandom(8).hex()}.part")
    try:
        try:
            with open(part, "x+b") as file:
                with contextlib.suppress(OSError):  # a file system without locks
                    _lock(file)
                if force:
                    with contextlib.suppress(OSError):  # the file may not exist yet
                        os.chmod(part, stat.S_IMODE(os.stat(target).st_mode))
                yield file
            _publish(part, target, force)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
    except OutputError:
        raise
    except FileExistsError:
        raise OutputError(_exists(name)) from None
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror or error}") from error


def write_bytes(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> None:
    """Writes a whole file. Raises OutputError as `writing` does."""
    with writing(path, force=force) as file:
        file.write(data)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Creates a folder and its parents if they are missing. Raises OutputError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {os.fspath(path)} cannot be made: {error.strerror}") from error


def download(url: str, sha256: str, target: Path) -> None:
    """Downloads a file to `target` and creates its folder if it is missing.

    Nothing is downloaded if the file exists and has this SHA-256; a file with a different one is replaced. Raises
    OSError if the download fails or its SHA-256 differs, MissingPackageError without pooch.
    """
    try:
        import pooch
    except ImportError as error:
        raise MissingPackageError("downloads need pooch: pip install 'neurocodec[bench]'") from error
    request = pooch.HTTPDownloader(timeout=TIMEOUT_S)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=target.name, path=target.parent, downloader=request)
    except ValueError as error:  # pooch removes a file whose hash is wrong
        raise OSError(f"{url} does not have the SHA-256 {sha256[:8]}...") from error


@functools.lru_cache(maxsize=64)
def _sweep(folder: str) -> None:
    """Removes temporary files left by killed processes, once per folder. Those in use are locked or very new."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if not (_PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                    continue
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > NEW_S:
                    with open(entry.path, "r+b") as file:
                        _lock(file)
                    os.unlink(entry.path)


def _lock(file: BinaryIO) -> None:
    """Locks a file until it is closed. Raises OSError if another process holds the lock. Windows locks by itself."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _publish(part: str, target: str, force: bool) -> None:
    """Renames the finished file; without `force`, never over a file that has appeared in the meantime."""
    if not force:
        try:
            os.link(part, target)
            return
        except FileExistsError:
            raise
        except (OSError, AttributeError):  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(target) from None
    os.replace(part, target)


def _exists(name: str) -> str:
    return f"{name} exists; use --force (force=True in Python) to overwrite it"
