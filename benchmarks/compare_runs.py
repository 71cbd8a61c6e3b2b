"""BD-rate of one run of `neurocodec bench rd` against another of the same codec and pictures, and the worst picture.

    neurocodec bench rd --dataset kodak --codecs nic --qualities 10,28,45,62,80,98 --gallery 0 -o DIR     (each commit)
    python benchmarks/compare_runs.py BEFORE/results.json AFTER/results.json -o FILE.json

What integers cost against the float codec before them was measured so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.bench.bd_rate import bd_rate
from neurocodec.bench.results import write_json

CODEC = "nic"


def curves(results: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """For each picture its points (bpp, PSNR), an array (settings, 2), by rising setting."""
    points: dict[str, dict[float, tuple[float, float]]] = defaultdict(dict)
    for row in results["rows"]:
        if row["codec"] == CODEC:
            points[row["image"]][row["setting"]] = row["bpp"], row["psnr"]
    return {image: np.array([by[setting] for setting in sorted(by)]) for image, by in points.items()}


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """BD-rates in percent, over the mean curves and for each picture; the points of the mean curves."""
    first, second = curves(before), curves(after)
    if first.keys() != second.keys() or not first:
        raise SystemExit("the two runs do not hold the same pictures")
    settings = sorted({row["setting"] for row in before["rows"] if row["codec"] == CODEC})
    means = [np.mean(list(each.values()), axis=0) for each in (first, second)]
    total = bd_rate(*means)
    each = {image: round(bd_rate(first[image], second[image]).value, 4) for image in first}
    worst = max(each, key=lambda image: each[image])
    rows = [
        {"quality": q, "before_bpp": a[0], "before_psnr": a[1], "after_bpp": b[0], "after_psnr": b[1]}
        for q, a, b in zip(settings, *(mean.round(6).tolist() for mean in means), strict=True)
    ]
    return {
        "bd_rate_percent": round(total.value, 4),
        "psnr_range": [round(end, 2) for end in total.psnr_range],
        "mean_of_pictures_percent": round(float(np.mean(list(each.values()))), 4),
        "worst": {"picture": worst, "bd_rate_percent": each[worst]},
        "pictures": each,
        "rows": rows,
    }


def main() -> int:
    """Writes the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (args.before, args.after))
    about = {
        "kind": "comparison of runs",
        "date": after["date"],
        "commit": after["commit"],
        "machine": after["machine"],
    }
    runs = {
        name: {key: run[key] for key in ("command", "commit", "date", "versions")} | {"codec": run["codecs"][CODEC]}
        for name, run in (("before", before), ("after", after))
    }
    command = f"python benchmarks/compare_runs.py before/results.json after/results.json -o {args.output.name}"
    write_json(args.output, about | {"command": command, "runs": runs, "results": [compare(before, after)]}, force=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
