"""Pools of processes that end at once, whenever they are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from neurocodec.processes import Pool, uninterrupted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
ROOT = Path(__file__).parents[1]

AMID_A_RESULT = """
from neurocodec.processes import Pool

if __name__ == "__main__":
    with Pool(2, int, ()) as pool:
        pool.wait([pool.submit(bytes, 60_000_000) for _ in range(4)])  # the next is on its way through the pipe
    print("closed", flush=True)
"""

WITH_A_LOCK = """
import os
import signal
import sys
import threading
import time

from neurocodec.processes import Pool

steps = int(sys.argv[1])


def interrupt(frame, event, argument):
    global steps
    steps -= event == "return" and frame.f_code is threading.Condition.__enter__.__code__  # a lock has been taken
    if steps == 0:
        sys.settrace(None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    return interrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # blocks no signal, as those of libraries
    with Pool(2, int, ()) as pool:
        first, second = pool.submit(abs, -1), pool.submit(abs, -2)
        pool.result(first)
        try:
            sys.settrace(interrupt)
            third = pool.submit(abs, -3)
            assert (pool.result(second), pool.result(third)) == (2, 3)
            sys.settrace(None)
            print("too late")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise SystemExit(130)
"""


def run(program: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """A program's exit status, and what it prints."""
    path = folder / "program.py"
    path.write_text(program)
    command = [sys.executable, path, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_a_pool_that_ends_amid_a_result_lets_the_program_end(tmp_path: Path) -> None:
    assert run(AMID_A_RESULT, tmp_path) == (0, "closed\n", "")


@pytest.mark.parametrize("number", range(1, 6))
def test_an_interrupt_amid_a_lock_ends_the_program(number: int, tmp_path: Path) -> None:
    assert run(WITH_A_LOCK, tmp_path, str(number)) == (130, "interrupted\n", "")


def test_an_interrupt_comes_at_the_end() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")
        steps.append("not reached")
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_calls_results_and_errors() -> None:
    with Pool(2, int, ()) as pool:
        calls = {pool.submit(divmod, 7, divisor) for divisor in (2, 3)}
        found = set()
        while calls:
            done = pool.wait(calls)
            calls -= done
            found |= {pool.result(future) for future in done}
        assert found == {(3, 1), (2, 1)}
        with pytest.raises(ZeroDivisionError):
            pool.result(pool.submit(divmod, 7, 0))


def test_a_pool_goes_on_after_a_process_has_ended() -> None:
    with Pool(1, int, ()) as pool:
        ended = pool.submit(sys.exit, 3)
        with pytest.raises(SystemExit):
            pool.result(ended)
        broken = pool.submit(signal.raise_signal, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            pool.result(broken)
        with pytest.raises(BrokenProcessPool):
            pool.result(pool.submit(abs, -1))
        pool.restart()
        assert pool.result(pool.submit(abs, -1)) == 1
