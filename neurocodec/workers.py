"""Worker processes that end silently with their parent, however it ends; signals; core and thread counts.

multiprocessing is imported only when the first worker starts; coding one picture needs no worker.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from neurocodec.errors import NeurocodecError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Item = TypeVar("Item")
Result = TypeVar("Result")


ENDINGS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a program to end."""


class Ended(KeyboardInterrupt):
    """A signal asked the program to end. number: the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Makes signals that ask the program to end raise `Ended` in the block, unless already handled or ignored (nohup).

    `Ended` is raised again when the block ends, because C code, such as NumPy's during import, may swallow it or turn
    it into another error.
    """
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    in_main_thread = threading.current_thread() is threading.main_thread()  # only it can handle signals
    handlers = {number: signal.getsignal(number) for number in ENDINGS if in_main_thread}
    handlers = {number: handler for number, handler in handlers.items() if handler in defaults}
    _received.clear()
    for number in handlers:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        raise_received()


_received: list[int] = []
"""The signal that ended the current `signals_as_interrupts` block, if any."""


def raise_received() -> None:
    """Raises `Ended` again if a signal raised it in a `signals_as_interrupts` block."""
    if _received:
        number = _received[0]
        _received.clear()
        raise Ended(number)


def _end(number: int, _: object) -> None:
    _received.append(number)
    raise Ended(number)


def available_cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(threads: int) -> None:
    """Sets the thread limit of this process; call it before libraries that read it are loaded."""
    os.environ["OMP_NUM_THREADS"] = str(threads)


def available_threads() -> int:
    """The thread limit of torch if it is loaded, else OMP_NUM_THREADS, else the number of available cores."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    if (limit := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(1, int(limit))
    return available_cores()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays signals that end the program until the block is done. Processes started in it never receive SIGINT."""
    delayed: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        handlers = {}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: delayed.append(number))
    try:
        with _blocked_interrupts():
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if delayed:
            signal.raise_signal(delayed[0])


def map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int, start: Callable[[], object]
) -> Generator[Result | Exception, None, None]:
    """Yields `function(item)`, or the exception it raised, for each item in order.

    With one process, the work happens in this process. Otherwise each worker calls `start` once and then handles one
    item at a time. If a worker dies, only its item is lost; the result is a NeurocodecError. Close the generator to end
    the workers. Function, items and results must be picklable.
    """
    if processes <= 1:
        yield from (_call(function, item) for item in items)
        return
    from multiprocessing.connection import wait

    workers: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, int] = {}  # which item each worker has
    outcomes: dict[int, Result | Exception] = {}
    sent = 0
    try:
        for index in range(len(items)):
            while index not in outcomes:
                while len(busy) < processes and sent < min(len(items), index + 4 * processes):  # limits the memory
                    connection = next((c for c in workers if c not in busy), None) or _start(workers, start, function)
                    with contextlib.suppress(OSError):  # if the worker died, receiving fails too
                        connection.send(items[sent])
                    busy[connection] = sent
                    sent += 1
                ready = wait(list(busy))
                for connection in [c for c in busy if c in ready]:
                    try:
                        outcome = connection.recv()
                    except (EOFError, OSError):
                        outcome = NeurocodecError("a worker process died, perhaps for lack of memory: use a smaller -j")
                        workers.pop(connection).join()
                    outcomes[busy.pop(connection)] = outcome
            yield outcomes.pop(index)
    finally:
        with uninterrupted():
            for process in workers.values():
                process.terminate()
            for process in workers.values():
                process.join()


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Blocks SIGINT in this thread, and permanently in processes and threads started in the block."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # here, because it unblocks SIGINT when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start(workers: dict[Connection, BaseProcess], start: Callable[[], object], function: Any) -> Connection:
    """Starts a worker and returns the connection to it."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with uninterrupted():
        connection, other_end = context.Pipe()
        process = context.Process(target=_work, args=(other_end, start, function), daemon=True)
        process.start()
        other_end.close()
        workers[connection] = process
    return connection


def _work(connection: Connection, start: Callable[[], object], function: Callable[[Any], Any]) -> None:
    """The worker's loop: receives items and sends outcomes until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            outcome = _call(function, connection.recv())
            connection.send(_sendable(outcome) if isinstance(outcome, Exception) else outcome)


def _end_with_parent() -> None:
    """Ends this process as soon as its parent ends, even in the middle of an item."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return function(item)
    except Exception as error:
        return error


def _sendable(error: Exception) -> Exception:
    """The error with the worker's traceback as a note, or a RuntimeError with its text if it cannot be pickled."""
    import traceback
    from multiprocessing.reduction import ForkingPickler

    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note("".join(traceback.format_exception(error)))
    try:
        copy.copy(error)  # calls the class, as the receiver will
        ForkingPickler.dumps(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
