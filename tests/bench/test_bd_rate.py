"""BD-rates by hand, against another integration, and as published; bootstrap intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocodec.bench.bd_rate import bd_rate, bootstrap

JPEG_LIKE = [(0.14, 23.9), (0.26, 26.7), (0.45, 29.1), (0.68, 31.0), (0.87, 32.2), (1.34, 34.5), (2.3, 38.0)]


def scaled(curve: list[tuple[float, float]], factor: float, gain: float = 0.0) -> list[tuple[float, float]]:
    return [(bpp * factor, psnr_db + gain) for bpp, psnr_db in curve]


@settings(deadline=None, max_examples=25)
@given(factor=st.floats(0.3, 3))
def test_bd_rate_of_a_scaled_curve_is_the_scale(factor: float) -> None:
    result = bd_rate(JPEG_LIKE, scaled(JPEG_LIKE, factor))
    assert result.value == pytest.approx(100 * (factor - 1), abs=1e-6)
    assert result.psnr_range == (23.9, 38.0)
    assert result.bpp_range == pytest.approx((0.14, 2.3))


def test_two_points_by_hand() -> None:
    """ln(bpp) is linear: from 30 to 40 dB the reference goes from 1 to 4 bpp, the test from 1 to 2."""
    reference, test = [(1.0, 30.0), (4.0, 40.0)], [(1.0, 30.0), (2.0, 40.0)]
    assert bd_rate(reference, test).value == pytest.approx(100 * (math.sqrt(0.5) - 1))
    cut = bd_rate(reference, test, bpp_range=(1.0, 2.0))
    assert cut.psnr_range == pytest.approx((30.0, 35.0))  # where the reference, not the test, reaches 2 bpp
    assert cut.bpp_range == pytest.approx((1.0, 2.0))
    assert cut.value == pytest.approx(100 * (0.5**0.25 - 1))


def test_overlap_only() -> None:
    reference = [(0.1, 25.0), (0.4, 30.0), (1.6, 35.0)]
    test = [(0.2, 28.0), (0.8, 33.0), (3.2, 38.0)]
    result = bd_rate(reference, test)
    assert result.psnr_range == (28.0, 35.0)
    assert result.bpp_range[1] == pytest.approx(1.6)
    below = bd_rate(reference, test, bpp_range=(0.001, 0.4))  # no part of the reference is at 0.001: it begins later
    assert below.psnr_range == pytest.approx((28.0, 30.0))
    with pytest.raises(ValueError, match="share no PSNR interval"):
        bd_rate(reference, test, bpp_range=(0.1, 0.2))
    with pytest.raises(ValueError, match="share no PSNR interval"):
        bd_rate(reference, [(1.0, 40.0), (2.0, 41.0)])


def test_order_of_points_does_not_matter() -> None:
    other = scaled(JPEG_LIKE, 0.6, 0.3)
    shuffled = bd_rate(JPEG_LIKE[::-1], np.array(other)[[3, 0, 6, 1, 5, 2, 4]])
    assert shuffled == bd_rate(JPEG_LIKE, other)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ([(0.1, 25.0), (0.2, 30.0), (0.3, 29.0)], "not increasing: 0.2000 bpp gives 30.000 dB and 0.3000"),
        ([(0.1, 25.0), (0.1, 30.0)], "not increasing"),
        ([(0.1, 25.0)], r"shape \(1, 2\), expected"),
        ([(0.0, 25.0), (0.1, 30.0)], "no positive bpp"),
        ([(0.1, 25.0), (0.2, math.inf)], "infinite"),
    ],
)
def test_curves_that_are_none(curve: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd_rate(JPEG_LIKE, curve)


def test_against_plain_numerical_integration() -> None:
    """The same with nothing shared: piecewise linear ln(bpp), trapezoids."""
    grid = np.linspace(20, 40, 81)
    reference = [(float(np.exp(0.17 * (p - 33))), float(p)) for p in grid]
    test = [(float(np.exp(0.15 * (p - 34) - 0.1)), float(p)) for p in grid[10:70]]
    fine = np.linspace(grid[10], grid[69], 20001)
    lines = [np.interp(fine, [p for _, p in curve], [math.log(b) for b, _ in curve]) for curve in (reference, test)]
    expected = 100 * (math.exp(float(np.mean(lines[1] - lines[0]))) - 1)
    assert bd_rate(reference, test).value == pytest.approx(expected, abs=0.01)


def test_bootstrap() -> None:
    """Equal pictures give an interval of no width; an exact factor stays exact in every draw; draws repeat."""
    curve = np.array(JPEG_LIKE)
    same = np.stack([curve] * 5)
    assert bootstrap(same, same * [0.5, 1.0], resamples=50) == pytest.approx((-50.0, -50.0))

    rng = np.random.default_rng(1)
    factors = rng.uniform(0.6, 0.9, 12)
    test = np.stack([curve * [factor, 1.0] for factor in factors])
    reference = np.stack([curve] * 12)
    means = factors[rng.integers(0, 12, (20000, 12))].mean(1)  # what the mean of the factors does
    expected = 100 * (np.percentile(means, [2.5, 97.5]) - 1)
    assert bootstrap(reference, test, resamples=2000) == pytest.approx(tuple(expected), abs=0.6)
    assert bootstrap(reference, test, resamples=30) == bootstrap(reference, test, resamples=30)


def test_bootstrap_draws_the_same_pictures_for_both() -> None:
    """Pictures differ a hundredfold in bits, but each by the same factor between the codecs."""
    curve = np.array(JPEG_LIKE)
    reference = np.stack([curve * [scale, 1.0] for scale in (1, 5, 30, 100)])
    assert bootstrap(reference, reference * [0.8, 1.0], resamples=50) == pytest.approx((-20.0, -20.0))


def test_bootstrap_without_an_answer() -> None:
    curve = np.array(JPEG_LIKE)
    assert bootstrap(curve[None], curve[None]) is None  # one picture
    far = np.stack([curve + np.array([0.0, 40.0])] * 3)
    assert bootstrap(np.stack([curve] * 3), far, resamples=10) is None  # no draw has an overlap


def test_agreement_with_the_bjontegaard_package() -> None:
    """An independent implementation of the same definitions, on curves of different ranges and numbers of points."""
    other = pytest.importorskip("bjontegaard", reason="pip install bjontegaard: the second implementation")
    for test in (scaled(JPEG_LIKE, 0.6, 0.3), scaled(JPEG_LIKE, 1.4, 1.7)[1:], [(0.2, 25.1), *JPEG_LIKE[2:]]):
        (a, b), (c, d) = np.array(JPEG_LIKE).T, np.array(test).T
        options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
        assert bd_rate(JPEG_LIKE, test).value == pytest.approx(other.bd_rate(a, b, c, d, **options))


def points(path: Path) -> list[tuple[float, float]]:
    """Of a curve, from the smallest; a point that is worse than a smaller one is left out."""
    rising: list[tuple[float, float]] = []
    for bpp, value in sorted((point["bpp"], point["psnr"]) for point in json.loads(path.read_text())["points"]):
        if not rising or value > rising[-1][1]:
            rising.append((bpp, value))
    return rising


def test_published_curves(data_folder: Path) -> None:
    """Every published curve against BPG, by this project and by the bjontegaard package."""
    other = pytest.importorskip("bjontegaard", reason="pip install bjontegaard: the second implementation")
    folder = data_folder / "anchors" / "published" / "kodak"
    paths = sorted(folder.glob("*.json"))
    if not paths:
        pytest.skip(f"no published curves in {folder}")
    reference = points(data_folder / "anchors" / "kodak" / "bpg_444_x265.json")
    a, b = np.array(reference).T
    for path in paths:
        c, d = np.array(points(path)).T
        second = other.bd_rate(a, b, c, d, method="akima", require_matching_points=False, min_overlap=0)
        assert bd_rate(reference, points(path)).value == pytest.approx(second, abs=1e-6), path.name


@pytest.mark.parametrize(
    ("curve", "percent"),
    [
        ("kodak/jpeg_420", 123.0),
        ("kodak/webp_m6", 44.6),
        ("kodak/jxl_e7", 61.6),
        ("kodak/heic_444_mse", 1.6),
        ("published/kodak/bmshj2018-hyperprior", 4.0),
        ("published/kodak/mbt2018-mean", -3.2),
        ("published/kodak/mbt2018", -11.2),
        ("published/kodak/cheng2020-anchor", -18.9),
        ("published/kodak/vtm", -20.5),
        ("published/kodak/paper-elic2022", -26.6),
    ],
)
def test_curves_against_bpg_on_kodak(data_folder: Path, curve: str, percent: float) -> None:
    anchors = data_folder / "anchors"
    if not (anchors / f"{curve}.json").is_file():
        pytest.skip(f"no anchor {curve} in {anchors}")
    reference, test = points(anchors / "kodak" / "bpg_444_x265.json"), points(anchors / f"{curve}.json")
    assert bd_rate(reference, test).value == pytest.approx(percent, abs=0.06)
