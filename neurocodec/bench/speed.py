"""Seconds and memory to encode and to decode, from array to bytes and back, by stage and by size of picture.

Every codec, size and number of threads is measured in a process of its own, which may use as many cores as threads:

    load torch and the model · one run for memory, which warms up · runs for seconds

Nothing is shared, so peaks are of this codec alone. Every codec runs at the one of its settings whose file is nearest
to a number of bits per pixel; the table says how near. What a clock itself costs counts in no stage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from neurocodec import codec as nic
from neurocodec import container, image, tiles
from neurocodec.bench import provenance
from neurocodec.bench.rivals import Codec, CompressAI, Nic, bits_per_pixel, nearest
from neurocodec.errors import ConfigError, NeurocodecError, one_line
from neurocodec.metrics import psnr
from neurocodec.workers import available_cores, map_in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurocodec.integer.network import Network

Result = TypeVar("Result")
STAGES = {
    "analyse": "g_a",
    "encode": "entropy model and range coder",
    "decode": "entropy model and range coder",
    "synthesise": "g_s",
}
"""The stages that calls of a network belong to; g_s with the generative decoder on top of it, if that decodes."""
REST = "pixels and container"
MAX_SECONDS = 60.0
"""No further run of a codec begins after so many seconds in one direction."""
_COUNTED = os.access("/proc/self/clear_refs", os.W_OK)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_HEADS = (
    *("Codec", "Size", "MP", "Threads", "bpp", "PSNR (dB)", "encode (s)", "decode (s)", "encode (MB)", "decode (MB)"),
    "load (s)",
)


def run(
    codecs: Sequence[Codec],
    sizes: Sequence[tuple[int, int]],
    picture: Path,
    *,
    threads: Sequence[int] = (1,),
    bpp: float = 0.7,
    repeats: int = 5,
    device: str = "auto",
    command: str = "",
    missing: dict[str, str] | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """A results object with one row for each codec, size (width, height) and number of threads.

    picture: a file whose pixels fill each size, mirrored at its edges. device: for networks. missing: codecs left out,
    and why, for the results. progress: called with a line for each row. Raises ConfigError for more threads than cores,
    ImageError if the picture cannot be read.
    """
    from neurocodec.integer.gpu import resolve_device

    if max(threads) > available_cores():
        raise ConfigError(f"found {max(threads)} threads, expected at most the number of cores, {available_cores()}")
    device = "cpu" if device == "auto" else resolve_device(device)  # as in neurocodec.encode
    sample = fill(image.load(picture).rgb, 512, 768)  # to find settings on
    about = provenance.stamp("speed", command)
    about["machine"]["load_before"] = provenance.load_average()
    rows = []
    for codec in codecs:
        setting = nearest_setting(codec, sample, bpp)
        for (width, height), count in itertools.product(sizes, threads):
            head = {"codec": codec.name, "width": width, "height": height, "threads": count}
            measure = functools.partial(_measure, codec, setting, width, height, repeats, picture, device)
            rows.append(head | _in_own_process(measure, count))
            progress(_line(rows[-1]))
    return about | {
        "picture": picture.name,
        "bpp": bpp,
        "repeats": repeats,
        "device": device,
        "memory": "VmHWM, reset before each part" if _COUNTED else "not measured: only Linux counts it",
        "codecs": {codec.name: codec.describe() for codec in codecs},
        "missing": missing or {},
        "rows": rows,
    }


def nearest_setting(codec: Codec, rgb: NDArray[np.uint8], bpp: float) -> float:
    """The one of the codec's settings whose file of this picture is nearest to `bpp`, as a ratio."""
    return nearest(codec.settings(), lambda setting: bits_per_pixel(codec.encode(rgb, setting), rgb), bpp)


def fill(source: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture, mirrored at its edges as often as needed, then cut. Returns uint8 (height, width, 3)."""
    pads = [(0, max(0, side - has)) for side, has in zip((height, width), source.shape[:2], strict=True)]
    filled: NDArray[np.uint8] = np.pad(source, (*pads, (0, 0)), mode="symmetric")[:height, :width]
    return np.ascontiguousarray(filled)


def table(results: dict[str, Any]) -> str:
    """The rows as a Markdown table, then the stages of networks and what was not measured."""
    machine = results["machine"]
    measured = [row for row in results["rows"] if "not_measured" not in row]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, networks on {results['device']}; median of up to "
        f"{results['repeats']} runs in a warm process held to as many cores as threads; {results['picture']}; "
        f"load before: {machine['load_before']}. MB: peak of the whole process, in 10^6 bytes ({results['memory']}).",
        f"Each codec at the setting nearest to {results['bpp']:g} bits per pixel: compare where bpp are alike.",
        "",
        "| " + " | ".join(_HEADS) + " |",
        "|---" + "|---:" * (len(_HEADS) - 1) + "|",
    ]
    stages = []
    for row in measured:
        both = row["encode"], row["decode"]
        cells = [
            row["codec"],
            f"{row['width']}×{row['height']}",
            f"{row['width'] * row['height'] / 1e6:.2f}",
            str(row["threads"]),
            f"{row['bpp']:.3f}",
            "" if row["psnr"] is None else f"{row['psnr']:.2f}",
            *(f"{way['median_s']:.4f}" for way in both),
            *("" if not way["peak_bytes"] else f"{way['peak_bytes'] / 1e6:.0f}" for way in both),
            f"{row['load_s'] + row.get('import_s', 0):.2f}",  # older files hold both
        ]
        lines.append("| " + " | ".join(cells) + " |")
        for name, way in zip(("encode", "decode"), both, strict=True):
            peaks = way.get("stages_peak_bytes", {})
            parts = [f"{k} {s:.4f} ({peaks.get(k, 0) / 1e6:.0f})" for k, s in way.get("stages_s", {}).items()]
            stages += [f"- {_head(row)}, {name}: {', '.join(parts)}"] if parts else []
    notes = [f"- {_line(row)}" for row in results["rows"] if "not_measured" in row]
    notes += [f"- {name} is left out: {why}" for name, why in results["missing"].items()]
    for title, entries in (("Stages, seconds (and peak of the process, MB):", stages), ("Not measured:", notes)):
        lines += ["", title, "", *entries] if entries else []
    return "\n".join([*lines, ""])


def _head(row: dict[str, Any]) -> str:
    return f"{row['codec']}, {row['width']}×{row['height']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def _line(row: dict[str, Any]) -> str:
    if "not_measured" in row:
        return f"{_head(row)}: {row['not_measured']}"
    return f"{_head(row)}: encode {row['encode']['median_s']:.3f} s, decode {row['decode']['median_s']:.3f} s"


# ------------------------------------------------------------------------------------------------- in its own process


def _in_own_process(measure: Callable[[int], dict[str, Any]], threads: int) -> dict[str, Any]:
    """What `measure` returns in another process, or `not_measured`, why it failed."""
    before = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))  # read when libraries are loaded
    try:
        start = functools.partial(_limit, threads)
        with contextlib.closing(map_in_order(measure, [threads], 2, start)) as outcomes:
            outcome = next(outcomes)
    finally:
        for name in _THREAD_VARIABLES:
            del os.environ[name]
        os.environ.update(before)
    if isinstance(outcome, (NeurocodecError, MemoryError, RuntimeError, OSError)):  # torch raises RuntimeError
        return {"not_measured": one_line(outcome)[:300]}
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _limit(threads: int) -> None:
    """Holds this process to as many cores as threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _measure(
    codec: Codec, setting: float, width: int, height: int, repeats: int, picture: Path, device: str, threads: int
) -> dict[str, Any]:
    """A row, measured in this process."""
    begun = time.perf_counter()
    device = device if isinstance(codec, (Nic, CompressAI)) else "cpu"
    if isinstance(codec, CompressAI) or device != "cpu":
        import torch

        torch.set_num_threads(threads)
    clock = Clock(device)
    encode, decode = coders(codec, setting, clock)
    clock.switch(REST)  # waits until what was loaded is on the device
    load_s = time.perf_counter() - begun
    rgb = fill(image.load(picture).rgb, height, width)
    data, encoding = clock.time(lambda: encode(rgb), repeats)
    decoded, decoding = clock.time(lambda: decode(data), repeats)
    distortion = psnr(rgb, decoded)
    if codec.name == "bpg":  # its tools are other processes
        encoding["peak_bytes"] = decoding["peak_bytes"] = None
    return {
        "device": device,
        "setting": setting,
        "bytes": len(data),
        "bpp": bits_per_pixel(data, rgb),
        "psnr": round(distortion, 4) if math.isfinite(distortion) else None,
        "load_s": round(load_s, 6),
        "encode": encoding,
        "decode": decoding,
    }


def coders(codec: Codec, setting: float, clock: Clock) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """How the codec encodes and decodes, its networks loaded; this project's with its stages on the clock. With realism
    above 0 the generative decoder counts as the rest. Raises what the codec raises."""
    if isinstance(codec, CompressAI):
        codec = dataclasses.replace(codec, device=clock.device)
        codec.load(setting)
    if not isinstance(codec, Nic):
        return functools.partial(codec.encode, setting=setting), codec.decode
    network = nic.network_of(codec.load(), clock.device)
    realism, index = codec.realism, nic.quality_index(setting)
    if realism:
        tiles.synthesis_of(network, 0, realism)
    timed = cast("Network", TimedNetwork(network, clock))

    def decode(data: bytes) -> NDArray[np.uint8]:
        picture = nic.decode_picture(container.read(data), timed, realism=realism)
        return np.asarray(image.to_pil(picture).convert("RGB"))

    return lambda rgb: nic.encode_picture(image.load(rgb), timed, index), decode


class TimedNetwork:
    """A network whose calls are timed by stage."""

    def __init__(self, network: Network, clock: Clock) -> None:
        self._network, self._clock = network, clock

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._network, name)
        return self._clock.timed(STAGES[name], attribute) if name in STAGES else attribute


class Clock:
    """Seconds and peak memory of a run by stage, of which there is one at any time. The device is synchronised."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._begin()

    def switch(self, stage: str) -> str:
        """Ends the current stage, which is returned, and enters another."""
        self._synchronise()
        ended = self._stage
        self.seconds[ended] += time.perf_counter() - self._since
        self.peaks[ended] = max(self.peaks[ended], read_peak())
        self._enter(stage)
        return ended

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls belong to a stage."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            outer = self.switch(stage)
            result = function(*arguments, **keywords)
            self.switch(outer)
            return result

        return call

    def time(self, function: Callable[[], Result], repeats: int) -> tuple[Result, dict[str, Any]]:
        """The function's result; peaks of a first run, which also warms up; medians of up to `repeats` more."""
        runs: list[dict[str, float]] = []
        spent, peaks = 0.0, {REST: 0}
        while len(runs) < 2 or (len(runs) <= repeats and spent < MAX_SECONDS):
            self._begin()
            result = function()
            self.switch(REST)
            peaks = peaks if runs else dict(self.peaks)
            runs.append(dict(self.seconds))
            spent += sum(self.seconds.values())
        totals = [sum(seconds.values()) for seconds in runs[1:]]
        values: dict[str, Any] = {"median_s": round(statistics.median(totals), 6), "min_s": round(min(totals), 6)}
        values |= {"runs": len(totals), "peak_bytes": max(peaks.values())}
        if len(peaks) > 1:
            medians = {stage: statistics.median(seconds[stage] for seconds in runs[1:]) for stage in peaks}
            values["stages_s"] = {stage: round(seconds, 6) for stage, seconds in medians.items()}
            values["stages_peak_bytes"] = peaks
        return result, values

    def _begin(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, int] = defaultdict(int)
        self._enter(REST)

    def _enter(self, stage: str) -> None:
        self._synchronise()
        reset_peak()
        self._stage, self._since = stage, time.perf_counter()

    def _synchronise(self) -> None:
        """Waits for the device's work, which a clock would miss."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()


def reset_peak() -> None:
    """Lets Linux count anew the most memory that this process holds (VmHWM)."""
    if _COUNTED:
        Path("/proc/self/clear_refs").write_text("5")


def read_peak() -> int:
    """The most memory since then, in bytes; 0 on other systems."""
    lines = Path("/proc/self/status").read_text().splitlines() if _COUNTED else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
