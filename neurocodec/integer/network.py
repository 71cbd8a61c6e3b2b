"""All networks of a model in integers, layer by layer, in any arithmetic: this defines what coding computes.

`integer.native` computes the same in C++.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy import coder
from neurocodec.entropy.grid import LOG_TABLE_SIZE, MAX_LATENT, MEAN_BITS, UNIT, gather
from neurocodec.errors import ArgumentValueError, ModelMismatchError
from neurocodec.integer import hyper
from neurocodec.integer.entropy import EntropyNetwork, Stage
from neurocodec.integer.generator import Generator
from neurocodec.integer.reference import Arithmetic, Arrays, QualityIndex
from neurocodec.integer.transforms import Analysis, HyperAnalysis, Synthesis, exp2_table_of
from neurocodec.model import HyperpriorConfig, Model, find_generator


@dataclass(frozen=True)
class Latents:
    """The decoded stream of a tile, all int32.

    z_hat: (ceil(h / 4), ceil(w / 4), N). symbols: four arrays (h, w, M / 4), one for each pass. y_hat: (h, w, M) in
    units of 1/64.
    """

    z_hat: NDArray[np.int32]
    symbols: tuple[NDArray[np.int32], ...]
    y_hat: NDArray[np.int32]

    @classmethod
    def of(cls, stages: list[Stage], y_hat: NDArray[np.int32]) -> Latents:
        """The latents of a tile from its completed stages."""
        z, *passes = stages
        return cls(z.symbols, tuple(stage.symbols for stage in passes), y_hat)

    def checksum(self) -> int:
        """CRC-32 over z_hat, then y_hat in units of 1/64, as little-endian int32 in (row, column, channel) order."""
        crc = zlib.crc32(np.ascontiguousarray(self.z_hat, "<i4").tobytes())
        return zlib.crc32(np.ascontiguousarray(self.y_hat, "<i4").tobytes(), crc)


class Network(Protocol):
    """Codes tiles. y and y_hat are int32 (h, w, M) in units of 1/64, pixels uint8 or uint16 (16 h, 16 w, 3).

    quality_index: 0 to 960.
    """

    model: Model

    def analyse(self, rgb: NDArray[np.uint8] | NDArray[np.uint16], quality_index: int) -> NDArray[np.int32]:
        """Pixels -> y. Raises ModelMismatchError if the model has no encoder."""

    def encode(
        self,
        y: NDArray[np.int32],
        quality_index: int,
        z_hat: NDArray[np.int32] | None = None,
        layout: str = "cpu",
        apart: bool = False,
    ) -> tuple[bytes, Latents]:
        """y -> the stream of a tile and the latents it decodes to.

        z_hat: by default the output of h_a. layout: cpu or gpu. apart: leaves z_hat out of the stream. Raises
        ArgumentValueError for another layout, ModelMismatchError if the model has no encoder.
        """

    def decode(self, stream: bytes, height: int, width: int, quality_index: int, z_stream: bytes = b"") -> Latents:
        """The stream of a tile of (height, width) latents -> its latents. Raises NicFormatError or a subclass.

        z_stream: that of z_hat, if `stream` leaves it out.
        """

    def synthesise(
        self, y_hat: NDArray[np.int32], quality_index: int, depth: int = 8, realism: int = 0
    ) -> NDArray[Any]:
        """y_hat -> pixels. depth: bits per sample, 8 or 16. realism: 0 to REALISM_STEPS, above 0 with the generative
        decoder.

        Raises ModelNotFoundError if the model has no generative decoder, ModelMismatchError if its file is damaged.
        """


class LayerwiseNetwork:
    """A `Network` in NumPy or torch.

    threads: maximum thread count of the range coder. Raises ModelMismatchError if the model's arrays do not fit its
    configuration or sums could overflow.
    """

    def __init__(self, model: Model, arithmetic: Arithmetic, threads: int = 1) -> None:
        self.model, self.arithmetic, self.threads = model, arithmetic, threads
        config: HyperpriorConfig = model.config
        exp2_table = exp2_table_of(Arrays(model.arrays))
        log_table = Arrays(model.arrays, "entropy.").take("log_table", np.int16, (LOG_TABLE_SIZE,))
        self.entropy = EntropyNetwork(config, model.part("entropy."), arithmetic)
        self._g_s = Synthesis(config, Arrays(model.arrays, "g_s."), exp2_table)
        if model.encodes:
            self._g_a = Analysis(config, Arrays(model.arrays, "g_a."), exp2_table)
            self._h_a = HyperAnalysis(config, Arrays(model.arrays, "h_a."), log_table)

    def analyse(self, rgb: Any, quality_index: QualityIndex) -> Any:
        check_encodes(self.model)
        return self._g_a(self.arithmetic, rgb, quality_index)

    def walk(self, y: Any, quality_index: QualityIndex, z_hat: Any = None) -> tuple[list[Stage], Latents]:
        """Encodes y to the stages of a tile, in coding order, and the latents they decode to.

        An arithmetic for batches takes the same tile of B pictures, (B, h, w, M), in the form that it stores.
        """
        check_encodes(self.model)
        if z_hat is None:
            z_hat = self._h_a(self.arithmetic, y, quality_index)
        y_hat, stages = y * 0, []
        for stage in self.entropy.stages(quality_index, y_hat):
            stage.symbols = z_hat if stage.step is None else nearest_symbols(gather(y, stage.step), stage.means)
            stages.append(stage)
        return stages, Latents.of(stages, y_hat)

    def encode(
        self,
        y: NDArray[np.int32],
        quality_index: int,
        z_hat: NDArray[np.int32] | None = None,
        layout: str = "cpu",
        apart: bool = False,
    ) -> tuple[bytes, Latents]:
        check_layout(layout)
        stages, latents = self.walk(y, quality_index, z_hat)
        stages = stages[1:] if apart else stages
        symbols = np.concatenate([stage.symbols.ravel() for stage in stages])
        rows = np.concatenate([stage.rows.ravel() for stage in stages])
        calls = [stage.symbols.size for stage in stages]
        stream = coder.encode(symbols, rows, self.model.tables, calls=calls, threads=self.threads, layout=layout)
        return stream, latents

    def decode(self, stream: bytes, height: int, width: int, quality_index: int, z_stream: bytes = b"") -> Latents:
        decoder = coder.Decoder(stream, self.model.tables, threads=self.threads)
        y_hat, stages = np.zeros((height, width, self.model.config.latent_channels), np.int32), []
        for stage in self.entropy.stages(quality_index, y_hat):
            apart = stage.step is None and z_stream
            stage.symbols = hyper.decode(z_stream, *stage.rows.shape) if apart else decoder.decode(stage.rows)
            stages.append(stage)
        decoder.finish()
        return Latents.of(stages, y_hat)

    def synthesise(self, y_hat: Any, quality_index: QualityIndex, depth: int = 8, realism: int = 0) -> Any:
        if realism:
            return self._generator(self.arithmetic, y_hat, quality_index, realism, depth)
        return self._g_s(self.arithmetic, y_hat, quality_index, depth)

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator(find_generator(self.model), self.model.config, self._g_s)


def nearest_symbols(y: Any, means: Any) -> Any:
    """Symbols whose decoded latents are nearest to y: floor((y - mean + 32) / 64), clamped to ±65535."""
    limit = MAX_LATENT // UNIT
    return ((y - means + UNIT // 2) >> MEAN_BITS).clip(-limit, limit)


def check_layout(layout: str) -> None:
    """Raises ArgumentValueError for anything but cpu and gpu."""
    if layout not in ("cpu", "gpu"):
        raise ArgumentValueError(f"layout is {layout!r}; it must be cpu or gpu.")


def check_encodes(model: Model) -> None:
    """Raises ModelMismatchError for a model without its encoder."""
    if not model.encodes:
        raise ModelMismatchError(
            f"the file of model {model.model_id.hex()} is for decoding alone: encode with the whole model file."
        )
