"""neurocodec encode: pictures, or whole folders of them, to .nic files."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from neurocodec import collection
from neurocodec.cli import files
from neurocodec.collection import Job
from neurocodec.errors import ImageError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "encode",
        help="pictures to .nic files",
        description="Pictures, or whole folders of them, to .nic files. Below OUT stands what stands below a folder; "
        "files that are there already are not made again, so that a run can be continued.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="+", metavar="IN", help="pictures that Pillow can read, or folders of them")
    parser.add_argument(
        "-o",
        "--output",
        type=files.name,
        metavar="OUT",
        help="file, or folder for several inputs or a folder (beside IN)",
    )
    files.add_rate_options(parser)
    files.add_force_option(parser)
    parser.add_argument(
        "-j", "--jobs", type=files.integer(1), default=1, metavar="N", help="processes, which share the cores (1)"
    )
    files.add_model_option(parser)
    files.add_device_option(parser)
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Encodes every input that can be; 1 if one could not. Raises NeurocodecError."""
    if any(os.path.isdir(path) for path in args.inputs):
        return _run_collection(args)
    if args.output and len(args.inputs) == 1 and not os.path.isdir(args.output) and not args.output.endswith("/"):
        suffix = os.path.splitext(args.output)[1]
        if suffix.lower() != ".nic":
            files.complain(f"{args.output}: found the suffix {suffix!r}, expected .nic: name the output so")
            return 1
    from neurocodec.cli import workers

    jobs = files.plan(args.inputs, args.output, ".nic", force=args.force)
    options, status = files.encode_options(args), 0
    results = workers.encode_all([job for job in jobs if not job.problem], options, args.jobs)
    with _lines(len(jobs)) as show, contextlib.closing(results):
        for job in jobs:
            data, seconds, problem = (b"", 0.0, job.problem) if job.problem else next(results)
            if not problem:
                problem = _write(job, data, args.force)
            show("" if problem else f"{job.target}: {_size(data)}, {seconds:.2f} s", problem)
            status |= bool(problem)
    return status


def _run_collection(args: argparse.Namespace) -> int:
    """Encodes what folders hold and is not done yet. Problems come at the end, and a line that counts everything."""
    if args.output is not None and os.path.lexists(args.output) and not os.path.isdir(args.output):
        raise ImageError(f"{args.output} is no folder, and a folder of pictures needs one: name another with -o")
    from neurocodec.cli import workers

    jobs = collection.plan(args.inputs, args.output, force=args.force)
    problems = [job.problem for job in jobs if job.problem]
    waiting = [job for job in jobs if not job.problem and not job.done]
    encoded = 0
    if waiting:
        from neurocodec import model as model_files

        model_files.load(args.model)  # one sentence now, not one for each picture
    results = workers.encode_all(waiting, files.encode_options(args), args.jobs)
    with _lines(len(waiting)) as show, contextlib.closing(results):
        for job, (data, seconds, problem) in zip(waiting, results, strict=True):
            if problem := problem or _write(job, data, args.force):
                problems.append(problem)
                show("", "")
            else:
                encoded += 1
                show(f"{job.target}: {_size(data)}, {seconds:.2f} s", "")
    for problem in problems:
        files.complain(problem)
    done = sum(job.done for job in jobs)
    print(f"{encoded:,} encoded, {done:,} there already, {len(problems):,} failed", flush=True)
    return int(bool(problems))


def _write(job: Job, data: bytes, force: bool) -> str:
    """Writes the file; the sentence if that fails."""
    try:
        collection.write(job, data, force=force)
    except Exception as error:
        return files.sentence(error)
    return ""


def _size(data: bytes) -> str:
    from neurocodec.container import read_header

    header = read_header(data)
    return f"{len(data):,} bytes, {8 * len(data) / (header.width * header.height):.3f} bpp"


@contextlib.contextmanager
def _lines(total: int) -> Iterator[Any]:
    """A function to print a line and to complain; with a bar below for many files on a terminal, if tqdm is there."""
    bar: Any = None
    if total > 1 and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar = tqdm(total=total, unit="file")

    def show(line: str, problem: str) -> None:
        if bar is not None:
            bar.clear()
        if problem:
            files.complain(problem)
        elif line:
            print(line, flush=True)
        if bar is not None:
            bar.update()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
