"""The filter that a file may carry for its decoded pixels (docs/arithmetic.md): fitting it, and applying it.

Each colour of a pixel is corrected by weighted differences from neighbours in all three colours. One network decodes
all pictures, and what it leaves to correct differs between them, so the encoder fits the weights to the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.container import FILTER_SHIFTS
from neurocodec.entropy.native import extension
from neurocodec.workers import available_threads

OFFSETS = ((0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0))
"""Rows and columns from a pixel to one of each pair of neighbours; the other one lies opposite."""
INPUTS = 3 * len(OFFSETS)
HALO = 1
"""How many latents beyond a window its filtered pixels depend on, more than decoded ones."""
WHITE = 65535
_DROPPED = 4  # bits of samples that `measure` ignores, so that its sums are exact in 64 bits
_RIDGE = 2.0**-14  # relative to the mean of the diagonal
_LARGEST_WEIGHT = 127


@dataclass(frozen=True, eq=False)
class PixelFilter:
    """shift: the weights' number of fractional bits. weights: int8 (3, 3, 6), by corrected colour, colour and pair."""

    shift: int
    weights: NDArray[np.int8]

    @classmethod
    def of(cls, payload: bytes) -> PixelFilter:
        """The filter in a chunk, whose length and shift the container has checked."""
        return cls(payload[0], np.frombuffer(payload, np.int8, offset=1).reshape(3, 3, len(OFFSETS)))

    @property
    def payload(self) -> bytes:
        """The bytes of the chunk: the shift, then the weights."""
        return bytes([self.shift]) + self.weights.tobytes()

    def __call__(self, rgb: NDArray[np.uint16], depth: int) -> NDArray[Any]:
        """Filtered pixels (H, W, 3): uint8 for a depth of 8, uint16 for 16. rgb: what g_s decodes to 16 bits."""
        filtered: NDArray[Any]
        if native := extension():
            run = native.filter_pixels if depth == 8 else native.filter_pixels16
            filtered = run(np.ascontiguousarray(rgb), self.shift, self.weights, available_threads())
            return filtered
        filtered = self.define(rgb.astype(np.int32), depth)
        return filtered.astype(np.uint8 if depth == 8 else np.uint16)

    def define(self, rgb: Any, depth: int) -> Any:
        """The definition: int32 or int64 (H, W, 3) to the same type and shape, a NumPy array or a torch tensor."""
        inputs, filtered = differences(rgb), rgb * 0
        for colour, weights in enumerate(self.weights.reshape(3, INPUTS).tolist()):
            total = sum(weight * value for weight, value in zip(weights, inputs, strict=True))
            filtered[..., colour] = rgb[..., colour] + ((total + (1 << (self.shift - 1))) >> self.shift)
        filtered = filtered.clip(0, WHITE)
        return (filtered + 128) // 257 if depth == 8 else filtered


def differences(rgb: Any) -> list[Any]:
    """The INPUTS of each pixel, (H, W) each: the sum of a pair of neighbours less twice the pixel, for each colour.

    rgb: int32 (H, W, 3), a NumPy array or a torch tensor. Outside the picture the nearest pixel counts.
    """
    height, width = rgb.shape[:2]

    def moved(rows: int, columns: int) -> Any:
        y, x = (np.arange(n) + by for n, by in ((height, rows), (width, columns)))
        return rgb[y.clip(0, height - 1)][:, x.clip(0, width - 1)]

    pairs = [moved(rows, columns) + moved(-rows, -columns) - 2 * rgb for rows, columns in OFFSETS]
    return [pair[..., colour] for colour in range(3) for pair in pairs]


@dataclass
class Statistics:
    """What least squares needs to fit a filter: sums over pixels, of samples of 12 bits.

    products: of inputs with each other, (INPUTS, INPUTS), lower triangle. errors: of inputs with x - x_hat,
    (3, INPUTS).
    """

    products: NDArray[np.int64]
    errors: NDArray[np.int64]

    @classmethod
    def none(cls) -> Statistics:
        """The statistics of no pixels."""
        return cls(np.zeros((INPUTS, INPUTS), np.int64), np.zeros((3, INPUTS), np.int64))

    def add(self, x_hat: NDArray[np.uint16], x: NDArray[np.uint16]) -> None:
        """Adds a part of a picture. x_hat: what g_s decoded to 16 bits, x: the original, each (H, W, 3)."""
        if native := extension():
            products, errors = native.measure_filter(np.ascontiguousarray(x_hat), np.ascontiguousarray(x))
        else:
            inputs = np.stack(differences(x_hat.astype(np.int32))).reshape(INPUTS, -1).astype(np.int64) >> _DROPPED
            error = (x.astype(np.int64) - x_hat).reshape(-1, 3).T >> _DROPPED
            products, errors = np.tril(inputs @ inputs.T), error @ inputs.T
        self.products += products
        self.errors += errors

    def fit(self) -> tuple[PixelFilter, float]:
        """The filter that leaves the least squared error, and the error it removes, in squared levels of 8 bits."""
        solved = [_least_squares(self.products.tolist(), row) for row in self.errors.tolist()]
        largest = max(abs(weight) for weights in solved for weight in weights)
        shift = next((s for s in reversed(FILTER_SHIFTS) if largest * 2**s <= _LARGEST_WEIGHT), FILTER_SHIFTS[0])
        rounded = np.round(np.array(solved) * 2.0**shift).clip(-_LARGEST_WEIGHT, _LARGEST_WEIGHT).astype(np.int8)
        found = PixelFilter(shift, rounded.reshape(3, 3, len(OFFSETS)))
        whole = (self.products + np.tril(self.products, -1).T).tolist()
        gain = 0  # in units of 4^-shift, exact
        for w, errors in zip(rounded.tolist(), self.errors.tolist(), strict=True):
            gain += 2 * _dot(w, errors) * 2**shift - _dot(w, [_dot(w, row) for row in whole])
        return found, gain / (4**shift * (257 / 2**_DROPPED) ** 2)


def _dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _least_squares(products: list[list[int]], errors: list[int]) -> list[float]:
    """The weights w with products · w = errors, by LDLᵀ in Python's floats, which every machine rounds alike."""
    n = len(errors)
    ridge = _RIDGE * sum(products[i][i] for i in range(n)) / n + 1.0
    lower, diagonal = [[0.0] * n for _ in range(n)], [0.0] * n
    for i in range(n):
        for j in range(i):
            rest = float(products[i][j])
            for k in range(j):
                rest -= lower[i][k] * lower[j][k] * diagonal[k]
            lower[i][j] = rest / diagonal[j]
        rest = products[i][i] + ridge
        for k in range(i):
            rest -= lower[i][k] * lower[i][k] * diagonal[k]
        diagonal[i] = max(rest, ridge)
    w = [0.0] * n
    for i in range(n):
        w[i] = float(errors[i])
        for k in range(i):
            w[i] -= lower[i][k] * w[k]
    w = [value / d for value, d in zip(w, diagonal, strict=True)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            w[i] -= lower[k][i] * w[k]
    return w
