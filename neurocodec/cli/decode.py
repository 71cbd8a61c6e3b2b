"""neurocodec decode: .nic files to pictures."""

from __future__ import annotations

import argparse
import os
import time

from neurocodec.cli import files
from neurocodec.collection import Job


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("decode", help=".nic files to pictures", description=__doc__, allow_abbrev=False)
    parser.add_argument("inputs", nargs="+", metavar="IN.nic")
    parser.add_argument(
        "-o",
        "--output",
        type=files.name,
        metavar="OUT",
        help="file, whose suffix names the format, or folder (beside IN, as PNG)",
    )
    parser.add_argument(
        "--realism", type=files.number(0, 1), default=0.0, metavar="R", help="0, least distortion, to 1 (0)"
    )
    parser.add_argument(
        "--region", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="decode only this part, in pixels"
    )
    files.add_force_option(parser)
    files.add_device_option(parser)
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Decodes every input that can be; 1 if one could not."""
    jobs, status = files.plan(args.inputs, args.output, ".png", force=args.force), 0
    for job in jobs:
        problem = job.problem or _format_problem(job.target) or _decode(job, args)
        if problem:
            files.complain(problem)
            status = 1
    return status


def _format_problem(target: str) -> str:
    """Whether Pillow writes such files, asked before decoding."""
    from PIL import Image

    suffix = os.path.splitext(target)[1].lower()
    kind = Image.registered_extensions().get(suffix)
    if suffix == ".nic" or kind is None or kind not in Image.SAVE:
        return f"{target}: found the suffix {suffix!r}, expected a picture format that Pillow writes: use .png"
    return ""


def _decode(job: Job, args: argparse.Namespace) -> str:
    """Decodes one file; the sentence if that fails."""
    import neurocodec
    from neurocodec.image import save_pil

    started = time.perf_counter()
    region = tuple(args.region) if args.region else None
    try:
        im = neurocodec.decode(job.source, realism=args.realism, region=region, device=args.device)
        save_pil(im, job.target, force=args.force)
    except Exception as error:  # the other inputs go on
        if os.environ.get("NEUROCODEC_TRACEBACK"):
            raise
        problem = files.sentence(error)
        return problem if job.source in problem or job.target in problem else f"{job.source}: {problem}"
    print(f"{job.target}: {im.width} x {im.height}, {im.mode}, {time.perf_counter() - started:.2f} s", flush=True)
    return ""
