"""Plans outputs for inputs: files and folders of `neurocodec encode`, `decode` and `neurocodec.interop.ray`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from neurocodec import files
from neurocodec.errors import OutputError

SUFFIX = ".nic"
STANDARD = "-"
"""Names standard input as a source and standard output as a target."""
_PLUGINS = {".heic", ".heif", ".hif", ".jxl"}  # Pillow reads these with packages that `image.load` registers or names
_NO_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow recognises these formats, but cannot decode them


@dataclass(frozen=True)
class Job:
    """An input file and its output.

    problem: one sentence on why the job cannot run, or empty. skip: the output exists already.
    """

    source: str
    target: str
    problem: str = ""
    skip: bool = False


def plan(
    inputs: Sequence[str],
    output: str | None = None,
    *,
    suffix: str = SUFFIX,
    keep_suffix: bool = False,
    force: bool = False,
) -> list[Job]:
    """One job per input file, in order. With suffix .nic pictures become .nic files, otherwise .nic files pictures.

    inputs: files and folders. A folder stands for all pictures (or .nic files) below it, recognised by suffix and
    sorted by path; hidden files and linked folders are left out. output: a file, for a single input file, or a folder
    that mirrors each input folder; by default each output is next to its input. keep_suffix: a.png becomes a.png.nic
    instead of a.nic.

    If the inputs include a folder, existing outputs are skipped, so that a run can be continued; otherwise an existing
    output is a problem. `force` overwrites it in both cases. Two inputs with the same output are a problem; an input
    given twice is one job. "-" is standard input or output, for a single file. Raises OutputError if `output` does not
    suit the inputs.
    """
    if STANDARD in (*inputs, output):
        return [_streamed(inputs, output, suffix, force)]
    resumable = any(map(os.path.isdir, inputs))
    is_folder = (
        output is None or resumable or len(inputs) > 1 or os.path.isdir(output) or output.endswith(("/", os.sep))
    )
    if output is not None and not os.path.isdir(output):
        ending = os.path.splitext(output)[1].lower()
        if is_folder and (os.path.lexists(output) or ending in {suffix, *picture_suffixes()}):
            raise OutputError(f"{output} is not a folder, which several inputs or a folder need: name one with -o")
        if not is_folder:
            _check_suffix(output, suffix)

    jobs: dict[tuple[str, str], Job] = {}
    for name in inputs:
        for path, problem in _sources(name, suffix):
            if output is not None and not is_folder:
                target = output
            else:
                target = _target(name, path, output, suffix, keep_suffix)
            jobs.setdefault((os.path.realpath(path), os.path.realpath(target)), Job(path, target, problem))
    count = Counter(target for (_, target), job in jobs.items() if not job.problem)
    for (source, target), job in jobs.items():
        if job.problem:
            continue
        if suffix == SUFFIX and is_nic(source):
            problem = f"{job.source} is a .nic file already, expected a picture: decode it first"
        elif count[target] > 1:
            problem = f"{job.source}: another input becomes {job.target} too: rename one, or use --keep-suffix"
        elif source == target and suffix != SUFFIX and os.path.isfile(source) and not is_nic(source):
            problem = f"{job.source} is not a .nic file: give one, or encode the picture first"
        elif source == target:
            problem = f"{job.source} would be overwritten by its own output: give another name with -o"
        elif resumable and not force and (is_nic(target) if suffix == SUFFIX else os.path.isfile(target)):
            jobs[source, target] = replace(job, skip=True)
            continue
        else:
            problem = _problem(job.target, force, make_folders=output is not None and is_folder)
        jobs[source, target] = replace(job, problem=problem)
    return list(jobs.values())


def check_standard_output() -> None:
    """Raises OutputError if standard output is closed or a terminal."""
    if sys.stdout is None:  # the shell has closed it
        raise OutputError("standard output is closed: redirect it, or name a file")
    if sys.stdout.isatty():
        raise OutputError("standard output is a terminal: redirect it, or name a file")


def write(job: Job, data: bytes, *, force: bool) -> None:
    """Writes the output of a job and creates its folder if it is missing. Raises OutputError."""
    if job.target == STANDARD:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has gone
            raise
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error.strerror}") from error
        return
    files.make_folder(os.path.dirname(job.target) or ".")
    files.write_bytes(job.target, data, force=force)


def is_nic(path: str) -> bool:
    """Whether a regular file starts like a .nic file. False if it cannot be read; pipes are not touched."""
    from neurocodec.container import SIGNATURE

    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def picture_suffixes() -> set[str]:
    """The lower-case suffixes of the picture formats that Pillow reads, also with plugins, except .nic."""
    from PIL import Image

    formats = Image.registered_extensions().items()
    return {suffix for suffix, name in formats if name in Image.OPEN and name not in _NO_PICTURES} - {SUFFIX} | _PLUGINS


def _sources(name: str, suffix: str) -> Iterator[tuple[str, str]]:
    """The path of each file that an input stands for, with its problem or an empty string."""
    if not os.path.exists(name):
        yield name, f"{name}: No such file or directory: check the name"
    elif not os.path.isdir(name):
        yield name, ""
    else:
        yield from _members(name, picture_suffixes() if suffix == SUFFIX else {SUFFIX})


def _members(folder: str, suffixes: set[str]) -> Iterator[tuple[str, str]]:
    """The files below a folder that have one of the suffixes; then the subfolders that cannot be read, and why."""
    errors: list[OSError] = []
    empty = True
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(parent, name)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes and _counts(path):
                empty = False
                yield path, ""
    for error in errors:
        yield error.filename, f"{error.filename}: {error.strerror}"
    if empty and not errors:
        kind = ".nic files" if SUFFIX in suffixes else "pictures"
        yield folder, f"{folder} contains no {kind}: name another folder"


def _counts(path: str) -> bool:
    """Whether a path is a file, or a broken link, which is reported as a problem."""
    return os.path.isfile(path) or not os.path.exists(path)


def _streamed(inputs: Sequence[str], output: str | None, suffix: str, force: bool) -> Job:
    """The job that reads standard input or writes standard output."""
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        raise OutputError("standard input or output, -, is one file: give one input that is a file")
    target = STANDARD if output is None else output
    if target != STANDARD:
        _check_suffix(target, suffix)
        return Job(inputs[0], target, _problem(target, force, make_folders=False))
    check_standard_output()
    ((source, problem),) = [(STANDARD, "")] if inputs[0] == STANDARD else _sources(inputs[0], suffix)
    return Job(source, target, problem)


def _target(name: str, path: str, output: str | None, suffix: str, keep_suffix: bool) -> str:
    """The output for the file `path` of the input `name`, in the folder `output` or next to the file."""
    folder = name if os.path.isdir(name) else os.path.dirname(path)
    relative = os.path.relpath(path, folder or ".")
    relative = (relative if keep_suffix else os.path.splitext(relative)[0]) + suffix
    return os.path.join(folder if output is None else output, relative)


def _check_suffix(output: str, suffix: str) -> None:
    """Raises OutputError if the output is a .nic file but its name does not end in .nic."""
    ending = os.path.splitext(output)[1].lower()
    if suffix == SUFFIX and ending != SUFFIX:
        raise OutputError(f"{output} has the suffix {ending!r}, expected {SUFFIX}: give another name for the output")


def _problem(target: str, force: bool, make_folders: bool) -> str:
    try:
        files.check_output(target, force=force, make_folders=make_folders)
    except OutputError as error:
        return str(error)
    return ""
