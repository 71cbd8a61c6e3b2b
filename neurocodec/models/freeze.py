"""Trained float networks to a frozen model, and back. The only place where floats become integers and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec.entropy.grid import (
    ACTIVATION_BITS,
    LOG_TABLE_SIZE,
    MEAN_BITS,
    SCALE_LEVELS,
    SCALE_MAX,
    SCALE_MIN,
    weight_shift,
)
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.network import extra_biases
from neurocodec.integer.reference import IntArray
from neurocodec.model import TABLE_ARRAYS, Model
from neurocodec.models.hyperprior import Hyperprior

TRANSFORMS = ("g_a.", "h_a.", "g_s.")


def freeze(network: Hyperprior, *, tables: Tables | None = None) -> Model:
    """The frozen model of trained networks. Raises ModelMismatchError if their weights are too large for integers.

    tables: a row for each scale of `entropy.grid`; Gaussian ones by default.
    """
    weights = {name: value.detach().float().cpu().numpy() for name, value in network.state_dict().items()}
    if tables is None:
        scales = np.exp(np.linspace(np.log(SCALE_MIN), np.log(SCALE_MAX), SCALE_LEVELS))
        tables = gaussian_tables(scales.tolist())
    arrays: dict[str, NDArray[Any]] = {n: v for n, v in weights.items() if n.startswith(TRANSFORMS)}
    arrays |= {"entropy." + name: value for name, value in freeze_entropy(weights).items()}
    arrays |= {"tables." + name: getattr(tables, name) for name in TABLE_ARRAYS}
    return Model(network.config, {name: value.copy(order="C") for name, value in arrays.items()})


def thaw(model: Model) -> Hyperprior:
    """Float networks to train on from: the inverse of `freeze`, up to the rounding of the entropy path's weights."""
    transforms = {name: value for name, value in model.arrays.items() if name.startswith(TRANSFORMS)}
    weights = transforms | thaw_entropy(model.part("entropy."))
    network = Hyperprior(model.config)
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    return network


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
        frozen[name + ".shift"] = np.array([shift], dtype=np.int64)
        for bias_name, bias in biases.items():
            frozen[bias_name] = _fixed(bias, shift + ACTIVATION_BITS)
    frozen["z_index"] = _fixed(weights["z_index.weight"], ACTIVATION_BITS)
    magnitudes = np.arange(LOG_TABLE_SIZE) / 2.0**MEAN_BITS
    frozen["log_table"] = _fixed(np.log2(1.0 + magnitudes), ACTIVATION_BITS).astype(np.int16)
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
    """Names of the layers of the entropy path: what has a weight, and a bias beside it."""
    names = (
        n[: -len(".weight")]
        for n in arrays
        if n.startswith(("h_s.", "prediction.", "contexts.")) and n.endswith(".weight")
    )
    return sorted(name for name in names if name + ".bias" in arrays)


def _float_name(bias: str) -> str:
    """Per-quality rows are modules with a weight in the float network: those of h_s, prediction and each context."""
    rows = bias.endswith(".bias") and bias.count(".") == (2 if bias.startswith("contexts.") else 1)
    return bias + ".weight" if rows else bias


def _fixed(values: NDArray[Any], bits: int) -> IntArray:
    fixed: IntArray = np.rint(values.astype(np.float64) * 2.0**bits).astype(np.int64)
    return fixed


def _real(values: NDArray[Any], bits: int) -> NDArray[np.float32]:
    return (values.astype(np.float64) * 2.0**-bits).astype(np.float32)
