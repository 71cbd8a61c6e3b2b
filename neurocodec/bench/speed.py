"""Seconds and memory to encode and to decode, from array to bytes and back, by stage and by size of picture.

Every codec, size and number of threads is measured in a process of its own, which is held to as many cores as threads:

    import torch · load the model · one run for memory · runs for seconds · runs by stage · write and read the file

so that nothing is shared, and peaks are of this codec alone. Every codec runs at the setting whose file comes closest
to the same number of bits per pixel. Stages are measured in runs of their own, so that their clocks do not slow the
totals; the device is synchronised at each end of a clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurocodec import image
from neurocodec.bench.codecs import Bpg, Codec, Nic, installed, synthetic_picture
from neurocodec.bench.rate_distortion import commit, machine, versions
from neurocodec.entropy import coder
from neurocodec.errors import ConfigError, MissingPackageError, NeurocodecError
from neurocodec.metrics import psnr
from neurocodec.workers import available_cores, uninterrupted

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    from neurocodec.model import Model

STAGES = {
    "g_a": "g_a",
    "h_a": "h_a",
    "entropy": "h_s and context",
    "h_s": "h_s and context",
    "parameters": "h_s and context",
    "g_s": "g_s",
    "generator": "generator",
}
"""Parts of a model of this project or of the CompressAI interop, and what their seconds are called."""
CODER = "range coder"
REST = "pixels and container"
MAX_SECONDS = 60.0
"""No further run of a codec is begun after so many seconds in one direction."""
UNTRAINED = "random weights"
"""In the name of a network whose published weights are not there: its speed is the same, its pictures mean nothing."""
_UNTRAINED_QUALITY = 5  # of CompressAI's zoo, about 0.7 bits per pixel


@dataclass(frozen=True)
class Task:
    """What one process measures. picture: a file, or none for `codecs.synthetic_picture`."""

    codec: Codec
    setting: float
    width: int
    height: int
    threads: int
    repeats: int
    picture: Path | None
    device: str


@contextlib.contextmanager
def choose(
    names: Sequence[str], *, model: str | Path = "base", picture: Path | None = None, bpp: float = 0.7
) -> Iterator[tuple[list[Codec], dict[str, str]]]:
    """The codecs with these names that are installed, and why each other one is not, as `codecs.installed` gives.

    A CompressAI network cai:NAME without its published weights takes random ones that need `bpp` bits per pixel for the
    picture; the codec holds them in a file that goes when the context ends.
    """
    others = [name for name in names if not name.startswith("cai:")]
    found, missing = installed(others, model=model) if others else ([], {})
    chosen = {codec.name: codec for codec in found}
    with tempfile.TemporaryDirectory(prefix="neurocodec-") as folder:
        for name in names:
            if name.startswith("cai:"):
                try:
                    chosen[name] = _compressai(name, _sample(picture), bpp, folder)
                except MissingPackageError as error:
                    missing[name] = str(error)
        if not chosen:
            raise ConfigError("none of these codecs is installed: " + "; ".join(missing.values()))
        yield list(chosen.values()), missing


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
    """A results object: one row for each codec, size (width, height) and number of threads, and where it was measured.

    picture: a file whose pixels fill each size, mirrored at its edges; without one it is `codecs.synthetic_picture`.
    device: for networks. missing: codecs left out, and why, to be kept with the results. progress: is given a line a
    row. Raises ConfigError for arguments that make no sense, ImageError if the picture cannot be read.
    """
    from neurocodec.integer.gpu import resolve_device

    if repeats < 1 or bpp <= 0 or not threads or min(threads) < 1 or not sizes or min(min(size) for size in sizes) < 1:
        raise ConfigError("sizes, threads, repeats or bpp are empty or not positive: give positive numbers")
    if max(threads) > available_cores():
        raise ConfigError(f"found {max(threads)} threads, expected at most the {available_cores()} cores there are")
    device = resolve_device(device)
    sample = _sample(picture)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    rows = []
    for codec in codecs:
        setting = setting_near(codec, sample, bpp)
        for (width, height), count in itertools.product(sizes, threads):
            task = Task(codec, setting, width, height, count, repeats, picture, device)
            rows.append(_in_own_process(task))
            progress(_line(rows[-1]))
    return {
        "kind": "speed",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "machine": machine() | {"load_before": load},
        "versions": versions(),
        "picture": "synthetic" if picture is None else picture.name,
        "bpp": bpp,
        "repeats": repeats,
        "device": device,
        "memory": _Peak().method,
        "codecs": {codec.name: codec.describe() for codec in codecs},
        "missing": missing or {},
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


def fill(source: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Mirrored at the edges as often as it takes, then cut."""
    pads = [(0, max(0, want - have)) for want, have in zip((height, width), source.shape[:2], strict=True)]
    filled: NDArray[np.uint8] = np.pad(source, (*pads, (0, 0)), mode="symmetric")[:height, :width]
    return np.ascontiguousarray(filled)


def table(results: dict[str, Any]) -> str:
    """The rows as a Markdown table, the stages of networks below it, and what was not measured."""
    rows = [row for row in results["rows"] if "not_measured" not in row]
    lines = [
        f"{results['machine']['cpu']}, {results['machine']['cores']} cores, networks on {results['device']}; median of "
        f"up to {results['repeats']} runs in a warm process held to as many cores as threads; {results['picture']}; "
        f"load before: {results['machine']['load_before']}. MB: peak of the whole process, in 10^6 bytes "
        f"({results['memory']}).",
        "",
        "| Codec | Size | MP | Threads | bpp | PSNR (dB) | encode (s) | decode (s) | encode (MB) | decode (MB) "
        "| load (s) | file write, read (ms) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    stages = []
    for row in rows:
        encode, decode = row["encode"], row["decode"]
        cells = [
            row["codec"],
            f"{row['width']}×{row['height']}",
            f"{row['width'] * row['height'] / 1e6:.2f}",
            row["threads"],
            f"{row['bpp']:.3f}",
            "" if row["psnr"] is None else f"{row['psnr']:.2f}",
            *(f"{found['median_s']:.4f}" for found in (encode, decode)),
            *("" if not found["peak_bytes"] else f"{found['peak_bytes'] / 1e6:.0f}" for found in (encode, decode)),
            f"{row['import_s'] + row['load_s']:.2f}",
            f"{1e3 * encode['file_s']:.2f}, {1e3 * decode['file_s']:.2f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        stages += [_stage_line(row, way) for way in ("encode", "decode") if "stages_s" in row[way]]
    notes = [f"- {_line(row)}" for row in results["rows"] if "not_measured" in row]
    notes += [f"- {name} is left out: {why}" for name, why in results["missing"].items()]
    for title, found in (("Stages, seconds (and peak of the process, MB):", stages), ("Not measured:", notes)):
        if found:
            lines += ["", title, "", *found]
    return "\n".join([*lines, ""])


def stage_runs(
    codec: Codec, rgb: NDArray[np.uint8], setting: float, clock: Clock, repeats: int
) -> dict[str, Any] | None:
    """{"encode": runs, "decode": runs}, each run {stage: value} by the clock; None for a codec without stages."""
    encode, decode, patches = _with_clock(codec, setting, clock)
    if encode is None or decode is None:
        return None
    runs: dict[str, list[dict[str, float]]] = {"encode": [], "decode": []}
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        begun = time.perf_counter()
        while not runs["decode"] or (len(runs["decode"]) < repeats and time.perf_counter() - begun < MAX_SECONDS):
            with clock.run(runs["encode"]):
                data = encode(rgb)
            with clock.run(runs["decode"]):
                decode(data)
    return runs


class Clock:
    """Seconds by stage of one run, the device synchronised."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stages: dict[str, float] = {}

    def time(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Calls the function, as part of a stage."""
        _synchronise(self._device)
        start = time.perf_counter()
        result = function(*arguments, **options)
        _synchronise(self._device)
        self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - start
        return result

    @contextlib.contextmanager
    def run(self, into: list[dict[str, float]]) -> Iterator[None]:
        """One run: appends its stages, and REST, what is left of the whole."""
        self._stages = {}
        _synchronise(self._device)
        start = time.perf_counter()
        yield
        _synchronise(self._device)
        whole = time.perf_counter() - start
        into.append(self._stages | {REST: whole - sum(self._stages.values())})


class PeakClock(Clock):
    """Peak memory by stage instead: bytes of the whole process. REST is the peak outside all stages."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._peak = _Peak()
        self._outside = 0

    def time(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Calls the function, as part of a stage."""
        self._outside = max(self._outside, self._peak.read())
        self._peak.reset()
        result = function(*arguments, **options)
        _synchronise(self._device)
        self._stages[name] = max(self._stages.get(name, 0), self._peak.read())
        self._peak.reset()
        return result

    @contextlib.contextmanager
    def run(self, into: list[dict[str, float]]) -> Iterator[None]:
        """One run: appends its stages and REST."""
        self._stages, self._outside = {}, 0
        self._peak.reset()
        yield
        into.append(self._stages | {REST: max(self._outside, self._peak.read())})


class _Peak:
    """The most memory that this process held since the last `reset`, bytes.

    Linux tells it of the program now running (VmHWM) and lets it be reset; `getrusage` there remembers the parent's
    peak too, across fork and exec, and is used elsewhere only.
    """

    def __init__(self) -> None:
        self._linux = os.access("/proc/self/clear_refs", os.W_OK)
        self.method = "VmHWM, reset before each part" if self._linux else "ru_maxrss, since the process began"

    def reset(self) -> None:
        if self._linux:
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        return _status("VmHWM") if self._linux else _maxrss()


def _status(field: str) -> int:
    """A size in /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _maxrss() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _in_own_process(task: Task) -> dict[str, Any]:
    """The row of a task; with `not_measured`, a sentence, if it failed."""
    head = {"codec": task.codec.name, "width": task.width, "height": task.height, "threads": task.threads}
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(task.threads)))  # read when libraries are loaded
    try:
        process = context.Process(target=_work, args=(there,), daemon=True)
        with uninterrupted():
            process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    there.close()
    try:
        here.send(task)
        found: dict[str, Any] = here.recv()
    except (EOFError, ConnectionError):
        process.join()
        found = {"not_measured": f"the process ended with status {process.exitcode}, perhaps for lack of memory"}
    except BaseException:  # interrupted
        process.terminate()
        raise
    finally:
        process.join()
        here.close()
    return head | found


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _work(parent: Connection) -> None:
    """In the process: takes the task, measures it and sends the row."""
    try:
        row = _measure(parent)
    except (NeurocodecError, MemoryError, RuntimeError, OSError) as error:  # torch raises RuntimeError without memory
        row = {"not_measured": " ".join(str(error).split())[:300] or type(error).__name__}
    parent.send(row)
    parent.close()


def _measure(parent: Connection) -> dict[str, Any]:
    """The row of the task that the parent sends: taken here, because a codec may import torch, which is measured."""
    times = [time.perf_counter()]
    task: Task = parent.recv()
    codec = _on_device(task.codec, task.device)
    networks = isinstance(codec, Nic) or _is_compressai(codec)
    device = task.device if networks else "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])
    if device == "cpu":
        _limit_memory()
    if networks:
        import torch

        torch.set_num_threads(task.threads)
    times.append(time.perf_counter())
    _load(codec, task.setting)
    _synchronise(device)
    times.append(time.perf_counter())
    rgb = _filled(task.picture, task.height, task.width)
    resting = _status("VmRSS") if Path("/proc/self/status").exists() else 0

    encode: Callable[[], bytes] = lambda: codec.encode(rgb, task.setting)  # noqa: E731
    data, encode_peak = _with_peaks(encode, device)  # these two also warm up
    decoded, decode_peak = _with_peaks(lambda: codec.decode(data), device)
    distortion = psnr(rgb, decoded)
    del decoded
    encode_row = encode_peak | _seconds(encode, task.repeats, device)
    decode_row = decode_peak | _seconds(lambda: codec.decode(data), task.repeats, device)
    if stages := stage_runs(codec, rgb, task.setting, Clock(device), task.repeats):
        peaks = stage_runs(codec, rgb, task.setting, PeakClock(device), 1)
        for way, row in (("encode", encode_row), ("decode", decode_row)):
            row["stages_s"] = {k: round(statistics.median(run[k] for run in stages[way]), 6) for k in stages[way][0]}
            row["stages_peak_bytes"] = peaks[way][0] if peaks else {}
    encode_row["file_s"], decode_row["file_s"] = _file_seconds(data, task.repeats)
    if isinstance(codec, Bpg):  # works in processes of its own
        encode_row["peak_bytes"] = decode_row["peak_bytes"] = None
    meaningless = UNTRAINED in codec.name or not math.isfinite(distortion)
    return {
        "device": device,
        "setting": task.setting,
        "bytes": len(data),
        "bpp": 8.0 * len(data) / (rgb.shape[0] * rgb.shape[1]),
        "psnr": None if meaningless else round(distortion, 4),
        "import_s": round(times[1] - times[0], 6),
        "load_s": round(times[2] - times[1], 6),
        "resting_bytes": resting,
        "encode": encode_row,
        "decode": decode_row,
    }


def _with_peaks(function: Callable[[], Any], device: str) -> tuple[Any, dict[str, int]]:
    """What the function returns, and the peaks of host and device memory meanwhile."""
    peak = _Peak()
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
    peak.reset()
    result = function()
    found = {"peak_bytes": peak.read()}
    if device != "cpu":
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated()
    return result, found


def _seconds(function: Callable[[], object], repeats: int, device: str) -> dict[str, Any]:
    """Wall-clock seconds: median, smallest, number of runs."""
    found: list[float] = []
    while len(found) < repeats and sum(found) < MAX_SECONDS:
        _synchronise(device)
        start = time.perf_counter()
        function()
        _synchronise(device)
        found.append(time.perf_counter() - start)
    return {"median_s": round(statistics.median(found), 6), "min_s": round(min(found), 6), "runs": len(found)}


def _file_seconds(data: bytes, repeats: int) -> tuple[float, float]:
    """Median seconds to write the file and to read it, from the system's cache."""
    with tempfile.TemporaryDirectory(prefix="neurocodec-") as folder:
        path = Path(folder) / "file"
        write = _seconds(lambda: path.write_bytes(data), repeats, "cpu")
        read = _seconds(path.read_bytes, repeats, "cpu")
    return write["median_s"], read["median_s"]


def _synchronise(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def _limit_memory() -> None:
    """Lets this process have nine tenths of the memory that is free now, so that it fails rather than others."""
    try:
        import resource

        free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        limit = _status("VmData") + int(free.split()[1]) * 1024 * 9 // 10
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    except (ImportError, OSError, StopIteration, ValueError):
        return  # not on Linux


def _source(picture: Path | None, width: int, height: int) -> NDArray[np.uint8]:
    return synthetic_picture(height, width) if picture is None else image.load(picture).rgb


def _sample(picture: Path | None) -> NDArray[np.uint8]:
    """A small picture of the same kind, to find settings on."""
    return fill(_source(picture, 768, 512), 512, 768)


def _filled(picture: Path | None, height: int, width: int) -> NDArray[np.uint8]:
    return fill(_source(picture, width, height), height, width)


def _is_compressai(codec: Codec) -> bool:
    return type(codec).__module__ == "neurocodec.bench.compressai"


def _on_device(codec: Codec, device: str) -> Codec:
    """The codec, its networks to be loaded on that device."""
    if isinstance(codec, Nic) and isinstance(codec.model, (str, Path)):
        return _NicOn(codec.model, codec.name, device, realism=codec.realism)
    if _is_compressai(codec):
        return dataclasses.replace(codec, device=device)  # type: ignore[type-var]
    return codec


@dataclass(frozen=True)
class _NicOn(Nic):
    """Nic on a device of choice."""

    device: str = "auto"

    def loaded(self) -> Model:
        from neurocodec import model as model_files

        return self.model if isinstance(self.model, Model) else model_files.load(self.model)


def _load(codec: Codec, setting: float) -> None:
    if isinstance(codec, Nic):
        import neurocodec.codec  # noqa: F401  (its own imports are part of loading)
        from neurocodec.models import generators

        model = codec.loaded()
        if codec.realism:
            generators.of(model)
    elif _is_compressai(codec):
        codec.model(setting)  # type: ignore[attr-defined]


_Encode = Callable[["NDArray[np.uint8]"], bytes]
_Decode = Callable[[bytes], object]


def _with_clock(codec: Codec, setting: float, clock: Clock) -> tuple[_Encode | None, _Decode | None, list[Any]]:
    """Encoder and decoder whose parts are timed, and what to patch meanwhile; None for a codec without stages."""
    from unittest import mock

    if isinstance(codec, Nic):
        import neurocodec

        timed = _timed_parts(codec.loaded(), clock)
        patch = mock.patch("neurocodec.codec.coder", _Timed(coder, CODER, clock))
        encode: _Encode = lambda rgb: neurocodec.encode(rgb, quality=setting, model=timed)  # noqa: E731
        return encode, lambda data: neurocodec.decode(data, model=timed, realism=codec.realism), [patch]
    if _is_compressai(codec):
        from neurocodec.interop import compressai

        network = _timed_parts(codec.model(setting), clock)  # type: ignore[attr-defined]
        patch = mock.patch("neurocodec.interop.compressai.coder", _Timed(coder, CODER, clock))
        encode = lambda rgb: compressai.encode(rgb, network)  # noqa: E731
        return encode, lambda data: compressai.decode(data, network), [patch]
    return None, None, []


def _timed_parts(model: Any, clock: Clock) -> Any:
    parts = {part: getattr(model, part, None) for part in STAGES}
    timed = {part: _Timed(value, STAGES[part], clock) for part, value in parts.items() if value is not None}
    return dataclasses.replace(model, **timed)


class _Timed:
    """A part of a model, or a module, whose calls, those of its methods, and those of this package's objects that they
    return, such as the passes of the entropy network, are timed."""

    def __init__(self, part: Any, name: str, clock: Clock) -> None:
        self._part, self._name, self._clock = part, name, clock

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = self._clock.time(self._name, self._part, *arguments, **options)
        return _Timed(result, self._name, self._clock) if type(result).__module__.startswith("neurocodec.") else result

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        return _Timed(value, self._name, self._clock) if callable(value) else value


def _compressai(name: str, sample: NDArray[np.uint8], bpp: float, folder: str) -> Codec:
    """The codec cai:NAME with published weights, or with random ones, which are written into the folder."""
    import torch

    from neurocodec.bench import compressai
    from neurocodec.interop.compressai import WeightsNotFoundError

    try:
        return compressai.benchmark_codec(name)
    except WeightsNotFoundError:
        architecture = name.removeprefix("cai:")
    network = compressai.untrained(architecture, _UNTRAINED_QUALITY, sample, bpp=bpp)
    file = os.path.join(folder, f"{architecture}.pth")
    torch.save(network.state_dict(), file)
    setting = float(_UNTRAINED_QUALITY)
    return compressai.ZooCodec(architecture, f"{name} ({UNTRAINED})", ((setting, file),))


def _line(row: dict[str, Any]) -> str:
    head = f"{row['codec']}, {row['width']}×{row['height']}, {row['threads']} thread{'s' * (row['threads'] > 1)}: "
    if "not_measured" in row:
        return head + str(row["not_measured"])
    return head + f"encode {row['encode']['median_s']:.3f} s, decode {row['decode']['median_s']:.3f} s"


def _stage_line(row: dict[str, Any], way: str) -> str:
    found = row[way]
    parts = ", ".join(
        f"{name} {seconds:.4f} ({found['stages_peak_bytes'].get(name, 0) / 1e6:.0f})"
        for name, seconds in found["stages_s"].items()
    )
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    return f"- {row['codec']}, {row['width']}×{row['height']}, {threads}, {way}: {parts}"
