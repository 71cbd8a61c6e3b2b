"""The exact entropy path: from z_hat to table rows and means in integer arithmetic, the same on every machine.

Activations are integers with 8 fractional bits in [-32768, 32767]. Weights are 16-bit integers with f fractional
bits, one f a layer. A layer computes

    out = clamp(floor((W · in + bias + 2^(f-1)) / 2^f), low, high)

and nothing else: no division, no exp, no rounding mode. `NumpyArithmetic` (int64) defines the answer;
`TorchArithmetic` does the same in float64, where integers below 2^53 are exact in any order of summation. The bound
is proved from the weights when a model is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurocodec.errors import ModelMismatchError

if TYPE_CHECKING:
    from neurocodec.models.hyperprior import HyperpriorConfig

ACTIVATION_BITS = 8
"""Fractional bits of activations."""
LIMIT = 1 << 15
"""Activations lie in [-LIMIT, LIMIT - 1]."""
HIDDEN_MAX = 127 << ACTIVATION_BITS
"""The clamp after a hidden layer, [0, 127]."""
OUTPUT_LIMIT = 1 << 23
MEAN_BITS = 4
"""Means and decoded latents are multiples of 1/16."""
INDEX_SHIFT = 5
"""Networks predict scale indexes in units of 8 rows: with 8 fractional bits, 32 a row."""
QUALITY_STEPS = 64
"""Quality indexes count 1/64 of a row."""
LOG_TABLE_SIZE = 1 << 12
"""Entries of the table of log2(1 + |y|), one a sixteenth; larger latents take the last."""
EXACT = 1 << 52
"""Largest partial sum admitted; float64 holds integers exactly to twice that."""
MAX_LATENT = (1 << 20) - 1
"""Decoded latents are clamped to this many sixteenths in both directions."""

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Positions of the 2×2 lattice in the order they are visited; group g is coded at PHASES[(step + g) % 4]."""
PASSES = 4

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class IntegerLayer:
    """A 1×1 or depthwise 3×3 layer. weight: int16 (out, in) or (C, 3, 3); bias: int64 (out,); shift: f."""

    weight: NDArray[np.int16]
    bias: IntArray
    shift: int


def pass_mask(step: int, height: int, width: int, channels: int) -> NDArray[np.bool_]:
    """The latents that pass `step` codes, bool (height, width, channels). The four masks cover each latent once."""
    mask = np.zeros((height, width, channels), dtype=bool)
    quarter = channels // PASSES
    for group in range(PASSES):
        row, column = PHASES[(step + group) % PASSES]
        mask[row::2, column::2, group * quarter : (group + 1) * quarter] = True
    return mask


def interpolate_rows(rows: IntArray, quality_index: int) -> IntArray:
    """The row of a quality index, between two stored rows: floor((low · (64 - t) + high · t + 32) / 64)."""
    low = min(quality_index // QUALITY_STEPS, rows.shape[0] - 2)
    t = quality_index - low * QUALITY_STEPS
    result: IntArray = (rows[low] * (QUALITY_STEPS - t) + rows[low + 1] * t + QUALITY_STEPS // 2) >> 6
    return result


class Arithmetic(Protocol):
    """The operations the path is made of. Arrays are (height, width, channels) of the arithmetic's own kind."""

    def load(self, values: NDArray[Any]) -> Any: ...
    def store(self, x: Any) -> NDArray[np.int32]: ...
    def pointwise(self, x: Any, layer: IntegerLayer, bias: Any, low: int, high: int) -> Any: ...
    def depthwise(self, x: Any, layer: IntegerLayer) -> Any: ...
    def shuffle(self, x: Any) -> Any: ...
    def concatenate(self, parts: list[Any]) -> Any: ...


class NumpyArithmetic:
    """The definition: int64 throughout."""

    def load(self, values: NDArray[Any]) -> IntArray:
        return values.astype(np.int64)

    def store(self, x: IntArray) -> NDArray[np.int32]:
        return x.astype(np.int32)

    def pointwise(self, x: IntArray, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> IntArray:
        """Matrix product over channels. bias: (out,) or (height, width, out), added to the accumulator."""
        total = x @ layer.weight.astype(np.int64).T + layer.bias + bias
        return _requantise(total, layer.shift, low, high)

    def depthwise(self, x: IntArray, layer: IntegerLayer) -> IntArray:
        """3×3 with zeros outside, as nine shifted multiply-adds; no activation."""
        height, width, channels = x.shape
        padded = np.zeros((height + 2, width + 2, channels), dtype=np.int64)
        padded[1:-1, 1:-1] = x
        total = np.broadcast_to(layer.bias, x.shape).copy()
        for i in range(3):
            for j in range(3):
                total += padded[i : i + height, j : j + width] * layer.weight[:, i, j].astype(np.int64)
        return _requantise(total, layer.shift, -LIMIT, LIMIT - 1)

    def shuffle(self, x: IntArray) -> IntArray:
        """PixelShuffle(2): channel 4 c + 2 i + j of a position becomes channel c at offset (i, j)."""
        height, width, channels = x.shape
        blocks = x.reshape(height, width, channels // 4, 2, 2).transpose(0, 3, 1, 4, 2)
        return blocks.reshape(2 * height, 2 * width, channels // 4)

    def concatenate(self, parts: list[IntArray]) -> IntArray:
        return np.concatenate(parts, axis=2)


def _requantise(total: IntArray, shift: int, low: int, high: int) -> IntArray:
    rounding = (1 << shift) >> 1
    result: IntArray = np.clip((total + rounding) >> shift, low, high)
    return result


class TorchArithmetic:
    """The same in float64 tensors on any device. Nothing here depends on precision settings of the caller."""

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self._device = device
        self._weights: dict[int, tuple[IntegerLayer, Any]] = {}

    def _weight(self, layer: IntegerLayer) -> Any:
        """The layer's weight as float64, converted once: (in, out) or (3, 3, C)."""
        found = self._weights.get(id(layer))
        if found is None:
            weight = self.load(layer.weight)
            weight = weight.T if weight.ndim == 2 else weight.permute(1, 2, 0)
            found = self._weights[id(layer)] = (layer, weight.contiguous())
        return found[1]

    def load(self, values: NDArray[Any]) -> Any:
        return self._torch.from_numpy(values.astype(np.float64)).to(self._device)

    def store(self, x: Any) -> NDArray[np.int32]:
        result: NDArray[np.int32] = x.to(self._torch.int32).cpu().numpy()
        return result

    def pointwise(self, x: Any, layer: IntegerLayer, bias: Any, low: int, high: int) -> Any:
        height, width, channels = x.shape
        with self._torch.autocast(x.device.type, enabled=False):
            total = x.reshape(-1, channels) @ self._weight(layer)
        total = total.reshape(height, width, -1)
        return self._requantise(total.add_(bias + self.load(layer.bias)), layer.shift, low, high)

    def depthwise(self, x: Any, layer: IntegerLayer) -> Any:
        height, width, _ = x.shape
        padded = self._torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
        weight = self._weight(layer)
        total = padded[:height, :width] * weight[0, 0]
        for i in range(3):
            for j in range(3):
                if i or j:
                    total.addcmul_(padded[i : i + height, j : j + width], weight[i, j])
        return self._requantise(total.add_(self.load(layer.bias)), layer.shift, -LIMIT, LIMIT - 1)

    def _requantise(self, total: Any, shift: int, low: int, high: int) -> Any:
        return total.mul_(2.0**-shift).add_(0.5 if shift else 0.0).floor_().clamp_(low, high)

    def shuffle(self, x: Any) -> Any:
        height, width, channels = x.shape
        blocks = x.reshape(height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2)
        return blocks.reshape(2 * height, 2 * width, channels // 4)

    def concatenate(self, parts: list[Any]) -> Any:
        return self._torch.cat(parts, dim=2)


class EntropyNetwork:
    """h_s and the context passes of one model, as integers.

    arrays: the frozen integers by name, as `freeze_entropy` makes them and the model file holds them.
    Raises ModelMismatchError if one is missing, of the wrong type or shape, or if a sum could leave the exact range.
    """

    def __init__(self, config: HyperpriorConfig, arrays: Mapping[str, NDArray[Any]], arithmetic: Arithmetic) -> None:
        self.config = config
        self._arrays = arrays
        self._do = arithmetic
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
        self._log_table = self._array("log_table", np.int16, (LOG_TABLE_SIZE,)).astype(np.int32)
        for name in ("h_s.conv_in", "prediction.head", *(f"contexts.{i}.conv_in" for i in range(PASSES - 1))):
            bias = self._rows[name.replace("conv_in", "bias").replace("head", "bias")]
            phase = self._arrays.get(name.replace("conv_in", "phase_bias"), np.zeros(1, np.int64))
            if self._bound(self._layers[name]) + int(np.abs(bias).max()) + int(np.abs(phase).max()) >= EXACT:
                raise ModelMismatchError(f"the sums of layer {name} could leave the range in which they are exact.")

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
        layer = IntegerLayer(weight, bias, shift)
        if not 0 <= shift <= 30 or self._bound(layer) >= EXACT:
            raise ModelMismatchError(f"the sums of layer {name} could leave the range in which they are exact.")
        return layer

    @staticmethod
    def _bound(layer: IntegerLayer) -> int:
        """No partial sum of the layer can exceed this, whatever the input."""
        weights = np.abs(layer.weight.astype(np.int64)).reshape(layer.weight.shape[0], -1).sum(1)
        return int((weights * LIMIT + np.abs(layer.bias)).max()) + (1 << layer.shift)

    def z_rows(self, quality_index: int, height: int, width: int) -> NDArray[np.uint8]:
        """Table rows of z, uint8 (ceil(height / 4), ceil(width / 4), N), for latents of (height, width)."""
        values = interpolate_rows(self._rows["z_index"], quality_index)
        rows = np.clip((values + 16) >> INDEX_SHIFT, 0, 63).astype(np.uint8)
        return np.broadcast_to(rows, (-(-height // 4), -(-width // 4), rows.size))

    def start(self, z_hat: NDArray[np.int32], quality_index: int, height: int, width: int) -> Passes:
        """Runs h_s on z_hat, int32 (ceil(height / 4), ceil(width / 4), N), and prepares the passes of one tile."""
        do, layers = self._do, self._layers
        x = do.load(np.clip(z_hat.astype(np.int64) << ACTIVATION_BITS, -LIMIT, LIMIT - 1))
        x = do.pointwise(x, layers["h_s.conv_in"], self._row("h_s.bias", quality_index), 0, HIDDEN_MAX)
        for dw, up in (("h_s.dw1", "h_s.up1"), ("h_s.dw2", "h_s.up2")):
            x = do.depthwise(x, layers[dw])
            x = do.shuffle(do.pointwise(x, layers[up], 0, 0, HIDDEN_MAX))
        x = do.depthwise(x, layers["h_s.dw3"])
        x = do.pointwise(x, layers["h_s.conv_out"], 0, 0, HIDDEN_MAX)
        features = x[:height, :width]
        x = do.pointwise(features, layers["prediction.conv"], 0, 0, HIDDEN_MAX)
        bias = self._row("prediction.bias", quality_index)
        base = do.pointwise(x, layers["prediction.head"], bias, -OUTPUT_LIMIT, OUTPUT_LIMIT - 1)
        return Passes(self, quality_index, features, base)

    def predict(
        self, passes: Passes, step: int, known: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """What `Passes.predict` returns."""
        do = self._do
        total = passes.base
        if step > 0:
            name = f"contexts.{step - 1}."
            height, width, _ = known.shape
            inputs = do.depthwise(do.load(self._context_input(known)), self._layers[name + "dw_in"])
            phase = np.tile(self._arrays[name + "phase_bias"], (-(-height // 2), -(-width // 2), 1))[:height, :width]
            bias = do.load(phase) + self._row(name + "bias", passes.quality_index)
            inputs = do.concatenate([inputs, passes.features])
            x = do.pointwise(inputs, self._layers[name + "conv_in"], bias, 0, HIDDEN_MAX)
            x = do.depthwise(x, self._layers[name + "dw"])
            x = do.pointwise(x, self._layers[name + "conv"], 0, 0, HIDDEN_MAX)
            total = total + do.pointwise(x, self._layers[name + "head"], 0, -OUTPUT_LIMIT, OUTPUT_LIMIT - 1)
        values = do.store(total)
        channels = self.config.latent_channels
        drop = ACTIVATION_BITS - MEAN_BITS
        means = (values[..., :channels] + (1 << (drop - 1))) >> drop
        rows = np.clip((values[..., channels:] + (1 << (INDEX_SHIFT - 1))) >> INDEX_SHIFT, 0, 63).astype(np.uint8)
        return means, rows

    def _context_input(self, known: NDArray[np.int32]) -> NDArray[np.int32]:
        """y / 8 and log2(1 + |y|), the latter from the model's table, with 8 fractional bits."""
        linear = np.clip(known * 2, -LIMIT, LIMIT - 1)
        logarithm = self._log_table[np.minimum(np.abs(known), LOG_TABLE_SIZE - 1)]
        return np.concatenate([linear, logarithm], axis=2)

    def _row(self, name: str, quality_index: int) -> Any:
        return self._do.load(interpolate_rows(self._rows[name], quality_index))


@dataclass(frozen=True)
class Passes:
    """The context passes of one tile, begun by `EntropyNetwork.start`. Several may be under way at once."""

    network: EntropyNetwork
    quality_index: int
    features: Any
    base: Any

    def predict(self, step: int, known: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Means in sixteenths, int32, and table rows, uint8, both (height, width, M), of pass `step`.

        known: decoded latents in sixteenths, int32 (height, width, M), zero where unknown. Only the latents of the
        pass's mask are meant to be used.
        """
        return self.network.predict(self, step, known)


def freeze_entropy(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Turns the float weights of h_s, prediction, contexts and z_index into the integers that `EntropyNetwork` runs.

    weights: the state dictionary of a `Hyperprior`, by its names. This happens once, when a model file is made.
    """
    frozen: dict[str, NDArray[Any]] = {}
    prefixes = ("h_s.", "prediction.", "contexts.")
    names = sorted(n[: -len(".weight")] for n in weights if n.startswith(prefixes) and n.endswith(".weight"))
    shifts = {}
    for name in names:
        weight = weights[name + ".weight"].astype(np.float64)
        if name.endswith(".bias"):  # quality rows: frozen below, at the scale of their layer
            continue
        largest = max(float(np.abs(weight).max()), 2.0**-8)
        shift = min(15, math.floor(math.log2((LIMIT - 1) / largest)))
        scale = 2.0 ** (shift + ACTIVATION_BITS)
        frozen[name + ".weight"] = np.rint(weight * 2.0**shift).astype(np.int16)
        frozen[name + ".bias"] = np.rint(weights[name + ".bias"].astype(np.float64) * scale).astype(np.int64)
        frozen[name + ".shift"] = np.array([shift], dtype=np.int64)
        shifts[name] = shift
    for name in names:
        if name.endswith(".bias"):
            layer = name[: -len("bias")] + ("head" if name.startswith("prediction.") else "conv_in")
            scale = 2.0 ** (shifts[layer] + ACTIVATION_BITS)
            frozen[name] = np.rint(weights[name + ".weight"].astype(np.float64) * scale).astype(np.int64)
            phase = name[: -len("bias")] + "phase_bias"
            if phase in weights:
                frozen[phase] = np.rint(weights[phase].astype(np.float64) * scale).astype(np.int64)
    frozen["z_index"] = np.rint(weights["z_index.weight"].astype(np.float64) * 2**ACTIVATION_BITS).astype(np.int64)
    magnitudes = np.arange(LOG_TABLE_SIZE) / 2.0**MEAN_BITS
    frozen["log_table"] = np.rint(np.log2(1.0 + magnitudes) * 2**ACTIVATION_BITS).astype(np.int16)
    return frozen
