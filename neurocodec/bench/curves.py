"""The curves of a results file: means of its codecs, anchors, and Bjøntegaard deltas with intervals.

Anchors are curves that were measured earlier or published, always marked as such.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurocodec.bench import results as results_file
from neurocodec.bench.bd_rate import Points, bd_rate, bootstrap
from neurocodec.bench.datasets import SOURCES
from neurocodec.bench.quality import METRICS
from neurocodec.bench.results import Row, means
from neurocodec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BPP_RANGE = (0.15, 1.0)
"""Where pictures are usually kept; BD-rates are given over it and over all that two curves share."""
RESAMPLES = 500
_REFERENCES = (
    ("jpeg",),
    ("bpg", r"bpg_444.* \(anchor\)", "bpg.*", r"heic \(HEVC intra\)"),
    (r"vtm \(.*",),
)
"""Labels of the curves that others are compared with; of each group the first that is there."""


@dataclass(frozen=True)
class Curve:
    """values: by metric that all points have, averaged but not scaled; PSNR is always there. source: this run, an
    earlier measurement, or a publication. rows: (pictures, n, 2), bpp and PSNR of each picture of the results in their
    order, where known."""

    name: str
    values: dict[str, Points]
    source: Literal["run", "measured", "published"] = "run"
    settings: str = ""
    origin: str = ""
    rows: NDArray[np.float64] | None = field(default=None, compare=False)

    @property
    def points(self) -> Any:
        """(bpp, PSNR in dB)."""
        return self.values["psnr"]

    @property
    def label(self) -> str:
        """The name in tables and figures. HEIC's says what it is, as it stands in for BPG."""
        if self.source == "run":
            return "heic (HEVC intra)" if self.name == "heic" else self.name
        return f"{self.name} (anchor)" if self.source == "measured" else f"{self.name} (published)"


def curve_of(results: dict[str, Any], codec: str, notes: list[str]) -> Curve:
    """A codec's curve. Adds a note on each point left out."""
    rows = [row for row in results["rows"] if row["codec"] == codec]
    pictures = [picture["name"] for picture in results["dataset"]["pictures"]]
    points, of_pictures = _points(rows, pictures)
    measured = {point["setting"] for point in means(rows, pictures)}
    if missing := sorted({float(row["setting"]) for row in rows} - measured):
        settings = ", ".join(f"{setting:g}" for setting in missing)
        notes.append(f"{codec}: left out, as not measured on every picture: setting {settings}.")
    if len(points) < len(measured):
        notes.append(f"{codec}: settings at which a picture comes back without any error are not in the curve.")
    return Curve(codec, _values(points), settings=results["codecs"][codec].get("settings", ""), rows=of_pictures)


def curves_of(results: dict[str, Any], notes: list[str]) -> list[Curve]:
    """The curves of a results file: its codecs', then the anchors that are stored in it."""
    curves = [curve_of(results, codec, notes) for codec in results["codecs"]]
    for anchor in results.get("anchors", ()):
        curves.append(Curve(*(anchor[key] for key in ("name", "values", "source", "settings", "origin"))))
    return [curve for curve in curves if curve.points]


def load_anchors(paths: Iterable[Path], dataset: str, pictures: Sequence[str], notes: list[str]) -> list[Curve]:
    """The curves of anchor files, or of every JSON file in folders, over these pictures of a data set.

    Adds a note on each that does not cover them. Raises ConfigError if a file cannot be read or a folder holds none.
    """
    curves = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path} holds no JSON files with anchors: name another folder")
        curves += [_load_anchor(file, dataset, pictures, notes) for file in inside]
    return [curve for curve in curves if curve is not None]


def check_against(known: Iterable[str], against: Sequence[str]) -> None:
    """Raises ConfigError for a name in `against` that no curve has."""
    for name in against:
        if name not in (names := list(known)):
            raise ConfigError(f"found {name} to compare against, expected one of {', '.join(names)}")


def summarise(
    results: dict[str, Any],
    anchors: Sequence[Curve] = (),
    against: Sequence[str] = (),
    notes: Sequence[str] = (),
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The results with `anchors`, their points; `bd_rates`, one object for each reference and curve; `notes`, the given
    ones and what was left out and why.

    References are JPEG, BPG or its nearest stand-in, VTM, and the curves named in `against`. Raises ConfigError if a
    name is not that of a curve, MissingPackageError without SciPy.
    """
    notes = list(notes)
    runs = [curve_of(results, codec, notes) for codec in results["codecs"]]
    curves = [curve for curve in [*runs, *anchors] if curve.points]
    check_against([curve.name for curve in curves], against)
    rates = [
        _compare(reference, curve, resamples, notes)
        for reference in _references(curves, against)
        for curve in curves
        if curve is not reference
    ]
    stored = [{key: value for key, value in asdict(anchor).items() if key != "rows"} for anchor in anchors]
    return results | {"anchors": stored, "bpp_range": list(BPP_RANGE), "bd_rates": rates, "notes": notes}


def _points(rows: Sequence[Row], pictures: Sequence[str]) -> tuple[list[dict[str, float]], NDArray[np.float64]]:
    """The means of finite PSNR, and bpp and PSNR of each picture at their settings, (pictures, n, 2)."""
    points = [point for point in means(rows, pictures) if math.isfinite(point["psnr"])]
    row_at = {(row["image"], float(row["setting"])): row for row in rows}
    per_picture = [[row_at[name, point["setting"]] for point in points] for name in pictures]
    return points, np.array([[(row["bpp"], row["psnr"]) for row in line] for line in per_picture], np.float64)


def _values(points: Sequence[dict[str, float]]) -> dict[str, Points]:
    keys = [key for key in METRICS if key == "psnr" or (points and all(point.get(key) is not None for point in points))]
    return {key: [(point["bpp"], point[key]) for point in points] for key in keys}


def _load_anchor(path: Path, dataset: str, pictures: Sequence[str], notes: list[str]) -> Curve | None:
    anchor = results_file.load_anchor(path)
    name, source, of_pictures = anchor["codec"], anchor.get("source", ""), None
    points = sorted(anchor["points"], key=lambda point: float(point["bpp"]))
    rows = [
        row | {"image": row["file"], "setting": setting}
        for setting, point in enumerate(points)
        for row in point.get("per_image", ())
    ]
    covered = {row["image"] for row in rows}
    problem = ""
    if anchor.get("dataset") != dataset:
        problem = f"it was measured on {anchor.get('dataset')}, not on {dataset}"
    elif rows:
        points, of_pictures = _points(rows, pictures)
        if not points:
            problem = f"it covers {len(covered)} pictures, not all of this run's"
        elif len(covered) > len(pictures):
            count = f"{len(pictures)} picture{'s' * (len(pictures) != 1)}"
            notes.append(f"Anchor {name} is averaged over the {count} of this run, of {len(covered)}.")
    elif dataset not in SOURCES or len(pictures) != len(SOURCES[dataset].pictures):
        problem = f"only its average over the whole of {dataset} is known"
    if problem:
        notes.append(f"Anchor {name} is left out: {problem}.")
        return None
    kind: Literal["measured", "published"] = "published" if "source" in anchor else "measured"
    return Curve(name, _values(points), kind, anchor.get("settings", ""), source, of_pictures)


def _references(curves: Sequence[Curve], against: Sequence[str]) -> list[Curve]:
    chosen = [
        next((curve for label in labels for curve in curves if re.fullmatch(label, curve.label)), None)
        for labels in _REFERENCES
    ]
    chosen += [curve for name in against for curve in curves if curve.name == name]
    return list({id(curve): curve for curve in chosen if curve is not None}.values())


def _compare(reference: Curve, curve: Curve, resamples: int, notes: list[str]) -> dict[str, Any]:
    """An object of bd_rates. What cannot be compared is None; a note says why."""
    rate: dict[str, Any] = {"reference": reference.label, "curve": curve.label}
    for part, within in (("whole", None), ("part", BPP_RANGE)):
        try:
            delta = bd_rate(reference.points, curve.points, bpp_range=within)
        except ValueError as error:
            rate[part] = None
            if part == "whole" or rate["whole"] is not None:
                notes.append(f"BD-rate of {curve.label} against {reference.label}: {error}.")
            continue
        interval = None
        if reference.rows is not None and curve.rows is not None:
            interval = bootstrap(reference.rows, curve.rows, bpp_range=within, resamples=resamples)
        rate[part] = asdict(delta) | {"interval": interval}
    if reference.rows is not None and curve.rows is not None:
        rate["pictures"] = [_value(*pair) for pair in zip(reference.rows, curve.rows, strict=True)]
    for key in ("ms_ssim", "lpips", "dists"):
        a, b = (METRICS[key].rising(c.values.get(key, ())) for c in (reference, curve))
        rate[key] = _value(a, b)
    return rate


def _value(reference: Any, test: Any) -> float | None:
    """The BD-rate over the whole overlap; None for curves that cannot be compared."""
    try:
        return bd_rate(reference, test).value
    except ValueError:
        return None
