"""What symbols, tables and integer networks agree on: number formats, the scales of table rows, the order of latents.

The ground floor of the package: NumPy only, and no other module of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

LIMIT = 1 << 15
"""Activations lie in [-LIMIT, LIMIT - 1], weights in [1 - LIMIT, LIMIT - 1]."""
ACTIVATION_BITS = 8
"""Fractional bits of activations."""
HIDDEN_MAX = 127 << ACTIVATION_BITS
"""The clamp after a hidden layer, [0, 127]."""
OUTPUT_LIMIT = 1 << 23
"""Heads lie in [-OUTPUT_LIMIT, OUTPUT_LIMIT - 1]."""
SUM_LIMIT = 1 << 31
"""No partial sum of absolute values may reach this."""
MEAN_BITS = 6
"""Means and decoded latents are multiples of 1/64. A grid of 1/16 costs 1.6 % more bytes at the lowest rates."""
INDEX_SHIFT = 5
"""Networks predict scale indexes in units of 8 rows: with 8 fractional bits, 32 a row."""
QUALITY_STEPS = 64
"""Quality indexes count 1/64 of a row."""
LOG_TABLE_SIZE = 1 << 14
"""Entries of the table of log2(1 + |y|), one for each 1/64; larger latents take the last."""
UNIT = 1 << MEAN_BITS
"""Units of decoded latents in one quantisation step."""
MAX_LATENT = (1 << 22) - 1
"""Decoded latents are clamped to this many units in both directions."""

SCALE_MIN, SCALE_MAX, SCALE_LEVELS = 0.11, 128.0, 64
"""Standard deviations of the table rows: log-spaced from SCALE_MIN to SCALE_MAX, in quantisation steps."""
LOG_SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Positions of the 2×2 lattice in the order they are visited; group g is coded at PHASES[(step + g) % 4]."""
PASSES = 4


def lattice(step: int, channels: int) -> Iterator[tuple[slice, slice, slice]]:
    """What pass `step` codes: for each group of channels its rows, its columns and its channels.

    Every position of y has exactly one group in a pass, so the latents of a pass form an array without holes, (height,
    width, channels / 4). The four passes cover each latent once.
    """
    quarter = channels // PASSES
    for group in range(PASSES):
        row, column = PHASES[(step + group) % PASSES]
        yield slice(row, None, 2), slice(column, None, 2), slice(group * quarter, (group + 1) * quarter)


def gather(values: Any, step: int) -> Any:
    """The latents of a pass, (..., height, width, M / 4), out of all, (..., height, width, M); NumPy or torch."""
    channels = values.shape[-1]
    part = values[..., : channels // PASSES] * 0
    for rows, columns, group in lattice(step, channels):
        part[..., rows, columns, :] = values[..., rows, columns, group]
    return part


def scatter(part: Any, step: int, values: Any) -> None:
    """Puts the latents of a pass, (..., height, width, M / 4), among all, (..., height, width, M); NumPy or torch."""
    for rows, columns, group in lattice(step, values.shape[-1]):
        values[..., rows, columns, group] = part[..., rows, columns, :]


def weight_shift(row_sum: Any, largest: Any, bias: Any, inputs: int) -> Any:
    """Fractional bits of a layer's weights: as many, up to 15, as keep every sum within 32 bits.

    row_sum: the largest sum of absolute weights of one output; largest: the largest absolute weight; bias: the largest
    absolute biases, added up; inputs: products summed. Floats, or tensors (0-d) so that training can use it too; the
    result is of the same kind.
    """
    rounding = inputs * (LIMIT // 2) + (1 << 17)  # every weight may be rounded up by a half, biases and sums likewise
    by_sum = (SUM_LIMIT - rounding) / (row_sum * LIMIT + bias * 2.0**ACTIVATION_BITS + 1.0)
    by_weight = (LIMIT - 1) / (largest + 1e-9)
    if isinstance(by_sum, float):
        return min(15, math.floor(math.log2(min(by_sum, by_weight))))
    return by_sum.minimum(by_weight).log2().floor().clamp(max=15)


def index_of_scale(scale: float) -> float:
    """The fractional table row of a standard deviation."""
    return math.log(scale / SCALE_MIN) / LOG_SCALE_STEP
