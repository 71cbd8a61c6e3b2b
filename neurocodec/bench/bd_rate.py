"""Bjøntegaard deltas: the mean difference in rate at equal PSNR, or in PSNR at equal rate, between two curves.

G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001, which fits cubics; Akima
interpolation as in C. Herglotz et al., "The Bjøntegaard bible", 2022. Curves are compared over the range that both
cover; nothing is extrapolated. Any quality that rises with the bits can stand for PSNR, such as MS-SSIM in dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neurocodec.packages import require

Method = Literal["akima", "pchip", "cubic"]
Curve = Sequence[tuple[float, float]] | NDArray[np.float64]
"""Points (bpp, PSNR in dB) in any order, as an array of shape (n, 2)."""


@dataclass(frozen=True)
class BdResult:
    """A Bjøntegaard delta and its range.

    value: percent of rate (negative: the test curve is smaller) or dB (positive: the test curve is better).
    psnr_range: dB, and bpp_range: of the reference; the interval averaged over. method: the interpolation.
    """

    value: float
    psnr_range: tuple[float, float]
    bpp_range: tuple[float, float]
    method: Method


def bd_rate(
    reference: Curve, test: Curve, *, bpp_range: tuple[float, float] | None = None, method: Method = "akima"
) -> BdResult:
    """Mean difference in bits at equal PSNR, in percent of the reference: 100 (exp(mean of ln test/reference) - 1).

    ln(bpp) is interpolated as a function of PSNR: "akima" and "pchip" pass through the points, "cubic" is the
    least-squares polynomial of VCEG-M33. The mean is over the PSNR interval that both curves cover; `bpp_range` narrows
    it to where the *reference* spends so many bits, or to the nearer end of the reference.

    Raises ValueError if a curve is not strictly increasing in both bpp and PSNR, has fewer than two points (four for
    "cubic"), or if the curves share no interval; MissingPackageError without SciPy.
    """
    a, b = _fit(reference, "reference", method, 1), _fit(test, "test", method, 1)
    low, high = a.low, a.high
    if bpp_range is not None:
        low, high = (_where(a, math.log(bpp)) for bpp in _checked(bpp_range))
    low, high = max(low, b.low), min(high, b.high)
    if not low < high:
        raise ValueError(
            f"the curves share no PSNR interval: reference {a.low:.2f} to {a.high:.2f} dB"
            f"{'' if bpp_range is None else f' cut to {bpp_range[0]:g} to {bpp_range[1]:g} bpp'}, "
            f"test {b.low:.2f} to {b.high:.2f} dB"
        )
    value = 100.0 * math.expm1((b.integral(low, high) - a.integral(low, high)) / (high - low))
    return BdResult(value, (low, high), (math.exp(a.at(low)), math.exp(a.at(high))), method)


def bd_psnr(
    reference: Curve, test: Curve, *, bpp_range: tuple[float, float] | None = None, method: Method = "akima"
) -> BdResult:
    """Mean difference of PSNR in dB at equal bits, test minus reference, over the ln(bpp) interval that both cover.

    PSNR is interpolated as a function of ln(bpp); `bpp_range` narrows the interval. Raises as `bd_rate` does.
    """
    a, b = _fit(reference, "reference", method, 0), _fit(test, "test", method, 0)
    low, high = max(a.low, b.low), min(a.high, b.high)
    if bpp_range is not None:
        start, end = _checked(bpp_range)
        low, high = max(low, math.log(start)), min(high, math.log(end))
    if not low < high:
        raise ValueError(
            f"the curves share no interval of bpp: reference {math.exp(a.low):.3f} to {math.exp(a.high):.3f}, "
            f"test {math.exp(b.low):.3f} to {math.exp(b.high):.3f}"
            f"{'' if bpp_range is None else f', asked for {bpp_range[0]:g} to {bpp_range[1]:g}'}"
        )
    value = (b.integral(low, high) - a.integral(low, high)) / (high - low)
    return BdResult(value, (a.at(low), a.at(high)), (math.exp(low), math.exp(high)), method)


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval. resamples: how many of the `drawn` ones gave curves that can be compared."""

    low: float
    high: float
    resamples: int
    drawn: int


def bootstrap(
    delta: Callable[..., BdResult],
    reference: NDArray[np.float64],
    test: NDArray[np.float64],
    *,
    bpp_range: tuple[float, float] | None = None,
    method: Method = "akima",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """How far `bd_rate` or `bd_psnr` would move with other pictures of the same kind: a percentile interval.

    delta: the function. reference, test: (pictures, n, 2) and (pictures, m, 2), bpp and PSNR of the same pictures in
    the same order. Each resample draws pictures with replacement, the same ones for both, averages them and compares
    the two curves over their overlap. None if more than a tenth of them cannot be compared, or for fewer than two
    pictures. B. Efron and R. Tibshirani, 1993, chapter 13.
    """
    if reference.ndim != 3 or test.ndim != 3 or len(reference) != len(test):
        raise ValueError(f"found rows of shapes {reference.shape} and {test.shape}, expected the same pictures")
    if len(reference) < 2:
        return None
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        chosen = rng.integers(0, len(reference), len(reference))
        try:
            result = delta(reference[chosen].mean(0), test[chosen].mean(0), bpp_range=bpp_range, method=method)
        except ValueError:
            continue
        values.append(result.value)
    if not values or len(values) < 0.9 * resamples:
        return None
    low, high = np.percentile(values, [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)])
    return Interval(float(low), float(high), len(values), resamples)


class _Fit(NamedTuple):
    """An interpolated curve on [low, high], its value at a point and its integral over an interval."""

    low: float
    high: float
    at: Callable[[float], float]
    integral: Callable[[float, float], float]


def _fit(curve: Curve, name: str, method: Method, axis: int) -> _Fit:
    """axis 1: ln(bpp) as a function of PSNR; axis 0: PSNR as a function of ln(bpp)."""
    points = np.array(curve, dtype=np.float64)
    least = 4 if method == "cubic" else 2
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least:
        raise ValueError(f"the {name} curve has shape {points.shape}, expected (n, 2) with n of at least {least}")
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
    points[:, 0] = np.log(points[:, 0])
    x, y = points[:, axis], points[:, 1 - axis]

    value: Any
    if method == "cubic":
        value = np.polynomial.Polynomial.fit(x, y, 3)  # type: ignore[no-untyped-call]
        primitive = value.integ()
    elif method in ("akima", "pchip"):
        package = require("scipy.interpolate", "SciPy", "a Bjøntegaard delta")
        value = package.Akima1DInterpolator(x, y) if method == "akima" else package.PchipInterpolator(x, y)
        primitive = value.antiderivative()
    else:
        raise ValueError(f"found the method {method!r}, expected akima, pchip or cubic")
    return _Fit(
        float(x[0]),
        float(x[-1]),
        lambda at: float(value(at)),
        lambda low, high: float(primitive(high) - primitive(low)),
    )


def _where(fit: _Fit, target: float) -> float:
    """Where an increasing fit reaches `target`; the nearer end if it never does."""
    if target <= fit.at(fit.low) or target >= fit.at(fit.high):
        return fit.low if target <= fit.at(fit.low) else fit.high
    package = require("scipy.optimize", "SciPy", "a Bjøntegaard delta")
    return float(package.brentq(lambda at: fit.at(at) - target, fit.low, fit.high))


def _checked(bpp_range: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bpp_range[0] < bpp_range[1]:
        raise ValueError(f"found the bpp range {bpp_range}, expected two positive numbers, the smaller first")
    return bpp_range
