"""The cores there are, and a pool of processes that Ctrl-C ends at once, in silence and with nothing left waiting."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt comes at the end of this context, and never in processes that begin in it."""
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    handler = signal.getsignal(signal.SIGINT)
    held = threading.current_thread() is threading.main_thread() and callable(handler)  # other threads see none
    if held:
        signal.signal(signal.SIGINT, remember)
    try:
        with _blocked_in_children():
            yield
    finally:
        if held:
            signal.signal(signal.SIGINT, handler)
            if pressed:
                signal.raise_signal(signal.SIGINT)


class Pool:
    """Processes that each run `initializer(*arguments)` and then work; they end with the context.

    A KeyboardInterrupt amid the code of concurrent.futures can leave one of its locks taken, and the end of the
    program waits for that lock for ever. With this class it comes between calls of its methods; a future's own
    methods, which know nothing of that, are for nobody else. Work unfinished at the end of the context is abandoned.
    """

    def __init__(self, processes: int, initializer: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._processes, self._initializer, self._arguments = processes, initializer, arguments
        self._pending: set[Future[Any]] = set()

    def __enter__(self) -> Pool:
        with uninterrupted():
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            _close(self._pool, unfinished=any(not future.done() for future in self._pending))

    def submit(self, function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Future[Result]:
        """Begins a call. Where a process has ended before, the future has the BrokenProcessPool."""
        with uninterrupted():
            try:
                future = self._pool.submit(function, *args, **kwargs)
            except BrokenProcessPool as error:
                future = Future()
                future.set_exception(error)
            self._pending = {other for other in self._pending if not other.done()} | {future}
            return future

    def result(self, future: Future[Result]) -> Result:
        """What the call returns, when it has; or what it raised. BrokenProcessPool if any process has ended."""
        self.wait([future])
        with uninterrupted():
            return future.result()

    def wait(self, pending: Collection[Future[Result]]) -> set[Future[Result]]:
        """Those of some calls that have ended, when at least one has."""
        while True:
            with uninterrupted():
                done, _ = futures.wait(pending, timeout=0.1, return_when=futures.FIRST_COMPLETED)
            if done:
                return done

    def restart(self) -> None:
        """Begins anew after a process has ended."""
        with uninterrupted():
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._processes, context, self._initializer, self._arguments)


@contextlib.contextmanager
def _blocked_in_children() -> Iterator[None]:
    """SIGINT is blocked in this thread, and in processes and threads that begin here, which inherit that."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it lets interrupts through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close(pool: ProcessPoolExecutor, *, unfinished: bool) -> None:
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
