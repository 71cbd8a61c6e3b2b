"""Rate and distortion of real files: every codec on every picture at every setting, one row each, resumable.

    picture ─encode→ file ─decode→ picture      row: bytes, bpp, PSNR, MS-SSIM, LPIPS, DISTS, seconds

The results file is a JSON object: `command`, `commit`, `machine`, `versions`, `averaging`, `dataset` (name, pictures
with size and SHA-256), `codecs` (name -> configuration), `not_installed` (codec -> why), `not_available` (measure ->
why), `rows`, `patches` (distances between sets of patches, where asked for) and what `summarise` adds for readers:
`anchors`, `bpp_range`, `bd_rates` and `notes`. In a resumed file, commit, machine and versions are those of the last
run, `earlier` names the others that rows were kept of, and the fingerprint in each configuration vouches for them.
Older files lack what was added since.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurocodec import files, image
from neurocodec.bench.codecs import Codec, configuration, synthetic_picture
from neurocodec.bench.datasets import Dataset, describe
from neurocodec.bench.fid import frechet_distance, kernel_distance
from neurocodec.bench.measures import PATCH_NETWORKS, Measures, available, patch_features
from neurocodec.errors import ConfigError
from neurocodec.metrics import psnr
from neurocodec.workers import available_cores, map_in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

AVERAGING = "per setting: mean of per-image bpp, mean of per-image PSNR, mean of per-image MS-SSIM, LPIPS and DISTS"
PACKAGES = (
    "neurocodec",
    "numpy",
    "pillow",
    "torch",
    "pytorch-msssim",
    "scipy",
    "pillow-heif",
    "imagecodecs",
    "pyvips-binary",
    "compressai",
    "torch-fidelity",
)
Row = dict[str, Any]
"""image, codec, setting, bytes, bpp, psnr (dB; None if the pictures are equal), ms_ssim, lpips and dists (None if
not measured), encode_s, decode_s (wall clock, with whatever else ran; `neurocodec bench speed` is the careful one)."""

_SAVE_SECONDS = 10.0


def measure(codec: Codec, rgb: NDArray[np.uint8], setting: float, measures: Measures) -> tuple[Row, NDArray[np.uint8]]:
    """One file written and read in memory. rgb: uint8 (H, W, 3). Returns a Row without image, and what was decoded."""
    start = time.perf_counter()
    data = codec.encode(rgb, setting)
    middle = time.perf_counter()
    decoded = codec.decode(data)
    end = time.perf_counter()
    distortion = psnr(rgb, decoded)
    row = {
        "codec": codec.name,
        "setting": setting,
        "bytes": len(data),
        "bpp": 8.0 * len(data) / (rgb.shape[0] * rgb.shape[1]),
        "psnr": distortion if math.isfinite(distortion) else None,
        **measures.of(rgb, decoded),
        "encode_s": round(middle - start, 6),
        "decode_s": round(end - middle, 6),
    }
    return row, decoded


def run(
    dataset: Dataset,
    codecs: Sequence[Codec],
    output: Path,
    *,
    settings: Mapping[str, Sequence[float]] | Sequence[float] | None = None,
    processes: int = 1,
    command: str = "",
    measures: Measures | None = None,
    not_installed: Mapping[str, str] | None = None,
    not_available: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measure what `output`, a results file, does not hold yet; write it as rows arrive, and return it.

    Rows of an earlier run stay if the codec's configuration and the picture's checksum are the same, and go if not;
    a file with rows of pictures that are not in the data set is refused.
    settings: by codec, or for every codec, instead of its own. processes: each with its share of the cores. measures:
    None is all that are available, without patches. not_installed, not_available: recorded with their reasons.
    Features of patches are kept in a folder `features` beside `output`. Raises ConfigError if `output` is no results
    file or the arguments do not fit, ImageError for a picture that cannot be read, and whatever a codec raises.
    """
    if processes < 1:
        raise ConfigError(f"found {processes} processes, expected at least 1")
    if measures is None:
        measures, not_available = available()
    pictures = {picture["name"]: picture for picture in describe(dataset)}
    configurations = {codec.name: configuration(codec) for codec in codecs}
    wanted = {codec.name: _distinct(_settings_of(codec, settings)) for codec in codecs}
    _try_settings(codecs, wanted)

    results = _begin(output, dataset.name, pictures, configurations, command, processes)
    missing = results.get("not_installed", {}) | dict(not_installed or {})
    results["not_installed"] = {name: why for name, why in missing.items() if name not in results["codecs"]}
    results["not_available"] = measures.too_small(pictures.values()) | dict(not_available or {})
    store = _Features(output.parent / "features", measures.patches, pictures, results["codecs"])
    done = {
        (row["image"], row["codec"], float(row["setting"]))
        for row in results["rows"]
        if not measures.lacking(row, pictures[row["image"]]["height"], pictures[row["image"]]["width"])
        and (not measures.patches or store.path(row["image"], row["codec"], row["setting"]).is_file())
    }
    jobs = [
        _Job(codec, name, path, missing_settings, measures, store)
        for name, path in dataset.pictures.items()
        for codec in codecs
        if (missing_settings := [s for s in wanted[codec.name] if (name, codec.name, s) not in done])
    ]

    saved = time.monotonic()
    with (
        _Progress(sum(len(job.settings) for job in jobs)) as advance,
        contextlib.closing(_rows(jobs, processes)) as found,
    ):
        try:
            for rows in found:
                _merge(results, rows)
                advance(len(rows))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    save(results, output)
                    saved = time.monotonic()
        finally:
            save(results, output)  # also what was measured before an error or Ctrl-C
    if measures.patches:
        results["patches"] = _distances(results, dataset, store)
        save(results, output)
    return results


def load(path: Path) -> dict[str, Any]:
    """A results file. Raises ConfigError if it cannot be read or is none."""
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a results file: {error}") from error
    try:  # what every reader of results takes for granted
        results["codecs"].keys()
        [results["dataset"]["name"], *(picture["name"] for picture in results["dataset"]["pictures"])]
        [(row["image"], row["codec"], float(row["setting"]), float(row["bpp"])) for row in results["rows"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is no results file: it lacks dataset, codecs or rows, or parts of them") from error
    return results


def save(results: dict[str, Any], path: Path) -> None:
    """Write a results file, whole or not at all; what is in its long lists is one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {key: value for key, value in results.items() if key in ("anchors", "bd_rates", "rows")}
    parts = [json.dumps({k: v for k, v in results.items() if k not in lists}, indent=1, allow_nan=False)[2:-2]]
    for key, items in lists.items():
        lines = ",\n".join("  " + json.dumps(item, allow_nan=False) for item in items)
        parts.append(f' "{key}": [\n{lines}\n ]')
    files.write_bytes(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode(), force=True)


def averages(results: dict[str, Any], codec: str) -> list[dict[str, float]]:
    """A codec's averages by setting, from the smallest: setting, bpp, psnr, encode_s, decode_s and, where every
    picture has them, ms_ssim, lpips and dists. Settings not measured on every picture are left out. psnr is inf if any
    picture's is."""
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
        for key in ("bpp", "psnr", "ms_ssim", "lpips", "dists", "encode_s", "decode_s"):
            values = [row[key] for row in rows if row.get(key) is not None]
            if len(values) == len(rows):
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


def _settings_of(codec: Codec, settings: Mapping[str, Sequence[float]] | Sequence[float] | None) -> Sequence[float]:
    if isinstance(settings, Mapping):
        settings = settings.get(codec.name)
    return settings or codec.settings()


def _try_settings(codecs: Sequence[Codec], wanted: Mapping[str, Sequence[float]]) -> None:
    """Encodes a small picture at each setting that is not the codec's own, so that one that does not exist is found
    now and not after other codecs' hours. Raises what the codec raises."""
    rgb = synthetic_picture(64, 64)
    for codec in codecs:
        for setting in wanted[codec.name]:
            if setting not in codec.settings():
                codec.encode(rgb, setting)


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
    if lost := [picture["name"] for picture in earlier["dataset"]["pictures"] if picture["name"] not in pictures]:
        raise ConfigError(
            f"{output} holds results of pictures that are not asked for now, such as {lost[0]}, which would be lost: "
            "give another folder"
        )
    same = {p["name"] for p in earlier["dataset"]["pictures"] if p == pictures.get(p["name"])}
    gone = {name for name, found in configurations.items() if earlier["codecs"].get(name, found) != found}
    results["codecs"] = earlier["codecs"] | configurations
    results["rows"] = [r for r in earlier["rows"] if r["image"] in same and r["codec"] not in gone]
    if results["rows"] and (runs := _other_runs(earlier, results)):
        results["earlier"] = runs
    results["not_installed"] = earlier.get("not_installed", {})
    if "patches" in earlier and not gone and len(same) == len(pictures) == len(earlier["dataset"]["pictures"]):
        results["patches"] = earlier["patches"]
    return results


def _other_runs(earlier: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """date, commit and cpu of the runs behind an earlier file that had another commit or processor than this one."""

    def of(run: dict[str, Any]) -> dict[str, Any]:
        return {"date": run.get("date"), "commit": run.get("commit"), "cpu": run.get("machine", {}).get("cpu")}

    now = of(results)
    runs = {(run["commit"], run["cpu"]): run for run in (*earlier.get("earlier", ()), of(earlier))}
    return [run for key, run in runs.items() if key != (now["commit"], now["cpu"])]


def _merge(results: dict[str, Any], rows: Sequence[Row]) -> None:
    """Add rows, in place of older ones of the same picture, codec and setting, and keep all in order."""
    merged = {(r["codec"], float(r["setting"]), r["image"]): r for r in [*results["rows"], *rows]}
    results["rows"] = [merged[key] for key in sorted(merged)]


class _Features(NamedTuple):
    """Where features of patches lie: a file for each picture, codec and setting, or for the picture itself, under a
    name that changes with the picture's checksum, the codec's configuration and the network."""

    folder: Path
    network: str
    pictures: dict[str, dict[str, Any]]
    configurations: dict[str, dict[str, str]]

    def path(self, picture: str, codec: str = "", setting: float = 0.0) -> Path:
        key = [self.network, self.pictures[picture]["sha256"], codec, self.configurations.get(codec), float(setting)]
        return self.folder / (hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".npy")

    def write(self, path: Path, rgb: NDArray[np.uint8]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, patch_features(rgb, self.network), allow_pickle=False)
        part.replace(path)

    def read(self, names: Iterable[str], codec: str = "", setting: float = 0.0) -> NDArray[np.float32]:
        """Of all these pictures: (n, d)."""
        arrays = [np.load(self.path(name, codec, setting), allow_pickle=False) for name in names]
        filled = [array for array in arrays if array.size]
        return np.concatenate(filled) if filled else np.empty((0, 0), np.float32)


def _distances(results: dict[str, Any], dataset: Dataset, store: _Features) -> dict[str, Any]:
    """Fréchet and kernel distance of each codec at each setting that was measured on every picture."""
    for name, path in dataset.pictures.items():
        if not store.path(name).is_file():
            store.write(store.path(name), image.load(path).rgb)
    names = list(dataset.pictures)
    originals = store.read(names)
    network = PATCH_NETWORKS[store.network]
    found: dict[str, Any] = {
        "network": network.title,
        "names": list(network.names),
        "note": network.note,
        "patches": len(originals),
        "points": [],
    }
    if len(originals) < 2:
        found["note"] = "none: the pictures hold fewer than two patches of 256 pixels"
        return found
    for codec in results["codecs"]:
        for point in averages(results, codec):
            if all(store.path(name, codec, point["setting"]).is_file() for name in names):
                decoded = store.read(names, codec, point["setting"])
                found["points"].append(
                    {
                        "codec": codec,
                        "setting": point["setting"],
                        "bpp": point["bpp"],
                        "frechet": frechet_distance(originals, decoded),
                        "kernel": kernel_distance(originals, decoded),
                    }
                )
    if without := [c for c in results["codecs"] if c not in {point["codec"] for point in found["points"]}]:
        found["note"] += f"; not of {', '.join(without)}, measured without them"
    return found


class _Job(NamedTuple):
    codec: Codec
    picture: str
    path: Path
    settings: list[float]
    measures: Measures
    store: _Features


def _measure_picture(job: _Job) -> list[Row]:
    rgb = image.load(job.path).rgb
    rows = []
    for setting in job.settings:
        row, decoded = measure(job.codec, rgb, setting, job.measures)
        if job.measures.patches:
            job.store.write(job.store.path(job.picture, job.codec.name, setting), decoded)
        rows.append({"image": job.picture} | row)
    return rows


def _rows(jobs: Sequence[_Job], processes: int) -> Generator[list[Row], None, None]:
    codecs = list({job.codec.name: job.codec for job in jobs}.values())
    start = functools.partial(_start, max(1, available_cores() // processes), codecs)
    with contextlib.closing(map_in_order(_measure_picture, jobs, processes, start)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


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
