"""Worker processes: results in order, errors, workers that die, and interrupts at any time."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from neurocodec.errors import NeurocodecError
from neurocodec.workers import Ended, map_in_order, signals_as_interrupts, uninterrupted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

AMID_A_RESULT = """
import contextlib
from neurocodec.workers import map_in_order

if __name__ == "__main__":
    with contextlib.closing(map_in_order(bytes, [60_000_000] * 4, 2, int)) as results:
        next(results)  # the next is on its way through the pipe
    print("closed", flush=True)
"""

AT_A_STEP = """
import contextlib, multiprocessing.connection, multiprocessing.reduction, os, signal, sys, threading, time
from neurocodec.workers import map_in_order

step = int(sys.argv[1])

def interrupt(frame, event, argument):
    global step
    step -= event == "line"
    if step == 0:
        sys.settrace(None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
    return interrupt

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in the parent
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # blocks no signal, like those of libraries
    try:
        sys.settrace(interrupt)
        with contextlib.closing(map_in_order(abs, [-1, -2, -3, -4], 2, int)) as results:
            assert list(results) == [1, 2, 3, 4]
        sys.settrace(None)
        print("too late", step)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise SystemExit(130)
"""

PARENT_DIES = """
import os, signal, time
from neurocodec.workers import map_in_order

if __name__ == "__main__":
    results = map_in_order(time.sleep, [0, 0, 1000, 1000], 2, int)
    next(results)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(program: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a program and its workers: the pipes close when the last of them ends."""
    path = folder / "program.py"
    path.write_text(program)
    command = [sys.executable, path, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_outcomes_are_in_order(processes: int) -> None:
    outcomes = list(map_in_order(functools.partial(divmod, 100), [*range(1, 20), 0, 20], processes, int))
    assert outcomes[:19] == [divmod(100, i) for i in range(1, 20)]
    assert isinstance(outcomes[19], ZeroDivisionError)
    assert outcomes[20] == (5, 0)


def test_no_items() -> None:
    assert list(map_in_order(abs, [], 2, int)) == []


def test_an_error_that_cannot_be_pickled() -> None:
    (first, second) = map_in_order(_fail, ["a", "b"], 2, int)
    assert str(first) == "Unpicklable: a"
    assert str(second) == "Unpicklable: b"


class Unpicklable(Exception):
    def __init__(self, text: str, more: int) -> None:
        super().__init__(text)


def _fail(text: str) -> None:
    raise Unpicklable(text, 1)


def test_a_worker_that_dies_costs_only_its_item() -> None:
    outcomes = list(map_in_order(_exit_at_three, range(8), 2, int))
    assert isinstance(outcomes.pop(3), NeurocodecError)
    assert outcomes == [0, 1, 2, 4, 5, 6, 7]


def _exit_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_workers_that_cannot_start_are_errors(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes = list(map_in_order(abs, [1, 2, 3], 2, sys.exit))
    assert [type(outcome) for outcome in outcomes] == [NeurocodecError] * 3
    assert capfd.readouterr().err == ""


def test_closing_amid_a_result_lets_the_program_end(tmp_path: Path) -> None:
    assert run(AMID_A_RESULT, tmp_path) == (0, "closed\n", "")


@pytest.mark.parametrize("step", [1, 30, 200, 500, 1000, 1500, 2000, 3000])
def test_an_interrupt_at_any_step_ends_the_program(step: int, tmp_path: Path) -> None:
    assert run(AT_A_STEP, tmp_path, str(step)) == (130, "interrupted\n", "")


def test_workers_end_when_their_parent_is_killed_even_in_the_middle_of_an_item(tmp_path: Path) -> None:
    assert run(PARENT_DIES, tmp_path) == (-signal.SIGKILL, "", "")


def test_an_interrupt_is_delayed() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")
        steps.append("not reached")
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_is_delayed_like_an_interrupt(number: signal.Signals) -> None:
    steps = []
    with pytest.raises(Ended) as caught, signals_as_interrupts():  # noqa: PT012
        with uninterrupted():
            signal.raise_signal(number)
            steps.append("went on")
        steps.append("not reached")
    assert caught.value.number == number
    assert steps == ["went on"]
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("lost", [True, False])
def test_a_signal_of_which_code_in_c_made_another_error_ends_the_program(number: signal.Signals, lost: bool) -> None:
    with pytest.raises(Ended) as caught, signals_as_interrupts():  # noqa: PT012
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if not lost:
                raise ImportError("as NumPy says while it is imported") from None
    assert caught.value.number == number
    with signals_as_interrupts():  # and only that one
        pass


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_interrupts():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
