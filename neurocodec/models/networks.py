"""A frozen model's networks, ready to code on one device."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurocodec import model as model_files
from neurocodec.entropy.native import extension
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import NativeArithmetic
from neurocodec.integer.network import EntropyNetwork
from neurocodec.model import GeneratorConfig, GeneratorFile, HyperpriorConfig, Model
from neurocodec.models.hific import Generator
from neurocodec.models.hyperprior import Analysis, HyperAnalysis, Synthesis


@dataclass(eq=False)
class Networks:
    """The networks of `model` on `device`, in evaluation mode.

    generator: the decoder for realism above 0; None until it is needed, see `generator_of`.
    """

    model: Model
    device: str
    g_a: Analysis
    h_a: HyperAnalysis
    g_s: Synthesis
    entropy: EntropyNetwork
    generator: Generator | None = None

    @property
    def config(self) -> HyperpriorConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def model_id(self) -> bytes:
        """The model's id, 8 bytes."""
        return self.model.model_id


def load(name: str | Path, *, device: str = "auto") -> Networks:
    """The networks of an installed model or a model file; raises what `model.load` and `resolve_device` raise."""
    return of(model_files.load(name), resolve_device(device))


def find(model_id: bytes, *, device: str = "auto") -> Networks:
    """The networks of the installed model with this id; raises what `model.find` and `resolve_device` raise."""
    return of(model_files.find(model_id), resolve_device(device))


@functools.lru_cache(maxsize=4)
def of(model: Model, device: str = "cpu") -> Networks:
    """The networks of a model, built once for each device. Raises ModelMismatchError if its arrays do not fit."""

    def transform(kind: Any, name: str) -> Any:
        state = {key: torch.from_numpy(value) for key, value in model.part(f"{name}.").items()}
        try:
            module = kind(model.config)
            module.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise ModelMismatchError(f"the model file does not fit its configuration at {name}.") from error
        return module.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)

    arithmetic = NativeArithmetic() if device == "cpu" and extension() else TorchArithmetic(device)
    return Networks(
        model=model,
        device=device,
        g_a=transform(Analysis, "g_a"),
        h_a=transform(HyperAnalysis, "h_a"),
        g_s=transform(Synthesis, "g_s"),
        entropy=EntropyNetwork(model.config, model.part("entropy."), arithmetic),
    )


def generator_of(networks: Networks) -> Generator:
    """The generative decoder of these networks, by default the installed one. Raises ModelNotFoundError."""
    if networks.generator is None:
        networks.generator = build_generator(model_files.find_generator(networks.model), networks)
    return networks.generator


def new_generator(config: GeneratorConfig, networks: Networks) -> Generator:
    """A generator on top of these networks' g_s, with random weights."""
    generator = Generator(config, networks.config)
    generator.trunk.load_state_dict(networks.g_s.state_dict())
    generator.to(device=networks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator


def build_generator(file: GeneratorFile, networks: Networks) -> Generator:
    """The generator of a file. Raises ModelMismatchError if its arrays do not fit its configuration."""
    mismatch = ModelMismatchError("the generative decoder does not fit its configuration; install it again.")
    generator = new_generator(file.config, networks)
    try:
        state = {name: torch.from_numpy(value) for name, value in file.arrays.items()}
        missing, unexpected = generator.load_state_dict(state, strict=False)
    except (TypeError, RuntimeError) as error:
        raise mismatch from error
    if unexpected or any(not name.startswith("trunk.") for name in missing):
        raise mismatch
    return generator.eval().requires_grad_(False)


def load_generator(path: str | Path, networks: Networks) -> Generator:
    """The generator in a file. Raises ModelMismatchError if it is damaged or belongs to another model."""
    return build_generator(model_files.load_generator(path, networks.model), networks)


def generator_file(generator: Generator, model: Model) -> GeneratorFile:
    """What is stored of a generator: all weights but those of its trunk, which are the model's."""
    state = {name: value.detach().cpu().numpy() for name, value in generator.state_dict().items()}
    arrays = {name: value.copy(order="C") for name, value in state.items() if not name.startswith("trunk.")}
    return GeneratorFile(generator.config, arrays, model.model_id)


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' where there is one, else 'cpu'. Raises ValueError for a device that this machine lacks."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (colon and not (number.isascii() and number.isdecimal()))):
        raise ValueError(f"device is {device!r}; known are auto, cpu and cuda.")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, and PyTorch finds no GPU here; use cpu or auto.")
    last = torch.cuda.device_count() - 1
    if number and int(number) > last:
        raise ValueError(f"device is {device!r}, and the last GPU that PyTorch finds here is cuda:{last}.")
    return device
