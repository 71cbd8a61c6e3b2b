"""Seconds and memory to encode and to decode, beside other codecs: the same as `neurocodec bench speed`.

python benchmarks/codec_speed.py --sizes 0.25,1,6 --threads 1,2 -o benchmarks/results/speed.json
"""

import sys

from neurocodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "speed", *sys.argv[1:]]))
