"""`python -m neurocodec`: the command line."""

import sys

from neurocodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
