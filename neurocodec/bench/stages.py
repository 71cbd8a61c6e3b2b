"""Seconds and memory of the stages of encoding and decoding: transforms, entropy networks, range coder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from neurocodec.bench.rivals import Codec, CompressAI, Nic
from neurocodec.entropy import coder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTS = {
    "g_a": "g_a",
    "h_a": "h_a",
    "entropy": "h_s and context",
    "h_s": "h_s and context",
    "parameters": "h_s and context",
    "g_s": "g_s",
    "generator": "generator",
}
"""Parts of a model of this project or of the CompressAI interop, and the stages they belong to."""
CODER = "range coder"
REST = "pixels and container"
MAX_SECONDS = 60.0
"""No further run of a codec begins after so many seconds in one direction."""


class Clock:
    """Seconds by stage of one run, the device synchronised."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.stages: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block as part of a stage."""
        synchronise(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    @contextlib.contextmanager
    def run(self, runs: list[dict[str, float]]) -> Iterator[None]:
        """Times a whole run, and appends its stages and REST, what is left of the whole."""
        self.stages = {}
        synchronise(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        whole = time.perf_counter() - start
        runs.append(self.stages | {REST: whole - sum(self.stages.values())})


class PeakClock(Clock):
    """Peak memory by stage instead: bytes of the whole process. REST is the peak outside all stages."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.peak, self.outside = Peak(), 0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.outside = max(self.outside, self.peak.read())
        self.peak.reset()
        yield
        synchronise(self.device)
        self.stages[name] = max(self.stages.get(name, 0), self.peak.read())
        self.peak.reset()

    @contextlib.contextmanager
    def run(self, runs: list[dict[str, float]]) -> Iterator[None]:
        self.stages, self.outside = {}, 0
        self.peak.reset()
        yield
        runs.append(self.stages | {REST: max(self.outside, self.peak.read())})


class Peak:
    """The most memory that this process has held since the last `reset`, in bytes.

    Linux keeps it for each program (VmHWM) and lets it be reset. `getrusage` is for other systems: on Linux it includes
    the parent's peak, even after fork and exec.
    """

    def __init__(self) -> None:
        self._linux = os.access("/proc/self/clear_refs", os.W_OK)
        self.method = "VmHWM, reset before each part" if self._linux else "ru_maxrss, since the process began"

    def reset(self) -> None:
        if self._linux:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        if self._linux:
            return status("VmHWM")
        try:
            import resource
        except ImportError:  # Windows
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def status(field: str) -> int:
    """A size in /proc/self/status, in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def synchronise(device: str) -> None:
    """Waits for the device's work, which a clock would miss."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def stage_runs(
    codec: Codec, rgb: NDArray[np.uint8], setting: float, clock: Clock, repeats: int
) -> dict[str, list[dict[str, float]]] | None:
    """{"encode": runs, "decode": runs}, each run {stage: value} by the clock; None for a codec without stages."""
    if not isinstance(codec, (Nic, CompressAI)):
        return None
    module: Any
    if isinstance(codec, Nic):
        from neurocodec import codec as module

        options, decode_options = {"quality": setting}, {"realism": codec.realism}
    else:
        from neurocodec.interop import compressai as module

        options, decode_options = {}, {}
    model = codec.load(setting)
    parts = {part: getattr(model, part, None) for part in PARTS}
    timed = dataclasses.replace(
        model, **{part: _Timed(value, PARTS[part], clock) for part, value in parts.items() if value is not None}
    )
    runs: dict[str, list[dict[str, float]]] = {"encode": [], "decode": []}
    with mock.patch.object(module, "coder", _Timed(coder, CODER, clock)):
        begun = time.perf_counter()
        while not runs["decode"] or (len(runs["decode"]) < repeats and time.perf_counter() - begun < MAX_SECONDS):
            with clock.run(runs["encode"]):
                data = module.encode(rgb, model=timed, **options)
            with clock.run(runs["decode"]):
                module.decode(data, model=timed, **decode_options)
    return runs


class _Timed:
    """A part of a model, or a module, whose calls, those of its methods, and those of this package's objects that they
    return, such as the passes of the entropy network, are timed."""

    def __init__(self, part: Any, name: str, clock: Clock) -> None:
        self._part, self._name, self._clock = part, name, clock

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self._clock.stage(self._name):
            result = self._part(*arguments, **options)
        return _Timed(result, self._name, self._clock) if type(result).__module__.startswith("neurocodec.") else result

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        return _Timed(value, self._name, self._clock) if callable(value) else value
