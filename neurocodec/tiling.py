"""Which pixels and latents belong to which tile. Tiles are measured in latents: one latent covers 16×16 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LATENT = 16
"""Width and height of a latent, in pixels."""
WHOLE = 2048
"""Pictures with both sides up to this many pixels are a single tile."""
EDGE = 1024
"""Tile edge of larger pictures, in pixels."""
MAX_PIXELS = 2**27
"""Default limit for pictures that are read, encoded or decoded; callers may raise it to container.MAX_PIXELS."""
LARGEST = 4096
"""Largest tile side that is decoded, in pixels. It keeps a short forged file from using up the memory."""


@dataclass(frozen=True)
class Window:
    """A rectangle of latents: rows top to bottom - 1, columns left to right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of latents."""
        return self.bottom - self.top, self.right - self.left

    def within(self, outer: Window, scale: int = 1) -> tuple[slice, slice]:
        """Slices of this window in an array that covers the window `outer` with `scale` elements per latent."""
        return (
            slice((self.top - outer.top) * scale, (self.bottom - outer.top) * scale),
            slice((self.left - outer.left) * scale, (self.right - outer.left) * scale),
        )

    def grow(self, halo: int, height: int, width: int) -> Window:
        """This window with `halo` more latents on each side, clipped to a picture of (height, width) latents."""
        return Window(
            max(0, self.top - halo),
            max(0, self.left - halo),
            min(height, self.bottom + halo),
            min(width, self.right + halo),
        )

    def intersect(self, other: Window) -> Window | None:
        """The intersection, or None if it is empty."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Window(top, left, bottom, right) if top < bottom and left < right else None


def tile_edge(height: int, width: int) -> int | None:
    """The tile edge, in pixels, of a picture of (height, width) pixels, or None for a single tile."""
    return None if max(height, width) <= WHOLE else EDGE


def windows(height: int, width: int, edge: int | None) -> Iterator[Window]:
    """The tiles of a picture of (height, width) latents, row by row. edge: in pixels, or None for a single tile."""
    step_y, step_x = (height, width) if edge is None else (edge // LATENT, edge // LATENT)
    for top in range(0, height, step_y):
        for left in range(0, width, step_x):
            yield Window(top, left, min(top + step_y, height), min(left + step_x, width))


def picture_window(height: int, width: int) -> Window:
    """The latents that cover a picture of (height, width) pixels."""
    return region_window((0, 0, width, height))


def region_window(region: tuple[int, int, int, int]) -> Window:
    """The latents that cover a region (x, y, width, height) of pixels."""
    x, y, width, height = region
    return Window(y // LATENT, x // LATENT, -(-(y + height) // LATENT), -(-(x + width) // LATENT))
