"""Integer probability tables: one row of 16-bit frequencies per scale, frozen once and stored with the weights.

Floats stop here. Tables are made at training time and never rebuilt by encode or decode, so it does not matter that
`math.erfc` may differ in the last bit between machines. Tables read from a file are treated as hostile input.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurocodec.errors import ModelMismatchError

PRECISION = 16
TOTAL = 1 << PRECISION
MAX_ROWS = 256
"""A table index is one byte."""
TAIL_MASS = 2.0**-14
"""Probability left to the escape: about one symbol in 16384, which then costs one more byte or so."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Frozen integer tables, one row per scale. Raises ModelMismatchError for arrays that are not such tables.

    The last frequency of each row is the escape's. The others belong to the symbols offset, offset + 1, ...
    The three arrays are copied and made read-only.
    """

    frequencies: NDArray[np.uint16]
    """All rows, one after another. Each is at least 1; each row adds up to 2**16."""
    offsets: NDArray[np.int32]  # (rows,)
    """The smallest symbol of each row."""
    lengths: NDArray[np.int32]  # (rows,)
    """The number of frequencies of each row: of its symbols and the escape."""

    def __post_init__(self) -> None:
        for name in ("frequencies", "offsets", "lengths"):
            array = np.array(getattr(self, name), order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self.validate()

    def validate(self) -> None:
        """Raises ModelMismatchError if the coder could not use the tables."""
        expected = {"frequencies": np.dtype(np.uint16), "offsets": np.dtype(np.int32), "lengths": np.dtype(np.int32)}
        for name, dtype in expected.items():
            array: NDArray[Any] = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                raise ModelMismatchError(
                    f"Table {name} are {array.dtype} with {array.ndim} dimensions, not {dtype} with one."
                )
        rows = self.lengths.size
        if not 1 <= rows <= MAX_ROWS or self.offsets.size != rows:
            raise ModelMismatchError(
                f"Tables need 1 to {MAX_ROWS} rows with an offset each, not {rows} with {self.offsets.size} offsets."
            )
        lengths = self.lengths.astype(np.int64)
        if lengths.min() < 2 or lengths.max() > TOTAL or lengths.sum() != self.frequencies.size:
            raise ModelMismatchError("Table rows need 2 to 65536 frequencies each, as many in all as are stored.")
        if (self.offsets + lengths - 2).max() > np.iinfo(np.int32).max:
            raise ModelMismatchError("A table row reaches beyond the 32-bit integers.")
        if self.frequencies.min() < 1:
            raise ModelMismatchError("A table frequency is zero; each must be at least 1.")
        sums = np.add.reduceat(self.frequencies.astype(np.int64), np.cumsum(lengths) - lengths)
        if (sums != TOTAL).any():
            row = int(np.argmax(sums != TOTAL))
            raise ModelMismatchError(f"Table row {row} adds up to {sums[row]}, not {TOTAL}.")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.lengths.size)

    def row(self, index: int) -> NDArray[np.uint16]:
        """Frequencies of one row, the escape's last."""
        end = int(self.lengths[: index + 1].sum())
        return self.frequencies[end - int(self.lengths[index]) : end]

    def bits(self, symbols: NDArray[np.int32], indexes: NDArray[np.uint8]) -> float:
        """Ideal code length in bits: minus log2 of the frequencies, plus the bytes of escaped values.

        symbols, indexes: arrays of one shape. Coder tests and rate estimates compare with this length.
        """
        rows = indexes.reshape(-1).astype(np.int64)
        position = symbols.reshape(-1).astype(np.int64) - self.offsets[rows]
        escape = self.lengths[rows].astype(np.int64) - 1
        above, below = position - escape, -1 - position
        escaped = (above >= 0) | (below >= 0)
        zigzag = np.where(above >= 0, 2 * above, 2 * below + 1)[escaped]
        escape_bytes: int = zigzag.size + sum(int((zigzag >> shift > 0).sum()) for shift in (7, 14, 21, 28))
        starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        used = self.frequencies[starts[rows] + np.where(escaped, escape, position)]
        total: float = PRECISION * used.size - float(np.log2(used.astype(np.float64)).sum())
        return total + 8.0 * escape_bytes


def quantise_pmf(pmf: ArrayLike, *, multiplicity: ArrayLike | None = None) -> NDArray[np.uint16]:
    """Integer frequencies, at least 1 each, that add up to 2**16.

    pmf: at least two non-negative numbers whose sum is above zero. The frequencies are max(1, floor(c * pmf)) with the
    largest c that fits; the remainder goes to the largest fractions.
    multiplicity: how often each entry occurs in the row, 1 or 2, and 1 for at least one entry. Symmetric rows are
    quantised by one half, so that both halves are equal.
    Raises ValueError for anything else.
    """
    p = np.asarray(pmf, dtype=np.float64)
    weight = np.ones(p.shape, np.int64) if multiplicity is None else np.asarray(multiplicity, dtype=np.int64)
    if p.ndim != 1 or p.size < 2 or weight.shape != p.shape or weight.sum() > TOTAL:
        raise ValueError(f"A row needs 2 to {TOTAL} probabilities.")
    if not np.isfinite(p).all() or p.min() < 0 or p.max() <= 0:
        raise ValueError("Probabilities must be finite and not negative, with a sum above zero.")
    p = p / p.max()
    p /= (weight * p).sum()

    low, high = 0.0, float(TOTAL)  # c * p
    for _ in range(100):
        middle = (low + high) / 2
        if (weight * np.maximum(1, np.floor(middle * p))).sum() <= TOTAL:
            low = middle
        else:
            high = middle
    frequencies = np.maximum(1, np.floor(low * p)).astype(np.int64)
    left = TOTAL - int((weight * frequencies).sum())
    for i in np.argsort(frequencies - low * p, kind="stable"):
        if weight[i] <= left:
            frequencies[i] += 1
            left -= int(weight[i])
    frequencies[np.argmax(np.where(weight == 1, p, -1))] += left
    row: NDArray[np.uint16] = frequencies.astype(np.uint16)
    return row


def gaussian_tables(scales: Sequence[float], *, tail_mass: float = TAIL_MASS) -> Tables:
    """A zero-mean Gaussian of each scale, integrated over unit bins: P(k) = cdf(k + 1/2) - cdf(k - 1/2).

    scales: standard deviations, above 0 and at most 4096. Rows are symmetric; each is just wide enough, at least -1 to
    1, to leave at most `tail_mass` to the escape. Raises ValueError for a scale or tail_mass out of range. Source:
    Ballé et al. 2018, "Variational image compression with a scale hyperprior", equation 6.
    """
    if not 0 < tail_mass < 1:
        raise ValueError(f"tail_mass must lie between 0 and 1, not {tail_mass}.")
    rows = []
    for scale in scales:
        if not 0 < scale <= 4096:
            raise ValueError(f"A scale must lie between 0 and 4096, not {scale}.")

        def upper(x: float, s: float = scale) -> float:  # P(X > x)
            return math.erfc(x / (s * math.sqrt(2))) / 2

        radius = 1
        while 2 * upper(radius + 0.5) > tail_mass:
            radius += 1
        half = [upper(k - 0.5) - upper(k + 0.5) for k in range(radius + 1)]  # k = 0, 1, ...
        folded = quantise_pmf([*half, 2 * upper(radius + 0.5)], multiplicity=[1] + [2] * radius + [1])
        rows.append((-radius, np.concatenate([folded[-2:0:-1], folded])))
    return _pack(rows)


def tables_from_histogram(counts: ArrayLike, smallest: int, *, tail_mass: float = TAIL_MASS) -> Tables:
    """Tables from measured symbols.

    counts: (rows, width) non-negative numbers, counts or probabilities; column j counts the symbol smallest + j.
    Each row is trimmed at both ends as long as at most `tail_mass` of it goes to the escape. Raises ValueError for
    negative or infinite counts and for an empty row; add a prior to rows without counts.
    """
    histogram = np.asarray(counts, dtype=np.float64)
    if histogram.ndim != 2 or not histogram.size:
        raise ValueError("counts must have the shape (rows, width).")
    rows = []
    for row, h in enumerate(histogram):
        if not np.isfinite(h).all() or h.min() < 0 or h.sum() <= 0:
            raise ValueError(f"Row {row} of the counts is empty, negative or not finite.")
        first, last, room = 0, h.size - 1, tail_mass * h.sum()
        escape = 0.0
        while first < last and escape + min(h[first], h[last]) <= room:
            if h[first] <= h[last]:
                escape, first = escape + h[first], first + 1
            else:
                escape, last = escape + h[last], last - 1
        rows.append((smallest + first, quantise_pmf([*h[first : last + 1], escape])))
    return _pack(rows)


def _pack(rows: Sequence[tuple[int, NDArray[np.uint16]]]) -> Tables:
    return Tables(
        frequencies=np.concatenate([frequencies for _, frequencies in rows]) if rows else np.zeros(0, np.uint16),
        offsets=np.array([offset for offset, _ in rows], np.int32),
        lengths=np.array([frequencies.size for _, frequencies in rows], np.int32),
    )
