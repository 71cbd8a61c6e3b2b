"""Pools of processes that end at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

from neurocodec.processes import close


def work(size):
    return bytes(size)


if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    pending = [pool.submit(work, 60_000_000) for _ in range(4)]
    wait(pending, return_when=FIRST_COMPLETED)  # the next result is on its way through the pipe
    close(pool, unfinished=True)
    print("closed", flush=True)
"""


def test_a_pool_closed_amid_a_result_lets_the_program_end(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "closed\n")
