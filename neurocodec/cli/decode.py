"""neurocodec decode: .nic files, or whole folders of them, to pictures."""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

from neurocodec import collection
from neurocodec.cli import batch, options


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "decode",
        help="pictures from .nic files",
        description=".nic files, or whole folders of them, to pictures. OUT mirrors an input folder; existing pictures "
        "in it are skipped, so that a run can be continued.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="+", metavar="IN", help=".nic files, folders of them, or - for stdin")
    parser.add_argument(
        "-o",
        "--output",
        type=options.file_name,
        metavar="OUT",
        help="file, whose suffix names the format, folder, or - for stdout (next to IN)",
    )
    parser.add_argument(
        "--format",
        type=_suffix,
        default=".png",
        metavar="F",
        help="suffix of outputs whose name is not given, and format on stdout: png, jpg, webp, tiff, ... (png)",
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
    parser.add_argument("--lossy", action="store_true", help="of a lossless file, the lossy picture that comes first")
    parser.add_argument(
        "--size", type=options.integer(1), metavar="N", help="reduce the picture to at most N pixels a side"
    )
    options.add_batch_options(parser)
    options.add_device_option(parser)
    options.add_limit_option(parser)
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Decodes the inputs. Raises NeurocodecError if nothing can be decoded."""
    jobs = collection.plan(args.inputs, args.output, suffix=args.format, force=args.force)
    keywords = {
        "realism": args.realism,
        "region": tuple(args.region) if args.region else None,
        "device": args.device,
        "lossless": not args.lossy,
        "max_pixels": args.max_pixels,
    }
    decode = functools.partial(decode_file, suffix=args.format, size=args.size, keywords=keywords)
    return batch.convert(jobs, decode, args, "decoded")


def _suffix(name: str) -> str:
    """An argument type: the suffix of a picture format."""
    from neurocodec.errors import OutputError
    from neurocodec.image import check_format

    suffix = "." + name.lower().lstrip(".")
    try:
        check_format("picture" + suffix)
    except OutputError as error:
        raise argparse.ArgumentTypeError(f"{name!r} is not a picture format that Pillow writes") from error
    return suffix


def decode_file(source: str, target: str, suffix: str, size: int | None, keywords: dict[str, Any]) -> batch.Output:
    """The picture file of a .nic file.

    suffix: of the format on stdout. size: longest side in pixels. keywords: as for `neurocodec.decode`.
    """
    from PIL.Image import Resampling

    import neurocodec
    from neurocodec.image import check_format, to_file_bytes

    started = time.perf_counter()
    name = f"stdout{suffix}" if target == collection.STANDARD else target
    check_format(name)  # before the work
    im = neurocodec.decode(batch.opened(source), **keywords)
    if size is not None:
        im.thumbnail((size, size), resample=Resampling.LANCZOS)
    data = to_file_bytes(im, name)
    seconds = time.perf_counter() - started
    about = {"width": im.width, "height": im.height, "mode": im.mode, "bytes": len(data), "seconds": seconds}
    return batch.Output(data, about, f"{im.width} x {im.height}, {im.mode}, {seconds:.2f} s")
