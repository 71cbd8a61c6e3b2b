"""Bjøntegaard deltas: the mean difference in rate at equal PSNR between two curves, and how certain it is.

G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; Akima interpolation as in
C. Herglotz et al., "The Bjøntegaard bible", 2022. Curves are compared over the range that both cover; nothing is
extrapolated. Any quality that rises with the bits can stand for PSNR, such as MS-SSIM in dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.packages import require

Points = Sequence[Sequence[float]] | NDArray[np.float64]
"""Points (bpp, PSNR in dB) in any order, as an array of shape (n, 2)."""


@dataclass(frozen=True)
class BdResult:
    """value: percent of rate, negative where the test curve is smaller. psnr_range: dB, the interval averaged over;
    bpp_range: the same interval in bits of the reference."""

    value: float
    psnr_range: tuple[float, float]
    bpp_range: tuple[float, float]


def bd_rate(reference: Points, test: Points, *, bpp_range: tuple[float, float] | None = None) -> BdResult:
    """Mean difference in bits at equal PSNR, in percent of the reference: 100 (exp(mean of ln test/reference) - 1).

    ln(bpp) is an Akima interpolation over PSNR. The mean is over the PSNR interval that both curves cover; `bpp_range`
    narrows it to where the *reference* spends so many bits, or to the nearer end of the reference.

    Raises ValueError if a curve is not strictly increasing in both bpp and PSNR, has fewer than two points, or if the
    curves share no interval; MissingPackageError without SciPy.
    """
    a, b = _log_rate(reference, "reference"), _log_rate(test, "test")
    start, end = (a.x[0], a.x[-1]) if bpp_range is None else (_where(a, math.log(bpp)) for bpp in bpp_range)
    low, high = float(max(start, b.x[0])), float(min(end, b.x[-1]))
    if not low < high:
        raise ValueError(
            f"the curves share no PSNR interval: reference {start:.2f} to {end:.2f} dB, "
            f"test {b.x[0]:.2f} to {b.x[-1]:.2f} dB"
        )
    difference = (b.integrate(low, high) - a.integrate(low, high)) / (high - low)
    return BdResult(100.0 * math.expm1(difference), (low, high), (math.exp(float(a(low))), math.exp(float(a(high)))))


def bootstrap(
    reference: NDArray[np.float64],
    test: NDArray[np.float64],
    *,
    bpp_range: tuple[float, float] | None = None,
    resamples: int = 1000,
) -> tuple[float, float] | None:
    """How far `bd_rate` would move with other pictures of the same kind: a percentile interval of 95 %.

    reference, test: (pictures, n, 2) and (pictures, m, 2), bpp and PSNR of the same pictures in the same order. Each
    resample draws pictures with replacement, the same ones for both, averages them and compares the two curves over
    their overlap. None if more than a tenth of them cannot be compared, or for fewer than two pictures. B. Efron and
    R. Tibshirani, 1993, chapter 13.
    """
    if len(reference) < 2:
        return None
    rng = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        chosen = rng.integers(0, len(reference), len(reference))
        try:
            values.append(bd_rate(reference[chosen].mean(0), test[chosen].mean(0), bpp_range=bpp_range).value)
        except ValueError:
            continue
    if not values or len(values) < 0.9 * resamples:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _log_rate(curve: Points, name: str) -> Any:
    """ln(bpp) as a function of PSNR, an interpolator of SciPy."""
    points = np.array(curve, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise ValueError(f"the {name} curve has shape {points.shape}, expected (n, 2) with n of at least 2")
    if not np.isfinite(points).all() or points[:, 0].min() <= 0:
        raise ValueError(f"the {name} curve holds bpp or PSNR that is infinite, not a number, or no positive bpp")
    points = points[np.lexsort((points[:, 1], points[:, 0]))]
    falls = np.flatnonzero((np.diff(points, axis=0) <= 0).any(1))
    if falls.size:
        (bpp, psnr), (next_bpp, next_psnr) = points[falls[0] : falls[0] + 2]
        raise ValueError(
            f"the {name} curve is not increasing: {bpp:.4f} bpp gives {psnr:.3f} dB and {next_bpp:.4f} bpp gives "
            f"{next_psnr:.3f} dB: leave out the worse point"
        )
    interpolate: Any = require("scipy.interpolate", "SciPy", "a Bjøntegaard delta")
    return interpolate.Akima1DInterpolator(points[:, 1], np.log(points[:, 0]))


def _where(log_rate: Any, target: float) -> float:
    """The PSNR at which a curve has this ln(bpp); the nearer end if it never does."""
    low, high = float(log_rate.x[0]), float(log_rate.x[-1])
    if not log_rate(low) < target < log_rate(high):
        return low if target <= log_rate(low) else high
    optimize: Any = require("scipy.optimize", "SciPy", "a Bjøntegaard delta")
    return float(optimize.brentq(lambda psnr: float(log_rate(psnr)) - target, low, high))
