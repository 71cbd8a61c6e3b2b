"""Texture synthesis with a steerable pyramid: no network and no gradient.

From noise, the histograms of the pixels and of every band of a pyramid are matched to those of a texture, again and
again (Heeger and Bergen, "Pyramid-based texture analysis/synthesis", SIGGRAPH 1995). The pyramid is that of Simoncelli
and Freeman ("The steerable pyramid", ICIP 1995) in the frequency domain, as Portilla and Simoncelli (IJCV 2000, section
2.1) and pyrtools build it: a tight frame, so collapsing a pyramid inverts it, and sums of squares are kept.

    texture -> principal colours -> bands -> sorted samples
    noise   -> match pixels -> [ bands -> match each -> collapse -> match pixels ] repeated -> colours -> picture
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neurocodec import image
from neurocodec.errors import ImageError
from neurocodec.synthesis import pictures
from neurocodec.synthesis.system import SeededOptions, System
from neurocodec.training.config import Count

Plane = NDArray[np.float64]

LEVELS = 4
ORIENTATIONS = 4
ITERATIONS = 20
"""More than the five or so of the paper: bands still come closer until then."""


class Pyramid(NamedTuple):
    """A picture (h, w) in bands.

    high: (h, w), above half the Nyquist frequency. bands: one array for each level, finest first,
    (orientations, h / 2^level, w / 2^level). low: the rest, (h / 2^levels, w / 2^levels).
    """

    high: Plane
    bands: tuple[Plane, ...]
    low: Plane

    def planes(self) -> Iterator[tuple[str, Plane]]:
        """Every band with its name: high, band LEVEL,ORIENTATION and low."""
        yield "high", self.high
        for level, group in enumerate(self.bands):
            for orientation, band in enumerate(group):
                yield f"band {level},{orientation}", band
        yield "low", self.low


def decompose(picture: Plane, levels: int = LEVELS, orientations: int = ORIENTATIONS) -> Pyramid:
    """The pyramid of a picture (h, w), whose borders are joined. Raises ImageError for sides that 2^levels does not
    divide, or of fewer than 2^(levels + 2) pixels.

    With K orientations, band b of a level is the derivative of order K - 1 in the direction pi b / K.
    """
    picture = np.asarray(picture, np.float64)
    _check_sides(picture.shape, levels)
    spectrum = np.fft.fft2(picture)
    radius, angle = _polar(picture.shape, 0)
    high = _real(spectrum * _high_pass(radius, 0))
    spectrum = spectrum * _low_pass(radius, 0)
    bands = []
    for level in range(1, levels + 1):
        edges = spectrum * _high_pass(radius, level)
        bands.append(np.stack([_real(edges * steer) for steer in _steering(angle, orientations)]))
        inner = _inner(spectrum.shape)
        spectrum, radius, angle = spectrum[inner], radius[inner], angle[inner]
        spectrum = spectrum * _low_pass(radius, level) / 2  # a quarter of the samples: squares still add up
    return Pyramid(high, tuple(bands), _real(spectrum))


def collapse(pyramid: Pyramid) -> Plane:
    """The picture of a pyramid, (h, w): the transpose of `decompose`, which inverts it because the frame is tight."""
    spectrum = np.fft.fft2(pyramid.low)
    for level in range(len(pyramid.bands), 0, -1):
        bands = pyramid.bands[level - 1]
        radius, angle = _polar(bands.shape[1:], level - 1)
        inner = _inner(radius.shape)
        larger = np.zeros(radius.shape, np.complex128)
        larger[inner] = 2 * spectrum * _low_pass(radius[inner], level)
        for band, steer in zip(bands, _steering(angle, len(bands)), strict=True):
            larger += np.fft.fft2(band) * np.conj(steer) * _high_pass(radius, level)
        spectrum = larger
    radius, _ = _polar(pyramid.high.shape, 0)
    return _real(spectrum * _low_pass(radius, 0) + np.fft.fft2(pyramid.high) * _high_pass(radius, 0))


def match_histogram(values: Plane, samples: Plane) -> Plane:
    """`values` with the distribution of `samples`: the k-th smallest becomes the quantile (k + 1/2) / n.

    values: any shape. samples: sorted, of any number; as many as values, and the result is a permutation of them.
    """
    at = (np.arange(values.size) + 0.5) / values.size * samples.size - 0.5
    matched = np.empty(values.size)
    matched[np.argsort(values, axis=None, kind="stable")] = np.interp(at, np.arange(samples.size), samples)
    return matched.reshape(values.shape)


def synthesise(
    texture: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    levels: int = LEVELS,
    orientations: int = ORIENTATIONS,
    iterations: int = ITERATIONS,
    seed: int = 1,
) -> NDArray[np.uint8]:
    """More of a texture: uint8 (height, width, 3) from uint8 (h, w, 3), made from noise.

    Colours are handled as in section 4.2 of Heeger and Bergen: the channels are rotated to the principal axes of the
    texture's colours, each is synthesised alone, and they are rotated back. All sides are multiples of 2^levels;
    the texture is cropped to that. Raises ImageError if it is too small, or height or width do not fit.
    """
    _check_sides((height, width), levels)
    step = 2**levels
    texture = texture[: texture.shape[0] // step * step, : texture.shape[1] // step * step]
    _check_sides(texture.shape[:2], levels)
    pixels = texture.astype(np.float64)
    mean = pixels.mean((0, 1))
    axes = np.linalg.eigh(np.cov(pixels.reshape(-1, 3).T))[1]  # columns are orthonormal
    channels = (pixels - mean) @ axes
    generator = np.random.default_rng(seed)
    made = [
        _synthesise_plane(
            channels[..., c], generator.standard_normal((height, width)), levels, orientations, iterations
        )
        for c in range(3)
    ]
    rgb = np.stack(made, axis=-1) @ axes.T + mean
    result: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return result


def _synthesise_plane(texture: Plane, noise: Plane, levels: int, orientations: int, iterations: int) -> Plane:
    texture = periodic_component(texture)  # pixels and bands of one and the same picture
    target = decompose(texture, levels, orientations)
    pixels = np.sort(texture, axis=None)
    samples = {name: np.sort(band, axis=None) for name, band in target.planes()}
    picture = match_histogram(noise, pixels)
    for _ in range(iterations):
        pyramid = decompose(picture, levels, orientations)
        matched = {name: match_histogram(band, samples[name]) for name, band in pyramid.planes()}
        bands = tuple(
            np.stack([matched[f"band {level},{orientation}"] for orientation in range(orientations)])
            for level in range(levels)
        )
        picture = match_histogram(collapse(Pyramid(matched["high"], bands, matched["low"])), pixels)
    return picture


def periodic_component(picture: Plane) -> Plane:
    """The picture (h, w) less a smooth one that takes the jumps between opposite borders with it.

    Otherwise those jumps, not the texture, would fill bands along the axes. Moisan, "Periodic plus smooth image
    decomposition", JMIV 2011, eq. 10 to 12; Briand et al., IPOL 2014, apply it to this algorithm.
    """
    jumps = np.zeros_like(picture)
    rows, columns = picture[-1] - picture[0], picture[:, -1] - picture[:, 0]
    jumps[0] += rows
    jumps[-1] -= rows
    jumps[:, 0] += columns
    jumps[:, -1] -= columns
    h, w = picture.shape
    laplacian = 2 * np.cos(2 * math.pi * np.arange(h) / h)[:, None] + 2 * np.cos(2 * math.pi * np.arange(w) / w) - 4
    laplacian[0, 0] = 1
    smooth = np.fft.fft2(jumps) / laplacian
    smooth[0, 0] = 0
    return picture - _real(smooth)


def statistics(picture: Plane, levels: int = LEVELS, orientations: int = ORIENTATIONS) -> dict[str, Plane]:
    """Of each band of a picture (h, w), by name: standard deviation, skewness and kurtosis (3 for a Gaussian)."""
    result = {}
    for name, band in decompose(picture, levels, orientations).planes():
        centred = band - band.mean()
        deviation = max(float(centred.std()), 1e-12)
        moments = [float(np.mean((centred / deviation) ** power)) for power in (3, 4)]
        result[name] = np.array([deviation, *moments])
    return result


# ---------------------------------------------------------------------------------------------------- filters


def _polar(shape: tuple[int, ...], level: int) -> tuple[Plane, Plane]:
    """log2 of the radial frequency of each sample, 0 at the Nyquist frequency of level 0, and its angle."""
    y, x = (2 * np.fft.fftfreq(side) / 2**level for side in shape)
    with np.errstate(divide="ignore"):
        return np.log2(np.hypot(x[None], y[:, None])), np.arctan2(y[:, None], x[None])


def _high_pass(radius: Plane, level: int) -> Plane:
    """0 up to 2^-(level + 1), 1 from 2^-level on; between them a raised cosine of log2 of the frequency."""
    mask: Plane = np.cos(math.pi / 2 * np.clip(radius + level, -1, 0))
    return mask


def _low_pass(radius: Plane, level: int) -> Plane:
    """The rest: squares of both add up to 1."""
    mask: Plane = -np.sin(math.pi / 2 * np.clip(radius + level, -1, 0))
    return mask


def _steering(angle: Plane, orientations: int) -> Iterator[NDArray[np.complex128]]:
    """The angular part of each band's filter; their squares add up to 1 (Portilla and Simoncelli, eq. 4)."""
    order = orientations - 1
    scale = 2**order * math.factorial(order) / math.sqrt(orientations * math.factorial(2 * order))
    for orientation in range(orientations):
        yield (-1j) ** order * scale * np.cos(angle - math.pi * orientation / orientations) ** order


def _inner(shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Where the lower half of the frequencies lies in a spectrum of this shape."""
    return np.ix_(*(np.r_[: -(-side // 4), side - side // 4 : side] for side in shape))


def _real(spectrum: NDArray[np.complex128]) -> Plane:
    plane: Plane = np.fft.ifft2(spectrum).real
    return plane


def _check_sides(shape: tuple[int, ...], levels: int) -> None:
    if len(shape) != 2 or any(side % 2**levels or side < 4 * 2**levels for side in shape):
        raise ImageError(
            f"a pyramid of {levels} levels of a picture of shape {shape}, expected two sides that are multiples of "
            f"{2**levels} and at least {4 * 2**levels}"
        )


# ---------------------------------------------------------------------------------------------------- the system


@dataclass(frozen=True)
class PyramidOptions(SeededOptions):
    """Arguments of `synthesise`; size is the width and the height of the output in pixels. NumPy runs on the CPU."""

    device: Literal["cpu"] = "cpu"
    size: Count = 256
    levels: Count = LEVELS
    orientations: Count = ORIENTATIONS
    iterations: Count = ITERATIONS


class PyramidTexture(System[None, PyramidOptions]):
    """`synthesise` on files."""

    name = "pyramid"
    options = PyramidOptions

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: PyramidOptions, *, force: bool) -> str:
        pictures.check(output, options.device, force=force)
        made = synthesise(
            image.load(sources[0]).rgb,
            options.size,
            options.size,
            levels=options.levels,
            orientations=options.orientations,
            iterations=options.iterations,
            seed=options.seed,
        )
        image.save_pil(Image.fromarray(made), output, force=force)
        return f"{output}: {options.size}×{options.size}"
