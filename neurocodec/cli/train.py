"""neurocodec train: train a model, or a generative decoder for one, from a TOML configuration."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from neurocodec.packages import training_packages
from neurocodec.workers import Ended


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("train", help="train a model", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG section.key=value",
        help="base, base-gpu, realism, hific or a .toml file, and settings to replace, such as training.batch=4; "
        "CONFIG is left out with --resume, and where --init-from names a run, to use the settings of that run",
    )
    add_folder_options(parser)
    parser.add_argument(
        "--init-from",
        metavar="MODEL",
        help="start a new run from the folder of a run, a .safetensors file or an installed model (training.init_from)",
    )
    parser.set_defaults(run=functools.partial(run, parser), more="words")


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Adds --run and --resume, which exclude each other."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--run", dest="folder", metavar="DIR", help="folder of the new run (default: runs/CONFIG)")
    group.add_argument("--resume", metavar="RUN", help="continue the run in this folder")


def split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration, if the first word is one, and the settings section.key=value."""
    return (words[0], list(words[1:])) if words and "=" not in words[0] else (None, list(words))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Trains. Raises ConfigError, and Ended after a signal."""
    name, overrides = split(args.words)
    source = args.resume or args.init_from
    if args.resume and args.init_from:
        parser.error("--init-from starts a new run and --resume continues one: give one of them")
    if args.resume and name:
        parser.error(f"a run continues with its own settings: leave out {name}")
    if not (name or source):
        parser.error("name a configuration: base, base-gpu, realism, hific or a .toml file")
    if not (name or args.folder or args.resume):
        parser.error("name the folder of the new run with --run, or a configuration")
    with training_packages():
        from neurocodec.training import checkpoint
        from neurocodec.training.config import GenerativeConfig, config_from_dict, load_config
        from neurocodec.training.loop import train
        from neurocodec.training.rate_distortion import RateDistortion
        from neurocodec.training.realism import Realism

    config = load_config(name, overrides) if name else config_from_dict(checkpoint.read(source)["config"], overrides)
    if args.init_from:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, init_from=args.init_from))
    folder = args.resume or args.folder or os.path.join("runs", Path(name or "").stem)
    resume = args.resume is not None
    if isinstance(config, GenerativeConfig):
        what = "the trained generative decoder"
        return report(folder, what, lambda: train(config, folder, Realism, resume=resume))
    return report(folder, "the trained model", lambda: train(config, folder, RateDistortion, resume=resume))


def report(folder: str, what: str, train: Callable[[], Path]) -> int:
    """Trains in a folder and prints the file of what was trained, or how to continue. Raises what `train` does."""
    first = os.environ.get("RANK", "0") == "0"  # torchrun starts several processes
    try:
        path = train()
    except Ended:
        if first:
            print(f"{folder}: ended early; --resume {folder} continues")
        raise
    if first:
        print(f"{path}: {what}")
    return 0
