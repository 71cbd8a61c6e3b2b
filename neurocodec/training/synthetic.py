"""Drawn training pictures: what photographs lack, and people encode all the same.

Flat colours, gradients, stripes, checkerboards, noise, shapes, text, also upon a photograph as in a screenshot, and
pages. Fine patterns, of one to three pixels, and noise are of low contrast: no codec of this kind keeps them, and their
huge errors would drown the gradients of everything else in a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Rgb = NDArray[np.uint8]
_LETTERS = 3 * "abcdefghijklmnopqrstuvwxyz     " + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;-()[]/%"


def draw(rng: np.random.Generator, size: int, photograph: Rgb) -> Rgb:
    """One picture, uint8 (size, size, 3). photograph: of that shape, for what is drawn upon one."""
    kind = rng.random()
    if kind < 0.1:
        return _background(rng, size)
    if kind < 0.25:
        return pattern(rng, size)
    if kind < 0.35:
        return _noise(rng, _background(rng, size) if rng.random() < 0.5 else photograph)
    if kind < 0.65:
        return page(rng, size)
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


def pattern(rng: np.random.Generator, size: int) -> Rgb:
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
        return _rgb(_colour(rng))

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
    _text(
        rng,
        pen,
        (int(rng.integers(-20, size // 2)), int(rng.integers(0, size // 2))),
        int(rng.integers(1, 9)),
        colour(),
    )
    return np.asarray(im)


def page(rng: np.random.Generator, size: int) -> Rgb:
    """A page as screens show them: dark upon light, or light upon dark, with columns, boxes and lines of text."""
    light = rng.uniform(225, 255) if rng.random() < 0.6 else 255.0
    paper, ink = np.full(3, light), np.full(3, rng.uniform(0, 90))
    if rng.random() < 0.2:
        paper, ink = ink, paper
    im = Image.new("RGB", (size, size), _rgb(paper))
    pen = ImageDraw.Draw(im)
    left = int(rng.integers(-20, size // 3))
    if rng.random() < 0.5:  # a column or a banner in another tone
        edge = left if left > 0 and rng.random() < 0.5 else size
        tone = _colour(rng) if rng.random() < 0.4 else np.clip(paper + rng.uniform(-20, 20), 0, 255)
        pen.rectangle([0, 0, edge, size if edge < size else int(rng.integers(8, size // 3))], fill=_rgb(tone))
    top = int(rng.integers(0, 24))
    while top < size:
        lines, tone = int(rng.integers(1, 7)), ink if rng.random() < 0.75 else _colour(rng)
        bottom = _text(rng, pen, (left + int(rng.integers(4, 24)), top), lines, _rgb(tone))
        if rng.random() < 0.3:
            pen.rectangle([left, top - 6, size + 9, bottom + 6], outline=_rgb(0.8 * paper + 0.2 * ink))
        top = bottom + int(rng.integers(8, 40))
    return np.asarray(im)


def _text(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: int, ink: tuple[int, ...]
) -> int:
    """Writes lines of random words of 8 to 31 pixels, small sizes more often; returns where the last one ends."""
    left, top = at
    size = int(np.exp(rng.uniform(np.log(8), np.log(32))))
    font = ImageFont.load_default(float(size))
    for _ in range(lines):
        pen.text((left, top), "".join(rng.choice(list(_LETTERS), 60)), font=font, fill=ink)
        top += round(1.3 * size)
    return top


def _rgb(colour: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(int(value) for value in colour)


def _to_rgb(values: NDArray[np.float64]) -> Rgb:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
