"""Fréchet and kernel distances: by hand, against SciPy, and the patches they are taken from."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from neurocodec.bench.fid import frechet_distance, kernel_distance, patches
from neurocodec.errors import ImageError

RNG = np.random.default_rng(7)


def test_frechet_distance_by_hand() -> None:
    """In one dimension it is (difference of means)² + (difference of standard deviations)²."""
    a, b = np.array([[1.0], [3.0]]), np.array([[10.0], [16.0], [13.0]])  # variances 2 and 9
    assert frechet_distance(a, b) == pytest.approx((2 - 13) ** 2 + (2**0.5 - 3) ** 2)
    square = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # covariance 2/3 of the identity
    assert frechet_distance(square, 3 * square + [4.0, 0.0]) == pytest.approx(4**2 + 2 * (2 / 3) * (3 - 1) ** 2)
    assert frechet_distance(square, square) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_gaussians_with_known_parameters() -> None:
    mean, cov = np.array([1.0, -2.0, 0.5]), np.diag([4.0, 1.0, 9.0])
    a = RNG.multivariate_normal(np.zeros(3), np.eye(3), 60000)
    b = RNG.multivariate_normal(mean, cov, 60000)
    expected = (mean**2).sum() + sum((variance**0.5 - 1) ** 2 for variance in (4.0, 1.0, 9.0))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("vectors", [40, 5])  # of 8 dimensions: with 5, covariances are singular
def test_frechet_distance_against_scipy(vectors: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a = RNG.normal(size=(vectors, 8)) @ RNG.normal(size=(8, 8))
    b = (RNG.normal(size=(vectors + 3, 8)) + 1) @ RNG.normal(size=(8, 8))
    a_cov, b_cov = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(a_cov @ b_cov)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(a_cov + b_cov - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert frechet_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_by_hand() -> None:
    a, b = RNG.normal(size=(4, 3)), RNG.normal(size=(3, 3)) + 0.5

    def kernel(x: Any, y: Any) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [np.mean([kernel(x, y) for x, y in itertools.permutations(v, 2)]) for v in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * across)


def test_kernel_distance_is_unbiased_and_grows() -> None:
    draws = [kernel_distance(RNG.normal(size=(30, 4)), RNG.normal(size=(30, 4))) for _ in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 300**0.5
    assert min(draws) < 0
    a = RNG.normal(size=(1500, 4))  # more than one block
    distances = [kernel_distance(a, RNG.normal(size=(1500, 4)) + shift) for shift in (0.0, 0.5, 1.0)]
    assert distances == sorted(distances)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_features_that_do_not_fit(distance: Any) -> None:
    for a, b in (((5, 3), (5, 4)), ((1, 3), (5, 3)), ((3,), (5, 3))):
        with pytest.raises(ValueError, match="expected"):
            distance(np.zeros(a), np.zeros(b))


def test_patches_are_of_two_grids() -> None:
    rgb = np.zeros((9, 13, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = np.arange(9)[:, None], np.arange(13)[None, :]
    squares = patches(rgb, 4)
    corners = [(int(patch[0, 0, 0]), int(patch[0, 0, 1])) for patch in squares]
    assert corners == [(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8), (2, 2), (2, 6)]
    assert all(
        (patch[..., 0] == np.arange(y, y + 4)[:, None]).all() for patch, (y, _) in zip(squares, corners, strict=True)
    )
    assert patches(np.zeros((512, 768, 3), np.uint8)).shape == (6 + 2, 256, 256, 3)
    assert patches(rgb, 10).shape == (0, 10, 10, 3)
    with pytest.raises(ImageError, match="expected uint8"):
        patches(np.zeros((8, 8), np.uint8))
