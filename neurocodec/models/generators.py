"""Generative decoders: float networks to train, and the integers that decoding runs, which files hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import model as model_files
from neurocodec.integer.generator import (
    DETAIL_BITS,
    DETAIL_GAIN_BITS,
    EPSILON,
    GAIN_BITS,
    INNER_BITS,
    LEVEL_BITS,
    NORM_BITS,
    PRODUCT_BITS,
    REALISM_ROWS,
    STREAM_BITS,
    sigmoid_table,
)
from neurocodec.integer.generator import (
    Generator as IntegerGenerator,
)
from neurocodec.integer.reference import Arrays
from neurocodec.integer.transforms import TRANSFORM_BITS, Synthesis, exp2_table_of
from neurocodec.model import GeneratorConfig, GeneratorFile, Model
from neurocodec.models.freeze import fixed, freeze_layer, thaw, thawed_weights
from neurocodec.models.hific import LEAST_LEARNED, Generator, RealismGain

Weights = Mapping[str, NDArray[Any]]


def new(config: GeneratorConfig, model: Model) -> Generator:
    """A generator on top of a model's g_s, with random weights."""
    generator = Generator(config, model.config)
    generator.trunk.load_state_dict(thaw(model).g_s.state_dict())
    return generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load(path: str | Path, model: Model) -> Generator:
    """The float twin of the generator in a file. Raises ModelMismatchError if it is damaged or of another model."""
    return thawed(model_files.load_generator(path, model), model)


def freeze(generator: Generator, model: Model) -> GeneratorFile:
    """The integers of a trained generator on top of a model's g_s, which has its own.

    Gains and offsets of norms, and the root of their number of channels, become part of the layers that read them.
    Raises ModelMismatchError if weights are too large for integers.
    """
    config = generator.config
    weights = {name: value.detach().double().cpu().numpy() for name, value in generator.state_dict().items()}
    exponents = _exponents(model).astype(np.int64)
    arrays = {
        "norm_in.shift": (exponents - exponents.min()).astype(np.int8),
        "norm_in.epsilon": np.array([_feature_epsilon(exponents)], np.int32),
        "sigmoid_table": sigmoid_table(),
        "gain": fixed(_gain_rows(weights["gain.weight"]) * 255, LEVEL_BITS + DETAIL_GAIN_BITS).astype(np.int32),
    }
    for block in _blocks(config):
        arrays[f"{block}.gain"] = fixed(_gain_rows(weights[f"{block}.gain.weight"]), GAIN_BITS).astype(np.int32)
    for name, (norm, bits_in, bits_out) in _layers(config).items():
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if norm:
            bias = bias + weight @ weights[f"{norm}.offset"]
            weight = weight * weights[f"{norm}.gain"] * math.sqrt(weight.shape[1])
        extra = weights["quality.weight"] if name == "conv_in" else None
        integers = freeze_layer(name, weight, bias, bits_in, bits_out, extra=extra)
        arrays |= {f"{name}.{part}": value for part, value in integers.items() if part != "extra"}
        if "extra" in integers:
            arrays["quality"] = integers["extra"]
    file = GeneratorFile(config, {name: value.copy(order="C") for name, value in arrays.items()}, model.model_id)
    check(file, model)
    return file


def thawed(file: GeneratorFile, model: Model) -> Generator:
    """The float twin of a frozen generator, in evaluation mode. Raises ModelMismatchError if its arrays do not fit."""
    check(file, model)
    arrays, config = file.arrays, file.config
    state: dict[str, NDArray[Any]] = {"gain.weight": arrays["gain"] / (255 * 2.0 ** (LEVEL_BITS + DETAIL_GAIN_BITS))}
    for block in _blocks(config):
        state[f"{block}.gain.weight"] = arrays[f"{block}.gain"] * 2.0**-GAIN_BITS
    for name, (norm, bits_in, bits_out) in _layers(config).items():
        integers, shift = arrays[f"{name}.weight"], arrays[f"{name}.shift"].astype(np.float64)
        scale = 2.0 ** (bits_in - bits_out - shift)
        if norm:
            channels = integers.shape[1]
            scale = scale / math.sqrt(channels)
            state |= {f"{norm}.gain": np.ones(channels), f"{norm}.offset": np.zeros(channels)}
        state[f"{name}.weight"] = integers * scale.reshape(-1, *[1] * (integers.ndim - 1))
        state[f"{name}.bias"] = arrays[f"{name}.bias"] * 2.0 ** -(shift + bits_out)
    shift = arrays["conv_in.shift"].astype(np.float64)
    state["quality.weight"] = arrays["quality"] * 2.0 ** -(shift + STREAM_BITS)
    for name in [name for name in state if name.endswith("gain.weight")]:
        features = _realism_features(config.frequencies)
        state[name] = np.linalg.lstsq(features, state[name], rcond=None)[0].T
    trunk = {name: value for name, value in thawed_weights(model).items() if name.startswith("g_s.")}
    with torch.device("meta"):  # draws no random numbers, and the caller's default type and device do not matter
        generator = Generator(config, model.config)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in state.items()}
    generator.load_state_dict(tensors | {"trunk" + name[3:]: value for name, value in trunk.items()}, assign=True)
    return generator.eval().requires_grad_(False)


def check(file: GeneratorFile, model: Model) -> None:
    """Raises ModelMismatchError if the arrays of a file do not fit its configuration, or sums could overflow."""
    trunk = Synthesis(model.config, Arrays(model.arrays, "g_s."), exp2_table_of(Arrays(model.arrays)))
    IntegerGenerator(file, model.config, trunk)


def _blocks(config: GeneratorConfig) -> list[str]:
    return [f"blocks.{i}" for i in range(config.blocks)] + [f"fine_blocks.{i}" for i in range(config.fine_blocks)]


def _layers(config: GeneratorConfig) -> dict[str, tuple[str, int, int]]:
    """For each layer the norm that it absorbs, if any, and the fractional bits of its input and its output."""
    layers = {"conv_in": ("norm_in", NORM_BITS, STREAM_BITS), "to_fine": ("", STREAM_BITS, STREAM_BITS)}
    layers["head"] = ("", STREAM_BITS, DETAIL_BITS)
    for block in _blocks(config):
        layers[f"{block}.conv_in"] = (f"{block}.norm", NORM_BITS, INNER_BITS)
        layers[f"{block}.conv_dw"] = ("", INNER_BITS, INNER_BITS)
        layers[f"{block}.conv_out"] = ("", PRODUCT_BITS, STREAM_BITS)
    return layers


def _exponents(model: Model) -> NDArray[np.int8]:
    """The powers of two by which the channels of the features were scaled when the model was frozen, (C,)."""
    return model.part("scales.").get("g_s.blocks", np.zeros(model.config.channels, np.int8))


def _feature_epsilon(exponents: NDArray[np.int64]) -> int:
    exact = EPSILON * 4.0 ** (TRANSFORM_BITS + int(exponents.min())) * exponents.size
    return int(min(max(round(exact), 1), 2**31 - 1))


def _realism_features(frequencies: int) -> NDArray[np.float64]:
    """What gains are linear in, for each of their rows: (REALISM_ROWS, 1 + 2 K)."""
    beta = torch.linspace(LEAST_LEARNED, 1.0, REALISM_ROWS, dtype=torch.float64)
    features: NDArray[np.float64] = RealismGain(1, frequencies).features(beta).double().numpy()
    return features


def _gain_rows(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gains of a `RealismGain` from realism ½ to 1: (REALISM_ROWS, C)."""
    rows: NDArray[np.float64] = _realism_features((weight.shape[1] - 1) // 2) @ weight.T
    return rows
