"""Seconds and memory to encode and to decode, from array to bytes and back, by stage and by size of picture.

Every codec, size and number of threads is measured in a process of its own, which may use as many cores as threads:

    import torch · load the model · one run for memory · runs for seconds · runs by stage · write and read the file

Nothing is shared, so peaks are of this codec alone. Every codec runs at the setting whose file is nearest to the same
number of bits per pixel. Stages are measured in separate runs, so that their clocks do not slow the totals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurocodec import image
from neurocodec.bench import provenance
from neurocodec.bench.rivals import (
    Codec,
    CompressAI,
    Nic,
    bits_per_pixel,
    create,
    installed,
    nearest,
    synthetic_picture,
)
from neurocodec.bench.stages import MAX_SECONDS, Clock, Peak, PeakClock, stage_runs, status, synchronise
from neurocodec.errors import ConfigError, MissingPackageError, NeurocodecError, one_line
from neurocodec.metrics import psnr
from neurocodec.workers import available_cores, map_in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNTRAINED = "random weights"
"""In the name of a network without its published weights: its speed is the same, its pictures mean nothing."""
_UNTRAINED_QUALITY = 5  # of CompressAI's zoo, about 0.7 bits per pixel
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_HEADS = (
    *("Codec", "Size", "MP", "Threads", "bpp", "PSNR (dB)", "encode (s)", "decode (s)", "encode (MB)", "decode (MB)"),
    *("load (s)", "file write, read (ms)"),
)


@contextlib.contextmanager
def choose(
    names: Sequence[str], *, model: str | Path = "base", picture: Path | None = None, bpp: float = 0.7
) -> Iterator[tuple[list[Codec], dict[str, str]]]:
    """The installed ones of these codecs, and why each other one is not, as `rivals.installed` gives them.

    A CompressAI network cai:NAME without its published weights takes random ones that need `bpp` bits per pixel for the
    picture; they are in a file that is removed when the context ends.
    """
    others = [name for name in names if not name.startswith("cai:")]
    codecs, missing = installed(others, model=model) if others else ([], {})
    with tempfile.TemporaryDirectory(prefix="neurocodec-") as folder:
        for name in names:
            if name.startswith("cai:"):
                try:
                    codecs.append(_compressai(name, picture, bpp, folder))
                except MissingPackageError as error:
                    missing[name] = str(error)
        if not codecs:
            raise ConfigError("none of these codecs is installed: " + "; ".join(missing.values()))
        yield codecs, missing


def run(
    codecs: Sequence[Codec],
    sizes: Sequence[tuple[int, int]],
    *,
    threads: Sequence[int] = (1,),
    bpp: float = 0.7,
    repeats: int = 5,
    picture: Path | None = None,
    device: str = "auto",
    command: str = "",
    missing: dict[str, str] | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """A results object with one row for each codec, size (width, height) and number of threads.

    picture: a file whose pixels fill each size, mirrored at its edges; None for a synthetic picture. device: for
    networks. missing: codecs left out, and why, for the results. progress: called with a line for each row. Raises
    ConfigError for arguments out of range, ImageError if the picture cannot be read.
    """
    from neurocodec.integer.gpu import resolve_device

    if repeats < 1 or bpp <= 0 or not threads or min(threads) < 1 or not sizes or min(min(size) for size in sizes) < 1:
        raise ConfigError("sizes, threads, repeats or bpp are empty or not positive: give positive numbers")
    if max(threads) > available_cores():
        raise ConfigError(f"found {max(threads)} threads, expected at most the number of cores, {available_cores()}")
    device = "cpu" if device == "auto" else resolve_device(device)  # as in neurocodec.encode
    sample = _sample(picture)
    about = provenance.stamp("speed", command)
    about["machine"]["load_before"] = provenance.load_average()
    rows = []
    for codec in codecs:
        setting = nearest_setting(codec, sample, bpp)
        for (width, height), count in itertools.product(sizes, threads):
            head = {"codec": codec.name, "width": width, "height": height, "threads": count}
            rows.append(head | _in_own_process(codec, setting, width, height, count, repeats, picture, device))
            progress(_line(rows[-1]))
    return about | {
        "picture": "synthetic" if picture is None else picture.name,
        "bpp": bpp,
        "repeats": repeats,
        "device": device,
        "memory": Peak().method,
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
    machine, memory = results["machine"], results["memory"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, networks on {results['device']}; median of up to "
        f"{results['repeats']} runs in a warm process held to as many cores as threads; {results['picture']}; "
        f"load before: {machine['load_before']}. MB: peak of the whole process, in 10^6 bytes ({memory}).",
        "",
        "| " + " | ".join(_HEADS) + " |",
        "|---" + "|---:" * (len(_HEADS) - 1) + "|",
    ]
    stages = []
    notes = [f"- {_line(row)}" for row in results["rows"] if "not_measured" in row]
    for row in results["rows"]:
        if "not_measured" in row:
            continue
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
            f"{row['import_s'] + row['load_s']:.2f}",
            f"{1e3 * both[0]['file_s']:.2f}, {1e3 * both[1]['file_s']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        for name in ("encode", "decode"):
            peaks = row[name].get("stages_peak_bytes", {})
            parts = [f"{k} {s:.4f} ({peaks.get(k, 0) / 1e6:.0f})" for k, s in row[name].get("stages_s", {}).items()]
            stages += [f"- {_head(row)}, {name}: {', '.join(parts)}"] if parts else []
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


def _in_own_process(codec: Codec, setting: float, width: int, height: int, threads: int, *more: Any) -> dict[str, Any]:
    """What `_measure` returns with the same arguments in another process, or `not_measured`, why it failed."""
    before = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))  # read when libraries are loaded
    try:
        measure = functools.partial(_measure, codec, setting, width, height, threads, *more)
        with contextlib.closing(map_in_order(_call, [measure], 2, functools.partial(_limit, threads))) as outcomes:
            outcome = next(outcomes)
        if isinstance(outcome, (NeurocodecError, MemoryError, RuntimeError, OSError)):  # torch raises RuntimeError
            return {"not_measured": one_line(outcome)[:300]}
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
    finally:
        for name in _THREAD_VARIABLES:
            del os.environ[name]
        os.environ.update(before)


def _call(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return measure()


def _limit(threads: int) -> None:
    """Holds this process to as many cores as threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _measure(
    codec: Codec,
    setting: float,
    width: int,
    height: int,
    threads: int,
    repeats: int,
    picture: Path | None,
    device: str,
) -> dict[str, Any]:
    """A row, measured in this process."""
    device = device if isinstance(codec, (Nic, CompressAI)) else "cpu"
    if device == "cpu":
        _limit_memory()
    times = [time.perf_counter()]
    if isinstance(codec, CompressAI) or device != "cpu":
        import torch

        torch.set_num_threads(threads)
    times.append(time.perf_counter())
    if isinstance(codec, (Nic, CompressAI)):
        codec = dataclasses.replace(codec, device=device)
        load(codec, setting)
        synchronise(device)
    times.append(time.perf_counter())
    rgb = fill(_source(picture, width, height), height, width)
    resting = status("VmRSS")

    encode: Callable[[], bytes] = lambda: codec.encode(rgb, setting)  # noqa: E731
    data, encode_peak = _with_peaks(encode, device)  # these two also warm up
    decoded, decode_peak = _with_peaks(lambda: codec.decode(data), device)
    distortion = psnr(rgb, decoded)
    del decoded
    rows = {
        "encode": encode_peak | _seconds(encode, repeats, device),
        "decode": decode_peak | _seconds(lambda: codec.decode(data), repeats, device),
    }
    if stages := stage_runs(codec, rgb, setting, Clock(device), repeats):
        peaks = stage_runs(codec, rgb, setting, PeakClock(device), 1) or {}
        for way, runs in stages.items():
            medians = {name: round(statistics.median(run[name] for run in runs), 6) for name in runs[0]}
            rows[way] |= {"stages_s": medians, "stages_peak_bytes": peaks[way][0]}
    with tempfile.TemporaryDirectory(prefix="neurocodec-") as folder:  # the file is in the system's cache
        path = Path(folder) / "file"
        rows["encode"]["file_s"] = _seconds(lambda: path.write_bytes(data), repeats, "cpu")["median_s"]
        rows["decode"]["file_s"] = _seconds(path.read_bytes, repeats, "cpu")["median_s"]
    if codec.name == "bpg":  # its tools are other processes
        rows["encode"]["peak_bytes"] = rows["decode"]["peak_bytes"] = None
    return {
        "device": device,
        "setting": setting,
        "bytes": len(data),
        "bpp": bits_per_pixel(data, rgb),
        "psnr": None if UNTRAINED in codec.name or not math.isfinite(distortion) else round(distortion, 4),
        "import_s": round(times[1] - times[0], 6),
        "load_s": round(times[2] - times[1], 6),
        "resting_bytes": resting,
        **rows,
    }


def load(codec: Nic | CompressAI, setting: float) -> None:
    """Loads the networks that the setting needs. Raises what the codec raises."""
    if isinstance(codec, CompressAI):
        codec.load(setting)
        return
    from neurocodec import codec as codec_module

    model = codec.load()
    codec_module.network_of(model, codec.device)
    if codec.realism:
        codec_module.synthesis_of(codec_module.network_of(model, codec.device), 0, codec.realism)


def _with_peaks(function: Callable[[], Any], device: str) -> tuple[Any, dict[str, Any]]:
    """What the function returns, and the peaks of host and device memory meanwhile."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
    peak = Peak()
    peak.reset()
    result = function()
    peaks = {"peak_bytes": peak.read()}
    return result, peaks | ({"device_peak_bytes": torch.cuda.max_memory_allocated()} if device != "cpu" else {})


def _seconds(function: Callable[[], object], repeats: int, device: str) -> dict[str, Any]:
    """Wall-clock seconds: median, smallest, number of runs."""
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < MAX_SECONDS:
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return {"median_s": round(statistics.median(seconds), 6), "min_s": round(min(seconds), 6), "runs": len(seconds)}


def _limit_memory() -> None:
    """Limits this process to nine tenths of the memory that is free now, so that it fails rather than others."""
    with contextlib.suppress(ImportError, OSError, StopIteration, ValueError):  # not on Linux
        import resource

        free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        limit = status("VmData") + int(free.split()[1]) * 1024 * 9 // 10
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _source(picture: Path | None, width: int, height: int) -> NDArray[np.uint8]:
    return synthetic_picture(height, width) if picture is None else image.load(picture).rgb


def _sample(picture: Path | None) -> NDArray[np.uint8]:
    """A small picture of the same kind, to find settings on."""
    return fill(_source(picture, 768, 512), 512, 768)


def _compressai(name: str, picture: Path | None, bpp: float, folder: str) -> Codec:
    """The codec cai:NAME with published weights, or with random ones, which are written into the folder."""
    from neurocodec.bench.compressai import untrained
    from neurocodec.interop import compressai

    try:
        return create([name])[0]
    except compressai.WeightsNotFoundError:
        architecture, setting = name.removeprefix("cai:"), float(_UNTRAINED_QUALITY)
    from safetensors.torch import save_file

    network = untrained(architecture, _UNTRAINED_QUALITY, _sample(picture), bpp=bpp)
    file = os.path.join(folder, f"{architecture}.safetensors")
    save_file(network.state_dict(), file)
    return CompressAI(architecture, f"{name} ({UNTRAINED})", ((setting, file),))
