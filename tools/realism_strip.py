"""docs/realism.webp: a crop of the bundled photograph as it is, as JPEG, and from one .nic file at realism 0 and 1.

python benchmarks/realism_strip.py [--quality 30] [--crop X Y W H]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import neurocodec
from neurocodec.cli.compare import jpeg_variant

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "neurocodec" / "data" / "astronaut.png"


def main() -> int:
    """Writes the picture and prints the bytes of either file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", type=float, default=30)
    parser.add_argument("--crop", type=int, nargs=4, default=(130, 0, 200, 260), metavar=("X", "Y", "W", "H"))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "realism.webp")
    args = parser.parse_args()
    original = np.asarray(Image.open(PHOTO).convert("RGB"))
    data = neurocodec.encode(original, quality=args.quality)
    jpeg = jpeg_variant(original, len(data))
    decoded = [np.asarray(neurocodec.decode(data, realism=realism)) for realism in (0.0, 1.0)]
    x, y, width, height = args.crop
    strip = np.concatenate([v[y : y + height, x : x + width] for v in (original, jpeg.rgb, *decoded)], axis=1)
    Image.fromarray(strip).save(args.output, quality=92, method=6)
    print(f"{args.output.name}: original, JPEG of {len(jpeg.data):,} bytes, .nic of {len(data):,} at realism 0 and 1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
