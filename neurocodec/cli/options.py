"""Options that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from typing import Any

from neurocodec import container, tiling


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """An argument type: a finite number in [least, most], or above `least`."""

    def parse(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
            expected = f"above {least:g}" if above else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text} is not a number {expected}")
        return value

    parse.__name__ = "number"  # argparse shows it
    return parse


def integer(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    """An argument type: an integer in [least, most]."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is more than {most}")
        return value

    parse.__name__ = "integer"
    return parse


def file_name(text: str) -> str:
    """An argument type: a file name that is not empty, as an unset shell variable is."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def add_rate_options(parser: argparse.ArgumentParser) -> None:
    """Adds -q, --bpp, --bytes and --psnr, which exclude each other."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q", "--quality", type=number(1, 100), metavar="Q", help="1 to 100; higher is better and larger (50)"
    )
    group.add_argument("--bpp", type=number(0, above=True), metavar="B", help="best quality within B bits per pixel")
    group.add_argument("--bytes", type=integer(1), metavar="N", help="best quality within N bytes")
    group.add_argument("--psnr", type=number(0, above=True), metavar="P", help="smallest file with at least P dB")


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Adds --model."""
    parser.add_argument(
        "--model", default="base", metavar="M", help="name of an installed model, or a model file (base)"
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Adds --device."""
    parser.add_argument("--device", type=_device, default="auto", metavar="D", help="auto, cpu or cuda (auto)")


def _device(text: str) -> str:
    """An argument type: the name of a device, whether or not this machine has it."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no device: use auto, cpu, cuda or cuda:N")
    return text


def add_limit_option(parser: argparse.ArgumentParser) -> None:
    """Adds --max-pixels."""
    parser.add_argument(
        "--max-pixels",
        type=integer(1, container.MAX_PIXELS),
        default=tiling.MAX_PIXELS,
        metavar="N",
        help=f"refuse pictures of more pixels ({tiling.MAX_PIXELS:,}); raise it for files that you trust",
    )


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Adds --force and what `batch.convert` reads: -j, --threads, --json, --quiet and --verbose."""
    add_force_option(parser)
    parser.add_argument("-j", "--jobs", type=integer(1), default=1, metavar="N", help="processes (1)")
    parser.add_argument(
        "--threads", type=integer(1), metavar="N", help="threads of each process (an equal share of the cores)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print one JSON object for each input file")
    group.add_argument("--quiet", action="store_true", help="print only errors")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="print more of each file, and name those that are skipped"
    )


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Adds --force."""
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")


def encode_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `neurocodec.encode` for the options above."""
    options: dict[str, Any] = {"model": args.model, "device": args.device, "max_pixels": args.max_pixels}
    rates = {"quality": args.quality, "target_bpp": args.bpp, "target_bytes": args.bytes, "target_psnr": args.psnr}
    return options | {name: value for name, value in rates.items() if value is not None}
