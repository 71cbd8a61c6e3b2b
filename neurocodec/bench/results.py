"""Results files of `bench rd`: reading, checking, writing, averages.

A JSON object: `command`, `commit`, `date`, `machine`, `versions`, `dataset` (name, whether it is the user's own folder,
pictures with size and SHA-256), `codecs` (name -> configuration), `not_installed` and `not_available` (codec or metric
-> why), `rows`, `patches` (distances between sets of patches), and what `curves.summarise` adds. A resumed file is
stamped by its last run; `earlier` names the runs that older rows are from. Older files lack the newer fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec import files
from neurocodec.errors import ConfigError

Row = dict[str, Any]
"""image, codec, setting, bytes, bpp, psnr (dB; None if the pictures are equal), ms_ssim, lpips and dists (None if
not measured), encode_s, decode_s (wall clock, and only indicative: `neurocodec bench speed` is for timing)."""

# A value is of a type, a list [of each item], an object {name: value; "name?" may be missing, "*" is any name}, or one
# of (several). What `bench rd` computes anew from the rows is not listed.
_MAYBE = (float, None)
_RUN = dict.fromkeys(("date?", "command?", "commit?", "cpu?"), (str, None))
_RESULTS = {
    "dataset": {"name": str, "pictures": [{"name": str}]},
    "codecs": {"*": {"*": str}},
    "rows": [
        {"image": str, "codec": str, "setting": float, "bpp": float}
        | dict.fromkeys(("psnr?", "ms_ssim?", "lpips?", "dists?", "encode_s?", "decode_s?"), _MAYBE)
    ],
    "earlier?": [_RUN],
    "machine?": {"cpu?": (str, None)},
    "not_installed?": {"*": str},
    "patches?": {
        **{"network": str, "names": [str], "note": str, "patches": float},
        "points": [{"codec": str, "setting": float, "bpp": float, "frechet": float}],
    },
} | _RUN
_POINT = {"bpp": float, "psnr": float, "ms_ssim?": _MAYBE}
_ANCHOR = {
    **{"codec": str, "dataset?": str, "settings?": str, "source?": str},
    "points": [_POINT | {"per_image?": [_POINT | {"file": str}]}],
}


def load(path: Path) -> dict[str, Any]:
    """A results file. Raises ConfigError if it cannot be read, lacks what is needed, or holds values of other types."""
    return _read(path, "a results file of bench rd", _RESULTS)


def load_anchor(path: Path) -> dict[str, Any]:
    """A curve that was measured earlier or published: codec, dataset, settings, source and points. Raises ConfigError
    as `load` does."""
    anchor = _read(path, "an anchor", _ANCHOR)
    if not anchor["points"]:
        raise ConfigError(f"{path} is not an anchor: it holds no points")
    return anchor


def save(results: dict[str, Any], path: Path) -> None:
    """Writes a results file whole or not at all, with one line for each entry of its long lists. Raises OutputError."""
    files.make_folder(path.parent)
    lists = {key: value for key, value in results.items() if key in ("anchors", "bd_rates", "rows")}
    parts = [json.dumps({k: v for k, v in results.items() if k not in lists}, indent=1, allow_nan=False)[2:-2]]
    for key, items in lists.items():
        lines = ",\n".join("  " + json.dumps(item, allow_nan=False) for item in items)
        parts.append(f' "{key}": [\n{lines}\n ]')
    files.write_bytes(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode(), force=True)


def write_json(path: Path, results: dict[str, Any], *, force: bool = False) -> None:
    """Writes the results of any other benchmark. Raises OutputError."""
    files.write_bytes(path, (json.dumps(results, indent=1) + "\n").encode(), force=force)


def averages(results: dict[str, Any], codec: str) -> list[dict[str, float]]:
    """A codec's `means` over the pictures of the results."""
    rows = [row for row in results["rows"] if row["codec"] == codec]
    return means(rows, {picture["name"] for picture in results["dataset"]["pictures"]})


def means(rows: Iterable[Row], pictures: Collection[str]) -> list[dict[str, float]]:
    """Means over the pictures by setting, from the smallest files: setting, bpp, psnr, encode_s, decode_s and, where
    every picture has them, ms_ssim, lpips and dists.

    Settings that were not measured on every picture are left out. psnr is inf if any picture's is.
    """
    by_setting: dict[float, dict[str, Row]] = {}
    for row in rows:
        if row["image"] in pictures:
            by_setting.setdefault(float(row["setting"]), {})[row["image"]] = row
    points = []
    for setting, row_of in by_setting.items():
        if len(row_of) == len(pictures):
            point = {"setting": setting, "psnr": math.inf}
            for key in ("bpp", "psnr", "ms_ssim", "lpips", "dists", "encode_s", "decode_s"):
                if all(row.get(key) is not None for row in row_of.values()):
                    point[key] = float(np.mean([row[key] for row in row_of.values()]))
            points.append(point)
    return sorted(points, key=lambda point: (point["bpp"], point["psnr"]))


def _read(path: Path, kind: str, spec: Any) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as {kind}: {error}") from error
    if place := _misfit(values, spec):
        raise ConfigError(f"{path} is not {kind}: {place.lstrip('.')} is missing or has another type than expected")
    return values


def _misfit(value: Any, spec: Any, place: str = "") -> str:
    """Where the value first differs from the specification, such as .rows[3].bpp; empty if it fits."""
    if isinstance(spec, tuple):
        misfits = [_misfit(value, one, place) for one in spec]
        return misfits[0] if all(misfits) else ""
    if isinstance(spec, list) and isinstance(value, list):
        return next(filter(None, (_misfit(v, spec[0], f"{place}[{i}]") for i, v in enumerate(value))), "")
    if isinstance(spec, dict) and isinstance(value, dict):
        if missing := [name for name in spec if name[-1] not in "?*" and name not in value]:
            return f"{place}.{missing[0]}"
        specs = {name.rstrip("?"): inner for name, inner in spec.items()}
        parts = (
            _misfit(part, specs.get(name, specs.get("*", object)), f"{place}.{name}") for name, part in value.items()
        )
        return next(filter(None, parts), "")
    if spec is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    else:
        fits = value is spec or (isinstance(spec, type) and isinstance(value, spec))
    return "" if fits else place or "its outermost value"
