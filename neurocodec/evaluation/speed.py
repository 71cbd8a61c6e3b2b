"""Seconds to encode and to decode, in a warm process, from array to bytes and back: no file is read, no model loaded.

Every codec runs at the setting whose file comes closest to the same number of bits per pixel. Stages of nic are
measured in runs of their own, so that their clocks do not slow the totals.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from neurocodec import image
from neurocodec.errors import ConfigError
from neurocodec.evaluation.codecs import Codec, Nic, synthetic_picture
from neurocodec.evaluation.rate_distortion import commit, machine, versions
from neurocodec.metrics import psnr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurocodec.checkpoint import Model

STAGES = {"g_a": "g_a", "h_a": "h_a", "entropy": "h_s and context", "g_s": "g_s"}
"""Parts of a model and what their seconds are called. The rest is the range coder, the container and pixels."""
REST = "range coder and rest"


def run(
    codecs: Sequence[Codec],
    sizes: Sequence[tuple[int, int]],
    *,
    threads: Sequence[int] = (1,),
    bpp: float = 0.7,
    repeats: int = 5,
    picture: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """A results object: one row for each codec, size (width, height) and number of threads, and where it was measured.

    JPEG and WebP use one thread whatever is asked, and are measured once. picture: a file whose pixels fill each size,
    mirrored at its edges; without one it is `codecs.synthetic_picture`. Raises ConfigError for arguments that make no
    sense, ImageError if the picture cannot be read.
    """
    import torch

    if repeats < 1 or bpp <= 0 or not threads or min(threads) < 1 or not sizes or min(min(size) for size in sizes) < 1:
        raise ConfigError("sizes, threads, repeats or bpp are empty or not positive: give positive numbers")
    source = None if picture is None else image.load(picture).rgb
    before = torch.get_num_threads()
    rows = []
    try:
        for width, height in sizes:
            rgb = synthetic_picture(height, width) if source is None else _fill(source, height, width)
            for codec in codecs:
                setting = setting_near(codec, rgb, bpp)
                for count in threads if isinstance(codec, Nic) else (1,):
                    torch.set_num_threads(count)
                    rows.append({"threads": count} | _measure(codec, rgb, setting, repeats))
    finally:
        torch.set_num_threads(before)
    return {
        "kind": "speed",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "picture": "synthetic" if picture is None else picture.name,
        "repeats": repeats,
        "codecs": {codec.name: codec.describe() for codec in codecs},
        "rows": rows,
    }


def setting_near(codec: Codec, rgb: NDArray[np.uint8], bpp: float) -> float:
    """That of the codec's settings whose file of this picture is nearest to `bpp`, as a ratio."""
    settings = codec.settings()
    sizes: dict[float, float] = {}

    def bits(at: int) -> float:
        setting = settings[at]
        if setting not in sizes:
            sizes[setting] = 8.0 * len(codec.encode(rgb, setting)) / (rgb.shape[0] * rgb.shape[1])
        return sizes[setting]

    low, high = 0, len(settings) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bits(middle) < bpp else (low, middle)
    return settings[min((low, high), key=lambda at: abs(math.log(bits(at) / bpp)))]


def stage_seconds(
    model: Model, rgb: NDArray[np.uint8], quality: float, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each stage of encoding and of decoding, names of `STAGES` and REST, which add up to the whole
    of a typical run. The device is synchronised at each end of a stage."""
    import neurocodec

    clock = _Clock(model.device)
    parts = {part: cast(Any, _Timed(getattr(model, part), name, clock)) for part, name in STAGES.items()}
    timed = dataclasses.replace(model, **parts)
    runs: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for _ in range(repeats + 1):
        data = clock.run(lambda: neurocodec.encode(rgb, quality=quality, model=timed), runs[0])
        clock.run(lambda data=data: neurocodec.decode(data, model=timed), runs[1])  # type: ignore[misc]
    first, second = (
        {name: statistics.median(run[name] for run in direction[1:]) for name in direction[-1]} for direction in runs
    )
    return first, second


def table(results: dict[str, Any]) -> str:
    """The rows as a Markdown table, and the stages of nic below it."""
    lines = [
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores, median (smallest) of "
        f"{results['repeats']} runs in a warm process, seconds; {results['picture']}",
        "",
        "| Codec | Size | Threads | Setting | bpp | PSNR (dB) | encode | decode |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    stages = []
    for row in results["rows"]:
        size = f"{row['width']}×{row['height']}"
        times = [f"{row[f'{way}_median_s']:.4f} ({row[f'{way}_min_s']:.4f})" for way in ("encode", "decode")]
        distortion = "equal" if row["psnr"] is None else f"{row['psnr']:.2f}"
        lines.append(
            f"| {row['codec']} | {size} | {row['threads']} | {row['setting']:g} | {row['bpp']:.3f} | {distortion} "
            f"| {times[0]} | {times[1]} |"
        )
        for way in ("encode", "decode"):
            if found := row.get(f"{way}_stages_s"):
                parts = ", ".join(f"{name} {seconds:.4f}" for name, seconds in found.items())
                stages.append(
                    f"- {row['codec']}, {size}, {row['threads']} thread{'s' * (row['threads'] > 1)}, {way}: {parts}"
                )
    return "\n".join([*lines, "", *stages, ""] if stages else [*lines, ""])


def _measure(codec: Codec, rgb: NDArray[np.uint8], setting: float, repeats: int) -> dict[str, Any]:
    data = codec.encode(rgb, setting)
    decoded = codec.decode(data)  # both warm now
    encode_s = _seconds(lambda: codec.encode(rgb, setting), repeats)
    decode_s = _seconds(lambda: codec.decode(data), repeats)
    distortion = psnr(rgb, decoded)
    row: dict[str, Any] = {
        "codec": codec.name,
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "setting": setting,
        "bytes": len(data),
        "bpp": 8.0 * len(data) / (rgb.shape[0] * rgb.shape[1]),
        "psnr": distortion if math.isfinite(distortion) else None,
    }
    for way, seconds in (("encode", encode_s), ("decode", decode_s)):
        row[f"{way}_median_s"], row[f"{way}_min_s"] = round(statistics.median(seconds), 6), round(min(seconds), 6)
    if isinstance(codec, Nic):
        found = stage_seconds(codec.loaded(), rgb, setting, repeats)
        for way, stages in zip(("encode", "decode"), found, strict=True):
            row[f"{way}_stages_s"] = {name: round(seconds, 6) for name, seconds in stages.items()}
    return row


def _seconds(function: Callable[[], object], repeats: int) -> list[float]:
    """Wall-clock seconds of each run. What runs returns bytes or pixels in host memory; the device is idle then."""
    found = []
    for _ in range(repeats):
        _synchronise("cuda")
        start = time.perf_counter()
        function()
        _synchronise("cuda")
        found.append(time.perf_counter() - start)
    return found


def _synchronise(device: str) -> None:
    import torch

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.synchronize()


class _Clock:
    """Seconds by stage of one run."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stages: dict[str, float] = defaultdict(float)

    def time(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        _synchronise(self._device)
        start = time.perf_counter()
        result = function(*arguments, **options)
        _synchronise(self._device)
        self._stages[name] += time.perf_counter() - start
        return result

    def run(self, function: Callable[[], Any], into: list[dict[str, float]]) -> Any:
        """Run it, and append its stages and what is left of its seconds."""
        self._stages.clear()
        start = time.perf_counter()
        result = function()
        _synchronise(self._device)
        total = time.perf_counter() - start
        into.append(dict(self._stages) | {REST: total - sum(self._stages.values())})
        return result


class _Timed:
    """A part of a model whose calls, those of its methods, and those of this package's objects that they return, such
    as the passes of the entropy network, are timed."""

    def __init__(self, part: Any, name: str, clock: _Clock) -> None:
        self._part, self._name, self._clock = part, name, clock

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self._clock.time(self._name, self._part, *arguments, **options)
        return _Timed(result, self._name, self._clock) if type(result).__module__.startswith("neurocodec.") else result

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        return _Timed(value, self._name, self._clock) if callable(value) else value


def _fill(source: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Mirrored at the edges as often as it takes, then cut."""
    pads = [(0, max(0, want - have)) for want, have in zip((height, width), source.shape[:2], strict=True)]
    filled: NDArray[np.uint8] = np.pad(source, (*pads, (0, 0)), mode="symmetric")[:height, :width]
    return np.ascontiguousarray(filled)
