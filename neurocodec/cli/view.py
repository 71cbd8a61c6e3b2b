"""neurocodec view: shows a .nic file in the system's picture viewer."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

from neurocodec.cli import batch, options

OPENERS = {"darwin": ("open",), "win32": ("cmd", "/c", "start", "")}
"""Commands that open a file in its viewer; xdg-open elsewhere."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("view", help="show a .nic file", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", type=options.file_name, metavar="FILE", help="a .nic file, or - for stdin")
    parser.add_argument("--realism", type=options.number(0, 1), default=0.0, metavar="R", help="as for decode (0)")
    options.add_limit_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decodes and shows the picture. Raises NeurocodecError, also if there is no viewer."""
    import neurocodec
    from neurocodec.errors import NeurocodecError, sentence

    try:
        im = neurocodec.decode(batch.opened(args.file), realism=args.realism, max_pixels=args.max_pixels)
    except NeurocodecError as error:
        raise type(error)(sentence(error, args.file)) from None
    folder = tempfile.mkdtemp(prefix="neurocodec-")  # it stays: the viewer reads it after this command has ended
    path = os.path.join(folder, os.path.splitext(os.path.basename(args.file))[0] + ".png")
    im.save(path)
    try:
        shown = subprocess.run([*OPENERS.get(sys.platform, ("xdg-open",)), path], stderr=subprocess.DEVNULL)
        failed = shown.returncode != 0
    except OSError:
        failed = True
    if failed:
        shutil.rmtree(folder)
        raise NeurocodecError("this system has no picture viewer that can be started: use neurocodec decode")
    return 0
