"""All networks of a model in C++, for the CPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec import arguments
from neurocodec.entropy.native import extension
from neurocodec.errors import ModelMismatchError, NativeUnavailableError
from neurocodec.integer.network import Latents, check_encodes, check_layout
from neurocodec.model import Model, find_generator
from neurocodec.workers import available_threads

SHAPE = (
    *("channels", "latent_channels", "hyper_channels", "hidden_channels"),
    *("encoder_blocks", "decoder_blocks", "latent_blocks"),
)
GENERATOR_SHAPE = ("channels", "blocks", "fine_blocks", "fine_width")


def kernels() -> list[str]:
    """Names of the kernels that this machine supports, fastest first; empty without the extension."""
    native = extension()
    return list(native.kernels()) if native else []


class NativeNetwork:
    """A `Network` in C++.

    kernel: one of `kernels()`, by default the fastest. threads: maximum thread count, by default `available_threads()`.
    Neither changes the results. Raises NativeUnavailableError without the extension, ModelMismatchError if the model's
    arrays do not fit its configuration or sums could overflow.
    """

    def __init__(self, model: Model, kernel: str = "", threads: int = 0) -> None:
        native = extension()
        if native is None:
            raise NativeUnavailableError(
                "the compiled networks are missing: install neurocodec again where there is a C++ compiler."
            )
        shape = {name: getattr(model.config, name) for name in SHAPE}
        try:
            self._native = native.Model(shape, {name: np.ascontiguousarray(a) for name, a in model.arrays.items()})
        except ValueError as error:
            raise ModelMismatchError(str(error)) from error
        self.model, self.kernel, self._threads = model, kernel or kernels()[0], arguments.integer("threads", threads, 0)

    @property
    def threads(self) -> int:
        """Maximum thread count."""
        return self._threads or available_threads()

    def analyse(self, rgb: NDArray[np.uint8] | NDArray[np.uint16], quality_index: int) -> NDArray[np.int32]:
        check_encodes(self.model)
        y: NDArray[np.int32] = self._native.analyse(np.ascontiguousarray(rgb), quality_index, self.kernel, self.threads)
        return y

    def encode(
        self,
        y: NDArray[np.int32],
        quality_index: int,
        z_hat: NDArray[np.int32] | None = None,
        layout: str = "cpu",
        apart: bool = False,
    ) -> tuple[bytes, Latents]:
        check_encodes(self.model)
        check_layout(layout)
        z, gpu = None if z_hat is None else np.ascontiguousarray(z_hat), layout == "gpu"
        result = self._native.encode(np.ascontiguousarray(y), z, quality_index, self.kernel, self.threads, gpu, apart)
        stream, z_hat, symbols, y_hat, _ = result
        return stream, Latents(z_hat, tuple(symbols), y_hat)

    def decode(self, stream: bytes, height: int, width: int, quality_index: int, z_stream: bytes = b"") -> Latents:
        how = (quality_index, self.kernel, self.threads)
        result = self._native.decode(bytes(stream), height, width, *how, bytes(z_stream))
        z_hat, symbols, y_hat, _ = result
        return Latents(z_hat, tuple(symbols), y_hat)

    def synthesise(
        self, y_hat: NDArray[np.int32], quality_index: int, depth: int = 8, realism: int = 0
    ) -> NDArray[Any]:
        y_hat, how = np.ascontiguousarray(y_hat), (self.kernel, self.threads)
        rgb: NDArray[Any]
        if realism:
            realise = self._native.realise if depth == 8 else self._native.realise16
            rgb = realise(self._generator, y_hat, quality_index, realism, *how)
        else:
            synthesise = self._native.synthesise if depth == 8 else self._native.synthesise16
            rgb = synthesise(y_hat, quality_index, *how)
        return rgb

    @functools.cached_property
    def _generator(self) -> Any:
        file = find_generator(self.model)
        shape = {name: getattr(file.config, name) for name in GENERATOR_SHAPE}
        try:
            return self._native.generator(shape, {name: np.ascontiguousarray(a) for name, a in file.arrays.items()})
        except ValueError as error:
            raise ModelMismatchError(str(error)) from error
