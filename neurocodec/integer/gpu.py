"""The integer layers in torch, exactly, for GPUs and for CPUs without the compiled extension."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import LIMIT
from neurocodec.errors import ArgumentValueError
from neurocodec.integer.reference import IntArray, IntegerLayer


class TorchArithmetic:
    """float64 tensors on any device. The caller's precision settings have no effect."""

    def __init__(self, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self._device = device
        self._layers: dict[int, tuple[IntegerLayer, Any, Any]] = {}

    def _tensors(self, layer: IntegerLayer) -> tuple[Any, Any]:
        """Weight, (in, out) or (3, 3, C), and bias as float64, converted once."""
        if id(layer) not in self._layers:
            weight = self.load(layer.weight)
            weight = weight.T if weight.ndim == 2 else weight.permute(1, 2, 0)
            self._layers[id(layer)] = (layer, weight.contiguous(), self.load(layer.bias))
        return self._layers[id(layer)][1:]

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
        return self.clamp(self.shift(total.add_(extra + own_bias), layer.shift), low, high)

    def depthwise(self, x: Any, layer: IntegerLayer) -> Any:
        height, width, _ = x.shape
        padded = self._torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
        weight, bias = self._tensors(layer)
        total = padded[:height, :width] * weight[0, 0]
        for i in range(3):
            for j in range(3):
                if i or j:
                    total.addcmul_(padded[i : i + height, j : j + width], weight[i, j])
        return self.clamp(self.shift(total.add_(bias), layer.shift), -LIMIT, LIMIT - 1)

    def shift(self, x: Any, bits: int | IntArray) -> Any:
        bits = np.atleast_1d(bits)
        scale, half = 2.0 ** -bits.astype(np.float64), np.where(bits > 0, 0.5, 0.0)
        return x.mul(self.load(scale)).add_(self.load(half)).floor_()

    def clamp(self, x: Any, low: int, high: int) -> Any:
        return x.clamp(low, high)

    def maximum(self, x: Any, y: Any) -> Any:
        return self._torch.maximum(x, y)

    def shuffle(self, x: Any, factor: int = 2) -> Any:
        (height, width, channels), n = x.shape, factor
        blocks = x.reshape(height, width, channels // n**2, n, n).permute(0, 3, 1, 4, 2)
        return blocks.reshape(n * height, n * width, channels // n**2)

    def unshuffle(self, x: Any, factor: int = 2) -> Any:
        (height, width, channels), n = x.shape, factor
        blocks = x.reshape(height // n, n, width // n, n, channels).permute(0, 2, 4, 1, 3)
        return blocks.reshape(height // n, width // n, n**2 * channels)

    def concatenate(self, parts: list[Any]) -> Any:
        return self._torch.cat(parts, dim=2)


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' where there is one, else 'cpu'. Raises ArgumentValueError for one that this machine lacks."""
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
