"""Drawn training pictures: what photographs lack, and people encode all the same.

Flat colours, gradients, stripes, checkerboards, noise, shapes and text, also upon a photograph as in a screenshot. Fine
patterns, of one to three pixels, and noise are of low contrast: no codec of this kind keeps them, and their huge errors
would drown the gradients of everything else in a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Rgb = NDArray[np.uint8]
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-()[]/%"


def draw(rng: np.random.Generator, size: int, photograph: Rgb) -> Rgb:
    """One picture, uint8 (size, size, 3). photograph: of that shape, for what is drawn upon one."""
    kind = rng.random()
    if kind < 0.15:
        return _background(rng, size)
    if kind < 0.4:
        return _pattern(rng, size)
    if kind < 0.55:
        return _noise(rng, _background(rng, size) if rng.random() < 0.5 else photograph)
    return _screen(rng, _background(rng, size) if rng.random() < 0.6 else photograph)


def _colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """Any colour; pure ones and grays are frequent, as they are in drawings."""
    kind = rng.random()
    if kind < 0.3:
        return np.full(3, rng.choice([0.0, 255.0, rng.uniform(0, 255)]))
    return rng.choice([0.0, 255.0], 3) if kind < 0.45 else rng.uniform(0, 255, 3)


def _background(rng: np.random.Generator, size: int) -> Rgb:
    """A flat colour, or a linear gradient of any direction between two."""
    first, second = _colour(rng), _colour(rng)
    if rng.random() < 0.5:
        second = first
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    way = x * np.cos(angle) + y * np.sin(angle) + 0.5
    return _to_rgb(first + (second - first) * np.clip(way, 0, 1)[:, :, None])


def _pattern(rng: np.random.Generator, size: int) -> Rgb:
    """Stripes or a checkerboard, squares of 1 to 32 pixels."""
    period = int(np.exp(rng.uniform(0, np.log(33))))
    y, x = (np.mgrid[:size, :size] + rng.integers(0, period, (2, 1, 1))) // period
    kinds: list[Callable[[], NDArray[np.int64]]] = [lambda: x % 2, lambda: y % 2, lambda: (x + y) % 2]
    first, second = _colour(rng), _colour(rng)
    if period < 4:
        second = first + (second - first) * rng.uniform(0.02, 0.25)
    return _to_rgb(np.where(kinds[rng.integers(3)]()[:, :, None] > 0, first, second))


def _noise(rng: np.random.Generator, rgb: Rgb) -> Rgb:
    """Gaussian noise of 1 to 20 levels, gray or in colours."""
    channels = rng.choice([1, 3])
    noise = rng.standard_normal((*rgb.shape[:2], channels)) * np.exp(rng.uniform(0, np.log(20)))
    return _to_rgb(rgb + noise)


def _screen(rng: np.random.Generator, rgb: Rgb) -> Rgb:
    """Rectangles, ellipses, lines and lines of text."""
    im = Image.fromarray(np.ascontiguousarray(rgb))
    pen = ImageDraw.Draw(im)
    size = rgb.shape[0]

    def box() -> list[int]:
        (left, top), (width, height) = rng.integers(0, size, 2), rng.integers(4, size // 2, 2)
        return [int(left), int(top), int(left + width), int(top + height)]

    def colour() -> tuple[int, ...]:
        return tuple(int(value) for value in _colour(rng))

    for _ in range(rng.integers(1, 7)):
        kind = rng.integers(4)
        if kind == 0:
            pen.rectangle(box(), fill=colour())
        elif kind == 1:
            pen.rectangle(box(), outline=colour(), width=int(rng.integers(1, 4)))
        elif kind == 2:
            pen.ellipse(box(), fill=colour())
        else:
            pen.line(box(), fill=colour(), width=int(rng.integers(1, 4)))
    font, ink = ImageFont.load_default(float(rng.integers(8, 32))), colour()
    top = float(rng.integers(0, size // 2))
    for _ in range(rng.integers(1, 9)):
        words = "".join(rng.choice(list(_LETTERS), 60))
        pen.text((float(rng.integers(-20, size // 2)), top), words, font=font, fill=ink)
        top += font.size * 1.3 if isinstance(font, ImageFont.FreeTypeFont) else 12.0
    return np.asarray(im)


def _to_rgb(values: NDArray[np.float64]) -> Rgb:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
