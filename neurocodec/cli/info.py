"""neurocodec info: what .nic files contain. Verifies their checksums; runs no network."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os

import neurocodec
from neurocodec.cli import batch
from neurocodec.container import NicInfo
from neurocodec.errors import sentence


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("info", help="what .nic files contain", description=__doc__, allow_abbrev=False)
    parser.add_argument("files", nargs="+", metavar="FILE", help=".nic files, or - for stdin")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each file")
    parser.set_defaults(run=run, more="files")


def run(args: argparse.Namespace) -> int:
    """Prints the descriptions; a problem with one file does not stop the others. Returns 1 if there was one, else 0."""
    problems = 0
    for number, name in enumerate(args.files):
        try:
            info = neurocodec.info(batch.opened(name))
        except Exception as error:
            if os.environ.get("NEUROCODEC_TRACEBACK"):
                raise
            batch.print_error(sentence(error, name))
            problems += 1
            continue
        if args.json:
            print(json.dumps({"file": name, **dataclasses.asdict(info)}))
        else:
            print("\n" * (number > 0) + describe(name, info))
    return int(problems > 0)


def describe(name: str, info: NicInfo) -> str:
    """The description in words."""
    rows = [
        ("file", name),
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
