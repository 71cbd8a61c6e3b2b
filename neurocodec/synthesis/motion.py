"""Block motion in integers: vectors of a frame against the one before, their prediction, and their coded bytes.

A vector is (down, right) in quarters of a pixel, one for each block of 16×16 pixels. Prediction interpolates with the
quarter-pixel filters of HEVC (Rec. ITU-T H.265, table 8-11) and blends the predictions of the four nearest blocks, as
overlapped block motion compensation does (Orchard and Sullivan, IEEE TIP 1994), so it has no edges between blocks.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy import coder
from neurocodec.entropy.grid import SCALE_LEVELS
from neurocodec.entropy.tables import Tables
from neurocodec.errors import NicFormatError

Frame = NDArray[np.uint8]
Vectors = NDArray[np.int32]
T = TypeVar("T", np.int32, np.int64)

BLOCK = 16
"""Pixels a side of a block."""
QUARTERS = 4
MAX_VECTOR = 4 * 512
"""In quarters of a pixel, in both directions of each axis."""
RADIUS = 16
"""Of the search, in pixels."""
POPULAR = 16
"""The number of the most frequent vectors, which every block may choose too."""
MARGIN = 8
"""Pixels beyond the border at which frames go on; further out they repeat the last of these."""
FILTERS = np.array(
    [
        [0, 0, 0, 64, 0, 0, 0, 0],
        [-1, 4, -10, 58, 17, -5, 1, 0],
        [-1, 4, -11, 40, 40, -11, 4, -1],
        [0, 1, -5, 17, 58, -10, 4, -1],
    ],
    np.int32,
)


class Reference:
    """A decoded frame, uint8 (H, W, 3), from which others are predicted."""

    def __init__(self, frame: Frame) -> None:
        self.shape = frame.shape
        padded = np.pad(frame, ((MARGIN + 3, MARGIN + 4), (MARGIN + 3, MARGIN + 4), (0, 0)), "edge").astype(np.int32)
        height, width = (side + 2 * MARGIN for side in frame.shape[:2])
        self._phases = np.empty((QUARTERS, QUARTERS, height, width, 3), np.uint8)
        for x in range(QUARTERS):
            across = sum(FILTERS[x, t] * padded[:, t : t + width] for t in range(8))
            for y in range(QUARTERS):
                both = sum(FILTERS[y, t] * across[t : t + height] for t in range(8))
                self._phases[y, x] = np.clip((both + 2048) >> 12, 0, 255)

    def shifted(self, vectors: Vectors) -> Frame:
        """Each pixel from where its own vector points, uint8 (H, W, 3). vectors: int32 (H, W, 2)."""
        height, width = self.shape[:2]
        y = np.arange(height)[:, None] * QUARTERS + vectors[..., 0]
        x = np.arange(width)[None] * QUARTERS + vectors[..., 1]
        rows = np.clip((y >> 2) + MARGIN, 0, height + 2 * MARGIN - 1)
        columns = np.clip((x >> 2) + MARGIN, 0, width + 2 * MARGIN - 1)
        frame: Frame = self._phases[y & 3, x & 3, rows, columns]
        return frame

    def predict(self, vectors: Vectors) -> Frame:
        """The frame that the vectors of all blocks, int32 (blocks down, blocks right, 2), make of this one.

        The vectors of the four blocks whose centres are nearest weigh bilinearly; beyond the border blocks repeat.
        """
        height, width = self.shape[:2]
        total = np.full(self.shape, 512, np.int32)
        for rows, row_weights in _nearest(height, vectors.shape[0]):
            for columns, column_weights in _nearest(width, vectors.shape[1]):
                weights = row_weights[:, None, None] * column_weights[None, :, None]
                total += weights * self.shifted(vectors[rows[:, None], columns[None]])
        return (total >> 10).astype(np.uint8)


def _nearest(side: int, blocks: int) -> list[tuple[NDArray[np.intp], NDArray[np.int32]]]:
    """For each pixel of an axis, the blocks with the nearest centres before and after it, and their weights of 32."""
    at = 2 * np.arange(side) + 1 - BLOCK  # in half pixels, from the centre of the first block
    before, odd = at // (2 * BLOCK), (at % (2 * BLOCK)).astype(np.int32)
    pairs = ((before, 2 * BLOCK - odd), (before + 1, odd))
    return [(np.clip(block, 0, blocks - 1), weight) for block, weight in pairs]


def blocks_of(height: int, width: int) -> tuple[int, int]:
    """Blocks down and right of a frame; those at the border may be smaller."""
    return -(-height // BLOCK), -(-width // BLOCK)


# ---------------------------------------------------------------------------------------------------- search


def search(frame: Frame, reference: Reference, previous: Frame, bit_cost: float) -> Vectors:
    """Vectors of least (sum of absolute luma differences + bit_cost · estimated bits), int32 (down, right, 2).

    reference: of `previous`, the frame before. Whole pixels first, all within RADIUS; then halves and quarters around
    the choice of each block, and the choices that most blocks made. Blocks choose in coding order.
    """
    luma, before = _luma(frame), np.pad(_luma(previous), RADIUS, "edge")
    h, w = luma.shape
    shape = blocks_of(h, w)

    def differences(candidates: NDArray[np.int32]) -> NDArray[np.int64]:
        spread = (v.repeat(BLOCK, 0).repeat(BLOCK, 1)[:h, :w] for v in candidates)
        return np.stack([_block_sums(np.abs(luma - _luma(reference.shifted(v)))) for v in spread])

    steps = range(-RADIUS, RADIUS + 1)
    moves = np.array([(y, x) for y in steps for x in steps], np.int32) * QUARTERS
    sums = [_block_sums(np.abs(luma - before[y : y + h, x : x + w])) for y, x in moves // QUARTERS + RADIUS]
    vectors = _choose(np.broadcast_to(moves[:, None, None], (len(moves), *shape, 2)), np.stack(sums), bit_cost)
    for step in (2, 1, 0):
        around = np.array([(y, x) for y in (-step, 0, step) for x in (-step, 0, step)], np.int32)[: 9 if step else 1]
        values, counts = np.unique(vectors.reshape(-1, 2), axis=0, return_counts=True)
        popular = values[np.argsort(-counts, kind="stable")[:POPULAR]]
        popular = (popular[:, None] + around[None]).reshape(-1, 2) if step and len(popular) <= 2 else popular
        shared = np.broadcast_to(popular[:, None, None], (len(popular), *shape, 2))
        candidates = np.concatenate([vectors[None] + around[:, None, None], shared]).astype(np.int32)
        vectors = _choose(candidates, differences(candidates), bit_cost)
    return vectors


def _choose(candidates: NDArray[np.int32], sums: NDArray[np.int64], bit_cost: float) -> Vectors:
    """The best candidate (n, down, right, 2) of each block, by sum of differences and bits, in coding order."""
    vectors = np.zeros(candidates.shape[1:], np.int32)
    for y, x in np.ndindex(*vectors.shape[:2]):
        sizes = np.abs(candidates[:, y, x] - _prediction(vectors, y, x))
        vectors[y, x] = candidates[(sums[:, y, x] + bit_cost * _BITS[sizes].sum(1)).argmin(), y, x]
    return vectors


def _luma(frame: Frame) -> NDArray[np.int16]:
    """(R + 2 G + B) / 4."""
    wide = frame.astype(np.int16)
    return (wide[..., 0] + 2 * wide[..., 1] + wide[..., 2]) >> 2


def _block_sums(values: NDArray[np.int16]) -> NDArray[np.int64]:
    rows = np.add.reduceat(values, range(0, values.shape[0], BLOCK), axis=0, dtype=np.int64)
    return np.add.reduceat(rows, range(0, values.shape[1], BLOCK), axis=1)


_BITS = np.where(np.arange(4 * MAX_VECTOR), 3 + 2 * np.log2(np.maximum(np.arange(4 * MAX_VECTOR), 1)), 0.2)
"""An estimate of what a difference costs, by its size: little for none, because table rows adapt."""


# ---------------------------------------------------------------------------------------------------- bytes


BASES = tuple(range(0, 48, 4))
"""Table rows that a frame may start from."""
ROWS_AN_OCTAVE = 6
"""Table rows, in whole numbers, from a scale to its double."""


def encode_vectors(vectors: Vectors, tables: Tables) -> bytes:
    """One byte, the base row, then the stream of the differences from the medians of neighbours, row by row.

    vectors: within MAX_VECTOR. tables: those of a model, whose rows are scales; the row of a difference rises with the
    differences above it.
    """
    h, w = vectors.shape[:2]
    differences = vectors - np.array([[_prediction(vectors, y, x) for x in range(w)] for y in range(h)], np.int32)
    above = np.concatenate([np.zeros_like(differences[:1]), differences[:-1]])
    indexes = [np.stack([_table_rows(row, base) for row in above]) for base in BASES]
    best = min(range(len(BASES)), key=lambda i: tables.bits(differences, indexes[i]))
    return bytes([BASES[best]]) + coder.encode(differences, indexes[best], tables, calls=[2 * w] * h)


def decode_vectors(data: bytes, height: int, width: int, tables: Tables) -> Vectors:
    """The vectors of a frame of (height, width) pixels. Raises NicFormatError or a subclass for damaged bytes."""
    if not data or data[0] not in BASES:
        raise NicFormatError(f"motion vectors start with {data[:1].hex() or 'nothing'}, expected a base row")
    h, w = blocks_of(height, width)
    vectors, above = np.zeros((h, w, 2), np.int64), np.zeros((w, 2), np.int32)
    decoder = coder.Decoder(data[1:], tables)
    for y in range(h):
        above = decoder.decode(_table_rows(above, data[0]))
        for x in range(w):
            vectors[y, x] = above[x] + _prediction(vectors, y, x)
        if np.abs(vectors[y]).max() > MAX_VECTOR:
            raise NicFormatError(f"a motion vector is longer than {MAX_VECTOR // QUARTERS} pixels")
    decoder.finish()
    return vectors.astype(np.int32)


def _prediction(vectors: NDArray[T], y: int, x: int) -> NDArray[T]:
    """What the vector of a block is coded against, (2,), from those before it, in rows from left to right.

    The median of the vectors on the left, above, and above on the right (in the last column: above on the left). In the
    first row that on the left, or 0; in the first column that above.
    """
    if y == 0:
        first: NDArray[T] = vectors[0, x - 1] if x else np.zeros_like(vectors[0, 0])
        return first
    above: NDArray[T] = vectors[y - 1, x]
    if x == 0:
        return above
    left, corner = vectors[y, x - 1], vectors[y - 1, x + 1 if x + 1 < vectors.shape[1] else x - 1]
    median: NDArray[T] = np.maximum(np.minimum(left, above), np.minimum(np.maximum(left, above), corner))
    return median


def _table_rows(above: NDArray[np.int32], base: int) -> NDArray[np.uint8]:
    """Table rows of the differences below a row of them, (blocks right, 2): an octave more for each bit of a sum."""
    sizes = np.pad(np.abs(above.astype(np.int64)), ((1, 1), (0, 0)))
    octaves = np.searchsorted(2 ** np.arange(8), sizes[:-2] + sizes[1:-1] + sizes[2:], side="right")
    rows: NDArray[np.uint8] = np.minimum(base + ROWS_AN_OCTAVE * octaves, SCALE_LEVELS - 1).astype(np.uint8)
    return rows
