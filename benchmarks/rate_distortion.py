"""Rate and distortion of nic, JPEG and WebP on real files: the same as `neurocodec bench rd`.

NEUROCODEC_DATA=data python benchmarks/rate_distortion.py --dataset kodak -o results/kodak
"""

import sys

from neurocodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "rd", *sys.argv[1:]]))
