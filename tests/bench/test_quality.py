"""The Fréchet distance: by hand, against SciPy, and the patches it is taken from."""

from __future__ import annotations

import numpy as np
import pytest

from neurocodec.bench.quality import frechet_distance, patches

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


def test_features_that_do_not_fit() -> None:
    for a, b in (((5, 3), (5, 4)), ((1, 3), (5, 3)), ((3,), (5, 3))):
        with pytest.raises(ValueError, match="expected"):
            frechet_distance(np.zeros(a), np.zeros(b))


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
