"""Speed and size of the range coder beside constriction's and compressai's: the same as `neurocodec bench coder`.

python benchmarks/coder_speed.py -o benchmarks/results/coder_speed.json --force
"""

import sys

from neurocodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "coder", *sys.argv[1:]]))
