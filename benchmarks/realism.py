"""The realism slider beside other codecs at the same bits and at twice as many: PSNR, LPIPS, Fréchet distance.

    neurocodec bench rd --dataset clic2025-validation --codecs nic,nic@0.5,nic@1,jpeg,heic --fid -o DIR
    python benchmarks/realism.py DIR/results.json [-o realism.json]

reads a results file and measures nothing. Of this codec it takes, for each target, the measured setting whose average
is closest to it; of the others, values at exactly that many bits and twice as many, interpolated between measured
settings (linearly over ln bpp), never beyond them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec.bench.results import averages, load, write_json
from neurocodec.bench.rivals import is_ours
from neurocodec.errors import NeurocodecError

TARGETS = (0.15, 0.3, 0.45)
MEASURES = ("psnr", "lpips", "frechet")


def points(results: dict[str, Any], codec: str) -> list[dict[str, float]]:
    """Averages by setting, with the Fréchet distance as "frechet" where it was measured."""
    distances = {
        float(point["setting"]): point["frechet"]
        for point in results.get("patches", {}).get("points", ())
        if point["codec"] == codec
    }
    return [
        point | ({"frechet": distances[point["setting"]]} if point["setting"] in distances else {})
        for point in averages(results, codec)
    ]


def at(curve: Sequence[dict[str, float]], bpp: float) -> dict[str, float | None]:
    """Each measure at `bpp`; None where the curve does not reach or lacks it."""
    values: dict[str, float | None] = {}
    for key in MEASURES:
        known = [(math.log(point["bpp"]), point[key]) for point in curve if key in point]
        x = math.log(bpp)
        inside = bool(known) and known[0][0] <= x <= known[-1][0]
        values[key] = float(np.interp(x, *zip(*known, strict=True))) if inside else None
    return values


def rows(results: dict[str, Any], targets: Sequence[float]) -> list[dict[str, Any]]:
    """For each target: this codec at every realism, then the others at the same bits and at twice as many."""
    names = list(results["codecs"])
    ours = sorted((name for name in names if is_ours(name)), key=realism_of)
    if not ours:
        raise SystemExit(f"found the codecs {', '.join(names)}, expected nic@R among them")
    settings = set.intersection(*({point["setting"] for point in points(results, name)} for name in ours))
    curve = [point for point in points(results, ours[0]) if point["setting"] in settings]
    if not curve:
        raise SystemExit(f"{', '.join(ours)} share no setting that was measured on every picture")
    table: list[dict[str, Any]] = []
    for target in targets:
        setting = min(curve, key=lambda point: abs(math.log(point["bpp"] / target)))["setting"]
        for name in ours:
            point = next(point for point in points(results, name) if point["setting"] == setting)
            values = {key: point.get(key) for key in MEASURES}
            table.append({"target_bpp": target, "codec": name, "setting": setting, "bpp": point["bpp"]} | values)
        bpp = table[-1]["bpp"]
        for name in (name for name in names if not is_ours(name)):
            for times in (1, 2):
                row = {"target_bpp": target, "codec": name, "setting": None, "bpp": times * bpp}
                table.append(row | at(points(results, name), times * bpp))
    return table


def realism_of(name: str) -> float:
    """The realism in a codec's name: of nic@0.5, 0.5."""
    return float(name.partition("@")[2] or 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; with -o writes the rows as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS, metavar="BPP")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(arguments)
    if not all(0 < target < math.inf for target in args.targets):
        parser.error("the targets are bits per pixel, above 0")
    results = load(args.results)
    table = rows(results, args.targets)
    distance = results.get("patches", {}).get("names", ["Fréchet distance"])[0]
    print(f"| target bpp | codec | bpp | PSNR (dB) | LPIPS | {distance} |\n|---:|---|---:|---:|---:|---:|")
    for row in table:
        values = [row["psnr"], row["lpips"], row["frechet"]]
        cells = ["" if v is None else f"{v:.{d}f}" for v, d in zip(values, (2, 4, 3), strict=True)]
        print(f"| {row['target_bpp']:g} | {row['codec']} | {row['bpp']:.3f} | {' | '.join(cells)} |")
    if args.output:
        keep = ("date", "command", "commit", "machine", "versions", "codecs")
        about = {key: results[key] for key in keep if key in results}
        network = (
            {key: results["patches"][key] for key in ("network", "note", "patches")} if results.get("patches") else {}
        )
        written = {"kind": "realism", **about, "dataset": results["dataset"]["name"], "frechet": network, "rows": table}
        write_json(args.output, written, force=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NeurocodecError as error:
        sys.exit(str(error))
