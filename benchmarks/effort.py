"""What each effort of the encoder saves and costs, on crops from the centres of pictures: real files, BD-rates.

python benchmarks/effort.py PICTURE... -o benchmarks/results/effort.json
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import neurocodec
from neurocodec import image
from neurocodec.bench import provenance
from neurocodec.bench.bd_rate import bd_rate
from neurocodec.bench.results import write_json
from neurocodec.metrics import psnr


def crop(path: Path, edge: int) -> np.ndarray:
    """uint8 (edge, edge, 3) from the centre of a picture."""
    rgb = image.load(path).rgb
    top, left = (rgb.shape[0] - edge) // 2, (rgb.shape[1] - edge) // 2
    return np.ascontiguousarray(rgb[top : top + edge, left : left + edge])


def measure(rgb: np.ndarray, quality: float, effort: int) -> dict[str, Any]:
    """A row: bits per pixel and dB, CPU seconds to encode, peak memory of the process so far."""
    started = time.process_time()
    data = neurocodec.encode(rgb, quality=quality, effort=effort)
    return {
        "quality": quality,
        "effort": effort,
        "bpp": 8 * len(data) / rgb[:, :, 0].size,
        "psnr": psnr(np.asarray(neurocodec.decode(data)), rgb),
        "cpu_s": round(time.process_time() - started, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def summary(rows: list[dict[str, Any]], edge: int) -> list[dict[str, Any]]:
    """For each effort above 1: BD-rates against effort 1, their mean, and CPU seconds a megapixel."""
    curves: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row in rows:
        curves.setdefault((row["effort"], row["image"]), []).append((row["bpp"], row["psnr"]))
    efforts = []
    for effort in sorted({effort for effort, _ in curves} - {1}):
        rates = {name: bd_rate(curves[1, name], curve).value for (e, name), curve in curves.items() if e == effort}
        seconds = [row["cpu_s"] for row in rows if row["effort"] == effort]
        efforts.append(
            {
                "effort": effort,
                "bd_rate_percent": round(float(np.mean(list(rates.values()))), 2),
                "cpu_s_per_megapixel": round(float(np.mean(seconds)) * 1e6 / edge**2),
                "pictures": {name: round(value, 2) for name, value in rates.items()},
            }
        )
    return efforts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--edge", type=int, default=192, help="side of the crops in pixels (192)")
    parser.add_argument("--efforts", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--qualities", type=float, nargs="+", default=[20, 45, 70])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    results = provenance.stamp("effort", provenance.command_line(["python", "benchmarks/effort.py", *sys.argv[1:]]))
    results["edge"] = args.edge
    rows = [
        {"image": path.name, **measure(crop(path, args.edge), quality, effort)}
        for effort in args.efforts
        for path in args.pictures
        for quality in args.qualities
    ]
    results |= {"summary": summary(rows, args.edge), "rows": rows}
    for entry in results["summary"]:
        print({key: value for key, value in entry.items() if key != "pictures"})
    if args.output:
        write_json(args.output, results, force=True)


if __name__ == "__main__":
    main()
