"""Tables: quantisation, symmetry, reach, calibration from counts, and what is rejected on load."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neurocodec.entropy.tables import Tables, gaussian_tables, quantise_pmf, tables_from_histogram
from neurocodec.errors import ModelMismatchError

SCALES = np.geomspace(0.11, 128, 64).tolist()


def test_gaussian_rows_are_symmetric_and_reach_far_enough() -> None:
    tables = gaussian_tables(SCALES)
    assert tables.rows == 64
    assert tables.frequencies.nbytes < 32_000
    for index, scale in enumerate(SCALES):
        *symbols, escape = tables.row(index).tolist()
        radius = -int(tables.offsets[index])
        assert symbols == symbols[::-1]
        assert len(symbols) == 2 * radius + 1
        assert symbols[: radius + 1] == sorted(symbols[: radius + 1])
        assert escape <= 5
        assert math.erfc((radius + 0.5) / (scale * math.sqrt(2))) <= 2.0**-14


def test_quantisation_costs_little() -> None:
    """Coding a Gaussian with its row instead of its exact bins costs less than 0.1 % above scale 0.5."""
    tables = gaussian_tables(SCALES)
    for index, scale in enumerate(SCALES):
        radius = -int(tables.offsets[index])
        edges = (np.arange(-radius, radius + 2) - 0.5) / (scale * math.sqrt(2))
        cdf = np.array([math.erfc(-x) / 2 for x in edges])
        p = np.append(np.diff(cdf), 1 - cdf[-1] + cdf[0])
        ideal = -(p * np.log2(np.maximum(p, 1e-300))).sum()
        actual = (p * (16 - np.log2(tables.row(index)))).sum()
        assert actual - ideal < max(1e-4, 1e-3 * ideal)


@given(hnp.arrays(np.float64, st.integers(2, 300), elements=st.floats(0, 1e300)).filter(lambda p: p.max() > 0))
def test_quantise_pmf(pmf: np.ndarray) -> None:
    frequencies = quantise_pmf(pmf)
    assert frequencies.dtype == np.uint16
    assert frequencies.min() >= 1
    assert int(frequencies.sum(dtype=np.int64)) == 1 << 16
    assert int(frequencies.astype(np.int64)[pmf == pmf.max()].min()) >= int(frequencies.max()) - 1


@pytest.mark.parametrize("pmf", [[], [1.0], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [[1.0, 1.0]]])
def test_quantise_pmf_rejects(pmf: list[float]) -> None:
    with pytest.raises(ValueError, match="robabilities"):
        quantise_pmf(pmf)


def test_histogram() -> None:
    counts = np.zeros((3, 21))
    counts[0, 10] = 5  # only zeros
    counts[1, 8:13] = [1, 10, 100, 10, 1]
    counts[2, :] = 1
    tables = tables_from_histogram(counts, -10)
    assert tables.offsets.tolist() == [0, -2, -10]
    assert tables.lengths.tolist() == [2, 6, 22]
    assert tables.row(0).tolist() == [65535, 1]
    assert tables.row(1).argmax() == 2
    assert set(tables.row(2)[:-1].tolist()) <= {3120, 3121}
    # Far outliers go to the escape.
    counts = np.zeros((1, 2001))
    counts[0, 998:1003] = 1e6
    counts[0, [0, 2000]] = 3
    assert tables_from_histogram(counts, -1000).lengths.tolist() == [6]


def test_histogram_rejects_unseen_rows() -> None:
    with pytest.raises(ValueError, match="Row 1"):
        tables_from_histogram([[1, 2], [0, 0]], 0)
    with pytest.raises(ValueError, match="shape"):
        tables_from_histogram([1, 2], 0)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_gaussian_rejects_bad_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        gaussian_tables([1.0, scale])


def make(frequencies: object, offsets: object, lengths: object) -> Tables:
    return Tables(frequencies, offsets, lengths)  # type: ignore[arg-type]


GOOD = {
    "frequencies": np.array([65535, 1, 30000, 35535, 1], np.uint16),
    "offsets": np.array([0, -1], np.int32),
    "lengths": np.array([2, 3], np.int32),
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"frequencies": np.array([65535, 1, 30000, 35534, 1], np.uint16)}, "row 1 adds up to 65535"),
        ({"frequencies": np.array([65535, 1, 0, 65535, 1], np.uint16)}, "frequency is zero"),
        ({"frequencies": np.array([65535, 1, 30000, 35535, 1], np.int64)}, "frequencies are int64"),
        ({"frequencies": np.array([[65535, 1, 30000, 35535, 1]], np.uint16)}, "2 dimensions"),
        ({"frequencies": np.array([65535, 1, 30000, 35535, 1, 1], np.uint16)}, "as many in all"),
        ({"frequencies": np.zeros(0, np.uint16)}, "as many in all"),
        ({"offsets": np.array([0], np.int32)}, "offset each"),
        ({"offsets": np.array([0.0, 1.0])}, "offsets are float64"),
        ({"offsets": np.array([2**31 - 1, 2**31 - 1], np.int32)}, "32-bit"),
        ({"lengths": np.array([1, 4], np.int32)}, "2 to 65536"),
        ({"lengths": np.array([-2, 7], np.int32)}, "2 to 65536"),
        ({"lengths": np.array([2, 2**31 - 1], np.int32)}, "2 to 65536"),
        ({"lengths": np.zeros(0, np.int32), "offsets": np.zeros(0, np.int32)}, "1 to 256 rows"),
        ({"lengths": np.full(257, 2, np.int32), "offsets": np.zeros(257, np.int32)}, "1 to 256 rows"),
    ],
)
def test_rejected_tables(change: dict[str, np.ndarray], sentence: str) -> None:
    make(**GOOD)
    with pytest.raises(ModelMismatchError, match=sentence):
        make(**{**GOOD, **change})


def test_tables_are_frozen_copies() -> None:
    offsets = GOOD["offsets"].copy()
    tables = make(**{**GOOD, "offsets": offsets})
    offsets[0] = 7
    assert tables.offsets[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0] = 1


def test_bits() -> None:
    tables = make(**GOOD)
    symbols = np.array([0, -1, 0, 1, 128, 64], np.int32)  # the last three lie 0, 127 and 63 above their row
    indexes = np.array([0, 1, 1, 1, 1, 1], np.uint8)
    exact = sum(16 - math.log2(f) for f in (65535, 30000, 35535, 1, 1, 1)) + 8 * (1 + 2 + 1)
    assert tables.bits(symbols, indexes) == pytest.approx(exact)
