"""The layers of the integer networks, and their definition: docs/arithmetic.md as a NumPy int64 program.

A layer computes out = clamp(floor((W · in + bias + 2^(f-1)) / 2^f), low, high) on 16-bit activations. `EntropyNetwork`
proves from the weights that no partial sum of absolute values reaches 2^31.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import LIMIT

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A 1×1 or depthwise 3×3 layer. weight: int16 (out, in) or (C, 3, 3); bias: int64 (out,); shift: f."""

    weight: NDArray[np.int16]
    bias: IntArray
    shift: int

    def outputs(self, rows: NDArray[np.intp]) -> IntegerLayer:
        """The layer that computes only these outputs."""
        return IntegerLayer(np.ascontiguousarray(self.weight[rows]), self.bias[rows], self.shift)


class Arithmetic(Protocol):
    """The operations of the integer networks. Arrays are (height, width, channels), of a type of its own.

    Biases are int64: (out,), or (2, 2, out) with one for each phase of the 2×2 lattice of positions.
    """

    def load(self, values: NDArray[Any]) -> Any: ...
    def store(self, x: Any) -> NDArray[np.int32]: ...
    def pointwise(self, x: Any, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> Any: ...
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
        """Matrix product over channels; the biases are added to the accumulator."""
        height, width, _ = x.shape
        if bias.ndim == 3:
            bias = np.tile(bias, (-(-height // 2), -(-width // 2), 1))[:height, :width]
        total = x @ layer.weight.astype(np.int64).T + layer.bias + bias
        return self._requantise(total, layer.shift, low, high)

    def depthwise(self, x: IntArray, layer: IntegerLayer) -> IntArray:
        """3×3 with zeros outside, as nine shifted multiply-adds; no activation."""
        height, width, channels = x.shape
        padded = np.zeros((height + 2, width + 2, channels), dtype=np.int64)
        padded[1:-1, 1:-1] = x
        total = np.broadcast_to(layer.bias, x.shape).copy()
        for i in range(3):
            for j in range(3):
                total += padded[i : i + height, j : j + width] * layer.weight[:, i, j].astype(np.int64)
        return self._requantise(total, layer.shift, -LIMIT, LIMIT - 1)

    @staticmethod
    def _requantise(total: IntArray, shift: int, low: int, high: int) -> IntArray:
        rounding = (1 << shift) >> 1
        result: IntArray = np.clip((total + rounding) >> shift, low, high)
        return result

    def shuffle(self, x: NDArray[Any]) -> NDArray[Any]:
        """PixelShuffle(2): channel 4 c + 2 i + j of a position becomes channel c at offset (i, j)."""
        height, width, channels = x.shape
        blocks = x.reshape(height, width, channels // 4, 2, 2).transpose(0, 3, 1, 4, 2)
        return blocks.reshape(2 * height, 2 * width, channels // 4)

    def concatenate(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(parts, axis=2)
