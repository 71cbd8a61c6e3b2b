"""neurocodec decode: .nic files to pictures."""

from __future__ import annotations

import argparse
import functools
import os
import time

from neurocodec import collection, files
from neurocodec.cli import batch, options
from neurocodec.collection import Job


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("decode", help=".nic files to pictures", description=__doc__, allow_abbrev=False)
    parser.add_argument("inputs", nargs="+", metavar="IN.nic")
    parser.add_argument(
        "-o",
        "--output",
        type=options.file_name,
        metavar="OUT",
        help="file, whose suffix names the format, or folder (a PNG next to IN)",
    )
    parser.add_argument(
        "--realism",
        type=options.number(0, 1),
        default=0.0,
        metavar="R",
        help="0, least distortion, to 1, most realistic (0)",
    )
    parser.add_argument(
        "--region", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="decode only this part, in pixels"
    )
    options.add_force_option(parser)
    options.add_device_option(parser)
    options.add_limit_option(parser)
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Decodes the inputs; a problem with one does not stop the others. Returns 1 if there was one, else 0."""
    jobs = collection.plan(args.inputs, args.output, suffix=".png", force=args.force)
    return int(batch.run_jobs(jobs, functools.partial(_decode, args=args)) > 0)


def _decode(job: Job, args: argparse.Namespace) -> str:
    """Decodes one file; returns the line about it."""
    import neurocodec
    from neurocodec.image import check_format, save_pil

    started = time.perf_counter()
    check_format(job.target)  # before the work
    region = tuple(args.region) if args.region else None
    im = neurocodec.decode(
        job.source, realism=args.realism, region=region, device=args.device, max_pixels=args.max_pixels
    )
    files.make_folder(os.path.dirname(job.target) or ".")
    save_pil(im, job.target, force=args.force)
    return f"{job.target}: {im.width} x {im.height}, {im.mode}, {time.perf_counter() - started:.2f} s"
