"""Folders of pictures, and the .nic files that they become: the same tree, one file each.

Used on one machine by `neurocodec encode DIR`, and on a cluster by `neurocodec.interop.ray`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SUFFIX = ".nic"
_NOT_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow recognises such files and cannot decode them alone


@dataclass(frozen=True)
class Job:
    """One input and the output it becomes, or the sentence that says why it cannot. done: the output is there."""

    source: str
    target: str
    problem: str = ""
    done: bool = False


def plan(inputs: Sequence[str], output: str | None, *, force: bool) -> list[Job]:
    """A job for each picture below the folders, and for each file, of `inputs`, in order of their paths.

    Below `output` stands what stands below a folder; without it .nic files stand beside the pictures. Pictures are the
    files with a suffix that Pillow reads. What begins with a dot is left out, and links to folders are not followed.
    A .nic file that is there already is done, unless `force` is set; another file in its place is a problem, as are two
    pictures that would become one file, and a folder without pictures. A picture that two inputs hold is one job, if
    both would make the same file of it.
    """
    found: dict[tuple[str, str], tuple[str, str, str]] = {}  # by what is read and what is written
    for given in inputs:
        for path, problem in _pictures(given):
            target = _target(given, path, output)
            found.setdefault((_place(path), _place(target)), (path, target, problem))
    wanted = Counter(place for (_, place), (*_, problem) in found.items() if not problem)
    jobs = []
    for (_, place), (path, target, problem) in found.items():
        if not problem and wanted[place] > 1:
            problem = f"{path}: another picture becomes {target} too: rename one"
        done = not problem and not force and is_nic(target)
        jobs.append(Job(path, target, problem or ("" if done else _obstacle(path, target, force)), done))
    return jobs


def write(job: Job, data: bytes, *, force: bool) -> None:
    """Writes the file of a job, whole or not at all, and makes the folders it needs. Raises ImageError."""
    from neurocodec.errors import ImageError
    from neurocodec.files import write_bytes

    folder = os.path.dirname(job.target) or "."
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{folder}: the folder cannot be made: {error.strerror}") from error
    write_bytes(job.target, data, force=force)


def is_nic(path: str) -> bool:
    """Whether the file starts as a .nic file does; False if it cannot be read."""
    from neurocodec.container import SIGNATURE

    try:
        with open(path, "rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def picture_suffixes() -> set[str]:
    """The suffixes of files that are taken for pictures, in small letters."""
    from PIL import Image

    kinds = Image.registered_extensions()
    return {suffix for suffix, kind in kinds.items() if kind in Image.OPEN and kind not in _NOT_PICTURES} - {SUFFIX}


def _pictures(given: str) -> Iterator[tuple[str, str]]:
    """Path of each picture and why it cannot be read; of what holds none, its own path and why."""
    if not os.path.isdir(given):
        yield given, "" if os.path.exists(given) else f"{given}: No such file or directory: check the name"
        return
    suffixes = picture_suffixes()
    errors: list[OSError] = []
    empty = True
    for parent, folders, names in os.walk(given, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                empty = False
                yield os.path.join(parent, name), ""
    for error in errors:
        yield error.filename, f"{error.filename}: {error.strerror}"
    if empty and not errors:
        yield given, f"{given} holds no pictures: name another folder"


def _target(given: str, path: str, output: str | None) -> str:
    """The .nic file of a picture: below `output` as it stands below the folder given, or beside the picture."""
    folder = given if os.path.isdir(given) else os.path.dirname(path)
    name = os.path.splitext(os.path.relpath(path, folder or "."))[0] + SUFFIX
    return os.path.join(folder if output is None else output, name)


def _place(path: str) -> str:
    """The same for two ways to write a path."""
    return os.path.normcase(os.path.abspath(path))


def _obstacle(path: str, target: str, force: bool) -> str:
    """Why the target cannot be written, as far as that shows now; empty if it can."""
    if not os.path.lexists(target):
        return ""
    if os.path.isdir(target):
        return f"{target} is a folder: rename it, or {path}"
    if os.path.realpath(path) == os.path.realpath(target):
        return f"{path} would be overwritten by its own output: name another folder with -o"
    return "" if force else f"{target} exists and is no .nic file; use --force to overwrite it"
