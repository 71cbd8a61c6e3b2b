"""neurocodec encode: pictures to .nic files."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from typing import Any

from neurocodec.cli import files


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("encode", help="pictures to .nic files", description=__doc__, allow_abbrev=False)
    parser.add_argument("inputs", nargs="+", metavar="IN", help="pictures that Pillow can read")
    parser.add_argument("-o", "--output", metavar="OUT", help="file, or folder for several inputs (beside IN)")
    files.add_rate_options(parser)
    files.add_force_option(parser)
    parser.add_argument(
        "-j", "--jobs", type=files.integer(1), default=1, metavar="N", help="processes, which share the cores (1)"
    )
    files.add_model_option(parser)
    files.add_device_option(parser)
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Encodes every input that can be; 1 if one could not."""
    if args.output and len(args.inputs) == 1 and not os.path.isdir(args.output) and not args.output.endswith("/"):
        suffix = os.path.splitext(args.output)[1]
        if suffix.lower() != ".nic":
            files.complain(f"{args.output}: found the suffix {suffix!r}, expected .nic: name the output so")
            return 1
    jobs = files.plan(args.inputs, args.output, ".nic", force=args.force)
    options, status = files.encode_options(args), 0
    results = _encode_all([job for job in jobs if not job.problem], options, args.jobs)
    with _lines(len(jobs)) as show, contextlib.closing(results):
        for job in jobs:
            data, seconds, problem = (b"", 0.0, job.problem) if job.problem else next(results)
            if not problem:
                problem = _write(job.target, data, args.force)
            show("" if problem else f"{job.target}: {_size(data)}, {seconds:.2f} s", problem)
            status |= bool(problem)
    return status


def _encode_all(
    jobs: list[files.Job], options: dict[str, Any], processes: int
) -> Generator[tuple[bytes, float, str], None, None]:
    """Bytes, seconds and problem of each job, in order."""
    processes = min(processes, len(jobs))
    if processes <= 1:
        for job in jobs:
            yield _encode(job.source, options)
        return

    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    share = max(1, _cores() // processes)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _set_threads, (share,))
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for this process alone
    try:
        pending = [pool.submit(_encode, job.source, options) for job in jobs]
    finally:
        signal.signal(signal.SIGINT, interrupt)
    try:
        for job, future in zip(jobs, pending, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield b"", 0.0, f"{job.source}: a process ended, perhaps for lack of memory: try a smaller -j"
    finally:
        finished = all(future.done() for future in pending)
        pool.shutdown(wait=finished, cancel_futures=True)
        if not finished:  # interrupted
            for child in multiprocessing.active_children():
                child.terminate()


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encode(source: str, options: dict[str, Any]) -> tuple[bytes, float, str]:
    """The file, the seconds it took, and what went wrong; runs in a worker, which must not write."""
    started = time.perf_counter()
    if files.is_nic(source):
        return b"", 0.0, f"{source} is a .nic file already, expected a picture: decode it first"
    try:
        import neurocodec

        data = neurocodec.encode(source, **options)
    except Exception as error:  # the other inputs go on
        if os.environ.get("NEUROCODEC_TRACEBACK"):
            raise
        return b"", 0.0, _named(source, files.sentence(error))
    return data, time.perf_counter() - started, ""


def _named(source: str, problem: str) -> str:
    return problem if source in problem else f"{source}: {problem}"


def _write(target: str, data: bytes, force: bool) -> str:
    """Writes the file; the sentence if that fails."""
    from neurocodec.image import write_bytes_atomic

    try:
        write_bytes_atomic(target, data, force=force)
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
        else:
            print(line, flush=True)
        if bar is not None:
            bar.update()

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
