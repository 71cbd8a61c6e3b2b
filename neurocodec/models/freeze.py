"""Freezes trained float networks to a model, and thaws them. Only here do floats become integers and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec.entropy.grid import (
    ACTIVATION_BITS,
    LIMIT,
    LOG_TABLE_SIZE,
    MEAN_BITS,
    SCALE_LEVELS,
    SCALE_MAX,
    SCALE_MIN,
    SUM_LIMIT,
    weight_shift,
)
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.entropy import extra_biases
from neurocodec.integer.reference import IntArray
from neurocodec.integer.transforms import LOG_GAIN_BITS, MANTISSA_BITS, MID_GRAY, TRANSFORM_BITS
from neurocodec.model import EXP2_SIZE, TABLE_ARRAYS, Model
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.scales import Scales, scaled

TRANSFORMS = ("g_a.", "h_a.", "g_s.")
PIXEL_BITS = 0
GAINS = ("g_a.log_gain", "g_a.log_y_gain", "g_s.log_y_gain", "g_s.log_gain")


def freeze(network: Hyperprior, *, tables: Tables | None = None, scales: Scales | None = None) -> Model:
    """The frozen model of trained networks. Raises ModelMismatchError if their weights are too large for integers.

    tables: one row for each scale of `entropy.grid`, by default Gaussian. scales: power-of-two factors of the
    transforms' activations from `measure_scales`, by default 1.
    """
    weights = {name: value.detach().double().cpu().numpy() for name, value in network.state_dict().items()}
    if tables is None:
        deviations = np.exp(np.linspace(np.log(SCALE_MIN), np.log(SCALE_MAX), SCALE_LEVELS))
        tables = gaussian_tables(deviations.tolist())
    scales = scales or {}
    arrays: dict[str, NDArray[Any]] = freeze_transforms(scaled(weights, network.config, scales))
    arrays |= {"scales." + name: value for name, value in scales.items()}
    arrays |= {"entropy." + name: value for name, value in freeze_entropy(weights).items()}
    arrays |= {"tables." + name: getattr(tables, name) for name in TABLE_ARRAYS}
    powers = np.rint(2.0 ** (MANTISSA_BITS + np.arange(EXP2_SIZE) / EXP2_SIZE))
    arrays["exp2_table"] = np.minimum(powers, LIMIT - 1).astype(np.int16)
    return Model(network.config, {name: value.copy(order="C") for name, value in arrays.items()})


def thaw(model: Model) -> Hyperprior:
    """Float networks from which to continue training: the inverse of `freeze`, up to rounding."""
    network = Hyperprior(model.config)
    network.load_state_dict(thawed_weights(model))
    return network


def thawed_weights(model: Model) -> dict[str, torch.Tensor]:
    """The state dictionary of the networks that `thaw` returns, float32."""
    inverse = {name: -value for name, value in model.part("scales.").items()}
    weights = scaled(thaw_transforms(model.arrays), model.config, inverse) | thaw_entropy(model.part("entropy."))
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}


def freeze_transforms(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The integers that `integer.transforms` runs, from the float weights of g_a, h_a and g_s.

    weights: the state dictionary of a `Hyperprior`. Pixels enter g_a as p - 128 and leave g_s as 0 to 255: the weights
    of the stem and the head absorb the change of units, those of the head also its gain.
    """
    frozen: dict[str, NDArray[Any]] = {}
    for name in _transform_layers(weights):
        weight, bias = weights[name + ".weight"], weights[name + ".bias"]
        bits_in, bits_out, largest_input, largest_bias, extra = *_bits(name), LIMIT, SUM_LIMIT, None
        if name == "g_a.stem":
            largest_bias = 1 << 23  # thawed, it must fit float32
            bias, weight, largest_input = bias + weight.sum(1) * (MID_GRAY / 255 - 0.5), weight / 255, MID_GRAY
        if name == "g_s.head":
            weight = 255 * weight * np.exp(weights["g_s.log_head_gain"])
            bias = 255 * (bias + 0.5)
        if name == "h_a.conv_in":
            extra = weights["h_a.bias.weight"]
        integers = freeze_layer(
            name, weight, bias, bits_in, bits_out, largest_input=largest_input, largest_bias=largest_bias, extra=extra
        )
        frozen |= {f"{name}.{part}": value for part, value in integers.items() if part != "extra"}
        if "extra" in integers:
            frozen["h_a.bias"] = integers["extra"]
    for name in GAINS:
        frozen[name] = fixed(weights[name + ".weight"] / np.log(2.0), LOG_GAIN_BITS).astype(np.int32)
    return frozen


def thaw_transforms(frozen: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inverse of `freeze_transforms`, up to rounding; the head's gain becomes 1."""
    weights: dict[str, NDArray[Any]] = {}
    for name in _transform_layers(frozen):
        bits_in, bits_out = _bits(name)
        shift = frozen[name + ".shift"].astype(np.float64)
        scale = 2.0 ** -(shift + bits_out - bits_in)
        integers = frozen[name + ".weight"].astype(np.float64)
        weight = integers * _rows(scale, integers)
        bias = frozen[name + ".bias"] * 2.0 ** -(shift + bits_out)
        if name == "g_a.stem":
            weight = weight * 255
            bias = bias - weight.sum(1) * (MID_GRAY / 255 - 0.5)
        if name == "g_s.head":
            weight, bias = weight / 255, bias / 255 - 0.5
        if name == "h_a.conv_in":
            weights["h_a.bias.weight"] = frozen["h_a.bias"] * 2.0 ** -(shift + bits_out)
        weights |= {name + ".weight": weight, name + ".bias": bias}
    weights["g_s.log_head_gain"] = np.zeros(weights["g_s.head.weight"].shape[1])
    for name in GAINS:
        weights[name + ".weight"] = frozen[name] * (np.log(2.0) / 2.0**LOG_GAIN_BITS)
    return weights


def _transform_layers(arrays: Mapping[str, Any]) -> list[str]:
    names = {n.removesuffix(".weight") for n in arrays if n.startswith(TRANSFORMS) and n.endswith(".weight")}
    return sorted(name for name in names if name + ".bias" in arrays)


def _bits(name: str) -> tuple[int, int]:
    """Fractional bits of the input and the output of a layer of the transforms."""
    if name.startswith("h_a."):
        return ACTIVATION_BITS, ACTIVATION_BITS
    return PIXEL_BITS if name == "g_a.stem" else TRANSFORM_BITS, PIXEL_BITS if name == "g_s.head" else TRANSFORM_BITS


def freeze_layer(
    name: str,
    weight: NDArray[Any],
    bias: NDArray[Any],
    bits_in: int,
    bits_out: int,
    *,
    largest_input: int = LIMIT,
    largest_bias: int = SUM_LIMIT,
    extra: NDArray[Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Integers of a layer, with the largest shift for each output that keeps its sums within 31 bits.

    Returns weight int16, bias int32 and shift int8. bits_in, bits_out: fractional bits of inputs and outputs.
    largest_input: in magnitude. extra: rows of further biases, (rows, out), of which one is added at a time; the
    result then has their integers too, int32.
    Raises ModelMismatchError if the weights are too large for integers.
    """
    biases = bias[None] if extra is None else np.concatenate([bias[None], extra])
    for _ in range(2):  # once more for the rounded values, which may allow another bit, so that freezing is idempotent
        shifts = _largest_shifts(weight, biases, bits_in, bits_out, largest_input, largest_bias)
        if shifts.min() < 0:
            raise ModelMismatchError(f"the weights of {name} are too large for integers: training has diverged.")
        scale, bias_scale = _rows(2.0 ** (shifts + bits_out - bits_in), weight), 2.0 ** (shifts + bits_out)
        weight, biases = np.rint(weight * scale) / scale, np.rint(biases * bias_scale) / bias_scale
    integers = (biases * bias_scale).astype(np.int32)
    frozen = {"weight": (weight * scale).astype(np.int16), "bias": integers[0], "shift": shifts.astype(np.int8)}
    return frozen if extra is None else frozen | {"extra": integers[1:]}


def _largest_shifts(
    weight: NDArray[Any], biases: NDArray[Any], bits_in: int, bits_out: int, largest_input: int, largest_bias: int
) -> IntArray:
    """For each output, the largest shift whose sums `Arrays.layer` can prove to fit, or -1."""
    shifts = np.full(len(weight), -1)
    for shift in range(31):
        weights = np.abs(np.rint(weight * 2.0 ** (shift + bits_out - bits_in))).reshape(len(weight), -1)
        added = np.abs(np.rint(biases * 2.0 ** (shift + bits_out)))
        bound = weights.sum(1) * largest_input + added[0] + added[1:].max(0, initial=0) + 2.0**shift
        shifts[(weights.max(1) < LIMIT) & (bound < SUM_LIMIT) & (added[0] < largest_bias)] = shift
    return shifts


def _rows(values: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Reshapes one value per output, (out,), to broadcast against a weight, (out, ...)."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def freeze_entropy(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """The integers that `EntropyNetwork` runs, from the float weights of h_s, prediction, contexts and z_index.

    weights: the state dictionary of a `Hyperprior`.
    """
    frozen: dict[str, NDArray[Any]] = {}
    for name in _layer_names(weights):
        weight = weights[name + ".weight"].astype(np.float64)
        biases = {name + ".bias": weights[name + ".bias"]}
        biases |= {extra: weights[_float_name(extra)] for extra in extra_biases(name)}
        absolute = np.abs(weight).reshape(weight.shape[0], -1)
        shift = weight_shift(
            float(absolute.sum(1).max()),
            float(absolute.max()),
            float(sum(np.abs(bias.astype(np.float64)).max() for bias in biases.values())),
            absolute.shape[1],
        )
        if shift < 0:
            raise ModelMismatchError(f"the weights of {name} are too large for integers: training has diverged.")
        frozen[name + ".weight"] = np.rint(weight * 2.0**shift).astype(np.int16)
        frozen[name + ".shift"] = np.full(len(weight), shift, dtype=np.int8)
        for bias_name, bias in biases.items():
            frozen[bias_name] = fixed(bias, shift + ACTIVATION_BITS).astype(np.int32)
    frozen["z_index"] = fixed(weights["z_index.weight"], ACTIVATION_BITS).astype(np.int32)
    magnitudes = np.arange(LOG_TABLE_SIZE) / 2.0**MEAN_BITS
    frozen["log_table"] = fixed(np.log2(1.0 + magnitudes), ACTIVATION_BITS).astype(np.int16)
    return frozen


def thaw_entropy(frozen: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The inverse of `freeze_entropy`, up to rounding: float weights to train on from."""
    weights = {"z_index.weight": _real(frozen["z_index"], ACTIVATION_BITS)}
    for name in _layer_names(frozen):
        shift = int(frozen[name + ".shift"][0])
        weights[name + ".weight"] = _real(frozen[name + ".weight"], shift)
        for bias in (name + ".bias", *extra_biases(name)):
            weights[_float_name(bias)] = _real(frozen[bias], shift + ACTIVATION_BITS)
    return weights


def _layer_names(arrays: Mapping[str, Any]) -> list[str]:
    """Names of the layers of the entropy path, which have both a weight and a bias."""
    names = (
        n[: -len(".weight")]
        for n in arrays
        if n.startswith(("h_s.", "prediction.", "contexts.")) and n.endswith(".weight")
    )
    return sorted(name for name in names if name + ".bias" in arrays)


def _float_name(bias: str) -> str:
    """The name of a bias in the float network, where the per-quality rows are modules with a weight."""
    rows = bias.endswith(".bias") and bias.count(".") == (2 if bias.startswith("contexts.") else 1)
    return bias + ".weight" if rows else bias


def fixed(values: NDArray[Any], bits: int) -> IntArray:
    """The nearest integers, with a number of fractional bits."""
    integers: IntArray = np.rint(values.astype(np.float64) * 2.0**bits).astype(np.int64)
    return integers


def _real(values: NDArray[Any], bits: int) -> NDArray[np.float32]:
    return (values.astype(np.float64) * 2.0**-bits).astype(np.float32)
