"""neurocodec encode: pictures, or whole folders of them, to .nic files."""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

from neurocodec import collection
from neurocodec.cli import batch, options
from neurocodec.container import describe


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "encode",
        help="pictures to .nic files",
        description="Pictures, or whole folders of them, to .nic files. OUT mirrors an input folder; existing .nic "
        "files in it are skipped, so that a run can be continued.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="IN", help="pictures that Pillow can read, folders of them, or - for stdin"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=options.file_name,
        metavar="OUT",
        help="file, folder, or - for stdout (next to IN)",
    )
    options.add_rate_options(parser)
    parser.add_argument(
        "--lossless", action="store_true", help="the exact picture; -q is then of the lossy one that comes first (5)"
    )
    parser.add_argument(
        "--effort",
        type=int,
        choices=range(1, 11),
        default=1,
        metavar="E",
        help="1 to 10; above 1 the encoder searches for better latents: smaller files, minutes of work (1)",
    )
    parser.add_argument("--keep-suffix", action="store_true", help="a.png becomes a.png.nic instead of a.nic")
    options.add_batch_options(parser)
    options.add_model_option(parser)
    options.add_device_option(parser)
    options.add_limit_option(parser)
    parser.add_argument(
        "--layout", choices=("cpu", "gpu"), default="cpu", help="gpu: decodes faster on a GPU, 1 to 2 %% larger (cpu)"
    )
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Encodes the inputs. Raises NeurocodecError if nothing can be encoded."""
    jobs = collection.plan(args.inputs, args.output, keep_suffix=args.keep_suffix, force=args.force)
    if any(not job.problem and not job.skip for job in jobs):
        from neurocodec import model as model_files
        from neurocodec.integer.network import check_encodes

        # Now, so that a model that is missing or cannot encode is one error rather than one for each picture.
        check_encodes(model_files.load(args.model))
    return batch.convert(jobs, functools.partial(encode_file, keywords=_keywords(args)), args, "encoded")


def encode_file(source: str, target: str, keywords: dict[str, Any]) -> batch.Output:
    """The .nic file of a picture file. keywords: as for `neurocodec.encode`, whose errors are raised."""
    import neurocodec

    started = time.perf_counter()
    batch.leave_the_limit_to_the_codec()
    data = neurocodec.encode(batch.opened(source), **keywords)
    seconds, info = time.perf_counter() - started, describe(data)
    about = {"bytes": info.bytes, "bpp": info.bpp, "quality": info.quality, "seconds": seconds}
    return batch.Output(data, about, f"{info.bytes:,} bytes, {info.bpp:.3f} bpp, {seconds:.2f} s", info)


def _keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `neurocodec.encode`."""
    keywords = options.encode_options(args) | {"effort": args.effort, "layout": args.layout}
    keywords["lossless"] = args.lossless
    if bar := batch.picture_bar(args, "search" if args.effort > 1 else "encode"):
        keywords["progress"] = bar
    return keywords
