"""Pictures to the bytes of .nic files, in this process or in several; the bytes are written by the caller."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from neurocodec.cli import files
from neurocodec.collection import Job, is_nic
from neurocodec.processes import Pool, available_cores

Result = tuple[bytes, float, str]
"""The file, the seconds it took, and what went wrong."""


def encode_all(jobs: Sequence[Job], options: dict[str, Any], processes: int) -> Generator[Result, None, None]:
    """The result of each job, in order; a few jobs for each process are under way at a time.

    options: keyword arguments of `neurocodec.encode`. Every process loads the model once. One that ends, for lack of
    memory say, costs the picture that it had, and no other.
    """
    processes = min(processes, len(jobs))
    if processes <= 1:
        for job in jobs:
            yield encode(job.source, options)
        return
    share = max(1, available_cores() // processes)
    with Pool(processes, _set_threads, (share,)) as pool:
        under_way: deque[tuple[Job, Future[Result]]] = deque()
        waiting = iter(jobs)
        while True:
            for job in islice(waiting, 4 * processes - len(under_way)):
                under_way.append((job, pool.submit(encode, job.source, options)))
            if not under_way:
                return
            try:
                yield pool.result(under_way[0][1])
                under_way.popleft()
            except BrokenProcessPool:  # by one of those under way: each of them again, alone
                pool.restart()
                while under_way:
                    yield _alone(under_way.popleft()[0], options, pool)


def encode(source: str, options: dict[str, Any]) -> Result:
    """One picture. Writes nothing: it may be ended at any time."""
    started = time.perf_counter()
    if is_nic(source):
        return b"", 0.0, f"{source} is a .nic file already, expected a picture: decode it first"
    try:
        import neurocodec

        files.allow_large_pictures()
        data = neurocodec.encode(source, **options)
    except Exception as error:  # the other inputs go on
        if os.environ.get("NEUROCODEC_TRACEBACK"):
            raise
        problem = files.sentence(error)
        return b"", 0.0, problem if source in problem else f"{source}: {problem}"
    return data, time.perf_counter() - started, ""


def _alone(job: Job, options: dict[str, Any], pool: Pool) -> Result:
    """The result of a job while no other is under way."""
    try:
        return pool.result(pool.submit(encode, job.source, options))
    except BrokenProcessPool:
        pool.restart()
        return b"", 0.0, f"{job.source}: its process ended, perhaps for lack of memory: try a smaller -j"


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
