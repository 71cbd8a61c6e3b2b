"""The loop over the files of a command, and how commands print errors."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from neurocodec.collection import Job
from neurocodec.errors import OutputError, sentence


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], str]) -> int:
    """Does all jobs that are not skipped; prints a line for each, and at the end all problems. Returns their number.

    work: does a job that has no problem, and returns its line. An error ends only its own job, unless
    NEUROCODEC_TRACEBACK is set: then it is raised.
    """
    jobs = [job for job in jobs if not job.skip]
    problems = []
    with _progress_bar(len(jobs)) as bar:
        for job in jobs:
            line, problem = "", job.problem
            try:
                line = "" if problem else work(job)
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


def print_error(message: str) -> None:
    """Prints the sentence on stderr."""
    print(f"neurocodec: {message}", file=sys.stderr)


def _progress_bar(total: int) -> contextlib.AbstractContextManager[Any]:
    """A tqdm bar for several files if stderr is a terminal and tqdm is installed, else None."""
    if total > 1 and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar: contextlib.AbstractContextManager[Any] = tqdm(total=total, unit="file")
            return bar
    return contextlib.nullcontext()
