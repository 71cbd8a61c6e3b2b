"""Lossless sizes and times of a data set or a folder of pictures.

    python benchmarks/lossless.py DATASET [--images N] -o benchmarks/results/lossless-DATASET.json

Bits per sub-pixel of .nic files beside PNG (optimised) and WebP (lossless, method 6, quality 100), by Pillow; CPU
seconds of one thread. Every picture is decoded and compared.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

import neurocodec
from neurocodec.bench import provenance
from neurocodec.bench.datasets import load_dataset
from neurocodec.bench.results import write_json
from neurocodec.errors import NeurocodecError
from neurocodec.workers import limit_threads

RIVALS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "optimize": True},
    "webp": {"format": "WebP", "lossless": True, "method": 6, "quality": 100},
}
"""Options of `Image.save`."""


def measure(path: Path) -> dict[str, Any]:
    """A row: bits per sub-pixel of the file, of its lossy picture and of rivals; CPU seconds.

    Raises NeurocodecError if the picture does not come back exactly.
    """
    with Image.open(path) as opened:
        im = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    pixels = np.asarray(im)
    started = time.process_time()
    data = neurocodec.encode(im, lossless=True)
    encoded = time.process_time()
    decoded = np.asarray(neurocodec.decode(data))
    done = time.process_time()
    if not np.array_equal(decoded, pixels):
        raise NeurocodecError(f"{path} did not come back exactly")
    sizes = {"nic": len(data), "lossy": neurocodec.info(data).first_bytes}
    for name, options in RIVALS.items():
        file = io.BytesIO()
        im.save(file, **options)
        sizes[name] = len(file.getvalue())
    return {
        "image": path.name,
        "width": im.width,
        "height": im.height,
        **{f"{name}_bpsp": round(8 * size / pixels.size, 4) for name, size in sizes.items()},
        "encode_cpu_s": round(encoded - started, 3),
        "decode_cpu_s": round(done - encoded, 3),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The number of pictures, mean sizes and median times."""
    values = {key: [row[key] for row in rows] for key in rows[0] if key.endswith(("_bpsp", "_cpu_s"))}
    means = {f"mean_{key}": round(float(np.mean(v)), 4) for key, v in values.items() if key.endswith("_bpsp")}
    medians = {f"median_{key}": round(float(np.median(v)), 3) for key, v in values.items() if key.endswith("_cpu_s")}
    return {"pictures": len(rows), **means, **medians}


def main() -> int:
    """Prints a row for each picture and a summary; with -o writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="its name or folder")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    limit_threads(1)
    pictures = load_dataset(args.dataset, args.images).pictures
    results = provenance.stamp("lossless", provenance.command_line(["python", "benchmarks/lossless.py", *sys.argv[1:]]))
    results["machine"]["load_before"] = provenance.load_average()
    results["versions"]["libwebp"] = features.version("webp")
    neurocodec.decode(neurocodec.encode(np.zeros((16, 16, 3), np.uint8)))  # loads the model
    rows = []
    for path in pictures.values():
        rows.append(measure(path))
        print(rows[-1], flush=True)
    print(summary(rows))
    if args.output:
        write_json(args.output, results | {"summary": [summary(rows)], "rows": rows}, force=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NeurocodecError as error:
        sys.exit(str(error))
