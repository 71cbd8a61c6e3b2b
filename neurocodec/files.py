"""Files that appear whole or not at all, and verified downloads. No other module renames a file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from neurocodec.errors import MissingPackageError, OutputError

TIMEOUT_S = 30


def check_output(path: str | os.PathLike[str], *, force: bool = False, make_folders: bool = False) -> None:
    """Raises OutputError if the file cannot be written, as far as can be known beforehand.

    make_folders: whether `make_folder` will be called first, so that the file's folder need not exist.
    """
    name = os.fspath(path)
    target = os.path.realpath(name)
    if os.path.lexists(target):
        if not os.path.isfile(target):
            kind = "a folder" if os.path.isdir(target) else "not a regular file"
            raise OutputError(f"{name} is {kind}: give another name for the output")
        if not force:
            raise OutputError(_exists(name))
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
    """A binary file to write to, readable as well, which becomes `path` when the block ends without an error.

    Until then it has a temporary name in the same folder; after an error it is removed. A symbolic link is followed,
    and a file that is overwritten keeps its permissions. Raises OutputError if the file exists and `force` is not set,
    or cannot be written.
    """
    check_output(path, force=force)
    name = os.fspath(path)
    target = os.path.realpath(name)
    part = os.path.join(os.path.dirname(target), f".neurocodec-{os.urandom(8).hex()}.part")
    try:
        try:
            with open(part, "x+b") as file:
                if force:
                    with contextlib.suppress(OSError):  # there may be no such file
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
    """Makes a folder and its parents, unless it exists. Raises OutputError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {os.fspath(path)} cannot be made: {error.strerror}") from error


def download(url: str, sha256: str, target: Path) -> None:
    """Downloads a file to `target`, whose folder is made if it is missing.

    A file that exists and has this SHA-256 is not downloaded again; one with another is replaced. Raises OSError if the
    download fails or has another SHA-256, MissingPackageError without pooch.
    """
    try:
        import pooch
    except ImportError as error:
        raise MissingPackageError("downloads need pooch: pip install 'neurocodec[bench]'") from error
    request = pooch.HTTPDownloader(timeout=TIMEOUT_S)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=target.name, path=target.parent, downloader=request)
    except ValueError as error:  # pooch removes a file with another hash
        raise OSError(f"{url} does not have the SHA-256 {sha256[:8]}...") from error


def _publish(part: str, target: str, force: bool) -> None:
    """Renames the finished file; without `force`, never over a file that has appeared meanwhile."""
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
