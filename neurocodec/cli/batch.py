"""The loop over the files of a command, in several processes if asked, and how commands print errors."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from neurocodec import collection
from neurocodec.collection import Job
from neurocodec.errors import OutputError, sentence
from neurocodec.workers import available_cores, limit_threads, map_in_order


class Output(NamedTuple):
    """What a job makes. data: the bytes of the output file, or their number if the job has written it. about: fields
    for --json. text: the same for people."""

    data: bytes | int
    about: dict[str, Any]
    text: str


def convert(
    jobs: Sequence[Job],
    function: Callable[[str, str], Output],
    args: argparse.Namespace,
    verb: str,
) -> int:
    """Does all jobs that are not skipped, and prints a line for each; problems come at the end and stop no other job.

    function: of the names of an input and an output; in a worker it writes nothing, so that it can be ended at any
    time; `alone` says whether there are workers. args:
    with the options of `options.add_batch_options`. verb: past tense, such as encoded, for the last line of a run over
    several files. Returns 1 if there was a problem, else 0.
    """
    pairs = [(job.source, job.target) for job in jobs if not job.problem and not job.skip]
    processes = _processes(jobs, args)
    if args.threads and processes == 1:
        limit_threads(args.threads)
    start = functools.partial(limit_threads, args.threads or max(1, available_cores() // processes))
    quiet = args.quiet or any(job.target == collection.STANDARD for job in jobs)
    before = after = 0

    def work(job: Job) -> str:
        nonlocal before, after
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome.data, bytes):
            collection.write(job, outcome.data, force=args.force)
        before += os.path.getsize(job.source) if os.path.isfile(job.source) else 0
        after += len(outcome.data) if isinstance(outcome.data, bytes) else outcome.data
        about = {"file": job.source, "output": job.target, **outcome.about}
        return "" if quiet else json.dumps(about) if args.json else f"{job.target}: {outcome.text}"

    outcomes = map_in_order(functools.partial(_apply, function), pairs, processes, start)
    with contextlib.closing(outcomes):
        problems = _run(jobs, work, bars=wants_bars(args))
    if not (quiet or args.json) and (len(jobs) > 1 or any(map(os.path.isdir, args.inputs))):
        skipped = sum(job.skip for job in jobs)
        line = f"{len(jobs) - skipped - problems:,} {verb}, {skipped:,} skipped, {problems:,} failed"
        print(line + (f"; {before:,} bytes became {after:,} ({after / before:.1%})" if before else ""), flush=True)
    return int(problems > 0)


def alone(jobs: Sequence[Job], args: argparse.Namespace) -> bool:
    """Whether `convert` does the jobs in this process."""
    return _processes(jobs, args) == 1


def _processes(jobs: Sequence[Job], args: argparse.Namespace) -> int:
    return max(1, min(int(args.jobs), sum(not job.problem and not job.skip for job in jobs)))


def opened(source: str) -> str | BinaryIO:
    """The file name, or standard input for "-"."""
    return sys.stdin.buffer if source == collection.STANDARD else source


def leave_the_limit_to_the_codec() -> None:
    """Turns off Pillow's limit on pixels and its warning: `image.load` refuses large pictures from their header."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def wants_bars(args: argparse.Namespace) -> bool:
    """Whether to show progress: only on a terminal, and not with --quiet."""
    return sys.stderr.isatty() and not args.quiet


def print_error(message: str) -> None:
    """Prints the sentence on stderr."""
    print(f"neurocodec: {message}", file=sys.stderr)


def _run(jobs: Sequence[Job], work: Callable[[Job], str], *, bars: bool) -> int:
    """Does all jobs that are not skipped; prints a line for each, and at the end all problems. Returns their number.

    work: does a job that has no problem, and returns its line, if any. An error ends only its own job, unless
    NEUROCODEC_TRACEBACK is set: then it is raised.
    """
    jobs = [job for job in jobs if not job.skip]
    problems = []
    with _progress_bar(len(jobs), bars) as bar:
        for job in jobs:
            line, problem = "", job.problem
            try:
                line = "" if problem else work(job)
            except BrokenPipeError:  # of the output: the reader has ended
                raise
            except Exception as error:
                if os.environ.get("NEUROCODEC_TRACEBACK"):
                    raise
                problem = sentence(error, "" if isinstance(error, OutputError) else job.source)
            if problem:
                problems.append(problem)
            if bar is not None:
                bar.clear()
            if line:
                print(line, flush=True)
            if bar is not None:
                bar.update()
    for problem in problems:
        print_error(problem)
    return len(problems)


def _apply(function: Callable[[str, str], Output], pair: tuple[str, str]) -> Output:
    return function(*pair)


def _progress_bar(total: int, bars: bool) -> contextlib.AbstractContextManager[Any]:
    """A tqdm bar for several files if tqdm is installed, else None."""
    if total > 1 and bars:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar: contextlib.AbstractContextManager[Any] = tqdm(total=total, unit="file")
            return bar
    return contextlib.nullcontext()
