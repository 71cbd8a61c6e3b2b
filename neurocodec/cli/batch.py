"""The loop over the files of a command, in several processes if asked, and how commands print errors."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from neurocodec import collection
from neurocodec.collection import Job
from neurocodec.container import NicInfo
from neurocodec.errors import ImageError, OutputError, printable, sentence
from neurocodec.workers import available_cores, limit_threads, map_in_order, raise_received


class Output(NamedTuple):
    """What a job makes. data: the bytes of the output file, or their number if the job has written it. about: fields
    for --json. text: the same for people. info: of the .nic file, for --verbose."""

    data: bytes | int
    about: dict[str, Any]
    text: str
    info: NicInfo


def convert(
    jobs: Sequence[Job],
    function: Callable[[str, str], Output],
    args: argparse.Namespace,
    verb: str,
) -> int:
    """Does all jobs that are not skipped, and prints a line for each, with --json for skipped and failed ones too;
    problems come at the end and stop no other job.

    function: of the names of an input and an output. In a worker process it writes nothing, so that it can be ended at
    any time; without workers, see `alone`, it may. args: with the options of `options.add_batch_options`. verb: past
    tense, such as encoded, for the last line of a run over several files. Returns 1 if there was a problem, else 0.
    """
    pairs = [(job.source, job.target) for job in jobs if not job.problem and not job.skip]
    processes = _processes(jobs, args)
    if args.threads and processes == 1:
        limit_threads(args.threads)
    start = functools.partial(limit_threads, args.threads or max(1, available_cores() // processes))
    quiet = args.quiet or any(job.target == collection.STANDARD for job in jobs)
    before = after = 0

    def work(job: Job) -> Output:
        nonlocal before, after
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome.data, bytes):
            collection.write(job, outcome.data, force=args.force)
        before += os.path.getsize(job.source) if os.path.isfile(job.source) else 0
        after += len(outcome.data) if isinstance(outcome.data, bytes) else outcome.data
        return outcome

    def report(job: Job, status: str, outcome: Output | None = None, **about: str) -> str:
        """The line of a file: status is ok, skipped or failed."""
        if quiet:
            return ""
        if args.json:
            about |= outcome.about if outcome else {}
            return json.dumps({"file": job.source, "output": job.target, "status": status, **about})
        if outcome:
            return f"{printable(job.target)}: {outcome.text}" + (f"; {_facts(outcome.info)}" if args.verbose else "")
        return f"{printable(job.target)}: skipped, it exists" if args.verbose and status == "skipped" else ""

    outcomes = map_in_order(functools.partial(_apply, function), pairs, processes, start)
    with contextlib.closing(outcomes):
        problems = _run(jobs, work, report, bars=wants_bars(args))
    if not (quiet or args.json) and (len(jobs) > 1 or any(map(os.path.isdir, args.inputs))):
        skipped = sum(job.skip for job in jobs)
        line = f"{len(jobs) - skipped - problems:,} {verb}, {skipped:,} skipped, {problems:,} failed"
        ratio = after / before if before else 0
        change = f"{ratio:.1%}" if ratio < 1 else f"{ratio:.1f} times as many"
        print(line + (f"; {before:,} bytes became {after:,} ({change})" if before else ""), flush=True)
    return int(problems > 0)


def _facts(info: NicInfo) -> str:
    """What --verbose adds to the line of a file."""
    tiles = "1 tile" if info.tiles == 1 else f"{info.tiles} tiles"
    return f"quality {info.quality:.3g}, {tiles}, format {info.version}, model {info.architecture or info.model_id}"


def alone(jobs: Sequence[Job], args: argparse.Namespace) -> bool:
    """Whether `convert` does the jobs in this process."""
    return _processes(jobs, args) == 1


def _processes(jobs: Sequence[Job], args: argparse.Namespace) -> int:
    return max(1, min(int(args.jobs), sum(not job.problem and not job.skip for job in jobs)))


def opened(source: str) -> str | BinaryIO:
    """The file name, or standard input for "-". Raises ImageError if that is closed."""
    if source != collection.STANDARD:
        return source
    if sys.stdin is None:  # the shell has closed it
        raise ImageError("standard input is closed: name a file, or redirect it")
    return sys.stdin.buffer


def leave_the_limit_to_the_codec() -> None:
    """Turns off Pillow's limit on pixels and its warning: `image.load` refuses large pictures from their header."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def wants_bars(args: argparse.Namespace) -> bool:
    """Whether to show progress: only on a terminal, and not with --quiet or --json."""
    return sys.stderr is not None and sys.stderr.isatty() and not (args.quiet or args.json)


def picture_bar(args: argparse.Namespace, verb: str) -> Callable[[float], None] | None:
    """What shows the progress in each picture: a bar on a terminal, if tqdm is there and one process does the work."""
    if args.jobs > 1 or not wants_bars(args) or not importlib.util.find_spec("tqdm"):
        return None
    return _PictureBar(verb)


class _PictureBar:
    """A bar for each picture of several tiles, and for each search; called with the fraction completed, 0 to 1."""

    _bar: Any = None

    def __init__(self, verb: str) -> None:
        self._format = verb + " {percentage:3.0f} %|{bar}| {elapsed}<{remaining}"

    def __call__(self, share: float) -> None:
        if self._bar is None and share < 1:
            from tqdm import tqdm

            self._bar = tqdm(total=1, leave=False, bar_format=self._format)
        if self._bar is not None:
            self._bar.update(share - self._bar.n)
            if share >= 1:
                self._bar.close()
                self._bar = None


def print_error(message: str) -> None:
    """Prints the sentence on stderr."""
    print(f"neurocodec: {printable(message)}", file=sys.stderr)


def _run(jobs: Sequence[Job], work: Callable[[Job], Output], report: Callable[..., str], *, bars: bool) -> int:
    """Does all jobs that are not skipped; prints a line for each, and at the end all problems. Returns their number.

    work: does a job that has no problem. An error ends only its own job, unless NEUROCODEC_TRACEBACK is set: then it is
    raised. report: the line of a job, if any.
    """
    problems = []
    with _progress_bar(sum(not job.skip for job in jobs), bars) as bar:
        for job in jobs:
            line, problem = report(job, "skipped") if job.skip else "", job.problem
            try:
                if not (problem or job.skip):
                    line = report(job, "ok", work(job))
            except BrokenPipeError:  # of the output: the reader has ended
                raise
            except Exception as error:
                raise_received()  # a signal, of which a library has made an error
                if os.environ.get("NEUROCODEC_TRACEBACK"):
                    raise
                problem = sentence(error, "" if isinstance(error, OutputError) else job.source)
            if problem:
                problems.append(problem)
                line = report(job, "failed", error=problem)
            if bar is not None:
                bar.clear()
            if line:
                print(line, flush=True)
            if bar is not None and not job.skip:
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
