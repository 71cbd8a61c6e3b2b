"""Constants shared by symbols, tables and integer networks: number formats, scales of table rows, order of latents.

This module imports nothing else of the package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

LIMIT = 1 << 15
"""Activations lie in [-LIMIT, LIMIT - 1], weights in [1 - LIMIT, LIMIT - 1]."""
ACTIVATION_BITS = 8
"""Fractional bits of activations in the entropy path."""
HIDDEN_MAX = 127 << ACTIVATION_BITS
"""The clamp after a hidden layer, [0, 127]."""
OUTPUT_LIMIT = 1 << 23
"""Outputs of heads lie in [-OUTPUT_LIMIT, OUTPUT_LIMIT - 1]."""
SUM_LIMIT = 1 << 31
"""No partial sum of absolute values may reach this."""
MEAN_BITS = 6
"""Means and decoded latents are multiples of 1/64. A grid of 1/16 costs 1.6 % more bytes at the lowest rates."""
INDEX_SHIFT = 5
"""Networks predict scale indexes in units of 8 rows; with 8 fractional bits, a row is 2^5 steps."""
QUALITY_STEPS = 64
"""A quality index counts in 1/64 of a row."""
LOG_TABLE_SIZE = 1 << 14
"""Entries of the table of log2(1 + |y|), one for each 1/64 of |y|; larger latents use the last."""
UNIT = 1 << MEAN_BITS
"""Units of decoded latents per quantisation step."""
MAX_LATENT = (1 << 22) - 1
"""Decoded latents are clamped to ±MAX_LATENT units."""

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 128.0, 64
"""Standard deviations of the table rows, log-spaced from SCALE_MIN to SCALE_MAX quantisation steps."""
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Positions (row, column) of the 2×2 lattice; pass `step` codes group g at PHASES[(step + g) % 4]."""
PASSES = 4


def lattice(step: int, channels: int) -> Iterator[tuple[slice, slice, slice]]:
    """The latents that pass `step` codes: slices of rows, columns and channels for each group of channels.

    A pass codes exactly one group at every position of y, so its latents form a dense array (height, width,
    channels / 4). The four passes cover each latent once.
    """
    quarter = channels // PASSES
    for group in range(PASSES):
        row, column = PHASES[(step + group) % PASSES]
        yield slice(row, None, 2), slice(column, None, 2), slice(group * quarter, (group + 1) * quarter)


def gather(values: Any, step: int) -> Any:
    """Picks the latents of a pass, (..., height, width, M / 4), out of (..., height, width, M); NumPy or torch."""
    channels = values.shape[-1]
    part = values[..., : channels // PASSES] * 0
    for rows, columns, group in lattice(step, channels):
        part[..., rows, columns, :] = values[..., rows, columns, group]
    return part


def scatter(part: Any, step: int, values: Any) -> None:
    """Writes the latents of a pass, (..., height, width, M / 4), into (..., height, width, M); NumPy or torch."""
    for rows, columns, group in lattice(step, values.shape[-1]):
        values[..., rows, columns, group] = part[..., rows, columns, :]


def weight_shift(row_sum: Any, largest: Any, bias: Any, inputs: int) -> Any:
    """The most fractional bits, up to 15, that a layer's weights can have while every sum fits 32 bits.

    row_sum: the largest sum of absolute weights of one output. largest: the largest absolute weight. bias: the sum of
    the largest absolute value of each bias. inputs: number of products per sum. Takes floats and returns an int, or
    takes 0-d tensors and returns one, for training.
    """
    rounding = inputs * (LIMIT // 2) + (1 << 17)  # weights, biases and sums may each be rounded up by a half
    by_sum = (SUM_LIMIT - rounding) / (row_sum * LIMIT + bias * 2.0**ACTIVATION_BITS + 1.0)
    by_weight = (LIMIT - 1) / (largest + 1e-9)
    if isinstance(by_sum, float):
        return min(15, math.floor(math.log2(min(by_sum, by_weight))))
    return by_sum.minimum(by_weight).log2().floor().clamp(max=15)


def index_of_scale(scale: float) -> float:
    """The fractional table row of a standard deviation."""
    return math.log(scale / SCALE_MIN) / LOG_SCALE_STEP
