"""Lossless sizes and times: python benchmarks/lossless.py FOLDER... [-o benchmarks/results/lossless.json] [--limit N]

Bits per sub-pixel of .nic files beside PNG (optimised) and WebP (lossless, method 6, quality 100), by Pillow; CPU
seconds of one thread. Every picture is decoded and compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image, __version__, features

import neurocodec
from neurocodec import workers


def measure(path: Path) -> dict[str, Any]:
    """One row of the results."""
    with Image.open(path) as opened:
        im = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    pixels = np.asarray(im)
    started = time.process_time()
    data = neurocodec.encode(im, lossless=True)
    encoded = time.process_time()
    decoded = np.asarray(neurocodec.decode(data))
    done = time.process_time()
    if not np.array_equal(decoded, pixels):
        raise SystemExit(f"{path} did not come back exactly")
    row: dict[str, Any] = {"picture": path.name, "width": im.width, "height": im.height}
    sizes = {"neurocodec": len(data), "first picture": neurocodec.info(data).first_bytes}
    for name, options in {"PNG": {"optimize": True}, "WebP": {"lossless": True, "method": 6, "quality": 100}}.items():
        file = io.BytesIO()
        im.save(file, name, **options)
        sizes[name] = len(file.getvalue())
    row["bits per sub-pixel"] = {name: round(8 * size / pixels.size, 4) for name, size in sizes.items()}
    return row | {"encode CPU s": round(encoded - started, 3), "decode CPU s": round(done - encoded, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/lossless.json"))
    parser.add_argument("--limit", type=int, help="pictures of each folder")
    args = parser.parse_args()
    workers.limit_threads(1)
    neurocodec.decode(neurocodec.encode(np.zeros((16, 16, 3), np.uint8)))  # loads the model
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    for folder in args.folders:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".webp"))
        rows = []
        for path in paths[: args.limit]:
            rows.append(measure(path))
            print(json.dumps(rows[-1]), flush=True)
        names = rows[0]["bits per sub-pixel"]
        mean = {name: round(float(np.mean([r["bits per sub-pixel"][name] for r in rows])), 4) for name in names}
        mean |= {name: round(float(np.median([r[name] for r in rows])), 3) for name in ("encode CPU s", "decode CPU s")}
        print(folder.name, mean)
        limit = f" --limit {args.limit}" if args.limit else ""
        results[folder.name] = {
            "command": f"python benchmarks/lossless.py {folder.name}{limit}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other processes",
            "versions": {
                "neurocodec": neurocodec.__version__,
                "Pillow": __version__,
                "WebP": features.version("webp"),
                "Python": platform.python_version(),
            },
            "mean sizes and median times": mean,
            "rows": rows,
        }
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
