"""Rate and distortion of real files: every codec on every picture at every setting, one row each, resumable.

    picture ─encode→ file ─decode→ picture      row: bytes, bpp, PSNR, MS-SSIM, seconds

The results file is a JSON object: `command`, `commit`, `machine`, `versions`, `averaging`, `dataset` (name, pictures
with size and SHA-256), `codecs` (name -> configuration), `rows`. In a resumed file, commit, machine and versions are
those of the last run; the fingerprint in each configuration vouches for the rows of earlier ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec import image
from neurocodec.errors import ConfigError, ImageError, NeurocodecError
from neurocodec.evaluation.codecs import Codec, configuration
from neurocodec.metrics import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_available, psnr

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATASETS = {"kodak": 24, "clic2025-validation": 12}
"""Names of folders in NEUROCODEC_DATA, and how many pictures they hold."""
AVERAGING = "per setting: mean of per-image bpp, mean of per-image PSNR, mean of per-image MS-SSIM"
PACKAGES = ("neurocodec", "numpy", "pillow", "torch", "pytorch-msssim", "scipy")
Row = dict[str, Any]
"""image, codec, setting, bytes, bpp, psnr (dB; None if the pictures are equal), ms_ssim (None if not measured),
encode_s, decode_s (wall clock, with whatever else ran; `neurocodec bench speed` is the careful measurement)."""

_SAVE_SECONDS = 10.0


@dataclass(frozen=True)
class Dataset:
    """Pictures to measure on, in order of their names."""

    name: str
    paths: tuple[Path, ...]


def load_dataset(source: str, images: int | None = None) -> Dataset:
    """A data set by name, from the folder NEUROCODEC_DATA, or all pictures of any folder; the first `images` of them.

    Raises ConfigError if there is no such folder, no picture in it, or fewer than asked for.
    """
    folder = Path(source)
    if source in DATASETS:
        root = os.environ.get("NEUROCODEC_DATA")
        if not root:
            raise ConfigError(f"the data set {source} is looked for in NEUROCODEC_DATA, which is not set: set it")
        folder = Path(root) / source
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give one of {', '.join(DATASETS)}, or a folder of pictures")
    suffixes = Image.registered_extensions()
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.suffix.lower() != ".nic")
    if not paths:
        raise ConfigError(f"{folder} holds no pictures: give a folder of PNG or other picture files")
    if images is not None and not 1 <= images <= len(paths):
        raise ConfigError(f"found {len(paths)} pictures in {folder}, expected --images from 1 to {len(paths)}")
    return Dataset(source if source in DATASETS else folder.resolve().name, tuple(paths[:images]))


def measure(codec: Codec, rgb: NDArray[np.uint8], setting: float, *, with_ms_ssim: bool) -> Row:
    """One file written and read in memory. rgb: uint8 (H, W, 3). Returns a Row without image."""
    start = time.perf_counter()
    data = codec.encode(rgb, setting)
    middle = time.perf_counter()
    decoded = codec.decode(data)
    end = time.perf_counter()
    distortion = psnr(rgb, decoded)
    return {
        "codec": codec.name,
        "setting": setting,
        "bytes": len(data),
        "bpp": 8.0 * len(data) / (rgb.shape[0] * rgb.shape[1]),
        "psnr": distortion if math.isfinite(distortion) else None,
        "ms_ssim": ms_ssim(rgb, decoded) if with_ms_ssim and min(rgb.shape[:2]) >= MS_SSIM_MIN_SIDE else None,
        "encode_s": round(middle - start, 6),
        "decode_s": round(end - middle, 6),
    }


def run(
    dataset: Dataset,
    codecs: Sequence[Codec],
    output: Path,
    *,
    settings: Sequence[float] | None = None,
    processes: int = 1,
    command: str = "",
    with_ms_ssim: bool | None = None,
) -> dict[str, Any]:
    """Measure what `output`, a results file, does not hold yet; write it as rows arrive, and return it.

    Rows of an earlier run stay if the codec's configuration and the picture's checksum are the same, and go if not.
    settings: for every codec, instead of its own. processes: each with its share of the cores. with_ms_ssim: None is
    whenever pytorch-msssim is installed. Raises ConfigError if `output` is no results file or the arguments do not
    fit, ImageError for a picture that cannot be read, and whatever a codec raises.
    """
    if processes < 1:
        raise ConfigError(f"found {processes} processes, expected at least 1")
    with_ms_ssim = ms_ssim_available() if with_ms_ssim is None else with_ms_ssim
    pictures = {path.name: _describe_picture(path) for path in dataset.paths}
    configurations = {codec.name: configuration(codec) for codec in codecs}
    wanted = {codec.name: _distinct(settings or codec.settings()) for codec in codecs}

    results = _begin(output, dataset.name, pictures, configurations, command, processes)
    done = {
        (row["image"], row["codec"], float(row["setting"]))
        for row in results["rows"]
        if not with_ms_ssim or row["ms_ssim"] is not None or min(_size(pictures, row)) < MS_SSIM_MIN_SIDE
    }
    jobs = [
        (codec, path, missing, with_ms_ssim)
        for path in dataset.paths
        for codec in codecs
        if (missing := [s for s in wanted[codec.name] if (path.name, codec.name, s) not in done])
    ]

    saved = time.monotonic()
    with _Progress(sum(len(job[2]) for job in jobs)) as advance:
        try:
            for rows in _rows(jobs, processes):
                _merge(results, rows)
                advance(len(rows))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    save(results, output)
                    saved = time.monotonic()
        finally:
            save(results, output)  # also what was measured before an error or Ctrl-C
    return results


def load(path: Path) -> dict[str, Any]:
    """A results file. Raises ConfigError if it cannot be read or is none."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a results file: {error}") from error
    if not isinstance(results, dict) or not {"dataset", "codecs", "rows"} <= results.keys():
        raise ConfigError(f"{path} is no results file: it lacks dataset, codecs or rows")
    return results


def save(results: dict[str, Any], path: Path) -> None:
    """Write a results file, whole or not at all; rows are one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {key: value for key, value in results.items() if key != "rows"}
    rows = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in results["rows"])
    text = json.dumps(head, indent=1, allow_nan=False)[:-2] + ',\n "rows": [\n' + rows + "\n ]\n}\n"
    image.write_bytes_atomic(path, text.encode(), force=True)


def averages(results: dict[str, Any], codec: str) -> list[dict[str, float]]:
    """A codec's averages by setting, from the smallest: setting, bpp, psnr, encode_s, decode_s and, where every
    picture has it, ms_ssim. Settings not measured on every picture are left out. psnr is inf if any picture's is."""
    names = {picture["name"] for picture in results["dataset"]["pictures"]}
    by_setting: dict[float, list[Row]] = {}
    for row in results["rows"]:
        if row["codec"] == codec and row["image"] in names:
            by_setting.setdefault(float(row["setting"]), []).append(row)
    points = []
    for setting, rows in by_setting.items():
        if {row["image"] for row in rows} != names:
            continue
        point = {"setting": setting, "psnr": math.inf}
        for key in ("bpp", "psnr", "ms_ssim", "encode_s", "decode_s"):
            values = [row[key] for row in rows]
            if None not in values:
                point[key] = float(np.mean(values))
        points.append(point)
    return sorted(points, key=lambda point: (point["bpp"], point["psnr"]))


def machine() -> dict[str, Any]:
    """Processor, cores, accelerator and system; no name of the machine."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    gpu = None
    if "torch" in sys.modules:
        import torch

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": available_cores(), "gpu": gpu, "system": f"{platform.system()} {platform.machine()}"}


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Python and those packages that matter to results, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this package's source, with "-dirty" if it has uncommitted changes; None if it is installed."""
    here = Path(__file__).parents[1] / "__init__.py"

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here.parent, capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", here.name) is None:  # not tracked: some other project's repository
        return None
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return head and (head + "-dirty" if changes else head)


def _distinct(settings: Iterable[float]) -> list[float]:
    return list(dict.fromkeys(float(setting) for setting in settings))


def _describe_picture(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}: give a picture that can be read") from error
    height, width = image.load(path).rgb.shape[:2]
    return {"name": path.name, "width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest()}


def _size(pictures: dict[str, dict[str, Any]], row: Row) -> tuple[int, int]:
    picture = pictures[row["image"]]
    return picture["height"], picture["width"]


def _begin(
    output: Path,
    dataset: str,
    pictures: dict[str, dict[str, Any]],
    configurations: dict[str, dict[str, str]],
    command: str,
    processes: int,
) -> dict[str, Any]:
    """A results object with those rows of an earlier file that still hold."""
    results: dict[str, Any] = {
        "kind": "rate-distortion",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "machine": machine() | {"processes": processes},
        "versions": versions(),
        "averaging": AVERAGING,
        "dataset": {"name": dataset, "pictures": list(pictures.values())},
        "codecs": configurations,
        "rows": [],
    }
    if not output.exists():
        return results
    earlier = load(output)
    if earlier["dataset"]["name"] != dataset:
        raise ConfigError(
            f"{output} holds results on {earlier['dataset']['name']}, not on {dataset}: give another folder"
        )
    same = {p["name"] for p in earlier["dataset"]["pictures"] if p == pictures.get(p["name"])}
    gone = {name for name, found in configurations.items() if earlier["codecs"].get(name, found) != found}
    results["codecs"] = earlier["codecs"] | configurations
    results["rows"] = [r for r in earlier["rows"] if r["image"] in same and r["codec"] not in gone]
    return results


def _merge(results: dict[str, Any], rows: Sequence[Row]) -> None:
    """Add rows, in place of older ones of the same picture, codec and setting, and keep all in order."""
    merged = {(r["codec"], float(r["setting"]), r["image"]): r for r in [*results["rows"], *rows]}
    results["rows"] = [merged[key] for key in sorted(merged)]


_Job = tuple[Codec, Path, list[float], bool]


def _measure_picture(job: _Job) -> list[Row]:
    codec, path, settings, with_ms_ssim = job
    rgb = image.load(path).rgb
    return [{"image": path.name} | measure(codec, rgb, setting, with_ms_ssim=with_ms_ssim) for setting in settings]


def _rows(jobs: Sequence[_Job], processes: int) -> Iterable[list[Row]]:
    if processes == 1 or len(jobs) <= 1:
        yield from map(_measure_picture, jobs)
        return
    threads = max(1, available_cores() // processes)
    codecs = list({job[0].name: job[0] for job in jobs}.values())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(threads, codecs)) as pool:
        pending = [pool.submit(_measure_picture, job) for job in jobs]
        try:
            for future in as_completed(pending):
                yield future.result()
        except BrokenProcessPool as error:
            raise NeurocodecError("a measuring process ended early, perhaps for lack of memory: use -j 1") from error
        finally:
            for future in pending:
                future.cancel()


def _start(threads: int, codecs: Sequence[Codec]) -> None:
    """In each process: its share of the cores, and models loaded before any clock runs."""
    import torch

    torch.set_num_threads(threads)
    rgb = np.full((16, 16, 3), 128, np.uint8)
    for codec in codecs:
        codec.decode(codec.encode(rgb, codec.settings()[0]))


class _Progress:
    """A tqdm bar if tqdm is installed and stderr is a terminal, else nothing."""

    def __init__(self, total: int) -> None:
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self._bar = tqdm(total=total, unit="file", disable=None)

    def __enter__(self) -> Callable[[int], object]:
        return self._bar.update if self._bar is not None else lambda count: None

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
