"""neurocodec info: what .nic files contain. Verifies their checksums; runs no network, except for a thumbnail."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os

import neurocodec
from neurocodec import collection
from neurocodec.cli import batch, options
from neurocodec.container import NicInfo, read_bytes
from neurocodec.errors import OutputError, printable, sentence

SIZE = 256
"""Default size of a thumbnail, in pixels."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("info", help="what .nic files contain", description=__doc__, allow_abbrev=False)
    parser.add_argument("files", nargs="+", metavar="FILE", help=".nic files, or - for stdin")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each file")
    parser.add_argument(
        "--thumbnail",
        type=options.file_name,
        metavar="OUT",
        help="write a small picture too, in a fraction of the time of decoding; -, alone and as PNG, to stdout",
    )
    parser.add_argument(
        "--size", type=options.integer(1), metavar="N", help=f"longest side of the thumbnail, in pixels ({SIZE})"
    )
    options.add_force_option(parser)
    parser.set_defaults(run=run, more="files")


def run(args: argparse.Namespace) -> int:
    """Prints the descriptions; a problem with one file does not stop the others. Returns 1 if there was one, else 0."""
    if args.thumbnail is not None and len(args.files) > 1:
        args.parser.error("--thumbnail is for one file")
    if args.thumbnail is None and (args.size is not None or args.force):
        args.parser.error("--size and --force are for --thumbnail")
    problems, prints = 0, args.thumbnail != collection.STANDARD
    for number, name in enumerate(args.files):
        try:
            data = read_bytes(batch.opened(name))
            info = neurocodec.info(data)
            if args.thumbnail is not None:
                write_thumbnail(data, args.thumbnail, args.size or SIZE, force=args.force)
        except BrokenPipeError:  # of the output: the reader has ended
            raise
        except Exception as error:
            if os.environ.get("NEUROCODEC_TRACEBACK"):
                raise
            problem = sentence(error, "" if isinstance(error, OutputError) else name)
            batch.print_error(problem)
            if args.json and prints:
                print(json.dumps({"file": name, "status": "failed", "error": problem}))
            problems += 1
            continue
        if args.json and prints:
            print(json.dumps({"file": name, "status": "ok", **dataclasses.asdict(info)}))
        elif prints:
            print("\n" * (number > 0) + describe(name, info))
    return int(problems > 0)


def write_thumbnail(data: bytes, target: str, size: int, *, force: bool) -> None:
    """Writes the preview of a .nic file, as PNG to standard output. Raises OutputError, and what `preview` raises."""
    from neurocodec import files, image

    name = target
    if target == collection.STANDARD:
        collection.check_standard_output()
        name = "stdout.png"
    else:
        files.check_output(target, force=force)
    image.check_format(name)
    picture = image.to_file_bytes(neurocodec.preview(data, size), name)
    collection.write(collection.Job("", target), picture, force=force)


def describe(name: str, info: NicInfo) -> str:
    """The description in words."""
    rows = [
        ("file", printable(name)),
        ("picture", f"{info.width} x {info.height}, {info.mode}, {info.tiles} tile{'s' if info.tiles > 1 else ''}"),
        *([] if info.architecture else [("quality", f"{info.quality:.3g}")]),
        ("size", f"{info.bytes:,} bytes, {info.bpp:.3f} bpp"),
        *(
            [("lossless", f"the first picture takes {info.first_bytes:,} bytes, {info.first_bytes / info.bytes:.1%}")]
            if info.lossless
            else []
        ),
        ("metadata", ", ".join(f"{kind} ({size} bytes)" for kind, size in info.metadata.items()) or "none"),
        ("model", f"{info.architecture}, weights {info.model_id}" if info.architecture else info.model_id),
        ("format", f"version {info.version}"),
        *([("note", info.note)] if info.note else []),
    ]
    return "\n".join(f"{kind:<9} {value}" for kind, value in rows)
