"""Pictures for the commands, and a command that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image


def make_picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Writes a smooth picture of this width and height; the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def interrupt(command: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
    """Presses Ctrl-C after the command's first line; it must end with 130, silently, and leave no worker process."""
    assert end(command, signal.SIGINT, environment, group=True) == (130, b"")


def end(
    command: Sequence[object],
    number: signal.Signals,
    environment: Mapping[str, str] | None = None,
    *,
    group: bool = False,
) -> tuple[int, bytes]:
    """Sends a signal to the command, or its whole group, after its first line; returns its exit status and stderr.

    Fails if processes that it started are left.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # the first file is done, the workers are busy
    (os.killpg if group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)  # the pipes close when the last worker ends
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, errors
        time.sleep(0.1)
    pytest.fail("worker processes are left")
