"""What 16 bits a sample gain: PSNR at 16 bits, and the levels left of a smooth gradient.

python benchmarks/depth.py PICTURE... -o benchmarks/results/depth.json

Pictures of 16 bits are made from those given, as means of squares of 4×4 pixels. Each is coded at its depth, and
reduced to 8 bits before coding.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import neurocodec
from neurocodec import image
from neurocodec.bench import provenance
from neurocodec.bench.results import write_json

SIDE = 4
"""Of the squares, in pixels."""
GRADIENT = 512
"""Side of the gradient in pixels."""


def reduced(path: Path) -> NDArray[np.uint16]:
    """uint16 (H / 4, W / 4, 3): rounded means of the picture's squares."""
    rgb = image.load(path).rgb.astype(np.uint32) * 257
    height, width = (side // SIDE for side in rgb.shape[:2])
    squares = rgb[: height * SIDE, : width * SIDE].reshape(height, SIDE, width, SIDE, 3)
    return ((squares.sum((1, 3)) + SIDE**2 // 2) // SIDE**2).astype(np.uint16)


def gradient() -> NDArray[np.uint16]:
    """uint16 (512, 512, 3): a smooth sky of thousands of levels, 25 of them at 8 bits."""
    y, x = np.mgrid[:GRADIENT, :GRADIENT]
    t = (x + 0.35 * y) / (1.35 * GRADIENT)
    return np.rint(np.stack([18000 + 6000 * t**1.3, 26000 + 5000 * t, 42000 + 3000 * t**0.8], -1)).astype(np.uint16)


def psnr(a: NDArray[np.uint16], b: NDArray[np.uint16]) -> float:
    """In dB, at 16 bits."""
    return float(10 * np.log10(65535**2 / np.square(a.astype(np.float64) - b).mean()))


def measure(rgb: NDArray[np.uint16], quality: float) -> dict[str, Any]:
    """Bytes, PSNR at 16 bits and levels of the red channel, coded at depth and at 8 bits."""
    row: dict[str, Any] = {"quality": quality}
    for name, source in (("16", rgb), ("8", image.to_8_bits(rgb))):
        data = neurocodec.encode(source, quality=quality)
        decoded = neurocodec.decode_array(data)
        shown = decoded if decoded.dtype == np.uint16 else decoded.astype(np.uint16) * 257
        row |= {f"bytes_{name}": len(data), f"psnr_{name}": psnr(shown, rgb)}
        row |= {f"levels_{name}": len(np.unique(decoded[..., 0]))}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--qualities", type=float, nargs="+", default=[50, 80, 100])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    results = provenance.stamp("depth", provenance.command_line(sys.argv))
    sources = {path.name: reduced(path) for path in args.pictures}
    rows = [{"image": name, **measure(rgb, q)} for name, rgb in sources.items() for q in args.qualities]
    summary = []
    for quality in args.qualities:
        chosen = [row for row in rows if row["quality"] == quality]
        names = ("bytes_16", "bytes_8", "psnr_16", "psnr_8")
        summary.append({"image": f"mean of {len(chosen)}", "quality": quality})
        summary[-1] |= {name: round(float(np.mean([row[name] for row in chosen])), 3) for name in names}
        summary.append({"image": "gradient", **measure(gradient(), quality)})
    for entry in summary:
        print(entry)
    if args.output:
        write_json(args.output, results | {"summary": summary, "rows": rows}, force=True)


if __name__ == "__main__":
    main()
