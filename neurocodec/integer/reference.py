"""The layers of the integer networks: docs/arithmetic.md as a NumPy int64 program, which defines the results.

A layer computes out = clamp(floor((W · in + bias + 2^(f-1)) / 2^f), low, high) on 16-bit activations, with a shift f
for each output. `Arrays.layer` proves from the weights that no partial sum of absolute values reaches 2^31.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import LIMIT, QUALITY_STEPS, SUM_LIMIT
from neurocodec.errors import ModelMismatchError

IntArray = NDArray[np.int64]
QualityIndex = int | IntArray
"""The quality index of a picture, or one for each picture of a batch, (B,)."""


MEAN_FACTOR_BITS = 24
RECIPROCAL_ROOTS = np.array([0, *(min(LIMIT - 1, math.isqrt((1 << 40) // i)) for i in range(1, 1 << 14))])
"""floor(2^20 / sqrt(i)), at most 32767; of 0, which no sum is, 0."""


def mean_factor(channels: int) -> int:
    """The factor, with `MEAN_FACTOR_BITS`, that makes a mean of a sum."""
    return ((1 << MEAN_FACTOR_BITS) + channels // 2) // channels


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A 1×1 or depthwise 3×3 layer. weight: int16 (out, in) or (C, 3, 3); bias and shift (f): int64 (out,).

    In layers between activations and 16-bit pixels, weights may be int32, and sums take up to 41 bits.
    """

    weight: NDArray[Any]
    bias: IntArray
    shift: IntArray

    def outputs(self, rows: NDArray[np.intp]) -> IntegerLayer:
        """The layer that computes only these outputs."""
        return IntegerLayer(np.ascontiguousarray(self.weight[rows]), self.bias[rows], self.shift[rows])


class Arrays:
    """Checked access to a model's integer arrays; ModelMismatchError says what does not fit.

    arrays: by name, as in a model file. prefix: put before every name passed to the methods, such as "g_s.".
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> None:
        self._arrays, self._prefix = arrays, prefix

    def take(self, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """The array of this name. Raises ModelMismatchError unless it has this dtype and shape."""
        name = self._prefix + name
        array = self._arrays.get(name)
        if array is None or array.dtype != dtype or array.shape != shape:
            stored = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelMismatchError(f"the model file holds {stored} as {name}, expected {np.dtype(dtype)} {shape}.")
        return array

    def layer(self, name: str, *shape: int, largest_input: int = LIMIT, extra: Sequence[str] = ()) -> IntegerLayer:
        """A layer whose sums are proved to stay below 2^31 for inputs up to `largest_input` in magnitude.

        shape: shape of the weight. extra: names of arrays whose values may be added to a sum besides the bias. Raises
        ModelMismatchError if an array does not fit or a sum could overflow.
        """
        weight = self.take(f"{name}.weight", np.int16, shape)
        bias = self.take(f"{name}.bias", np.int32, shape[:1])
        shift = self.take(f"{name}.shift", np.int8, shape[:1])
        bound = np.abs(weight.astype(np.int64)).reshape(shape[0], -1).sum(1) * largest_input
        for array in (f"{name}.bias", *extra):
            bound += np.abs(self._arrays[self._prefix + array].astype(np.int64)).reshape(-1, shape[0]).max(0)
        in_range = shift.min() >= 0 and shift.max() <= 30 and weight.min() > -LIMIT
        if not in_range or (bound + (1 << shift.astype(np.int64))).max() >= SUM_LIMIT:
            raise ModelMismatchError(
                f"the sums of layer {self._prefix}{name} could leave the range in which they are exact."
            )
        return IntegerLayer(weight, bias.astype(np.int64), shift.astype(np.int64))


def interpolate_rows(rows: IntArray, quality_index: QualityIndex) -> IntArray:
    """Interpolates between the stored rows around a quality index: floor((low · (64 - t) + high · t + 32) / 64).

    rows: (rows, C). Returns (C,), or (B, 1, 1, C) for the quality indexes of B pictures.
    """
    index = np.asarray(quality_index)
    low = np.minimum(index // QUALITY_STEPS, rows.shape[0] - 2)
    t = (index - low * QUALITY_STEPS)[..., None]
    result: IntArray = (rows[low] * (QUALITY_STEPS - t) + rows[low + 1] * t + QUALITY_STEPS // 2) >> 6
    return result if index.ndim == 0 else result[:, None, None, :]


class Arithmetic(Protocol):
    """The operations of the integer networks, on arrays (height, width, channels) of the arithmetic's own type.

    `NumpyArithmetic` defines each operation. Biases are int64, (out,) or (2, 2, out) with one for each phase of the 2×2
    lattice of positions. An arithmetic for batches takes arrays (B, height, width, channels), and biases and shifts
    with (B, 1, 1) or (B, 2, 2) in front. `load` converts symbols, rows, latents and pixels, which are NumPy arrays or
    tensors, to the arithmetic's type, and `store` converts them back.
    """

    def load(self, values: Any) -> Any: ...
    def store(self, x: Any, dtype: type[np.generic] = ...) -> Any: ...
    def zeros(self, shape: tuple[int, ...]) -> Any: ...
    def lookup(self, table: NDArray[np.int16], index: Any) -> Any: ...
    def pad_edge(self, x: Any, bottom: int, right: int) -> Any: ...
    def shift(self, x: Any, bits: int | IntArray) -> Any: ...
    def normalise(self, x: Any, epsilon: int) -> Any: ...
    def clamp(self, x: Any, low: int, high: int) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def pointwise(self, x: Any, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> Any: ...
    def depthwise(self, x: Any, layer: IntegerLayer) -> Any: ...
    def shuffle(self, x: Any, factor: int = 2) -> Any: ...
    def unshuffle(self, x: Any, factor: int = 2) -> Any: ...
    def concatenate(self, parts: list[Any]) -> Any: ...


class NumpyArithmetic:
    """The definition: int64 throughout."""

    def load(self, values: NDArray[Any]) -> IntArray:
        return values.astype(np.int64)

    def store(self, x: IntArray, dtype: type[np.generic] = np.int32) -> NDArray[Any]:
        """Converts to int32, uint8 or uint16; the values must fit."""
        return x.astype(dtype)

    def zeros(self, shape: tuple[int, ...]) -> IntArray:
        return np.zeros(shape, np.int64)

    def lookup(self, table: NDArray[np.int16], index: IntArray) -> IntArray:
        """Table entries at non-negative indexes; indexes beyond the end take the last entry."""
        return table.take(index, mode="clip").astype(np.int64)

    def pad_edge(self, x: IntArray, bottom: int, right: int) -> IntArray:
        """Repeats the last row and column."""
        return np.pad(x, ((0, bottom), (0, right), (0, 0)), mode="edge")

    def shift(self, x: IntArray, bits: int | IntArray) -> IntArray:
        """floor((x + floor(2^bits / 2)) / 2^bits), with one number of bits or one per channel."""
        return (x + ((1 << np.asarray(bits, np.int64)) >> 1)) >> bits

    def normalise(self, x: IntArray, epsilon: int) -> IntArray:
        """d / sqrt(sum of d² + epsilon) with 15 fractional bits, where d is x less its mean over the channels.

        The reciprocal root is that of the leading 13 or 14 bits of the sum.
        """
        channels = x.shape[-1]
        mean = (x.sum(-1, keepdims=True) * mean_factor(channels) + (1 << (MEAN_FACTOR_BITS - 1))) >> MEAN_FACTOR_BITS
        d = x - mean
        total = (d * d).sum(-1, keepdims=True) + epsilon
        exponent = np.zeros_like(total)
        while (large := total >> (2 * exponent) >= RECIPROCAL_ROOTS.size).any():
            exponent += large
        root = RECIPROCAL_ROOTS[total >> (2 * exponent)]
        return self.clamp(self.shift(d * root, exponent + 5), -LIMIT, LIMIT - 1)

    def clamp(self, x: IntArray, low: int, high: int) -> IntArray:
        return np.clip(x, low, high)

    def maximum(self, x: IntArray, y: IntArray) -> IntArray:
        return np.maximum(x, y)

    def pointwise(self, x: IntArray, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> IntArray:
        """A 1×1 layer: matrix product over channels, biases added to the accumulator, shift and clamp."""
        height, width, _ = x.shape
        if bias.ndim == 3:
            bias = np.tile(bias, (-(-height // 2), -(-width // 2), 1))[:height, :width]
        total = x @ layer.weight.astype(np.int64).T + layer.bias + bias
        return self.clamp(self.shift(total, layer.shift), low, high)

    def depthwise(self, x: IntArray, layer: IntegerLayer) -> IntArray:
        """A depthwise 3×3 layer with zero padding, as nine shifted multiply-adds; no activation."""
        height, width, channels = x.shape
        padded = np.zeros((height + 2, width + 2, channels), dtype=np.int64)
        padded[1:-1, 1:-1] = x
        total = np.broadcast_to(layer.bias, x.shape).copy()
        for i in range(3):
            for j in range(3):
                total += padded[i : i + height, j : j + width] * layer.weight[:, i, j].astype(np.int64)
        return self.clamp(self.shift(total, layer.shift), -LIMIT, LIMIT - 1)

    def shuffle(self, x: NDArray[Any], factor: int = 2) -> NDArray[Any]:
        """PixelShuffle(n): channel n² c + n i + j of a position becomes channel c at offset (i, j)."""
        (height, width, channels), n = x.shape, factor
        blocks = x.reshape(height, width, channels // n**2, n, n).transpose(0, 3, 1, 4, 2)
        return blocks.reshape(n * height, n * width, channels // n**2)

    def unshuffle(self, x: NDArray[Any], factor: int = 2) -> NDArray[Any]:
        """PixelUnshuffle(n), the inverse of `shuffle`."""
        (height, width, channels), n = x.shape, factor
        blocks = x.reshape(height // n, n, width // n, n, channels).transpose(0, 2, 4, 1, 3)
        return blocks.reshape(height // n, width // n, n**2 * channels)

    def concatenate(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(parts, axis=2)
