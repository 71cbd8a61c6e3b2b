"""Layers on integers, three times: the definition in NumPy, C++ for CPUs, torch for any device. Equal to the last bit.

A layer computes out = clamp(floor((W · in + bias + 2^(f-1)) / 2^f), low, high). Activations have 16 bits; whoever makes
an `IntegerLayer` has proved that no partial sum of absolute values reaches 2^31 (`EntropyNetwork` does).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.native import extension
from neurocodec.errors import NativeUnavailableError

LIMIT = 1 << 15
"""Activations lie in [-LIMIT, LIMIT - 1], weights in [1 - LIMIT, LIMIT - 1]."""

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
    """The operations the path is made of. Arrays are (height, width, channels) of the arithmetic's own kind.

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


def kernels() -> list[str]:
    """Names of the kernels of the C++ layers that this machine runs, best first; none without the extension."""
    native = extension()
    return list(native.kernels()) if native else []


class NativeArithmetic(NumpyArithmetic):
    """The same on the CPU in C++: 16-bit activations, 32-bit sums.

    kernel: one of `kernels()`; the best by default. threads: 0 for as many as torch may use.
    """

    def __init__(self, kernel: str = "", threads: int = 0) -> None:
        self._extension: Any = extension()
        if self._extension is None:
            raise NativeUnavailableError("the integer layers in C++ are not there; install neurocodec again.")
        self.kernel = kernel or kernels()[0]
        self._fixed_threads = threads
        self._layers: dict[int, tuple[IntegerLayer, Any]] = {}

    @property
    def threads(self) -> int:
        if self._fixed_threads:
            return self._fixed_threads
        torch = sys.modules.get("torch")  # who limits torch's threads means these too
        return int(torch.get_num_threads()) if torch else os.cpu_count() or 1

    def _native(self, layer: IntegerLayer) -> Any:
        """The layer packed for the kernels, once."""
        found = self._layers.get(id(layer))
        if found is None:
            if layer.weight.ndim == 2:
                packed = self._extension.Pointwise(layer.weight)
            else:
                packed = self._extension.Depthwise(layer.weight, layer.bias.astype(np.int32))
            found = self._layers[id(layer)] = (layer, packed)
        return found[1]

    def load(self, values: NDArray[Any]) -> Any:
        return np.ascontiguousarray(values, dtype=np.int16)

    def pointwise(self, x: Any, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> Any:
        native = self._native(layer)
        run = native.run_wide if high >= LIMIT else native.run
        total = (layer.bias + bias).astype(np.int32)
        return run(np.ascontiguousarray(x), total, layer.shift, low, high, self.kernel, self.threads)

    def depthwise(self, x: Any, layer: IntegerLayer) -> Any:
        return self._native(layer).run(np.ascontiguousarray(x), layer.shift, self.kernel, self.threads)


class TorchArithmetic:
    """The same in float64 tensors on any device. Nothing here depends on precision settings of the caller."""

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self._device = device
        self._layers: dict[int, tuple[IntegerLayer, Any, Any]] = {}

    def _tensors(self, layer: IntegerLayer) -> tuple[Any, Any]:
        """Weight, (in, out) or (3, 3, C), and bias as float64, converted once."""
        found = self._layers.get(id(layer))
        if found is None:
            weight = self.load(layer.weight)
            weight = weight.T if weight.ndim == 2 else weight.permute(1, 2, 0)
            found = self._layers[id(layer)] = (layer, weight.contiguous(), self.load(layer.bias))
        return found[1:]

    def load(self, values: NDArray[Any]) -> Any:
        return self._torch.from_numpy(values.astype(np.float64)).to(self._device)

    def store(self, x: Any) -> NDArray[np.int32]:
        result: NDArray[np.int32] = x.to(self._torch.int32).cpu().numpy()
        return result

    def pointwise(self, x: Any, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> Any:
        height, width, channels = x.shape
        weight, own_bias = self._tensors(layer)
        with self._torch.autocast(x.device.type, enabled=False):
            total = (x.reshape(height * width, channels) @ weight).reshape(height, width, weight.shape[1])
        extra = self.load(bias)
        if bias.ndim == 3:
            extra = extra.repeat(-(-height // 2), -(-width // 2), 1)[:height, :width]
        return self._requantise(total.add_(extra + own_bias), layer.shift, low, high)

    def depthwise(self, x: Any, layer: IntegerLayer) -> Any:
        height, width, _ = x.shape
        padded = self._torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
        weight, bias = self._tensors(layer)
        total = padded[:height, :width] * weight[0, 0]
        for i in range(3):
            for j in range(3):
                if i or j:
                    total.addcmul_(padded[i : i + height, j : j + width], weight[i, j])
        return self._requantise(total.add_(bias), layer.shift, -LIMIT, LIMIT - 1)

    def _requantise(self, total: Any, shift: int, low: int, high: int) -> Any:
        return total.mul_(2.0**-shift).add_(0.5 if shift else 0.0).floor_().clamp_(low, high)

    def shuffle(self, x: Any) -> Any:
        height, width, channels = x.shape
        blocks = x.reshape(height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2)
        return blocks.reshape(2 * height, 2 * width, channels // 4)

    def concatenate(self, parts: list[Any]) -> Any:
        return self._torch.cat(parts, dim=2)


def arithmetic(device: str) -> Arithmetic:
    """The fastest for a device: C++ on the CPU if it was built, torch otherwise."""
    return NativeArithmetic() if device == "cpu" and extension() else TorchArithmetic(device)
