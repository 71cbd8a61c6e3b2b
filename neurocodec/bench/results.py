"""Results files of `bench rd`: reading, writing, averages.

A JSON object: `command`, `commit`, `machine`, `versions`, `averaging`, `dataset` (name, pictures with size and
SHA-256), `codecs` (name -> configuration), `not_installed` (codec -> why), `not_available` (metric -> why), `rows`,
`patches` (distances between sets of patches, if measured), and what `curves.summarise` adds: `anchors`, `bpp_range`,
`bd_rates` and `notes`. A resumed file has the commit, machine and versions of its last run; `earlier` names the other
runs that rows were kept from. Older files lack the newer fields.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec import files
from neurocodec.errors import ConfigError

AVERAGING = "per setting: mean of per-image bpp, mean of per-image PSNR, mean of per-image MS-SSIM, LPIPS and DISTS"
Row = dict[str, Any]
"""image, codec, setting, bytes, bpp, psnr (dB; None if the pictures are equal), ms_ssim, lpips and dists (None if
not measured), encode_s, decode_s (wall clock, and only indicative: `neurocodec bench speed` is for timing)."""


def load(path: Path) -> dict[str, Any]:
    """A results file. Raises ConfigError if it cannot be read or lacks what its readers need."""
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a results file: {error}") from error
    try:
        results["codecs"].keys()
        [results["dataset"]["name"], *(picture["name"] for picture in results["dataset"]["pictures"])]
        [(row["image"], row["codec"], float(row["setting"]), float(row["bpp"])) for row in results["rows"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is no results file: it lacks dataset, codecs or rows, or parts of them") from error
    return results


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
    """A codec's averages by setting, from the smallest files: setting, bpp, psnr, encode_s, decode_s and, where every
    picture has them, ms_ssim, lpips and dists.

    Settings that were not measured on every picture are left out. psnr is inf if any picture's is.
    """
    names = {picture["name"] for picture in results["dataset"]["pictures"]}
    by_setting: dict[float, list[Row]] = {}
    for row in results["rows"]:
        if row["codec"] == codec and row["image"] in names:
            by_setting.setdefault(float(row["setting"]), []).append(row)
    points = []
    for setting, rows in by_setting.items():
        if {row["image"] for row in rows} == names:
            point = {"setting": setting, "psnr": math.inf}
            for key in ("bpp", "psnr", "ms_ssim", "lpips", "dists", "encode_s", "decode_s"):
                if all(row.get(key) is not None for row in rows):
                    point[key] = float(np.mean([row[key] for row in rows]))
            points.append(point)
    return sorted(points, key=lambda point: (point["bpp"], point["psnr"]))
