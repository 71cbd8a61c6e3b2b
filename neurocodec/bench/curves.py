"""The curves of a results file: averages of its codecs, anchors, and Bjøntegaard deltas with intervals.

Anchors are curves that were measured earlier or published: JSON files with codec, dataset, settings and points (bpp,
psnr and, where known, ms_ssim and per_image rows). They are always marked as such.
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
from neurocodec.bench.quality import METRICS, Metric
from neurocodec.bench.results import averages
from neurocodec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BPP_RANGE = (0.15, 1.0)
"""Where pictures are usually kept; BD-rates are given over it and over all that two curves share."""
RESAMPLES = 500

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curve:
    """points: (bpp, PSNR in dB), from the smallest. values: the same for each metric that all points have, averaged but
    not scaled. source: this run, an earlier measurement, or a publication. rows: (pictures, n, 2), bpp and PSNR of each
    picture of the results in their order, where known."""

    name: str
    points: Points
    source: Literal["run", "measured", "published"] = "run"
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
    """A codec's name in tables and figures. HEIC's says what it is, as it stands in for BPG."""
    return "heic (HEVC intra)" if codec == "heic" else codec


def curve_of(results: dict[str, Any], codec: str, notes: list[str]) -> Curve:
    """A codec's curve. Adds a note on each point left out."""
    points = averages(results, codec)
    finite = [point for point in points if math.isfinite(point["psnr"])]
    rows = {(row["image"], float(row["setting"])): row for row in results["rows"] if row["codec"] == codec}
    if missing := sorted({setting for _, setting in rows} - {point["setting"] for point in points}):
        settings = ", ".join(f"{setting:g}" for setting in missing)
        notes.append(f"{codec}: left out, as not measured on every picture: setting {settings}.")
    if len(finite) < len(points):
        notes.append(f"{codec}: settings at which a picture comes back without any error are not in the curve.")
    pictures = [picture["name"] for picture in results["dataset"]["pictures"]]
    per_image = [[rows[name, point["setting"]] for point in finite] for name in pictures]
    return Curve(
        codec,
        tuple((point["bpp"], point["psnr"]) for point in finite),
        settings=str(results["codecs"].get(codec, {}).get("settings", "")),
        values=_values(finite),
        rows=_bpp_and_psnr(per_image) if finite else None,
    )


def anchor_files(paths: Iterable[Path]) -> list[Path]:
    """Each file, and every JSON file in each folder. Raises ConfigError if there are none."""
    anchors: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such anchor file or folder: check the name")
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path} holds no JSON files with anchors: name another folder")
        anchors += inside
    return anchors


def load_anchor(path: Path, results: dict[str, Any], notes: list[str]) -> Curve | None:
    """An anchor's curve over the pictures of `results`; None, and a note, if it does not cover all of them."""
    try:
        anchor = json.loads(path.read_text(encoding="utf-8"))
        name, points = str(anchor["codec"]), sorted(anchor["points"], key=lambda point: float(point["bpp"]))
        per_image = [{row["file"]: row for row in point.get("per_image", ())} for point in points]
        for point in (*points, *(row for rows in per_image for row in rows.values())):
            if not math.isfinite(point["bpp"] + point["psnr"]):
                raise ValueError("found a bpp or psnr that is no finite number")
        if not points:
            raise ValueError("found no points")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as an anchor, a JSON file with codec and points: {error}") from error

    dataset = results["dataset"]["name"]
    pictures = [picture["name"] for picture in results["dataset"]["pictures"]]
    whole = len(SOURCES[dataset].pixels) if dataset in SOURCES else None
    of_pictures = None
    if anchor.get("dataset") != dataset:
        notes.append(f"Anchor {name} is left out: it was measured on {anchor.get('dataset')}, not on {dataset}.")
        return None
    if all(set(pictures) <= rows.keys() for rows in per_image):
        if any(rows.keys() != set(pictures) for rows in per_image):
            count = f"{len(pictures)} picture{'s' * (len(pictures) != 1)}"
            notes.append(f"Anchor {name} is averaged over the {count} of this run, of {len(per_image[0])}.")
        points = [_mean([rows[picture] for picture in pictures]) for rows in per_image]
        of_pictures = _bpp_and_psnr([[rows[picture] for rows in per_image] for picture in pictures])
    elif any(per_image):
        notes.append(f"Anchor {name} is left out: it covers {len(per_image[0])} pictures, not all of this run's.")
        return None
    elif len(pictures) != whole:
        notes.append(f"Anchor {name} is left out: only its average over the whole of {dataset} is known.")
        return None
    values, source = _values(points), str(anchor.get("source", ""))
    kind: Literal["measured", "published"] = "published" if "source" in anchor else "measured"
    return Curve(name, values["psnr"], kind, str(anchor.get("settings", "")), source, values, of_pictures)


def check_names(dataset: Dataset, codecs: Iterable[str], anchors: Sequence[Path], against: Sequence[str]) -> None:
    """Raises before the work what `summarise` would raise after it: ConfigError for an anchor that cannot be read, and
    for a name in `against` that is neither one of the codecs nor an anchor of these pictures."""
    about = {"dataset": {"name": dataset.name, "pictures": [{"name": name} for name in dataset.pictures]}}
    curves = [load_anchor(path, about, []) for path in anchor_files(anchors)]
    _check_against([*codecs, *(curve.name for curve in curves if curve is not None)], against)


def curves_of(results: dict[str, Any], notes: list[str]) -> list[Curve]:
    """The curves of a results file: its codecs', then the anchors that are stored in it."""
    curves = [curve_of(results, codec, notes) for codec in results["codecs"]]
    for anchor in results.get("anchors", ()):
        values = {key: tuple((bpp, value) for bpp, value in points) for key, points in anchor["values"].items()}
        origin = anchor["source"], anchor["settings"], anchor["origin"]
        curves.append(Curve(anchor["name"], values["psnr"], *origin, values))
    return [curve for curve in curves if curve.points]


def summarise(
    results: dict[str, Any],
    anchors: Sequence[Path] = (),
    against: Sequence[str] = (),
    *,
    bpp_range: tuple[float, float] = BPP_RANGE,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The results with `anchors`, their points; `bd_rates`, one object for each reference and curve; `notes`, what was
    left out and why.

    References are JPEG; BPG, or its nearest stand-in: measured, an anchor, HEIC; VTM's anchor; and the curves named in
    `against`. Raises ConfigError if an anchor cannot be read or a name is no curve, MissingPackageError without SciPy.
    """
    notes: list[str] = []
    loaded = [curve_of(results, codec, notes) for codec in results["codecs"]]
    loaded += [curve for path in anchor_files(anchors) if (curve := load_anchor(path, results, notes))]
    curves = [curve for curve in loaded if curve.points]
    rates = [
        _compare(reference, curve, bpp_range, resamples, notes)
        for reference in _references(curves, against)
        for curve in curves
        if curve is not reference
    ]
    stored = [
        {key: getattr(curve, key) for key in ("name", "source", "settings", "origin")}
        | {"values": {key: [list(point) for point in points] for key, points in curve.values.items()}}
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
    rate: dict[str, Any] = {"reference": reference.label, "curve": curve.label, "method": "akima"}
    rows = None if reference.rows is None or curve.rows is None else (reference.rows, curve.rows)
    for part, within in (("whole", None), ("part", bpp_range)):
        try:
            delta = bd_rate(reference.points, curve.points, bpp_range=within)
        except ValueError as error:
            rate[part] = None
            if part == "whole" or rate["whole"] is not None:
                notes.append(f"BD-rate of {curve.label} against {reference.label}: {error}.")
            continue
        interval = rows and bootstrap(bd_rate, *rows, bpp_range=within, resamples=resamples)
        rate[part] = {
            "value": delta.value,
            "interval": [interval.low, interval.high] if interval else None,
            "psnr_range": list(delta.psnr_range),
            "bpp_range": list(delta.bpp_range),
        }
    pair = reference.points, curve.points
    rate["bd_psnr"], rate["cubic"] = _value(bd_psnr, *pair), _value(bd_rate, *pair, method="cubic")
    for key in ("ms_ssim", "lpips", "dists"):
        a, b = (_rising(c, METRICS[key]) for c in (reference, curve))
        rate[key] = _value(bd_rate, a, b) if a and b else None
    return rate


def _rising(curve: Curve, metric: Metric) -> list[tuple[float, float]]:
    points = curve.values.get(metric.key, ())
    return [(bpp, metric.rising(value)) for bpp, value in points if value > 0 and (metric.falls or value < 1)]


def _value(delta: Callable[..., BdResult], *curves: Any, **options: Any) -> float | None:
    """None where curves cannot be compared."""
    try:
        return delta(*curves, **options).value
    except ValueError:
        return None


def _values(points: Sequence[dict[str, Any]]) -> dict[str, Points]:
    """The curve of each metric that all points have."""
    keys = [key for key in METRICS if points and all(point.get(key) is not None for point in points)]
    return {key: tuple((float(point["bpp"]), float(point[key])) for point in points) for key in keys}


def _bpp_and_psnr(rows: Sequence[Sequence[dict[str, Any]]]) -> NDArray[np.float64]:
    return np.array([[(row["bpp"], row["psnr"]) for row in line] for line in rows], np.float64)


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The averages of those of bpp, psnr and ms_ssim that all rows have."""
    keys = [key for key in ("bpp", "psnr", "ms_ssim") if all(row.get(key) is not None for row in rows)]
    return {key: float(np.mean([row[key] for row in rows])) for key in keys}
