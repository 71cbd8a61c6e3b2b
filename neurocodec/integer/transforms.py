"""The transforms g_a, h_a and g_s in integers; docs/arithmetic.md is the specification.

Activations of g_a and g_s have 9 fractional bits, those of h_a 8, all in 16 bits. Arrays are (height, width, channels)
of the arithmetic's own kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import ACTIVATION_BITS, LIMIT, MAX_LATENT, MEAN_BITS, OUTPUT_LIMIT
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.entropy import context_input
from neurocodec.integer.reference import Arithmetic, Arrays, IntArray, IntegerLayer, QualityIndex, interpolate_rows
from neurocodec.model import EXP2_SIZE, HyperpriorConfig

TRANSFORM_BITS = 9
"""Fractional bits of activations in g_a and g_s."""
LOG_GAIN_BITS = 16
"""Fractional bits of the binary logarithms of gains."""
MANTISSA_BITS = 14
LEAK = 328
"""Slope of the leaky ReLU below zero, 0.01, with 15 fractional bits."""
SIXTH = 21845
"""2^15 · 2/3. Multiplies a gate in [-3, 3] with 13 fractional bits to gate / 6 with 15."""
MID_GRAY = 128
"""Subtracted from 8-bit pixels before the first layer."""
FINE_BITS = 8
"""Fractional bits of 16-bit pixels before the first layer, in units of 8-bit pixels."""
FINE_WHITE, STEPS_A_LEVEL = 65535, 257
"""White in 16 bits, and 16-bit steps per 8-bit level."""


def q15(do: Arithmetic, a: Any, b: Any) -> Any:
    """floor((a · b + 2^14) / 2^15), the product with a factor of 15 fractional bits."""
    return do.shift(a * b, 15)


def leaky_relu(do: Arithmetic, x: Any) -> Any:
    """max(x, 0.01 x)."""
    return do.maximum(x, q15(do, x, LEAK))


def gated(do: Arithmetic, value: Any, gate: Any, bits: int = TRANSFORM_BITS) -> Any:
    """value · hard-sigmoid(gate), where hard-sigmoid(g) = min(max(g / 6 + 1/2, 0), 1)."""
    inside = do.clamp(gate, -(3 << bits), 3 << bits) * (1 << (13 - bits))
    return q15(do, value, do.clamp(q15(do, inside, SIXTH) + (1 << 14), 0, LIMIT - 1))


def add(do: Arithmetic, x: Any, y: Any) -> Any:
    """x + y, clamped to 16 bits."""
    return do.clamp(x + y, -LIMIT, LIMIT - 1)


class Gain:
    """A factor per channel that depends on the quality index, stored as rows of binary logarithms to interpolate.

    more: fractional bits of the result minus those of the input. Raises ModelMismatchError for gains out of range.
    """

    def __init__(self, arrays: Arrays, name: str, rows: int, channels: int, exp2_table: IntArray, more: int) -> None:
        self._rows = arrays.take(name, np.int32, (rows, channels)).astype(np.int64)
        self._exp2, self._more = exp2_table, more
        shifts = [self._mantissa_and_shift(row)[1] for row in self._rows]
        if np.min(shifts) < 0 or np.max(shifts) > 30:
            raise ModelMismatchError(f"a gain of {name} is out of range.")

    def __call__(self, do: Arithmetic, x: Any, quality_index: QualityIndex) -> Any:
        """Scales activations and rounds to nearest."""
        mantissa, shift = self._mantissa_and_shift(interpolate_rows(self._rows, quality_index))
        return do.clamp(do.shift(x * do.load(mantissa), shift), -LIMIT, LIMIT - 1)

    def latents(self, do: Arithmetic, x: Any, quality_index: QualityIndex) -> Any:
        """Scales latents and rounds down, so that rounding them to symbols gives the nearest ones."""
        mantissa, shift = self._mantissa_and_shift(interpolate_rows(self._rows, quality_index))
        half = do.load((1 << shift) >> 1)
        return do.clamp(do.shift(x * do.load(mantissa) - half, shift), -MAX_LATENT, MAX_LATENT)

    def _mantissa_and_shift(self, logarithm: IntArray) -> tuple[IntArray, IntArray]:
        exponent, fraction = logarithm >> LOG_GAIN_BITS, logarithm & ((1 << LOG_GAIN_BITS) - 1)
        mantissa = self._exp2[fraction * EXP2_SIZE >> LOG_GAIN_BITS]
        return mantissa, MANTISSA_BITS - exponent - self._more


class Block:
    """The residual block of `models.layers.Block` in integers."""

    def __init__(self, arrays: Arrays, name: str, channels: int) -> None:
        self._in = arrays.layer(f"{name}.conv_in", channels, channels)
        self._dw = arrays.layer(f"{name}.conv_dw", channels, 3, 3)
        self._out = arrays.layer(f"{name}.conv_out", channels, channels)
        self._gate_in = arrays.layer(f"{name}.gate_in", 2 * channels, channels)
        self._gate_out = arrays.layer(f"{name}.gate_out", channels, channels)
        self._channels = channels

    def __call__(self, do: Arithmetic, x: Any) -> Any:
        u = leaky_relu(do, pointwise(do, x, self._in))
        x = add(do, x, pointwise(do, do.depthwise(u, self._dw), self._out))
        both = pointwise(do, x, self._gate_in)
        u = gated(do, both[..., : self._channels], both[..., self._channels :])
        return add(do, x, pointwise(do, u, self._gate_out))


class Analysis:
    """g_a: pixels, uint8 or uint16 (16 h, 16 w, 3) -> y, int32 (h, w, M) in units of 1/64."""

    def __init__(self, config: HyperpriorConfig, arrays: Arrays, exp2_table: IntArray) -> None:
        channels, latent, rows = config.channels, config.latent_channels, config.quality_rows
        self._stem = arrays.layer("stem", channels, 192, largest_input=MID_GRAY)
        self._fine_stem = IntegerLayer(self._stem.weight, self._stem.bias << FINE_BITS, self._stem.shift + FINE_BITS)
        self._blocks = [Block(arrays, f"blocks.{i}", channels) for i in range(config.encoder_blocks)]
        self._gain = Gain(arrays, "log_gain", rows, channels, exp2_table, 0)
        self._down = arrays.layer("down", latent, 4 * channels)
        self._latent_blocks = [Block(arrays, f"latent_blocks.{i}", latent) for i in range(config.latent_blocks)]
        self._y_gain = Gain(arrays, "log_y_gain", rows, latent, exp2_table, MEAN_BITS - TRANSFORM_BITS)

    def __call__(self, do: Arithmetic, rgb: Any, quality_index: QualityIndex) -> Any:
        if rgb.dtype == np.uint16:
            x = pointwise(do, do.unshuffle(do.load(fine_pixels(rgb)), 8), self._fine_stem)  # (2 h, 2 w, C)
        else:
            x = pointwise(do, do.unshuffle(do.load(rgb) - MID_GRAY, 8), self._stem)
        for block in self._blocks:
            x = block(do, x)
        x = pointwise(do, do.unshuffle(self._gain(do, x, quality_index)), self._down)  # (h, w, M)
        for block in self._latent_blocks:
            x = block(do, x)
        return do.store(self._y_gain.latents(do, x, quality_index))


class HyperAnalysis:
    """h_a: y, int32 (h, w, M) in units of 1/64 -> z_hat, int32 (ceil(h / 4), ceil(w / 4), N)."""

    def __init__(self, config: HyperpriorConfig, arrays: Arrays, log_table: NDArray[np.int16]) -> None:
        latent, hidden = config.latent_channels, config.hidden_channels
        self._log_table = log_table
        self._rows = arrays.take("bias", np.int32, (config.quality_rows, hidden)).astype(np.int64)
        self._in = arrays.layer("conv_in", hidden, 2 * latent, extra=("bias",))
        self._dw1, self._down1 = arrays.layer("dw1", hidden, 3, 3), arrays.layer("down1", hidden, 4 * hidden)
        self._dw2 = arrays.layer("dw2", hidden, 3, 3)
        self._down2 = arrays.layer("down2", config.hyper_channels, 4 * hidden)

    def __call__(self, do: Arithmetic, y: Any, quality_index: QualityIndex) -> Any:
        height, width = y.shape[-3:-1]
        row = interpolate_rows(self._rows, quality_index)
        x = context_input(do, do.pad_edge(do.load(y), -height % 4, -width % 4), self._log_table)
        x = leaky_relu(do, do.pointwise(x, self._in, row, -LIMIT, LIMIT - 1))
        x = leaky_relu(do, pointwise(do, do.unshuffle(do.depthwise(x, self._dw1)), self._down1))  # 1/32
        x = do.unshuffle(do.depthwise(x, self._dw2))  # 1/64
        z = do.pointwise(x, self._down2, np.zeros(self._down2.bias.shape, np.int64), -OUTPUT_LIMIT, OUTPUT_LIMIT - 1)
        return do.store(do.clamp(do.shift(z, ACTIVATION_BITS), -127, 127))


def fine_pixels(rgb: NDArray[np.uint16]) -> NDArray[np.int16]:
    """16-bit pixels as input of the first layer. A pixel 257 p gives 256 times the input of an 8-bit pixel p."""
    return (((rgb.astype(np.int32) << FINE_BITS) + STEPS_A_LEVEL // 2) // STEPS_A_LEVEL - LIMIT).astype(np.int16)


class Synthesis:
    """g_s: y_hat, int32 (h, w, M) in units of 1/64 -> pixels, uint8 or uint16 (16 h, 16 w, 3)."""

    def __init__(self, config: HyperpriorConfig, arrays: Arrays, exp2_table: IntArray) -> None:
        channels, latent, rows = config.channels, config.latent_channels, config.quality_rows
        self._y_gain = Gain(arrays, "log_y_gain", rows, latent, exp2_table, TRANSFORM_BITS - MEAN_BITS)
        self._latent_blocks = [Block(arrays, f"latent_blocks.{i}", latent) for i in range(config.latent_blocks)]
        self._up = arrays.layer("up", 4 * channels, latent)
        self._gain = Gain(arrays, "log_gain", rows, channels, exp2_table, 0)
        self._blocks = [Block(arrays, f"blocks.{i}", channels) for i in range(config.decoder_blocks)]
        head = arrays.layer("head", 192, channels)
        self._heads = {
            steps: IntegerLayer(head.weight.astype(np.int32) * steps, head.bias * steps, head.shift)
            for steps in (1, 256, STEPS_A_LEVEL)
        }

    def __call__(self, do: Arithmetic, y_hat: Any, quality_index: QualityIndex, depth: int = 8) -> Any:
        x = self.features(do, y_hat, quality_index)
        if depth == 8:
            return do.store(self.picture(do, x, 1, 0, 255), np.uint8)
        return do.store(self.picture(do, x, STEPS_A_LEVEL, 0, FINE_WHITE), np.uint16)

    def features(self, do: Arithmetic, y_hat: Any, quality_index: QualityIndex) -> Any:
        """What the head reads: (2 h, 2 w, C)."""
        x = self._y_gain(do, do.load(y_hat), quality_index)
        for block in self._latent_blocks:
            x = block(do, x)
        x = self._gain(do, do.shuffle(pointwise(do, x, self._up)), quality_index)
        for block in self._blocks:
            x = block(do, x)
        return x

    def picture(self, do: Arithmetic, features: Any, steps: int, low: int, high: int) -> Any:
        """The head: pixels in `steps` a level of 8-bit pixels, rounded once, (16 h, 16 w, 3). steps: 1, 256 or 257."""
        return do.shuffle(do.pointwise(features, self._heads[steps], np.zeros(192, np.int64), low, high), 8)


def exp2_table_of(arrays: Arrays) -> IntArray:
    """The table of 2^(k / 4096) with 14 fractional bits. Raises ModelMismatchError if it is missing or malformed."""
    table = arrays.take("exp2_table", np.int16, (EXP2_SIZE,))
    if table.min() < 1 << MANTISSA_BITS:
        raise ModelMismatchError("the model file holds a malformed exp2_table.")
    return table.astype(np.int64)


def pointwise(do: Arithmetic, x: Any, layer: IntegerLayer) -> Any:
    """A 1×1 layer with 16-bit results, (h, w, in) -> (h, w, out)."""
    return do.pointwise(x, layer, np.zeros(layer.bias.shape, np.int64), -LIMIT, LIMIT - 1)
