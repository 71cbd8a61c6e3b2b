"""neurocodec view: shows a .nic file in the system's picture viewer."""

from __future__ import annotations

import argparse

from neurocodec.cli import batch, options


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("view", help="show a .nic file", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="a .nic file, or - for stdin")
    parser.add_argument("--realism", type=options.number(0, 1), default=0.0, metavar="R", help="as for decode (0)")
    options.add_limit_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decodes and shows the picture. Raises NeurocodecError, also if there is no viewer."""
    from PIL import ImageShow

    import neurocodec
    from neurocodec.errors import NeurocodecError

    im = neurocodec.decode(batch.opened(args.file), realism=args.realism, max_pixels=args.max_pixels)
    if not ImageShow.show(im, title=args.file):
        raise NeurocodecError("this system has no picture viewer that can be started: use neurocodec decode")
    return 0
