"""neurocodec synth: train and apply the systems that make pictures."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

from neurocodec.cli import options
from neurocodec.cli.train import add_folder_options, report, split
from neurocodec.packages import training_packages


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its own commands: list, train, apply."""
    parser = subparsers.add_parser("synth", help="make pictures", description=__doc__, allow_abbrev=False)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = actions.add_parser("list", help="list the systems", description="Lists the systems, a line each.")
    listing.set_defaults(run=run_list)

    train = actions.add_parser("train", help="train a system", description="Trains a system.", allow_abbrev=False)
    train.add_argument("system", metavar="SYSTEM", help="see neurocodec synth list")
    train.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG section.key=value",
        help="a configuration that ships or a .toml file, left out with --resume, and settings to replace",
    )
    add_folder_options(train)
    train.set_defaults(run=functools.partial(run_train, train), more="words")

    apply = actions.add_parser("apply", help="make a picture", description="Makes a picture.", allow_abbrev=False)
    apply.add_argument("system", metavar="SYSTEM", help="see neurocodec synth list")
    apply.add_argument(
        "words",
        nargs="+",
        metavar="MODEL IN key=value",
        help="the inputs that neurocodec synth list shows for the system, and options such as size=512",
    )
    apply.add_argument("-o", "--output", required=True, type=options.file_name, metavar="OUT", help="the file to write")
    options.add_force_option(apply)
    apply.set_defaults(run=functools.partial(run_apply, apply), more="words")


def run_list(args: argparse.Namespace) -> int:
    """Prints a line for each system: its name, its inputs, what it does."""
    from neurocodec.synthesis.registry import SYSTEMS

    for name, entry in SYSTEMS.items():
        print(f"{name:20} {' '.join(entry.inputs):24} {entry.text}")
    return 0


def run_train(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Trains. Raises ConfigError, and Ended after a signal."""
    name, overrides = split(args.words)
    if (name is None) == (args.resume is None):
        parser.error("name a configuration, or the run to continue with --resume")
    with training_packages():
        from neurocodec.synthesis.registry import trained_system
        from neurocodec.synthesis.system import load_config, resumed_config
        from neurocodec.training.loop import train

    kind = trained_system(args.system)
    config = resumed_config(kind, args.resume, overrides) if name is None else load_config(kind, name, overrides)
    folder = args.resume or args.folder or os.path.join("runs", Path(name or "").stem)
    resume = args.resume is not None
    return report(folder, f"the trained {args.system}", lambda: train(config, folder, kind, resume=resume))


def run_apply(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Makes a picture. Raises NeurocodecError."""
    with training_packages():
        from neurocodec.synthesis.registry import SYSTEMS, system
        from neurocodec.synthesis.system import options_of

    kind = system(args.system)
    sources = [word for word in args.words if "=" not in word or os.path.exists(word)]
    settings = [word for word in args.words if word not in sources]
    inputs = SYSTEMS[args.system].inputs
    if len(sources) != len(inputs):
        parser.error(f"{args.system} takes {' '.join(inputs)}")
    print(kind.apply(sources, args.output, options_of(kind, settings), force=args.force))
    return 0
