"""The Fréchet distance between two sets of feature vectors, and the patches they are taken from.

M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017 (FID);
patches as in F. Mentzer et al., "High-fidelity generative image compression", 2020, appendix A.7 (FID/256). Only a
distance of Inception features may be called FID.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PATCH = 256

Features = NDArray[np.float32 | np.float64]


def patches(rgb: NDArray[np.uint8], side: int = PATCH) -> NDArray[np.uint8]:
    """All whole patches of two grids, the second one shifted by half a patch in both directions.

    rgb: uint8 (H, W, 3). Returns uint8 (n, side, side, 3), n = hw + (h - 1)(w - 1) with h = H // side and
    w = W // side; n is 0 for a picture smaller than a patch.
    """
    height, width = rgb.shape[:2]
    squares = [
        rgb[y : y + side, x : x + side]
        for start in (0, side // 2)
        for y in range(start, height - side - start + 1, side)
        for x in range(start, width - side - start + 1, side)
    ]
    return np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of vectors, which is FID for Inception features:

        |mean_a - mean_b|² + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

    a, b: (n, d) and (m, d), n and m of at least 2; covariances are unbiased. The last trace is that of
    (S cov_b S)^(1/2), S = cov_a^(1/2), whose matrices are symmetric. With few vectors the distance is biased upwards:
    compare only sets of equal size. Raises ValueError for shapes that do not fit.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}, expected (n, d) and (m, d), both above one")
    x, y = a.astype(np.float64), b.astype(np.float64)
    x_cov, y_cov = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    values, vectors = np.linalg.eigh(x_cov)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ y_cov @ root), 0)).sum()
    distance = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(x_cov) + np.trace(y_cov) - 2 * cross
    return max(0.0, float(distance))
