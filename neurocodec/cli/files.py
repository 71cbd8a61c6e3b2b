"""What the subcommands share: which file becomes which, sentences for errors, and arguments that are checked."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from neurocodec.collection import Job, picture_suffixes
from neurocodec.errors import ImageError, NeurocodecError

QUALITY = 50.0


def plan(sources: Sequence[str], output: str | None, suffix: str, *, force: bool) -> list[Job]:
    """The output of each input, before any work is done; outputs that cannot be written become problems.

    Without `output` it stands beside its input. `output` names the file for a single input, else the folder, which is
    made if it is missing. Raises ImageError if that is impossible.
    """
    folder = output is not None and (len(sources) > 1 or os.path.isdir(output) or output.endswith(("/", os.sep)))
    if output is not None and folder and not os.path.isdir(output):
        if os.path.lexists(output) or os.path.splitext(output)[1].lower() in {suffix, *picture_suffixes()}:
            raise ImageError(f"{output} is no folder, and {len(sources)} inputs need one: name a folder with -o")
        try:
            os.makedirs(output)
        except OSError as error:
            raise ImageError(f"{output}: the folder cannot be made: {error.strerror}") from error

    targets = []
    for source in sources:
        name = os.path.splitext(os.path.basename(source))[0] + suffix
        if output is None:
            targets.append(os.path.join(os.path.dirname(source), name))
        else:
            targets.append(os.path.join(output, name) if folder else output)
    keys = [os.path.normcase(os.path.realpath(target)) for target in targets]
    times = Counter(keys)
    return [
        Job(source, target, _problem(source, target, times[key] > 1, force))
        for source, target, key in zip(sources, targets, keys, strict=True)
    ]


def _problem(source: str, target: str, shared: bool, force: bool) -> str:
    """Why `source` cannot become `target`; empty if it can."""
    if os.path.isdir(source):
        return f"{source} is a folder, expected a file: name the files in it"
    if not os.path.exists(source):
        return f"{source}: No such file or directory: check the name"
    if shared:
        return f"{source}: another input becomes {target} too: rename one, or give them one by one with -o"
    if os.path.realpath(source) == os.path.realpath(target):
        return f"{source} would be overwritten by its own output: name another with -o"
    return output_problem(target, force=force)


def output_problem(target: str, *, force: bool) -> str:
    """Why `target` cannot be written, as far as that shows before the work; empty if it can."""
    parent = os.path.dirname(target) or "."
    if os.path.isdir(target):
        return f"{target} is a folder: give another name for the output"
    if os.path.lexists(target) and not force:
        return f"{target} exists; use --force to overwrite it"
    if not os.path.isdir(parent):
        return f"{target}: there is no folder {parent}: make it first"
    if not os.access(parent, os.W_OK):
        return f"{target}: the folder {parent} is not writable: name another with -o"
    return ""


def check_output(target: str, *, force: bool) -> None:
    """Raises ImageError if `target` cannot be written."""
    if problem := output_problem(target, force=force):
        raise ImageError(problem)


def allow_large_pictures() -> None:
    """Has Pillow read pictures of all sizes that are encoded: its own limit is a third of that, and its errors name a
    variable of Python. Who starts a command trusts the files that are named."""
    from PIL import Image

    from neurocodec.codec import MAX_PIXELS

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def sentence(error: BaseException) -> str:
    """One line for the user."""
    text = " ".join(str(error).split())
    if isinstance(error, NeurocodecError):
        return text or type(error).__name__
    if isinstance(error, MemoryError):
        return "out of memory: close other programs, or take a smaller picture"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("neurocodec"):
        return f"{error.name} is not installed, and this command needs it: pip install {error.name}"
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ValueError) and text:
        return text
    return (
        f"unexpected {type(error).__name__}{': ' if text else ''}{text}: "
        "please report it, with what NEUROCODEC_TRACEBACK=1 shows"
    )


def complain(message: str) -> None:
    """The sentence, on stderr."""
    print(f"neurocodec: {message}", file=sys.stderr)


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


def integer(least: int) -> Callable[[str], int]:
    """An argument type: an integer of at least `least`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    parse.__name__ = "integer"
    return parse


def name(text: str) -> str:
    """An argument type: the name of an output, which an unset variable of a shell is not."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def add_rate_options(parser: argparse.ArgumentParser) -> None:
    """-q, --bpp, --bytes and --psnr, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q", "--quality", type=number(1, 100), metavar="Q", help="1 to 100, more is larger and better (50)"
    )
    group.add_argument("--bpp", type=number(0, above=True), metavar="B", help="best quality of at most B bits a pixel")
    group.add_argument("--bytes", type=integer(1), metavar="N", help="best quality of at most N bytes")
    group.add_argument("--psnr", type=number(0, above=True), metavar="P", help="smallest file of at least P dB")


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """--model."""
    parser.add_argument("--model", default="base", metavar="M", help="installed model, or a model file (base)")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (auto)")


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """--force."""
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")


def encode_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `neurocodec.encode` that the options above stand for."""
    options: dict[str, Any] = {"model": args.model, "device": args.device}
    for option, keyword in (("bpp", "target_bpp"), ("bytes", "target_bytes"), ("psnr", "target_psnr")):
        if getattr(args, option) is not None:
            return options | {keyword: getattr(args, option)}
    return options | {"quality": QUALITY if args.quality is None else args.quality}
