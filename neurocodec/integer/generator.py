"""The generative decoder in integers; docs/arithmetic.md is the specification.

y_hat ─g_s→ features ─┬ head of g_s ───────────────────────────────────────────────────┐
                      └ norm, blocks at 1/8 ─shuffle→ blocks at 1/2 ─→ detail ─ gain ──┴→ pixels

All activations have 16 bits. How many of them are fractional depends on the place: 9 in the features of g_s, 8 between
blocks, 15 after a norm, and 10, then 7, inside a block.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import LIMIT, QUALITY_STEPS
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.reference import Arithmetic, Arrays, QualityIndex, interpolate_rows
from neurocodec.integer.transforms import FINE_WHITE, STEPS_A_LEVEL, Synthesis, add, pointwise, q15
from neurocodec.model import GeneratorConfig, GeneratorFile, HyperpriorConfig

STREAM_BITS = 8
"""Fractional bits of the activations that blocks add to."""
NORM_BITS = 15
"""Fractional bits of normalised activations, whose squares sum to 1 at each position."""
INNER_BITS = 10
"""Fractional bits of the values and gates inside a block."""
PRODUCT_BITS = 7
"""Fractional bits of gated values."""
GAIN_BITS = 12
"""Fractional bits of a block's gains."""
DETAIL_BITS = 11
"""Fractional bits of the detail before its gain."""
DETAIL_GAIN_BITS = 4
"""Fractional bits of the detail's gains, whose unit is 1/256 of an 8-bit level."""
LEVEL_BITS = 8
"""Fractional bits of pixels before the last rounding; their unit is an 8-bit level."""
SIGMOID_TABLE_SIZE = 1 << 12
"""Entries of the table of 1 / (1 + e^-g) for g in [-8, 8); they have 15 fractional bits."""
SIGMOID_LIMIT = 8 << INNER_BITS
"""Gates beyond ±8 are looked up as ±8."""
EPSILON = 1e-3
"""Added to the variance that a norm divides by."""
REALISM_STEPS = 2048
"""Steps of the slider from realism 0 to 1."""
REALISM_ROWS = REALISM_STEPS // 2 // QUALITY_STEPS + 1
"""Rows of a gain, from realism 1/2 to 1; gains between them are interpolated."""
MAX_PICTURE = 1 << 20
"""Pixels before the last rounding lie in ±MAX_PICTURE."""


class Block:
    """x + gain · f(x), with f: norm, 1×1, depthwise 3×3, gate by SiLU, 1×1."""

    def __init__(self, arrays: Arrays, name: str, channels: int, sigmoid: NDArray[np.int16]) -> None:
        self._in = arrays.layer(f"{name}.conv_in", 2 * channels, channels)
        self._dw = arrays.layer(f"{name}.conv_dw", 2 * channels, 3, 3)
        self._out = arrays.layer(f"{name}.conv_out", channels, channels)
        self._gain = arrays.take(f"{name}.gain", np.int32, (REALISM_ROWS, channels)).astype(np.int64)
        if np.abs(self._gain).max() >= LIMIT:
            raise ModelMismatchError(f"a gain of {name} is out of range.")
        self._sigmoid, self._channels = sigmoid, channels

    def __call__(self, do: Arithmetic, x: Any, row: int) -> Any:
        u = do.depthwise(pointwise(do, do.normalise(x, stream_epsilon(self._channels)), self._in), self._dw)
        u = silu_gated(do, u[..., : self._channels], u[..., self._channels :], self._sigmoid)
        gain = do.load(interpolate_rows(self._gain, row))
        return add(do, x, do.shift(pointwise(do, u, self._out) * gain, GAIN_BITS))


class Generator:
    """y_hat, int32 (h, w, M) in units of 1/64, and a realism -> pixels, uint8 or uint16 (16 h, 16 w, 3).

    Raises ModelMismatchError if the arrays of the file do not fit, or sums could overflow.
    """

    def __init__(self, file: GeneratorFile, base: HyperpriorConfig, trunk: Synthesis) -> None:
        config: GeneratorConfig = file.config
        arrays, channels, fine = Arrays(file.arrays), config.channels, config.fine_channels
        sigmoid = arrays.take("sigmoid_table", np.int16, (SIGMOID_TABLE_SIZE,))
        if sigmoid.min() < 0:
            raise ModelMismatchError("the generative decoder holds a malformed sigmoid_table.")
        self._trunk = trunk
        self._feature_shift = arrays.take("norm_in.shift", np.int8, (base.channels,)).astype(np.int64)
        self._epsilon = int(arrays.take("norm_in.epsilon", np.int32, (1,))[0])
        if self._feature_shift.min() < 0 or self._feature_shift.max() > 15 or self._epsilon < 1:
            raise ModelMismatchError("the generative decoder holds a norm that is out of range.")
        self._in = arrays.layer("conv_in", channels, base.channels, extra=("quality",))
        self._quality = arrays.take("quality", np.int32, (base.quality_rows, channels)).astype(np.int64)
        self._blocks = [Block(arrays, f"blocks.{i}", channels, sigmoid) for i in range(config.blocks)]
        self._to_fine = arrays.layer("to_fine", 16 * fine, channels)
        self._fine_blocks = [Block(arrays, f"fine_blocks.{i}", fine, sigmoid) for i in range(config.fine_blocks)]
        self._head = arrays.layer("head", 12, fine)
        self._gain = arrays.take("gain", np.int32, (REALISM_ROWS, 3)).astype(np.int64)
        if np.abs(self._gain).max() >= 1 << 24:
            raise ModelMismatchError("a gain of the detail is out of range.")

    def __call__(self, do: Arithmetic, y_hat: Any, quality_index: QualityIndex, realism: int, depth: int = 8) -> Any:
        """realism: 1 to REALISM_STEPS. depth: 8 or 16 bits a pixel."""
        features = self._trunk.features(do, y_hat, quality_index)
        picture = self._trunk.picture(do, features, 1 << LEVEL_BITS, -MAX_PICTURE, MAX_PICTURE)
        pixels = picture + self.detail(do, features, quality_index, realism)
        if depth == 8:
            return do.store(do.clamp(do.shift(pixels, LEVEL_BITS), 0, 255), np.uint8)
        return do.store(do.clamp(do.shift(pixels * STEPS_A_LEVEL, LEVEL_BITS), 0, FINE_WHITE), np.uint16)

    def detail(self, do: Arithmetic, features: Any, quality_index: QualityIndex, realism: int) -> Any:
        """What is added to the picture, in 1/256 of a level: (16 h, 16 w, 3). Below realism 1/2, that of 1/2 fades."""
        half = REALISM_STEPS // 2
        row, amount = max(realism - half, 0), min(realism, half)
        x = do.normalise(do.shift(features, self._feature_shift), self._epsilon)
        bias = interpolate_rows(self._quality, quality_index)
        x = do.pointwise(x, self._in, bias, -LIMIT, LIMIT - 1)
        for block in self._blocks:
            x = block(do, x, row)
        x = do.shuffle(pointwise(do, x, self._to_fine), 4)  # 1/2
        for block in self._fine_blocks:
            x = block(do, x, row)
        gain = (interpolate_rows(self._gain, row) * amount + half // 2) // half
        return do.shift(do.shuffle(pointwise(do, x, self._head)) * do.load(gain), DETAIL_BITS + DETAIL_GAIN_BITS)


def silu_gated(do: Arithmetic, value: Any, gate: Any, sigmoid: NDArray[np.int16]) -> Any:
    """value · gate / (1 + e^-gate): 10 fractional bits in, 7 out. Arrays are (h, w, K)."""
    index = do.clamp(gate, -SIGMOID_LIMIT, SIGMOID_LIMIT - 1) + SIGMOID_LIMIT
    opened = q15(do, gate, do.lookup(sigmoid, do.shift(index - 2, 2)))  # index / 4, rounded down
    return do.clamp(do.shift(value * opened, 2 * INNER_BITS - PRODUCT_BITS), -LIMIT, LIMIT - 1)


def stream_epsilon(channels: int) -> int:
    """What a norm of a block adds to the sum of squares."""
    return round(EPSILON * (1 << 2 * STREAM_BITS)) * channels


def realism_step(realism: float) -> int:
    """Realism in [0, 1] -> 0 to REALISM_STEPS."""
    return math.floor(realism * REALISM_STEPS + 0.5)


def sigmoid_table() -> NDArray[np.int16]:
    """1 / (1 + e^-g) with 15 bits at the centres of 4096 steps of g in [-8, 8). Decoders read it from files."""
    gate = (np.arange(SIGMOID_TABLE_SIZE) + 0.5) * (16 / SIGMOID_TABLE_SIZE) - 8
    table: NDArray[np.int16] = np.rint(32768 / (1 + np.exp(-gate))).astype(np.int16)
    return table
