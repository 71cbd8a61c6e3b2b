"""Seconds to encode and to decode with nic, JPEG and WebP: the same as `neurocodec bench speed`.

python benchmarks/codec_speed.py --sizes 768x512,1920x1080 --threads 1,2 -o benchmarks/results/codec_speed.json
"""

import sys

from neurocodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "speed", *sys.argv[1:]]))
