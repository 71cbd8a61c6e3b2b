"""CPU seconds and peak memory of whole processes that encode and decode large pictures.

python benchmarks/large.py PICTURE... -o benchmarks/results/large.json

The large pictures are PNG files of the given ones side by side and below each other.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neurocodec import image
from neurocodec.bench import provenance
from neurocodec.bench.results import write_json


def mosaic(paths: list[Path], megapixels: float, target: Path) -> None:
    """Writes an RGB picture of that size, as square as whole pixels allow."""
    side = round(math.sqrt(megapixels * 1e6))
    canvas = np.empty((side, side, 3), np.uint8)
    y, place = 0, 0
    while y < side:
        x, height = 0, side - y
        while x < side:
            rgb = image.load(paths[place % len(paths)]).rgb
            height = min(height, rgb.shape[0])
            part = rgb[:height, : side - x]
            canvas[y : y + len(part), x : x + part.shape[1]] = part
            x, place = x + part.shape[1], place + 1
        y += height
    Image.fromarray(canvas).save(target, compress_level=1)


def run(*words: object) -> dict[str, Any]:
    """CPU seconds and peak resident memory of `neurocodec WORDS`, with one thread."""
    pid = os.spawnve(
        os.P_NOWAIT,
        sys.executable,
        [sys.executable, "-m", "neurocodec", *map(str, words), "--quiet"],
        {**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"neurocodec {words[0]} failed")
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 2), "peak_mb": round(usage.ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[4, 24, 100])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    results = provenance.stamp("large", provenance.command_line(sys.argv))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, coded, decoded = (Path(folder) / name for name in ("a.png", "a.nic", "b.png"))
        for megapixels in args.megapixels:
            mosaic(args.pictures, megapixels, source)
            for step, words in (("encode", (source, "-o", coded)), ("decode", (coded, "-o", decoded))):
                row = {"megapixels": megapixels, "step": step, **run(step, *words, "--force")}
                rows.append(row | {"cpu_s_per_megapixel": round(row["cpu_s"] / megapixels, 3)})
                print(rows[-1])
    if args.output:
        write_json(args.output, results | {"rows": rows}, force=True)


if __name__ == "__main__":
    main()
