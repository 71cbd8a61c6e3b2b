"""How a run starts: from a transform codec, from another model, or from its own checkpoint."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from neurocodec import model as model_files
from neurocodec.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from neurocodec.model import HyperpriorConfig
from neurocodec.models.freeze import thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.training.config import Config, config_from_dict
from neurocodec.training.data import Photographs
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.run import State, load_run

GROWABLE = ("encoder_blocks", "decoder_blocks", "latent_blocks")
"""Counts of residual blocks that may be larger than those of the model to start from: new blocks are the identity."""

MOVABLE = ("lambda_min", "lambda_max")
"""What may differ from the model to start from: training moves the quality rows to other λ."""


def start(config: Config, photographs: Photographs, saved: dict[str, Any] | None, device: torch.device) -> State:
    """The state of a run before its next step. saved: its checkpoint, if it is resumed. Raises ConfigError."""
    settings = config.training
    torch.manual_seed(settings.seed)
    model = Hyperprior(config.model)
    if saved is None and settings.init_from:
        start_from(model, settings.init_from)
    elif saved is None and settings.init_images:
        if config.model.channels < 192:
            raise ConfigError(
                f"model.channels is {config.model.channels}, and the transform start needs at least 192: with fewer, "
                "set training.init_images to 0."
            )
        chosen = range(0, len(photographs), max(1, len(photographs) // settings.init_images))
        model.start_as_transform_codec([photographs.tensor(i, largest=1024) for i in chosen])
    model.to(device=device)
    state = State(model, copy.deepcopy(model), make_optimizers(model, settings))
    if saved is not None:
        _check_fit("the run to resume", config_from_dict({"model": saved["config"]["model"]}).model, config.model)
        if saved["config"]["training"]["optimizer"] != settings.optimizer:
            raise ConfigError(f"training.optimizer is {settings.optimizer!r}, and the run to resume has another one.")
        state.restore(saved)
    return state


def start_from(model: Hyperprior, source: str) -> None:
    """Gives `model` the weights of a run's model.pt, of a .safetensors file or of an installed model's name.

    `model` may have more residual blocks; the additional ones do nothing until they are trained, so it computes what
    the source computes. Its λ may differ: training then moves the quality rows. Raises ConfigError if the source cannot
    be read or has another shape.
    """
    try:
        if Path(source).suffix == ".pt":
            found = load_run(source)
        else:
            found = thaw(model_files.load(source))
    except (ModelNotFoundError, ModelMismatchError) as error:
        raise ConfigError(f"cannot start from {source!r}: {error}") from error
    _check_fit(f"the model {source!r}", found.config, model.config, growable=GROWABLE, movable=MOVABLE)
    model.load_state_dict(found.state_dict(), strict=False)  # only additional blocks are missing: the rest was compared


def _check_fit(
    source: str,
    found: HyperpriorConfig,
    wanted: HyperpriorConfig,
    growable: tuple[str, ...] = (),
    movable: tuple[str, ...] = (),
) -> None:
    for name, value in dataclasses.asdict(wanted).items():
        there = getattr(found, name)
        if value != there and name not in movable and not (name in growable and value > there):
            more = " or more" if name in growable else ""
            raise ConfigError(f"model.{name} is {value}, and {source} has {there}: set it to {there}{more}.")
