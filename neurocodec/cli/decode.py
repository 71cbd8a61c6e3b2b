"""neurocodec decode: .nic files, or whole folders of them, to pictures."""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import os
import time
from typing import Any

from neurocodec import collection, files
from neurocodec.cli import batch, options
from neurocodec.errors import memory_errors


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "decode",
        help="pictures from .nic files",
        description=".nic files, or whole folders of them, to pictures. OUT mirrors an input folder; existing pictures "
        "in it are skipped, so that a run can be continued. PNG, TIFF and PPM are written in bands, so that large "
        "pictures need little memory, and with 16 bits a sample if the source had more than 8.",
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
    if bar := batch.picture_bar(args, "decode"):
        keywords["progress"] = bar
    decode = functools.partial(
        decode_file,
        suffix=args.format,
        size=args.size,
        writes=batch.alone(jobs, args),
        force=args.force,
        keywords=keywords,
    )
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


def decode_file(
    source: str, target: str, suffix: str, size: int | None, writes: bool, force: bool, keywords: dict[str, Any]
) -> batch.Output:
    """The picture file of a .nic file; PNG, TIFF and PPM in bands, with 16 bits a sample if the source had more than 8.

    suffix: of the format on stdout. size: longest side in pixels. writes: whether files in bands are written here, over
    older ones if `force` is set; otherwise they are returned. keywords: as for `neurocodec.decode`.
    """
    from PIL.Image import Resampling

    from neurocodec import bands, codec, image
    from neurocodec.container import info_of

    started = time.perf_counter()
    name = f"stdout{suffix}" if target == collection.STANDARD else target
    kind = image.check_format(name)  # before the work
    keywords = dict(keywords)
    with memory_errors():
        device, lossless = keywords.pop("device"), keywords.pop("lossless")
        nic, network = codec.parse(batch.opened(source), None, device, lossless=lossless)
        info, full, depth = info_of(nic, 0), codec.depth_of(nic), 8
        data: bytes | int
        if kind in bands.KINDS and size is None:
            depth = full
            rows = codec.decode_bands(nic, network, **keywords, depth=depth)
            first = next(rows)  # after all checks
            width, height = keywords["region"][2:] if keywords["region"] else (nic.header.width, nic.header.height)
            mode, pieces = info.mode, itertools.chain([first], rows)
            del first
            if writes and target != collection.STANDARD:
                files.make_folder(os.path.dirname(target) or ".")
                with files.writing(target, force=force) as file:
                    bands.write(file, name, (width, height), mode, depth, nic.chunks, pieces)
                    data = file.tell()
            else:
                out = io.BytesIO()
                bands.write(out, name, (width, height), mode, depth, nic.chunks, pieces)
                data = out.getvalue()
        else:
            im = image.to_pil(codec.decode_picture(nic, network, **keywords))
            if size is not None:
                im.thumbnail((size, size), resample=Resampling.LANCZOS)
            data = image.to_file_bytes(im, name)
            (width, height), mode = im.size, im.mode
    seconds, length = time.perf_counter() - started, data if isinstance(data, int) else len(data)
    about = {"width": width, "height": height, "mode": mode, "depth": depth, "bytes": length, "seconds": seconds}
    bits = "" if full == 8 else f", {depth} bits" if depth == full else f", {depth} of {full} bits"
    return batch.Output(data, about, f"{width} x {height}, {mode}{bits}, {seconds:.2f} s", info)
