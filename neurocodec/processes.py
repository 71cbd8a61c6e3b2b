"""Pools of processes that Ctrl-C ends at once, and that print nothing then."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor


@contextlib.contextmanager
def interrupts_for_this_process_alone() -> Iterator[None]:
    """Processes that begin here never see Ctrl-C; one that is pressed meanwhile comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it lets interrupts through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def close(pool: ProcessPoolExecutor, *, unfinished: bool) -> None:
    """Ends a pool; if it has unfinished work, at once."""
    results = getattr(pool, "_result_queue", None)
    pool.shutdown(wait=not unfinished, cancel_futures=True)
    if unfinished:
        if results is not None:
            # A process that ends halfway through a result leaves the pool's thread, and with it the interpreter's
            # exit, waiting for the other half: without this end of the pipe open, it sees that nobody will write it.
            results._writer.close()
        for child in multiprocessing.active_children():
            child.terminate()
