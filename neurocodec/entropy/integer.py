"""The exact entropy path: from z_hat to table rows and means in integer arithmetic, the same on every machine.

Activations are integers with 8 fractional bits in [-32768, 32767]. Weights are 16-bit integers with f fractional
bits, one f a layer. A layer computes

    out = clamp(floor((W · in + bias + 2^(f-1)) / 2^f), low, high)

and nothing else: no division, no exp, no rounding mode. f is chosen so that no sum leaves 32 bits, and this is proved
from the weights when a model is loaded. `entropy.arithmetic` has the layers; docs/arithmetic.md specifies all of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.arithmetic import LIMIT, Arithmetic, IntArray, IntegerLayer
from neurocodec.errors import ModelMismatchError

if TYPE_CHECKING:
    from neurocodec.models.hyperprior import HyperpriorConfig

ACTIVATION_BITS = 8
"""Fractional bits of activations."""
HIDDEN_MAX = 127 << ACTIVATION_BITS
"""The clamp after a hidden layer, [0, 127]."""
OUTPUT_LIMIT = 1 << 23
"""Heads lie in [-OUTPUT_LIMIT, OUTPUT_LIMIT - 1]."""
SUM_LIMIT = 1 << 31
"""No partial sum of absolute values may reach this."""
MEAN_BITS = 6
"""Means and decoded latents are multiples of 1/64. A grid of 1/16 costs 1.6 % more bytes at the lowest rates."""
INDEX_SHIFT = 5
"""Networks predict scale indexes in units of 8 rows: with 8 fractional bits, 32 a row."""
QUALITY_STEPS = 64
"""Quality indexes count 1/64 of a row."""
LOG_TABLE_SIZE = 1 << 14
"""Entries of the table of log2(1 + |y|), one for each 1/64; larger latents take the last."""
MAX_LATENT = (1 << 22) - 1
"""Decoded latents are clamped to this many sixty-fourths in both directions."""

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Positions of the 2×2 lattice in the order they are visited; group g is coded at PHASES[(step + g) % 4]."""
PASSES = 4


def lattice(step: int, channels: int) -> Iterator[tuple[slice, slice, slice]]:
    """What pass `step` codes: for each group of channels its rows, its columns and its channels.

    Every position of y has exactly one group in a pass, so the latents of a pass form an array without holes, (height,
    width, channels / 4). The four passes cover each latent once.
    """
    quarter = channels // PASSES
    for group in range(PASSES):
        row, column = PHASES[(step + group) % PASSES]
        yield slice(row, None, 2), slice(column, None, 2), slice(group * quarter, (group + 1) * quarter)


def gather(values: NDArray[Any], step: int) -> NDArray[Any]:
    """The latents of a pass, (height, width, M / 4), out of all, (height, width, M)."""
    height, width, channels = values.shape
    part = np.empty((height, width, channels // PASSES), values.dtype)
    for rows, columns, group in lattice(step, channels):
        part[rows, columns] = values[rows, columns, group]
    return part


def scatter(part: Any, step: int, values: Any) -> None:
    """Puts the latents of a pass, (height, width, M / 4), among all, (height, width, M); NumPy or torch."""
    for rows, columns, group in lattice(step, values.shape[2]):
        values[rows, columns, group] = part[rows, columns]


def interpolate_rows(rows: IntArray, quality_index: int) -> IntArray:
    """The row of a quality index, between two stored rows: floor((low · (64 - t) + high · t + 32) / 64)."""
    low = min(quality_index // QUALITY_STEPS, rows.shape[0] - 2)
    t = quality_index - low * QUALITY_STEPS
    result: IntArray = (rows[low] * (QUALITY_STEPS - t) + rows[low + 1] * t + QUALITY_STEPS // 2) >> 6
    return result


class EntropyNetwork:
    """h_s and the context passes of one model, as integers.

    arrays: the frozen integers by name, as `freeze_entropy` makes them and the model file holds them.
    Raises ModelMismatchError if one is missing, of the wrong type or shape, or if a sum could leave the exact range.
    """

    def __init__(self, config: HyperpriorConfig, arrays: Mapping[str, NDArray[Any]], arithmetic: Arithmetic) -> None:
        self.config = config
        self.arithmetic = arithmetic
        self._arrays = arrays
        m, n, hidden = config.latent_channels, config.hyper_channels, config.hidden_channels
        shapes: dict[str, tuple[int, ...]] = {
            "h_s.conv_in": (hidden, n), "h_s.dw1": (hidden, 3, 3), "h_s.up1": (4 * hidden, hidden),
            "h_s.dw2": (hidden, 3, 3), "h_s.up2": (4 * hidden, hidden), "h_s.dw3": (hidden, 3, 3),
            "h_s.conv_out": (hidden, hidden), "prediction.conv": (hidden, hidden), "prediction.head": (2 * m, hidden),
        }  # fmt: skip
        rows = {"h_s.bias": hidden, "prediction.bias": 2 * m, "z_index": n}
        for i in range(PASSES - 1):
            shapes |= {
                f"contexts.{i}.dw_in": (2 * m, 3, 3), f"contexts.{i}.conv_in": (hidden, 2 * m + hidden),
                f"contexts.{i}.dw": (hidden, 3, 3), f"contexts.{i}.conv": (hidden, hidden),
                f"contexts.{i}.head": (2 * m, hidden),
            }  # fmt: skip
            rows[f"contexts.{i}.bias"] = hidden
            self._array(f"contexts.{i}.phase_bias", np.int64, (2, 2, hidden))
        self._rows = {name: self._array(name, np.int64, (config.quality_rows, size)) for name, size in rows.items()}
        self._layers = {name: self._layer(name, shape) for name, shape in shapes.items()}
        # Of a head, a pass needs at each position only the means and indexes of the group that it codes there.
        quarter = m // PASSES
        self._groups = [
            np.r_[g * quarter : (g + 1) * quarter, m + g * quarter : m + (g + 1) * quarter] for g in range(4)
        ]
        self._heads = {
            name: [self._layers[name].outputs(group) for group in self._groups]
            for name in ("prediction.head", *(f"contexts.{i}.head" for i in range(PASSES - 1)))
        }
        self._log_table = self._array("log_table", np.int16, (LOG_TABLE_SIZE,))

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        array = self._arrays.get(name)
        if array is None or array.dtype != dtype or array.shape != shape:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelMismatchError(f"the model file holds {found} as {name}; {np.dtype(dtype)} {shape} is needed.")
        return array

    def _layer(self, name: str, shape: tuple[int, ...]) -> IntegerLayer:
        weight = self._array(f"{name}.weight", np.int16, shape)
        bias = self._array(f"{name}.bias", np.int64, shape[:1])
        shift = int(self._array(f"{name}.shift", np.int64, (1,))[0])
        # No partial sum can exceed this, whatever the input. Python's integers do not overflow.
        sums = np.abs(weight.astype(np.int64)).reshape(shape[0], -1).sum(1)
        bound = int(sums.max()) * LIMIT + sum(_largest(self._arrays[b]) for b in (f"{name}.bias", *_extra_biases(name)))
        if not 0 <= shift <= 30 or weight.min() == -LIMIT or bound + (1 << shift) >= SUM_LIMIT:
            raise ModelMismatchError(f"the sums of layer {name} could leave the range in which they are exact.")
        return IntegerLayer(weight, bias, shift)

    def using(self, arithmetic: Arithmetic) -> EntropyNetwork:
        """The same network in another arithmetic, with the same results."""
        other = copy.copy(self)
        other.arithmetic = arithmetic
        return other

    def z_rows(self, quality_index: int, height: int, width: int) -> NDArray[np.uint8]:
        """Table rows of z, uint8 (ceil(height / 4), ceil(width / 4), N), for latents of (height, width)."""
        values = interpolate_rows(self._rows["z_index"], quality_index)
        rows = np.clip((values + 16) >> INDEX_SHIFT, 0, 63).astype(np.uint8)
        return np.broadcast_to(rows, (-(-height // 4), -(-width // 4), rows.size))

    def start(self, z_hat: NDArray[np.int32], quality_index: int, height: int, width: int) -> Passes:
        """Runs h_s on z_hat, int32 (ceil(height / 4), ceil(width / 4), N), and prepares the passes of one tile."""
        do = self.arithmetic
        x = do.load(np.clip(z_hat.astype(np.int64) << ACTIVATION_BITS, -LIMIT, LIMIT - 1))
        x = self._hidden(x, "h_s.conv_in", quality_index)
        for dw, up in (("h_s.dw1", "h_s.up1"), ("h_s.dw2", "h_s.up2")):
            x = do.shuffle(self._hidden(do.depthwise(x, self._layers[dw]), up, quality_index))
        x = self._hidden(do.depthwise(x, self._layers["h_s.dw3"]), "h_s.conv_out", quality_index)
        features = x[:height, :width]
        latents = self.config.latent_channels
        return Passes(
            network=self,
            quality_index=quality_index,
            features=features,
            base=self._hidden(features, "prediction.conv", quality_index),
            context=do.load(np.zeros((height, width, 2 * latents), np.int16)),
            y_hat=np.zeros((height, width, latents), np.int32),
        )

    def predict(self, passes: Passes) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """What `Passes.predict` returns."""
        do, step, index = self.arithmetic, passes.step, passes.quality_index
        hidden = [("prediction.head", passes.base)]
        if step > 0:
            name = f"contexts.{step - 1}."
            x = do.concatenate([do.depthwise(passes.context, self._layers[name + "dw_in"]), passes.features])
            x = self._hidden(x, name + "conv_in", index)
            x = self._hidden(do.depthwise(x, self._layers[name + "dw"]), name + "conv", index)
            hidden.append((name + "head", x))
        height, width, channels = passes.y_hat.shape
        values = np.empty((height, width, channels // 2), np.int32)
        for group, (rows, columns, _) in enumerate(lattice(step, channels)):
            values[rows, columns] = sum(
                do.store(
                    do.pointwise(
                        x[rows, columns],
                        self._heads[head][group],
                        self._bias(head, index)[self._groups[group]],
                        -OUTPUT_LIMIT,
                        OUTPUT_LIMIT - 1,
                    )
                )
                for head, x in hidden
            )
        means, indexes = np.split(values, 2, axis=2)
        drop = ACTIVATION_BITS - MEAN_BITS
        table_rows = np.clip((indexes + (1 << (INDEX_SHIFT - 1))) >> INDEX_SHIFT, 0, 63).astype(np.uint8)
        return (means + (1 << (drop - 1))) >> drop, table_rows

    def put(self, passes: Passes, latents: NDArray[np.int32]) -> None:
        """What `Passes.put` does: y_hat, and for later passes y / 8 and log2(1 + |y|) with 8 fractional bits."""
        scatter(latents, passes.step, passes.y_hat)
        if passes.step == PASSES - 1:
            return
        channels = self.config.latent_channels
        drop = MEAN_BITS + 3 - ACTIVATION_BITS
        linear = np.clip((latents + (1 << (drop - 1))) >> drop, -LIMIT, LIMIT - 1)
        logarithm = self._log_table.take(np.abs(latents), mode="clip")
        for part, half in ((linear, slice(None, channels)), (logarithm, slice(channels, None))):
            scatter(self.arithmetic.load(part), passes.step, passes.context[:, :, half])

    def _hidden(self, x: Any, name: str, quality_index: int) -> Any:
        return self.arithmetic.pointwise(x, self._layers[name], self._bias(name, quality_index), 0, HIDDEN_MAX)

    def _bias(self, name: str, quality_index: int) -> IntArray:
        """What a layer adds for this quality and, in context passes, for each phase of the lattice."""
        bias = np.zeros(self._layers[name].bias.shape, np.int64)
        for extra in _extra_biases(name):
            bias = bias + (
                self._arrays[extra] if extra not in self._rows else interpolate_rows(self._rows[extra], quality_index)
            )
        return bias


def _extra_biases(layer: str) -> tuple[str, ...]:
    """Names of the arrays that are added to a layer's sums beside its own bias."""
    prefix, _, kind = layer.rpartition(".")
    if layer in ("h_s.conv_in", "prediction.head"):
        return (f"{prefix}.bias",)
    return (f"{prefix}.bias", f"{prefix}.phase_bias") if prefix.startswith("contexts.") and kind == "conv_in" else ()


def _largest(values: NDArray[Any]) -> int:
    return max(int(values.max()), -int(values.min()))


@dataclass
class Passes:
    """The context passes of one tile, begun by `EntropyNetwork.start`: four times `predict`, then `put`."""

    network: EntropyNetwork
    quality_index: int
    features: Any
    base: Any
    context: Any
    y_hat: NDArray[np.int32]
    """Latents in units of 1/64, (height, width, M): those that have been put."""
    step: int = field(default=0, init=False)

    def predict(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Means in units of 1/64, int32, and table rows, uint8, of the latents of this pass.

        Both (height, width, M / 4): of each position the group of channels that the pass codes there, see `lattice`.
        """
        return self.network.predict(self)

    def put(self, latents: NDArray[np.int32]) -> None:
        """Takes the latents of this pass in units of 1/64, int32 (height, width, M / 4), and goes on to the next."""
        self.network.put(self, latents)
        self.step += 1


def weight_shift(row_sum: Any, largest: Any, bias: Any, inputs: int) -> Any:
    """Fractional bits of a layer's weights: as many, up to 15, as keep every sum within 32 bits.

    row_sum: the largest sum of absolute weights of one output; largest: the largest absolute weight; bias: the largest
    absolute biases, added up; inputs: products summed. Arrays or tensors (0-d), so that training can use it too.
    """
    rounding = inputs * (LIMIT // 2) + (1 << 17)  # every weight may be rounded up by a half, biases and sums likewise
    by_sum = (SUM_LIMIT - rounding) / (row_sum * LIMIT + bias * 2.0**ACTIVATION_BITS + 1.0)
    by_weight = (LIMIT - 1) / (largest + 1e-9)
    if isinstance(by_sum, float):
        return min(15, math.floor(math.log2(min(by_sum, by_weight))))
    return by_sum.minimum(by_weight).log2().floor().clamp(max=15)


def freeze_entropy(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Turns the float weights of h_s, prediction, contexts and z_index into the integers that `EntropyNetwork` runs.

    weights: the state dictionary of a `Hyperprior`, by its names. This happens once, when a model file is made.
    """
    frozen: dict[str, NDArray[Any]] = {}
    for name in _layer_names(weights):
        weight = weights[name + ".weight"].astype(np.float64)
        biases = {name + ".bias": weights[name + ".bias"]}
        biases |= {extra: weights[_float_name(extra)] for extra in _extra_biases(name)}
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
        for bias in (name + ".bias", *_extra_biases(name)):
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
