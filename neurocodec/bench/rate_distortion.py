"""Rate and distortion of real files: every codec on every picture at every setting, one row each, resumable.

picture ─encode→ file ─decode→ picture      row: bytes, bpp, PSNR, MS-SSIM, LPIPS, DISTS, seconds
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurocodec import files, image
from neurocodec.bench import provenance
from neurocodec.bench.datasets import Dataset, describe
from neurocodec.bench.quality import PATCH_NETWORKS, Metrics, frechet_distance, patch_features
from neurocodec.bench.results import Row, averages, load, save
from neurocodec.bench.rivals import Codec, bits_per_pixel, configuration, synthetic_picture
from neurocodec.errors import ConfigError
from neurocodec.metrics import psnr
from neurocodec.workers import available_cores, limit_threads, map_in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    metrics: Metrics,
    settings: Mapping[str, Sequence[float]] | None = None,
    processes: int = 1,
    command: str = "",
    not_installed: Mapping[str, str] | None = None,
    not_available: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measures what `output`, a results file, lacks; writes it as rows arrive, and returns it.

    Rows of an earlier run stay if the codec's configuration and the picture's checksum are unchanged; a file with rows
    of pictures outside the data set is refused. settings: by codec, instead of its own. processes: each with its share
    of the cores. not_installed, not_available: recorded with their reasons. Features of patches are kept in a folder
    `features` beside `output`. Raises ConfigError if `output` is not a results file or the arguments do not fit,
    ImageError for a picture that cannot be read, and whatever a codec raises.
    """
    from tqdm import tqdm

    described = describe(dataset)
    pictures = {picture["name"]: picture for picture in described["pictures"]}
    configurations = {codec.name: configuration(codec) for codec in codecs}
    chosen = {codec.name: _settings_of(codec, (settings or {}).get(codec.name)) for codec in codecs}

    results = _begin(output, described, configurations, provenance.stamp("rate-distortion", command))
    results["machine"]["processes"] = processes
    missing = results["not_installed"] | dict(not_installed or {})
    results["not_installed"] = {name: why for name, why in missing.items() if name not in results["codecs"]}
    results["not_available"] = metrics.too_small(pictures.values()) | dict(not_available or {})
    features = _Features(output.parent / "features", metrics.patches, pictures, results["codecs"])
    measured = {
        (row["image"], row["codec"], float(row["setting"]))
        for row in results["rows"]
        if all(row.get(key) is not None for key in metrics.defined(pictures[row["image"]]))
        and (not metrics.patches or features.path(row["image"], row["codec"], row["setting"]).is_file())
    }
    jobs = [
        _Job(codec, name, path, left, metrics, features)
        for name, path in dataset.pictures.items()
        for codec in codecs
        if (left := [setting for setting in chosen[codec.name] if (name, codec.name, setting) not in measured])
    ]

    save(results, output)
    total = sum(len(job.settings) for job in jobs)
    with tqdm(total=total, unit="file", disable=None) as bar, contextlib.closing(_rows(jobs, processes)) as arriving:
        for rows in arriving:
            merged = {(r["codec"], float(r["setting"]), r["image"]): r for r in [*results["rows"], *rows]}
            results["rows"] = [merged[key] for key in sorted(merged)]
            save(results, output)
            bar.update(len(rows))
    if metrics.patches:
        results["patches"] = _distances(results, dataset, features)
        save(results, output)
    return results


def _settings_of(codec: Codec, settings: Sequence[float] | None) -> list[float]:
    """The settings to measure. Those that are not the codec's own are tried on a small picture, so that one out of
    range is an error before hours of work. Raises what the codec raises."""
    for setting in set(settings or ()) - set(codec.settings()):
        codec.encode(synthetic_picture(64, 64), setting)
    return list(dict.fromkeys(float(setting) for setting in settings or codec.settings()))


def _begin(
    output: Path, dataset: dict[str, Any], configurations: dict[str, dict[str, str]], stamp: dict[str, Any]
) -> dict[str, Any]:
    """A results object with the rows of an earlier file that still hold."""
    results: dict[str, Any] = stamp | {"dataset": dataset, "codecs": configurations, "not_installed": {}, "rows": []}
    if not output.exists():
        return results
    earlier = load(output)
    name, before = earlier["dataset"]["name"], earlier["dataset"]["pictures"]
    if name != dataset["name"]:
        raise ConfigError(f"{output} holds results on {name}, not on {dataset['name']}: give another folder")
    names = {picture["name"] for picture in dataset["pictures"]}
    if lost := [picture["name"] for picture in before if picture["name"] not in names]:
        raise ConfigError(
            f"{output} holds results of pictures that are not asked for now, such as {lost[0]}, which would be lost: "
            "give another folder"
        )
    same = {picture["name"] for picture in before if picture in dataset["pictures"]}
    changed = {
        name
        for name, about in configurations.items()
        if any(about.get(key, value) != value for key, value in earlier["codecs"].get(name, {}).items())
    }
    results["codecs"] = earlier["codecs"] | configurations
    results["rows"] = [r for r in earlier["rows"] if r["image"] in same and r["codec"] not in changed]
    results["not_installed"] = earlier.get("not_installed", {})
    if "patches" in earlier and not changed and len(same) == len(names) == len(before):
        results["patches"] = earlier["patches"]
    runs = {
        _run(run): run
        for run in [*earlier.get("earlier", ()), earlier | {"cpu": earlier.get("machine", {}).get("cpu")}]
    }
    runs.pop(_run(stamp | {"cpu": stamp["machine"]["cpu"]}), None)
    if results["rows"] and runs:
        results["earlier"] = [{key: run.get(key) for key in ("date", *_RUN)} for run in runs.values()]
    return results


_RUN = ("command", "commit", "cpu")


def _run(run: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one run from another."""
    return tuple(run.get(key) for key in _RUN)


class _Features(NamedTuple):
    """The files with features of patches: one for each picture, codec and setting, and one for the picture itself.

    Their names change with the network, the picture's checksum and what the codec makes of a picture.
    """

    folder: Path
    network: str
    pictures: dict[str, dict[str, Any]]
    configurations: dict[str, dict[str, str]]

    def path(self, picture: str, codec: str = "", setting: float = 0.0) -> Path:
        version = self.configurations.get(codec, {}).get("fingerprint", "")
        words = (self.pictures[picture]["sha256"][:16], codec.replace("/", "_"), version, float(setting), self.network)
        return self.folder / ("-".join(map(str, words)) + ".npy")

    def write(self, path: Path, rgb: NDArray[np.uint8]) -> None:
        files.make_folder(self.folder)
        with files.writing(path, force=True) as file:
            np.save(file, patch_features(rgb, self.network), allow_pickle=False)

    def read(self, names: Iterable[str], codec: str = "", setting: float = 0.0) -> NDArray[np.float32]:
        """The features of all these pictures, (n, d)."""
        arrays = [np.load(self.path(name, codec, setting), allow_pickle=False) for name in names]
        return np.concatenate([array for array in arrays if array.size] or [np.empty((0, 0), np.float32)])


def _distances(results: dict[str, Any], dataset: Dataset, features: _Features) -> dict[str, Any]:
    """The Fréchet distance of each codec at each setting that was measured on every picture."""
    for name, path in dataset.pictures.items():
        if not features.path(name).is_file():
            features.write(features.path(name), image.load(path).rgb)
    names = list(dataset.pictures)
    originals = features.read(names)
    distances: dict[str, Any] = PATCH_NETWORKS[features.network] | {"patches": len(originals), "points": []}
    if len(originals) < 2:
        return distances | {"note": "none: the pictures hold fewer than two patches of 256 pixels"}
    for codec in results["codecs"]:
        for point in averages(results, codec):
            setting = point["setting"]
            if all(features.path(name, codec, setting).is_file() for name in names):
                entry = {"codec": codec, "setting": setting, "bpp": point["bpp"]}
                entry["frechet"] = frechet_distance(originals, features.read(names, codec, setting))
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
    limit_threads(threads)
    rgb = np.full((16, 16, 3), 128, np.uint8)
    for codec in codecs:
        codec.decode(codec.encode(rgb, codec.settings()[0]))
