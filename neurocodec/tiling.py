"""Which pixels and latents belong to which tile. Tiles are cut in latents: one latent is 16×16 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LATENT = 16
"""Pixels a latent covers in each direction."""
WHOLE = 2048
"""Pictures with no side above this many pixels are one tile."""
EDGE = 1024
"""Tile edge of larger pictures, in pixels."""
LARGEST = 4096
"""Tiles that cover more pixels than this in a direction are refused: a short forged file must not take all memory."""


@dataclass(frozen=True)
class Window:
    """A rectangle of latents: rows top..bottom and columns left..right, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of latents."""
        return self.bottom - self.top, self.right - self.left

    def within(self, outer: Window, scale: int = 1) -> tuple[slice, slice]:
        """Where this window lies in an array of the window `outer`, with `scale` elements a latent."""
        return (
            slice((self.top - outer.top) * scale, (self.bottom - outer.top) * scale),
            slice((self.left - outer.left) * scale, (self.right - outer.left) * scale),
        )

    def grow(self, halo: int, height: int, width: int) -> Window:
        """This window with `halo` more latents on each side, as far as the picture of (height, width) latents goes."""
        return Window(
            max(0, self.top - halo),
            max(0, self.left - halo),
            min(height, self.bottom + halo),
            min(width, self.right + halo),
        )

    def meet(self, other: Window) -> Window | None:
        """The common part, or None."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Window(top, left, bottom, right) if top < bottom and left < right else None


def tile_edge(height: int, width: int) -> int | None:
    """The tile edge in pixels for a picture of (height, width) pixels, or None for a single tile."""
    return None if max(height, width) <= WHOLE else EDGE


def windows(height: int, width: int, edge: int | None) -> Iterator[Window]:
    """The tiles of a picture of (height, width) latents, row by row. edge: in pixels, or None for a single tile."""
    step_y, step_x = (height, width) if edge is None else (edge // LATENT, edge // LATENT)
    for top in range(0, height, step_y):
        for left in range(0, width, step_x):
            yield Window(top, left, min(top + step_y, height), min(left + step_x, width))


def region_window(region: tuple[int, int, int, int]) -> Window:
    """The latents that cover a region of pixels (x, y, width, height)."""
    x, y, width, height = region
    return Window(y // LATENT, x // LATENT, -(-(y + height) // LATENT), -(-(x + width) // LATENT))
