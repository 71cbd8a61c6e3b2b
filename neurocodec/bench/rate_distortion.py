"""Rate and distortion of real files: every codec on every picture at every setting, one row each, resumable.

picture ─encode→ file ─decode→ picture      row: bytes, bpp, PSNR, MS-SSIM, LPIPS, DISTS, seconds
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurocodec import files, image
from neurocodec.bench import provenance
from neurocodec.bench.datasets import Dataset, describe
from neurocodec.bench.fid import frechet_distance, kernel_distance
from neurocodec.bench.quality import PATCH_NETWORKS, Metrics, available, patch_features
from neurocodec.bench.results import AVERAGING, Row, averages, load, save
from neurocodec.bench.rivals import Codec, bits_per_pixel, configuration, synthetic_picture
from neurocodec.errors import ConfigError
from neurocodec.metrics import psnr
from neurocodec.workers import available_cores, map_in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAVE_SECONDS = 10.0


def measure(codec: Codec, rgb: NDArray[np.uint8], setting: float, metrics: Metrics) -> tuple[Row, NDArray[np.uint8]]:
    """Encodes and decodes in memory. rgb: uint8 (H, W, 3). Returns a Row without image, and the decoded picture."""
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
        "bpp": bits_per_pixel(data, rgb),
        "psnr": distortion if math.isfinite(distortion) else None,
        **metrics.of(rgb, decoded),
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
    metrics: Metrics | None = None,
    not_installed: Mapping[str, str] | None = None,
    not_available: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measures what `output`, a results file, lacks; writes it as rows arrive, and returns it.

    Rows of an earlier run stay if the codec's configuration and the picture's checksum are unchanged; a file with rows
    of pictures outside the data set is refused. settings: for every codec, or by codec, instead of its own. processes:
    each with its share of the cores. metrics: None is all that are available, without patches. not_installed,
    not_available: recorded with their reasons. Features of patches are kept in a folder `features` beside `output`.
    Raises ConfigError if `output` is no results file or the arguments do not fit, ImageError for a picture that cannot
    be read, and whatever a codec raises.
    """
    from tqdm import tqdm

    if processes < 1:
        raise ConfigError(f"found {processes} processes, expected at least 1")
    if metrics is None:
        metrics, not_available = available()
    pictures = {picture["name"]: picture for picture in describe(dataset)}
    configurations = {codec.name: configuration(codec) for codec in codecs}
    chosen = {codec.name: _settings_of(codec, settings) for codec in codecs}

    results = _begin(output, dataset.name, pictures, configurations)
    results["command"], results["machine"]["processes"] = command, processes
    missing = results.get("not_installed", {}) | dict(not_installed or {})
    results["not_installed"] = {name: why for name, why in missing.items() if name not in results["codecs"]}
    results["not_available"] = metrics.too_small(pictures.values()) | dict(not_available or {})
    features = _Features(output.parent / "features", metrics.patches, pictures, results["codecs"])
    done = {
        (row["image"], row["codec"], float(row["setting"]))
        for row in results["rows"]
        if not metrics.lacking(row, pictures[row["image"]]["height"], pictures[row["image"]]["width"])
        and (not metrics.patches or features.path(row["image"], row["codec"], row["setting"]).is_file())
    }
    jobs = [
        _Job(codec, name, path, left, metrics, features)
        for name, path in dataset.pictures.items()
        for codec in codecs
        if (left := [setting for setting in chosen[codec.name] if (name, codec.name, setting) not in done])
    ]

    saved = time.monotonic()
    total = sum(len(job.settings) for job in jobs)
    with tqdm(total=total, unit="file", disable=None) as bar, contextlib.closing(_rows(jobs, processes)) as arriving:
        try:
            for rows in arriving:
                _merge(results, rows)
                bar.update(len(rows))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    save(results, output)
                    saved = time.monotonic()
        finally:
            save(results, output)  # also the rows before an error or Ctrl-C
    if metrics.patches:
        results["patches"] = _distances(results, dataset, features)
        save(results, output)
    return results


def _settings_of(codec: Codec, settings: Mapping[str, Sequence[float]] | Sequence[float] | None) -> list[float]:
    """The settings to measure. Those that are not the codec's own are tried on a small picture, so that one out of
    range is an error before hours of work. Raises what the codec raises."""
    if isinstance(settings, Mapping):
        settings = settings.get(codec.name)
    for setting in set(settings or ()) - set(codec.settings()):
        codec.encode(synthetic_picture(64, 64), setting)
    return list(dict.fromkeys(float(setting) for setting in settings or codec.settings()))


def _begin(
    output: Path, dataset: str, pictures: dict[str, dict[str, Any]], configurations: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """A results object with the rows of an earlier file that still hold."""
    results: dict[str, Any] = provenance.stamp("rate-distortion", "")
    results |= {"averaging": AVERAGING, "dataset": {"name": dataset, "pictures": list(pictures.values())}}
    results |= {"codecs": configurations, "rows": []}
    if not output.exists():
        return results
    earlier = load(output)
    before = earlier["dataset"]
    if before["name"] != dataset:
        raise ConfigError(f"{output} holds results on {before['name']}, not on {dataset}: give another folder")
    if lost := [picture["name"] for picture in before["pictures"] if picture["name"] not in pictures]:
        raise ConfigError(
            f"{output} holds results of pictures that are not asked for now, such as {lost[0]}, which would be lost: "
            "give another folder"
        )
    same = {p["name"] for p in before["pictures"] if p == pictures.get(p["name"])}
    changed = {name for name, about in configurations.items() if earlier["codecs"].get(name, about) != about}
    results["codecs"] = earlier["codecs"] | configurations
    results["rows"] = [r for r in earlier["rows"] if r["image"] in same and r["codec"] not in changed]
    if results["rows"] and (runs := _other_runs(earlier, results)):
        results["earlier"] = runs
    results["not_installed"] = earlier.get("not_installed", {})
    if "patches" in earlier and not changed and len(same) == len(pictures) == len(before["pictures"]):
        results["patches"] = earlier["patches"]
    return results


def _other_runs(earlier: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """date, commit and cpu of the runs behind an earlier file that had another commit or processor than this one."""
    last, now = (
        {"date": run.get("date"), "commit": run.get("commit"), "cpu": run.get("machine", {}).get("cpu")}
        for run in (earlier, results)
    )
    runs = {(run["commit"], run["cpu"]): run for run in (*earlier.get("earlier", ()), last)}
    return [run for key, run in runs.items() if key != (now["commit"], now["cpu"])]


def _merge(results: dict[str, Any], rows: Sequence[Row]) -> None:
    """Adds rows in order; they replace older ones of the same picture, codec and setting."""
    merged = {(r["codec"], float(r["setting"]), r["image"]): r for r in [*results["rows"], *rows]}
    results["rows"] = [merged[key] for key in sorted(merged)]


class _Features(NamedTuple):
    """The files with features of patches: one for each picture, codec and setting, and one for the picture itself.

    Their names change with the picture's checksum, the codec's configuration and the network.
    """

    folder: Path
    network: str
    pictures: dict[str, dict[str, Any]]
    configurations: dict[str, dict[str, str]]

    def path(self, picture: str, codec: str = "", setting: float = 0.0) -> Path:
        key = [self.network, self.pictures[picture]["sha256"], codec, self.configurations.get(codec), float(setting)]
        return self.folder / (hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".npy")

    def write(self, path: Path, rgb: NDArray[np.uint8]) -> None:
        files.make_folder(self.folder)
        with files.writing(path, force=True) as file:
            np.save(file, patch_features(rgb, self.network), allow_pickle=False)

    def read(self, names: Iterable[str], codec: str = "", setting: float = 0.0) -> NDArray[np.float32]:
        """The features of all these pictures, (n, d)."""
        arrays = [np.load(self.path(name, codec, setting), allow_pickle=False) for name in names]
        filled = [array for array in arrays if array.size]
        return np.concatenate(filled) if filled else np.empty((0, 0), np.float32)


def _distances(results: dict[str, Any], dataset: Dataset, features: _Features) -> dict[str, Any]:
    """Fréchet and kernel distance of each codec at each setting that was measured on every picture."""
    for name, path in dataset.pictures.items():
        if not features.path(name).is_file():
            features.write(features.path(name), image.load(path).rgb)
    names = list(dataset.pictures)
    originals = features.read(names)
    network = PATCH_NETWORKS[features.network]
    distances: dict[str, Any] = {"network": network.title, "names": list(network.names), "note": network.note}
    distances |= {"patches": len(originals), "points": []}
    if len(originals) < 2:
        return distances | {"note": "none: the pictures hold fewer than two patches of 256 pixels"}
    for codec in results["codecs"]:
        for point in averages(results, codec):
            if all(features.path(name, codec, point["setting"]).is_file() for name in names):
                decoded = features.read(names, codec, point["setting"])
                entry = {"codec": codec, "setting": point["setting"], "bpp": point["bpp"]}
                entry |= {
                    "frechet": frechet_distance(originals, decoded),
                    "kernel": kernel_distance(originals, decoded),
                }
                distances["points"].append(entry)
    if without := [c for c in results["codecs"] if c not in {point["codec"] for point in distances["points"]}]:
        distances["note"] += f"; not of {', '.join(without)}, measured without them"
    return distances


class _Job(NamedTuple):
    codec: Codec
    picture: str
    path: Path
    settings: list[float]
    metrics: Metrics
    features: _Features


def _measure_picture(job: _Job) -> list[Row]:
    rgb = image.load(job.path).rgb
    rows = []
    for setting in job.settings:
        row, decoded = measure(job.codec, rgb, setting, job.metrics)
        if job.metrics.patches:
            job.features.write(job.features.path(job.picture, job.codec.name, setting), decoded)
        rows.append({"image": job.picture} | row)
    return rows


def _rows(jobs: Sequence[_Job], processes: int) -> Generator[list[Row], None, None]:
    codecs = list({job.codec.name: job.codec for job in jobs}.values())
    start = functools.partial(_start, max(1, available_cores() // processes), codecs)
    with contextlib.closing(map_in_order(_measure_picture, jobs, min(processes, len(jobs)), start)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome


def _start(threads: int, codecs: Sequence[Codec]) -> None:
    """In each process: its share of the cores, and models loaded before any clock runs."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    rgb = np.full((16, 16, 3), 128, np.uint8)
    for codec in codecs:
        codec.decode(codec.encode(rgb, codec.settings()[0]))
