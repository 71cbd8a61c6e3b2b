"""Writes a large PNG of pictures side by side and below each other, to measure with benchmarks/processes.py.

python benchmarks/mosaic.py PICTURE... --megapixels 100 -o 100.png
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neurocodec import image


def mosaic(paths: list[Path], side: int) -> NDArray[np.uint8]:
    """uint8 (side, side, 3): rows of pictures, each row as high as its lowest picture, cut at the right and below."""
    canvas = np.empty((side, side, 3), np.uint8)
    y, place = 0, 0
    while y < side:
        x, height = 0, side - y
        while x < side:
            part = image.load(paths[place % len(paths)]).rgb[: side - y, : side - x]
            canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
            x, height, place = x + part.shape[1], min(height, part.shape[0]), place + 1
        y += height
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--megapixels", type=float, default=100)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    side = round(math.sqrt(args.megapixels * 1e6))
    Image.fromarray(mosaic(args.pictures, side)).save(args.output, compress_level=1)


if __name__ == "__main__":
    main()
