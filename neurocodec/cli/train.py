"""neurocodec train: train a model, or a generative decoder for one, from a TOML configuration."""

from __future__ import annotations

import argparse
import dataclasses
import os

from neurocodec.errors import ConfigError, MissingPackageError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("train", help="train a model", description=__doc__, allow_abbrev=False)
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="replaces a setting of the file: training.batch=4"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--run", dest="folder", metavar="DIR", help="folder of the new run (default: runs/CONFIG)")
    group.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument(
        "--init-from",
        metavar="MODEL",
        help="start a new run from a run's model.pt, a .safetensors file or an installed model; to train a generative "
        "decoder, from the file of one or a run's checkpoint.pt (training.init_from)",
    )
    parser.set_defaults(run=run, more="overrides")


def run(args: argparse.Namespace) -> int:
    """Trains. Raises ConfigError."""
    if args.resume and args.init_from:
        raise ConfigError("--init-from starts a new run and --resume continues one: give one of them.")
    try:
        from neurocodec.training.config import GenerativeConfig, load_config
        from neurocodec.training.loop import train
        from neurocodec.training.rate_distortion import RateDistortion
        from neurocodec.training.realism import Realism
    except ModuleNotFoundError as error:
        if error.name not in ("tqdm", "tomli", "torch"):
            raise
        raise MissingPackageError(f"training needs {error.name}: pip install 'neurocodec[train]'") from error

    config = load_config(args.config, args.overrides)
    if args.init_from:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, init_from=args.init_from))
    folder = args.resume or args.folder or os.path.join("runs", os.path.splitext(os.path.basename(args.config))[0])
    resume = args.resume is not None
    if isinstance(config, GenerativeConfig):
        path, what = train(config, folder, Realism, resume=resume), "the trained generative decoder"
    else:
        path, what = train(config, folder, RateDistortion, resume=resume), "the trained model"
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
        print(f"{path}: {what}")
    return 0
