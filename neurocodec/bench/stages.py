"""Seconds and memory of the stages of encoding and decoding: transforms, entropy model with range coder, the rest."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from neurocodec import codec as nic
from neurocodec import container, image
from neurocodec.bench.rivals import Codec, Nic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from neurocodec.integer.network import Latents, Network

G_A, ENTROPY, G_S = "g_a", "entropy model and range coder", "g_s"
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
    """{"encode": runs, "decode": runs}, each run {stage: value} by the clock; None for another project's codec."""
    if not isinstance(codec, Nic):
        return None
    network = TimedNetwork(nic.network_of(codec.load(setting), codec.device), clock)
    picture, index = image.load(rgb), nic.quality_index(setting)
    runs: dict[str, list[dict[str, float]]] = {"encode": [], "decode": []}
    begun = time.perf_counter()
    while not runs["decode"] or (len(runs["decode"]) < repeats and time.perf_counter() - begun < MAX_SECONDS):
        with clock.run(runs["encode"]):
            data = nic.encode_picture(picture, network, index)
        with clock.run(runs["decode"]):
            nic.decode_picture(container.read(data), network, realism=codec.realism)
    return runs


class TimedNetwork:
    """A network whose calls are timed by stage. With realism above 0 the generative decoder counts as the rest."""

    def __init__(self, network: Network, clock: Clock) -> None:
        self.model, self._network, self._clock = network.model, network, clock

    def analyse(self, rgb: NDArray[np.uint8], quality_index: int) -> NDArray[np.int32]:
        with self._clock.stage(G_A):
            return self._network.analyse(rgb, quality_index)

    def encode(
        self, y: NDArray[np.int32], quality_index: int, z_hat: NDArray[np.int32] | None = None, layout: str = "cpu"
    ) -> tuple[bytes, Latents]:
        with self._clock.stage(ENTROPY):
            return self._network.encode(y, quality_index, z_hat, layout)

    def decode(self, stream: bytes, height: int, width: int, quality_index: int) -> Latents:
        with self._clock.stage(ENTROPY):
            return self._network.decode(stream, height, width, quality_index)

    def synthesise(self, y_hat: NDArray[np.int32], quality_index: int) -> NDArray[np.uint8]:
        with self._clock.stage(G_S):
            return self._network.synthesise(y_hat, quality_index)
