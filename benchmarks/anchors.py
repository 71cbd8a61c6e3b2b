"""Compares measured points with points measured by others: averages of a results file and anchor files.

    neurocodec bench rd --dataset kodak --codecs jpeg,webp,heic --qualities jpeg=5,10,20 ... -o DIR
    python benchmarks/anchors.py DIR/results.json jpeg=jpeg_420.json webp=webp_m6.json heic=bpg_444_x265.json

Settings that both have are compared one by one: bpp in percent, PSNR in dB, over the same pictures. Where they share
none, as HEIC and BPG do, the BD-rate over their overlap is given instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec.bench.bd_rate import bd_rate
from neurocodec.bench.results import averages, load, write_json
from neurocodec.errors import NeurocodecError

BPP_PERCENT, PSNR_DB = 1.0, 0.05
"""Tolerances of a reproduced point."""


def compare(results: dict[str, Any], codec: str, anchor: dict[str, Any]) -> dict[str, Any]:
    """The largest differences over the shared settings, or the BD-rate if there are none."""
    pictures = {picture["name"] for picture in results["dataset"]["pictures"]}
    theirs = {}
    for point in anchor["points"]:
        rows = [row for row in point.get("per_image", ()) if row["file"] in pictures]
        if len(rows) == len(pictures):
            theirs[float(point["q"])] = [float(np.mean([row[key] for row in rows])) for key in ("bpp", "psnr")]
    if not theirs:
        raise SystemExit(f"{anchor['codec']} lacks some of the {len(pictures)} pictures of these results")
    ours = {point["setting"]: [point["bpp"], point["psnr"]] for point in averages(results, codec)}
    if not ours:
        raise SystemExit(f"these results hold no setting of {codec} on every picture")
    shared = sorted(ours.keys() & theirs.keys()) if same_settings(ours, theirs) else []
    row = {"codec": codec, "anchor": anchor["codec"], "pictures": len(pictures), "settings": len(shared)}
    if not shared:
        try:
            result = bd_rate([*map(tuple, theirs.values())], [*map(tuple, ours.values())])
        except ValueError as error:
            raise SystemExit(f"{codec} cannot be compared with {anchor['codec']}: {error}") from error
        return row | {"bd_rate_percent": result.value}
    bpp = [100 * (ours[q][0] / theirs[q][0] - 1) for q in shared]
    psnr = [ours[q][1] - theirs[q][1] for q in shared]
    worst = {"bpp_percent": max(bpp, key=abs), "psnr_db": max(psnr, key=abs)}
    return row | worst | {"reproduced": max(map(abs, bpp)) <= BPP_PERCENT and max(map(abs, psnr)) <= PSNR_DB}


def same_settings(ours: dict[float, list[float]], theirs: dict[float, list[float]]) -> bool:
    """Whether settings mean the same: a quality rises with the bits, a quantiser falls."""

    def rises(points: dict[float, list[float]]) -> bool:
        return points[max(points)][0] > points[min(points)][0]

    return rises(ours) == rises(theirs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one line a pair; with -o writes them as JSON. The status is 1 if a point was not reproduced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="CODEC=FILE")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(arguments)
    results = load(args.results)
    rows = []
    for pair in args.pairs:
        codec, _, path = pair.partition("=")
        try:
            anchor = json.loads(Path(path).read_text(encoding="utf-8"))
            _ = anchor["codec"], [float(point["q"]) for point in anchor["points"] if "per_image" in point]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"found {pair}, expected CODEC=FILE, a JSON file with an anchor: {error}") from error
        rows.append(compare(results, codec, anchor))
        print(", ".join(f"{k} {v:+.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    if args.output:
        about = {key: results[key] for key in ("date", "commit", "machine", "versions") if key in results}
        pairs = " ".join(
            f"{codec}={Path(path).name}" for codec, _, path in (pair.partition("=") for pair in args.pairs)
        )
        command = f"python benchmarks/anchors.py {args.results.name} {pairs}"
        written = {"kind": "anchors", "command": command, **about, "dataset": results["dataset"]["name"], "rows": rows}
        write_json(args.output, written, force=True)
    return 0 if all(row.get("reproduced", True) for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NeurocodecError as error:
        sys.exit(str(error))
