"""Curves and what they say about each other: averages of a results file, anchors, Bjøntegaard deltas with intervals.

Anchors are curves that someone else measured, or that were measured before: JSON files with codec, dataset, settings
and points (bpp, psnr and, where known, ms_ssim and per_image rows). They are always marked as such.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurocodec.bench.bd_rate import BdResult, bd_psnr, bd_rate, bootstrap
from neurocodec.bench.datasets import SOURCES, Dataset
from neurocodec.bench.rate_distortion import averages
from neurocodec.errors import ConfigError
from neurocodec.metrics import ms_ssim_db

if TYPE_CHECKING:
    from numpy.typing import NDArray

BPP_RANGE = (0.15, 1.0)
"""Where pictures are usually kept; BD-rates are given over it and over all that two curves share."""
RESAMPLES = 500

Source = Literal["run", "measured", "published"]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Metric:
    """A measure that curves are drawn of. shown: its value in tables of curves; rising: on a scale that rises with
    quality, for BD-rates; falls: whether less is better, which is drawn on a logarithmic scale."""

    key: str
    title: str
    axis: str
    shown: Callable[[float], float]
    rising: Callable[[float], float]
    falls: bool = False


METRICS = {
    metric.key: metric
    for metric in (
        Metric("psnr", "PSNR", "PSNR, 8-bit RGB (dB)", lambda v: v, lambda v: v),
        Metric("ms_ssim", "MS-SSIM", "MS-SSIM (dB)", ms_ssim_db, ms_ssim_db),
        Metric("lpips", "LPIPS", "LPIPS, AlexNet (less is better)", lambda v: v, lambda v: -10 * math.log10(v), True),
        Metric("dists", "DISTS", "DISTS (less is better)", lambda v: v, lambda v: -10 * math.log10(v), True),
    )
}


@dataclass(frozen=True)
class Curve:
    """points: (bpp, PSNR in dB), from the smallest. values: of each metric, the points as they are averaged, where all
    have it. source: measured in this run, measured before, or published. rows: (pictures, n, 2), bpp and PSNR of each
    picture of the results in their order, where known."""

    name: str
    points: Points
    source: Source = "run"
    settings: str = ""
    origin: str = ""
    values: dict[str, Points] = field(default_factory=dict)
    rows: NDArray[np.float64] | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        if self.source == "run":
            return run_label(self.name)
        return self.name + {"measured": " (anchor)", "published": " (published)"}[self.source]


def run_label(codec: str) -> str:
    """What tables and figures call a codec of the run: HEIC by what it is, as it stands in for BPG."""
    return "heic (HEVC intra)" if codec == "heic" else codec


def measured(results: dict[str, Any], codec: str, notes: list[str]) -> Curve:
    """A codec's curve; what had to be left out goes to the notes."""
    points = averages(results, codec)
    finite = [point for point in points if math.isfinite(point["psnr"])]
    rows = [row for row in results["rows"] if row["codec"] == codec]
    asked = {float(row["setting"]) for row in rows}
    if missing := sorted(asked - {point["setting"] for point in points}):
        settings = ", ".join(f"{setting:g}" for setting in missing)
        notes.append(f"{codec}: left out, as not measured on every picture: setting {settings}.")
    if len(finite) < len(points):
        notes.append(f"{codec}: settings at which a picture comes back without any error are not in the curve.")
    found = {(row["image"], float(row["setting"])): (row["bpp"], row["psnr"]) for row in rows}
    pictures = [picture["name"] for picture in results["dataset"]["pictures"]]
    per_image = [[found[name, point["setting"]] for point in finite] for name in pictures]
    return Curve(
        codec,
        tuple((point["bpp"], point["psnr"]) for point in finite),
        settings=str(results["codecs"].get(codec, {}).get("settings", "")),
        values={
            key: tuple((point["bpp"], point[key]) for point in finite)
            for key in METRICS
            if finite and all(key in point for point in finite)
        },
        rows=np.array(per_image, np.float64) if finite else None,
    )


def anchor_files(paths: Iterable[Path]) -> list[Path]:
    """Each file, and of each folder every JSON file in it. Raises ConfigError for what is not there."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such anchor file or folder: check the name")
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path} holds no JSON files with anchors: name another folder")
        found += inside
    return found


def load_anchor(path: Path, results: dict[str, Any], notes: list[str]) -> Curve | None:
    """An anchor's curve over just the pictures of `results`; None, and a note, if it does not have all of them."""
    try:
        anchor = json.loads(path.read_text(encoding="utf-8"))
        name, points = str(anchor["codec"]), sorted(anchor["points"], key=lambda point: float(point["bpp"]))
        per_image = [{row["file"]: row for row in point.get("per_image", ())} for point in points]
        for found in (*points, *(row for rows in per_image for row in rows.values())):
            if not math.isfinite(found["bpp"] + found["psnr"]):
                raise ValueError("found a bpp or psnr that is no finite number")
        if not points:
            raise ValueError("found no points")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as an anchor, a JSON file with codec and points: {error}") from error

    dataset = results["dataset"]["name"]
    wanted = [picture["name"] for picture in results["dataset"]["pictures"]]
    whole = len(SOURCES[dataset].pixels) if dataset in SOURCES else None
    if anchor.get("dataset") != dataset:
        notes.append(f"Anchor {name} is left out: it was measured on {anchor.get('dataset')}, not on {dataset}.")
        return None
    if per_image and all(set(wanted) <= rows.keys() for rows in per_image):
        if any(rows.keys() != set(wanted) for rows in per_image):
            count = f"{len(wanted)} picture{'s' * (len(wanted) != 1)}"
            notes.append(f"Anchor {name} is averaged over the {count} of this run, of {len(per_image[0])}.")
        points = [
            {key: _mean(rows[file].get(key) for file in wanted) for key in ("bpp", "psnr", "ms_ssim")}
            for rows in per_image
        ]
        of_pictures = [[(rows[file]["bpp"], rows[file]["psnr"]) for rows in per_image] for file in wanted]
    elif any(per_image):
        notes.append(f"Anchor {name} is left out: it covers {len(per_image[0])} pictures, not all of this run's.")
        return None
    elif len(wanted) != whole:
        notes.append(f"Anchor {name} is left out: only its average over the whole of {dataset} is known.")
        return None
    else:
        of_pictures = None
    values = {
        key: tuple((float(point["bpp"]), float(point[key])) for point in points)
        for key in METRICS
        if all(point.get(key) is not None for point in points)
    }
    return Curve(
        name,
        values["psnr"],
        "published" if "source" in anchor else "measured",
        str(anchor.get("settings", "")),
        str(anchor.get("source", "")),
        values,
        None if of_pictures is None else np.array(of_pictures, np.float64),
    )


def check_names(dataset: Dataset, codecs: Iterable[str], anchors: Sequence[Path], against: Sequence[str]) -> None:
    """What `summarise` would raise after the work, before it: ConfigError for an anchor that cannot be read, and for a
    name of `against` that is neither one of the codecs nor an anchor of these pictures."""
    told = {"dataset": {"name": dataset.name, "pictures": [{"name": name} for name in dataset.pictures]}}
    found = [load_anchor(path, told, []) for path in anchor_files(anchors)]
    _check_against([*codecs, *(curve.name for curve in found if curve is not None)], against)


def curves_of(results: dict[str, Any], notes: list[str]) -> list[Curve]:
    """The curves of a results file: its codecs', then the anchors that were stored with it."""
    found = [measured(results, codec, notes) for codec in results["codecs"]]
    for anchor in results.get("anchors", ()):
        values = {key: tuple((bpp, value) for bpp, value in points) for key, points in anchor["values"].items()}
        found.append(
            Curve(anchor["name"], values["psnr"], anchor["source"], anchor["settings"], anchor["origin"], values)
        )
    return [curve for curve in found if curve.points]


def summarise(
    results: dict[str, Any],
    anchors: Sequence[Path] = (),
    against: Sequence[str] = (),
    *,
    bpp_range: tuple[float, float] = BPP_RANGE,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The results with what readers want to know: `anchors`, their points; `bd_rates`, one object for each reference
    and curve; `notes`, what was left out and why.

    References are JPEG; BPG, or what there is of it: measured, an anchor, HEIC; VTM's anchor; and those named by
    `against`. Raises ConfigError if an anchor cannot be read or a name is no curve, MissingPackageError without SciPy.
    """
    notes: list[str] = []
    curves = [measured(results, codec, notes) for codec in results["codecs"]]
    found = [load_anchor(path, results, notes) for path in anchor_files(anchors)]
    curves = [curve for curve in [*curves, *found] if curve is not None and curve.points]
    rates: list[dict[str, Any]] = []
    for reference in _references(curves, against):
        for curve in curves:
            if curve is not reference:
                rates.append(_compare(reference, curve, bpp_range, resamples, notes))
    stored = [
        {
            "name": curve.name,
            "source": curve.source,
            "settings": curve.settings,
            "origin": curve.origin,
            "values": {key: [list(point) for point in points] for key, points in curve.values.items()},
        }
        for curve in curves
        if curve.source != "run"
    ]
    return results | {"anchors": stored, "bpp_range": list(bpp_range), "bd_rates": rates, "notes": notes}


def _references(curves: Sequence[Curve], against: Sequence[str]) -> list[Curve]:
    def first(*tests: Callable[[Curve], bool]) -> list[Curve]:
        return next(([curve] for test in tests for curve in curves if test(curve)), [])

    _check_against([curve.name for curve in curves], against)
    chosen = [
        *first(lambda c: c.name == "jpeg" and c.source == "run"),
        *first(
            lambda c: c.name == "bpg" and c.source == "run",
            lambda c: c.name.startswith("bpg_444") and c.source == "measured",
            lambda c: c.name.startswith("bpg"),
            lambda c: c.name == "heic" and c.source == "run",
        ),
        *first(lambda c: c.name == "vtm"),
        *(curve for name in against for curve in curves if curve.name == name),
    ]
    return list({id(curve): curve for curve in chosen}.values())


def _check_against(known: Sequence[str], against: Sequence[str]) -> None:
    for name in against:
        if name not in known:
            raise ConfigError(f"found {name} to compare against, expected one of {', '.join(known)}")


def _compare(
    reference: Curve, curve: Curve, bpp_range: tuple[float, float], resamples: int, notes: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {"reference": reference.label, "curve": curve.label, "method": "akima"}
    rows = None if reference.rows is None or curve.rows is None else (reference.rows, curve.rows)
    for part, within in (("whole", None), ("part", bpp_range)):
        try:
            delta = bd_rate(reference.points, curve.points, bpp_range=within)
        except ValueError as error:
            found[part] = None
            if part == "whole" or found["whole"] is not None:
                notes.append(f"BD-rate of {curve.label} against {reference.label}: {error}.")
            continue
        interval = rows and bootstrap(bd_rate, *rows, bpp_range=within, resamples=resamples)
        found[part] = {
            "value": delta.value,
            "interval": [interval.low, interval.high] if interval else None,
            "psnr_range": list(delta.psnr_range),
            "bpp_range": list(delta.bpp_range),
        }
    pair = reference.points, curve.points
    found["bd_psnr"] = _value(bd_psnr, *pair)
    found["cubic"] = _value(bd_rate, *pair, method="cubic")
    for key in ("ms_ssim", "lpips", "dists"):
        a, b = (_rising(c, METRICS[key]) for c in (reference, curve))
        found[key] = _value(bd_rate, a, b) if a and b else None
    return found


def _rising(curve: Curve, metric: Metric) -> list[tuple[float, float]]:
    points = curve.values.get(metric.key, ())
    return [(bpp, metric.rising(value)) for bpp, value in points if value > 0 and (metric.falls or value < 1)]


def _value(delta: Callable[..., BdResult], *curves: Any, **options: Any) -> float | None:
    """None where curves cannot be compared."""
    try:
        return delta(*curves, **options).value
    except ValueError:
        return None


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if any(value is None for value in found) else float(np.mean(np.array(found, np.float64)))
