"""Fréchet and kernel distances between two sets of feature vectors, and the patches they are taken from.

M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017 (FID);
M. Bińkowski et al., "Demystifying MMD GANs", 2018 (KID); patches as in F. Mentzer et al., "High-fidelity generative
image compression", 2020, appendix A.7 (FID/256). Only distances of Inception features may be called FID and KID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurocodec.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATCH = 256


def patches(rgb: NDArray[np.uint8], side: int = PATCH) -> NDArray[np.uint8]:
    """All whole patches of two grids, the second one shifted by half a patch in both directions.

    rgb: uint8 (H, W, 3). Returns uint8 (n, side, side, 3), n = hw + (h - 1)(w - 1) with h = H // side and
    w = W // side; n is 0 for a picture smaller than a patch. Raises ImageError for another shape or type.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ImageError(f"found an array of shape {rgb.shape} and type {rgb.dtype}, expected uint8 (H, W, 3)")
    rows, columns = rgb.shape[0] // side, rgb.shape[1] // side
    squares = [
        rgb[y : y + side, x : x + side]
        for start, less in ((0, 0), (side // 2, 1))
        for y in range(start, start + (rows - less) * side, side)
        for x in range(start, start + (columns - less) * side, side)
    ]
    return np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)


def frechet_distance(a: NDArray[np.float32 | np.float64], b: NDArray[np.float32 | np.float64]) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of vectors, which is FID for Inception features:

        |mean_a - mean_b|² + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

    a, b: (n, d) and (m, d), n and m of at least 2; covariances are unbiased. The last trace is that of
    (S cov_b S)^(1/2), S = cov_a^(1/2), whose matrices are symmetric. With few vectors the distance is biased upwards:
    compare only sets of equal size. Raises ValueError for shapes that do not fit.
    """
    x, y = _checked(a, b)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x_cov, y_cov = np.cov(x, rowvar=False).reshape(x.shape[1], -1), np.cov(y, rowvar=False).reshape(x.shape[1], -1)
    values, vectors = np.linalg.eigh(x_cov)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ y_cov @ root), 0)).sum()
    distance = np.square(x_mean - y_mean).sum() + np.trace(x_cov) + np.trace(y_cov) - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(a: NDArray[np.float32 | np.float64], b: NDArray[np.float32 | np.float64]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³, which is KID for Inception features.

    a, b: (n, d) and (m, d), n and m of at least 2. All pairs count, where KID is often averaged over random subsets,
    which estimates the same. May be below 0. Raises ValueError for shapes that do not fit.
    """
    x, y = _checked(a, b)

    def kernel(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
        blocks = (left[at : at + 1024] @ right.T / left.shape[1] for at in range(0, len(left), 1024))
        return float(sum(((block + 1) ** 3).sum() for block in blocks))

    def within(v: NDArray[np.float64]) -> float:
        on_diagonal = float(((np.square(v).sum(1) / v.shape[1] + 1) ** 3).sum())
        return (kernel(v, v) - on_diagonal) / (len(v) * (len(v) - 1))

    return within(x) + within(y) - 2 * kernel(x, y) / (len(x) * len(y))


def _checked(
    a: NDArray[np.float32 | np.float64], b: NDArray[np.float32 | np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"found features of shapes {a.shape} and {b.shape}, expected (n, d) and (m, d), both above one"
        )
    return a.astype(np.float64), b.astype(np.float64)
