"""The integer layers in torch, exactly: for GPUs, and for batches of pictures on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import LIMIT
from neurocodec.errors import ArgumentValueError
from neurocodec.integer.reference import MEAN_FACTOR_BITS, RECIPROCAL_ROOTS, IntArray, IntegerLayer, mean_factor

MAX_CONSTANTS = 4096
"""Maximum number of small arrays, a few kilobytes each, cached on the device."""


class TorchArithmetic:
    """Computes with float64 tensors on any device; the caller's precision settings have no effect."""

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self._device = device
        self._layers: dict[int, tuple[IntegerLayer, Any, Any]] = {}
        self._tables: dict[int, tuple[NDArray[Any], Any]] = {}
        self._constants: dict[tuple[tuple[int, ...], bytes], Any] = {}

    def _tensors(self, layer: IntegerLayer) -> tuple[Any, Any]:
        """Weight, (in, out) or (3, 3, C), and bias as float64, converted once."""
        if id(layer) not in self._layers:
            weight = self.load(layer.weight)
            weight = weight.T if weight.ndim == 2 else weight.permute(1, 2, 0)
            self._layers[id(layer)] = (layer, weight.contiguous(), self.load(layer.bias))
        return self._layers[id(layer)][1:]

    def _constant(self, values: NDArray[Any]) -> Any:
        """Like `load`, but equal values are copied only once. Callers must not modify the result."""
        key = values.shape, values.astype(np.float64).tobytes()
        if key not in self._constants:
            if len(self._constants) > MAX_CONSTANTS:
                self._constants.clear()
            self._constants[key] = self.load(values)
        return self._constants[key]

    def load(self, values: Any) -> Any:
        return self._torch.from_numpy(values.astype(np.float64)).to(self._device)

    def store(self, x: Any, dtype: type[np.generic] = np.int32) -> Any:
        result: NDArray[Any] = x.to(self._torch.int32).cpu().numpy().astype(dtype)
        return result

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self._torch.zeros(shape, dtype=self._torch.float64, device=self._device)

    def lookup(self, table: NDArray[Any], index: Any) -> Any:
        if id(table) not in self._tables:
            self._tables[id(table)] = (table, self.load(table))
        return self._tables[id(table)][1][index.clamp(max=table.size - 1).to(self._torch.int64)]

    def pad_edge(self, x: Any, bottom: int, right: int) -> Any:
        height, width = x.shape[-3:-1]
        rows, columns = (
            self._torch.arange(n + more, device=self._device).clamp(max=n - 1)
            for n, more in ((height, bottom), (width, right))
        )
        return x.index_select(-3, rows).index_select(-2, columns)

    def pointwise(self, x: Any, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> Any:
        *position, channels = x.shape
        height, width = position[-2:]
        weight, own_bias = self._tensors(layer)
        with self._torch.autocast(x.device.type, enabled=False):
            total = (x.reshape(-1, channels) @ weight).reshape(*position, weight.shape[1])
        extra = self._constant(bias)
        if bias.ndim >= 3 and bias.shape[-3] == 2:
            repeats = [1] * (bias.ndim - 3) + [-(-height // 2), -(-width // 2), 1]
            extra = extra.repeat(*repeats)[..., :height, :width, :]
        return self.clamp(self.shift(total.add_(extra + own_bias), layer.shift), low, high)

    def depthwise(self, x: Any, layer: IntegerLayer) -> Any:
        height, width = x.shape[-3:-1]
        padded = self._torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
        weight, bias = self._tensors(layer)
        total = padded[..., :height, :width, :] * weight[0, 0]
        for i in range(3):
            for j in range(3):
                if i or j:
                    total.addcmul_(padded[..., i : i + height, j : j + width, :], weight[i, j])
        return self.clamp(self.shift(total.add_(bias), layer.shift), -LIMIT, LIMIT - 1)

    def shift(self, x: Any, bits: int | IntArray) -> Any:
        bits = np.atleast_1d(bits)
        scale, half = 2.0 ** -bits.astype(np.float64), np.where(bits > 0, 0.5, 0.0)
        return x.mul(self._constant(scale)).add_(self._constant(half)).floor_()

    def normalise(self, x: Any, epsilon: int) -> Any:
        factor, half = mean_factor(x.shape[-1]), 0.5
        mean = (x.sum(-1, keepdim=True) * factor * 2.0**-MEAN_FACTOR_BITS + half).floor()
        d = x - mean
        total = (d * d).sum(-1, keepdim=True) + epsilon
        bits = self._torch.frexp(total).exponent  # 2^(bits - 1) ≤ total < 2^bits
        exponent = ((bits - 13) // 2).clamp(min=0).to(total.dtype)
        root = self.lookup(RECIPROCAL_ROOTS, (total * self._torch.exp2(-2 * exponent)).floor())
        return (d * root * self._torch.exp2(-5 - exponent) + half).floor().clamp(-LIMIT, LIMIT - 1)

    def clamp(self, x: Any, low: int, high: int) -> Any:
        return x.clamp(low, high)

    def maximum(self, x: Any, y: Any) -> Any:
        return self._torch.maximum(x, y)

    def shuffle(self, x: Any, factor: int = 2) -> Any:
        (*batch, height, width, channels), n = x.shape, factor
        blocks = x.reshape(-1, height, width, channels // n**2, n, n).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(*batch, n * height, n * width, channels // n**2)

    def unshuffle(self, x: Any, factor: int = 2) -> Any:
        (*batch, height, width, channels), n = x.shape, factor
        blocks = x.reshape(-1, height // n, n, width // n, n, channels).permute(0, 1, 3, 5, 2, 4)
        return blocks.reshape(*batch, height // n, width // n, n**2 * channels)

    def concatenate(self, parts: list[Any]) -> Any:
        return self._torch.cat(parts, dim=-1)


class BatchArithmetic(TorchArithmetic):
    """For batches (B, height, width, channels); symbols, rows, latents and pixels are tensors on the device."""

    def load(self, values: Any) -> Any:
        if isinstance(values, self._torch.Tensor):
            return values.to(self._torch.float64)
        return super().load(values)

    def store(self, x: Any, dtype: type[np.generic] = np.int32) -> Any:
        return x.to(self._torch.uint8 if dtype is np.uint8 else self._torch.int32)


def resolve_device(device: str) -> str:
    """Replaces auto by cuda if there is a GPU, else by cpu. Raises ArgumentValueError for a device that is missing."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (colon and not (number.isascii() and number.isdecimal()))):
        raise ArgumentValueError(f"device is {device!r}; known are auto, cpu and cuda.")
    if device != "cpu" and not torch.cuda.is_available():
        raise ArgumentValueError(f"device is {device!r}, and PyTorch finds no GPU here; use cpu or auto.")
    last = torch.cuda.device_count() - 1
    if number and int(number) > last:
        raise ArgumentValueError(f"device is {device!r}, and the last GPU that PyTorch finds here is cuda:{last}.")
    return device
