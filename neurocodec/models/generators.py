"""Builds generative decoders from their files and runs them on decoded latents, in floating point."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import model as model_files
from neurocodec.entropy.grid import QUALITY_STEPS, UNIT
from neurocodec.errors import ModelMismatchError
from neurocodec.model import GeneratorConfig, GeneratorFile, Model
from neurocodec.models.freeze import thaw, thawed_weights
from neurocodec.models.hific import Generator
from neurocodec.models.pixels import from_tensor


def new(config: GeneratorConfig, model: Model) -> Generator:
    """A generator on top of a model's g_s, with random weights."""
    generator = Generator(config, model.config)
    generator.trunk.load_state_dict(thaw(model).g_s.state_dict())
    return generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def build(file: GeneratorFile, model: Model) -> Generator:
    """The generator of a file, in evaluation mode. Raises ModelMismatchError if its arrays do not fit."""
    state = {name: torch.from_numpy(value) for name, value in file.arrays.items()}
    trunk = {name: value for name, value in thawed_weights(model).items() if name.startswith("g_s.")}
    with torch.device("meta"):  # draws no random numbers, and the caller's default type and device do not matter
        generator = Generator(file.config, model.config)
    try:
        generator.load_state_dict(state | {"trunk" + name[3:]: value for name, value in trunk.items()}, assign=True)
    except RuntimeError as error:
        raise ModelMismatchError("the generative decoder does not fit its configuration; install it again.") from error
    return generator.eval().requires_grad_(False)


def load(path: str | Path, model: Model) -> Generator:
    """The generator in a file. Raises ModelMismatchError if it is damaged or belongs to another model."""
    return build(model_files.load_generator(path, model), model)


@functools.lru_cache(maxsize=4)
def of(model: Model) -> Generator:
    """A model's own generator or the installed one, built once. Raises ModelNotFoundError if there is none."""
    return build(model_files.find_generator(model), model)


def file_of(generator: Generator, model: Model) -> GeneratorFile:
    """The file contents of a generator: all weights except its trunk's, which are the model's."""
    state = {name: value.detach().cpu().numpy() for name, value in generator.state_dict().items()}
    arrays = {name: value.copy(order="C") for name, value in state.items() if not name.startswith("trunk.")}
    return GeneratorFile(generator.config, arrays, model.model_id)


def synthesis(
    generator: Generator, quality_index: int, realism: float, depth: int = 8
) -> Callable[[NDArray[np.int32]], NDArray[Any]]:
    """A function from y_hat, int32 (h, w, M) in units of 1/64, to pixels (16 h, 16 w, 3), uint8 or uint16.

    realism: β, 0 to 1. depth: bits per sample, 8 or 16. The caller's torch settings have no effect.
    """
    row = torch.tensor([quality_index / QUALITY_STEPS], dtype=torch.float32, device="cpu")
    beta = torch.tensor([realism], dtype=torch.float32, device="cpu")

    def run(y_hat: NDArray[np.int32]) -> NDArray[Any]:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            latents = torch.from_numpy(y_hat).permute(2, 0, 1)[None].float() / UNIT
            return from_tensor(generator(latents, row, beta), depth)

    return run
