"""The integer layers in C++, for CPUs."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import LIMIT
from neurocodec.entropy.native import extension
from neurocodec.errors import NativeUnavailableError
from neurocodec.integer.reference import IntArray, IntegerLayer, NumpyArithmetic


def kernels() -> list[str]:
    """Names of the kernels of the C++ layers that this machine runs, best first; none without the extension."""
    native = extension()
    return list(native.kernels()) if native else []


class NativeArithmetic(NumpyArithmetic):
    """16-bit activations, 32-bit sums. Raises NativeUnavailableError if the extension was not built.

    kernel: one of `kernels()`, by default the fastest. threads: by default torch's thread limit.
    """

    def __init__(self, kernel: str = "", threads: int = 0) -> None:
        self._extension: Any = extension()
        if self._extension is None:
            raise NativeUnavailableError(
                "the compiled integer layers are missing: install neurocodec again where there is a C++ compiler."
            )
        self.kernel = kernel or kernels()[0]
        self._fixed_threads = threads
        self._layers: dict[int, tuple[IntegerLayer, Any]] = {}

    @property
    def threads(self) -> int:
        if self._fixed_threads:
            return self._fixed_threads
        torch = sys.modules.get("torch")  # respects torch's thread limit
        return int(torch.get_num_threads()) if torch else os.cpu_count() or 1

    def _native(self, layer: IntegerLayer) -> Any:
        """The layer packed for the kernels, once."""
        if id(layer) not in self._layers:
            if layer.weight.ndim == 2:
                packed = self._extension.Pointwise(layer.weight)
            else:
                packed = self._extension.Depthwise(layer.weight, layer.bias.astype(np.int32))
            self._layers[id(layer)] = (layer, packed)
        return self._layers[id(layer)][1]

    def load(self, values: NDArray[Any]) -> Any:
        return np.ascontiguousarray(values, dtype=np.int16)

    def pointwise(self, x: Any, layer: IntegerLayer, bias: IntArray, low: int, high: int) -> Any:
        native = self._native(layer)
        run = native.run_wide if high >= LIMIT else native.run
        total = (layer.bias + bias).astype(np.int32)
        return run(np.ascontiguousarray(x), total, layer.shift, low, high, self.kernel, self.threads)

    def depthwise(self, x: Any, layer: IntegerLayer) -> Any:
        return self._native(layer).run(np.ascontiguousarray(x), layer.shift, self.kernel, self.threads)
