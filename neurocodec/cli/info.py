"""neurocodec info: what a .nic file contains. Verifies its checksums; runs no network."""

from __future__ import annotations

import argparse

import neurocodec
from neurocodec.errors import sentence


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("info", help="what a .nic file contains", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the description. Raises NicFormatError."""
    try:
        info = neurocodec.info(args.file)
    except neurocodec.NicFormatError as error:
        raise type(error)(sentence(error, args.file)) from None
    if args.json:
        import dataclasses
        import json

        print(json.dumps({"file": args.file, **dataclasses.asdict(info)}))
        return 0
    metadata = [("ICC", info.icc_bytes), ("EXIF", info.exif_bytes), ("XMP", info.xmp_bytes)]
    rows = [
        ("file", args.file),
        ("picture", f"{info.width} x {info.height}, {info.mode}, {info.tiles} tile{'s' if info.tiles > 1 else ''}"),
        *([] if info.architecture else [("quality", f"{info.quality:.3g}")]),
        ("size", f"{info.bytes:,} bytes, {info.bpp:.3f} bpp"),
        ("metadata", ", ".join(f"{name} ({size} bytes)" for name, size in metadata if size) or "none"),
        ("model", f"{info.architecture}, weights {info.model_id}" if info.architecture else info.model_id),
        ("format", f"version {info.version}"),
    ]
    if info.note:
        rows.append(("note", info.note))
    for name, value in rows:
        print(f"{name:<9} {value}")
    return 0
