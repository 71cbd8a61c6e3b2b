"""docs/realism.webp: a crop of the bundled photograph as it is, as JPEG, and from one .nic file at realism 0 and 1.

python tools/realism_strip.py [--quality 30] [--crop X Y W H]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from gallery import BUNDLED, ROOT, save_strip

import neurocodec
from neurocodec import image
from neurocodec.cli.compare import rival_variant


def main() -> int:
    """Writes the picture and prints the size of each file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", type=float, default=30)
    parser.add_argument("--crop", type=int, nargs=4, default=(130, 0, 200, 260), metavar=("X", "Y", "W", "H"))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "realism.webp")
    args = parser.parse_args()
    original = image.load(BUNDLED).rgb
    data = neurocodec.encode(original, quality=args.quality)
    jpeg = rival_variant(original, len(data))
    decoded = [np.asarray(neurocodec.decode(data, realism=realism)) for realism in (0.0, 1.0)]
    save_strip([original, jpeg.rgb, *decoded], tuple(args.crop), args.output, quality=92)
    print(f"{args.output.name}: original, JPEG of {len(jpeg.data):,} bytes, .nic of {len(data):,} at realism 0 and 1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
