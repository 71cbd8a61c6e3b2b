"""Screen content: text, lines and flat shapes, which a palette codes better than the networks do.

A picture may have a palette layer: blocks of 16×16 pixels that hold indexes of colours instead of what the networks
decode. The encoder chooses blocks and colours; docs/contexts.md defines what a reader does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec import container, image, tiling
from neurocodec.integer import palette
from neurocodec.tiling import LATENT, Window

MOST_COLOURS = palette.MOST_COLOURS
# A block has 240 pairs of adjacent pixels in its rows and 240 in its columns; the larger number of equal ones counts.
_EQUAL = 80  # equal pairs of a block that may have a palette
_CONTRAST = 48  # levels between its darkest and its lightest pixel
_FLAT = 200  # equal pairs of a block that needs no contrast
_SHARP = 120  # equal pairs of a block that shows screen content
_SHARE = 32  # at least one block in this many has to show it
_COLOUR_BITS = 30.0  # the cost of a colour
_EDGE_BITS = 1.5  # what another colour adds to the cost of each of its pixels that differs from the pixel on the left
_MOST_TRIALS = 500  # colours that are tried
_MOST_DIFFERENT = 2**15  # colours of a tile that may have a palette
_ENOUGH_AROUND = 5  # a block joins if at least this many of its 8 neighbours are in the palette
_FAVOUR = 1.25  # a block in a palette, where it is sharp, may cost up to this factor of what the networks need
_GRAY = 128
_BAND = 256  # rows at a time


@dataclass(frozen=True, eq=False)
class Palette:
    """The palette of a tile. colours: uint8 (K, 3). stream: codes the tile's indexes."""

    colours: NDArray[np.uint8]
    stream: bytes

    @property
    def record(self) -> bytes:
        """The bytes of the tile in the chunk."""
        return bytes([len(self.colours)]) + self.colours.tobytes() + self.stream

    @classmethod
    def of(cls, record: bytes) -> Palette:
        """The palette in a record, whose length the container has checked."""
        end = 1 + 3 * record[0]
        return cls(np.frombuffer(record[1:end], np.uint8).reshape(-1, 3), record[end:])

    def draw(self, pixels: NDArray[Any], part: Window, tile: Window) -> None:
        """Puts the pixels of the palette into `part` of the tile, uint8 or uint16 (16 h, 16 w, 3), in place.

        Raises NicFormatError or a subclass for a damaged stream.
        """
        none = len(self.colours)
        indexes = palette.decode(self.stream, *tile.shape, none)[part.within(tile, LATENT)]
        inside = indexes != none
        pixels[inside] = image.at_depth(self.colours, 8 * pixels.itemsize)[indexes[inside]]


Palettes = dict[tuple[int, int], tuple[Window, Palette]]
"""Tiles with their palettes, by the first row and column of the tile, in latents."""


def palettes_of(nic: container.NicFile) -> Palettes:
    """The palettes of a file."""
    header, records = nic.header, container.tile_records(nic, container.PALETTE)
    windows = tiling.windows(*tiling.picture_window(header.height, header.width).shape, header.tile_edge)
    pairs = zip(windows, records, strict=True)
    return {(tile.top, tile.left): (tile, Palette.of(record)) for tile, record in pairs if record}


@dataclass(frozen=True, eq=False)
class Layer:
    """The palettes of a picture. chunk: their chunk, by name. rest: what is left for the networks, uint8 (H, W, 3)."""

    chunk: dict[str, bytes]
    rest: NDArray[np.uint8]


def blocks_of_few_colours(rgb: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which blocks of a picture a palette might suit, (h, w); None if too few show screen content.

    rgb: (H, W, 3); None also if it has 16 bits.
    """
    if rgb.dtype != np.uint8:
        return None
    bands = [_classified(rgb[top : top + _BAND]) for top in range(0, len(rgb), _BAND)]
    few, sharp = (np.concatenate(part) for part in zip(*bands, strict=True))
    return few if sharp.sum() * _SHARE >= sharp.size else None


def _classified(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which blocks have few colours, and which of them show screen content, (h, w) each."""
    padded = image.pad_to_multiple(rgb, LATENT)
    codes = _codes(padded)
    equal = np.maximum(_equal_pairs(codes), _equal_pairs(codes.T).T)
    h, w = equal.shape
    few, sharp = equal >= _EQUAL, equal >= _SHARP
    values = padded.reshape(h, LATENT, w, LATENT, 3).swapaxes(1, 2)[few].astype(np.int16)  # (n, 16, 16, 3)
    steps = np.maximum(*(np.abs(np.diff(values, axis=axis)).max((1, 2, 3)) for axis in (1, 2)))
    contrast = (values.max((1, 2)) - values.min((1, 2))).max(1)
    sharp[few] &= steps >= _CONTRAST
    few[few] = (contrast >= _CONTRAST) | (equal[few] >= _FLAT)
    return few, sharp


def find(
    padded: NDArray[np.uint8], blocks: NDArray[np.bool_], network_cost: NDArray[np.float64], weight: float
) -> tuple[Palette, NDArray[np.bool_]] | None:
    """The palette of a tile and its blocks, (h, w); None if no block costs less in it, or little more.

    padded: the tile's pixels, (16 h, 16 w, 3). blocks: those that may be chosen. network_cost: bits + weight · squared
    error of each block, (h, w), as the networks code it.
    """
    if not blocks.any():
        return None
    inside = _per_pixel(blocks)
    if len(np.unique(_codes(padded)[inside])) > _MOST_DIFFERENT:
        return None
    colours, indexes = _quantised(padded, inside, weight)
    _, costs = palette.encode(indexes, len(colours))
    padding = np.zeros((1, 3), np.uint8)
    error = block_error(padded, np.concatenate([colours, padding])[indexes])
    chosen = blocks & (costs / 256 + weight * error < _FAVOUR * network_cost)
    chosen |= blocks & (_neighbours(chosen) >= _ENOUGH_AROUND)
    if not chosen.any():
        return None
    indexes[~_per_pixel(chosen)] = len(colours)
    used = np.unique(indexes[indexes < len(colours)])
    renumbered = np.full(len(colours) + 1, len(used), np.uint8)
    renumbered[used] = np.arange(len(used))
    stream, _ = palette.encode(renumbered[indexes], len(used))
    return Palette(colours[used], stream), chosen


def filled(rgb: NDArray[np.uint8], blocks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture, (H, W, 3), whose blocks have the colour of what is around them: the networks spend little on them.

    Each takes the mean of the smallest enclosing square, 2, 4, 8, ... blocks a side, that contains other blocks.
    """
    result = rgb.copy()
    known = ~blocks
    sums = np.zeros((*blocks.shape, 3), np.int64)
    for r, c in np.argwhere(known):
        part = rgb[r * LATENT : (r + 1) * LATENT, c * LATENT : (c + 1) * LATENT].reshape(-1, 3)
        sums[r, c] = (2 * part.sum(0, dtype=np.int64) + len(part)) // (2 * len(part))
    levels = [(sums, known.astype(np.int64))]
    while levels[-1][1].size > 1:
        sums, counts = levels[-1]
        levels.append((_halved(sums), _halved(counts)))
    colour = np.full((1, 1, 3), _GRAY)
    for sums, counts in reversed(levels):
        count = counts[..., None]
        wider = colour.repeat(2, axis=0).repeat(2, axis=1)[: counts.shape[0], : counts.shape[1]]
        colour = np.where(count > 0, (2 * sums + count) // np.maximum(2 * count, 1), wider)
    for r, c in np.argwhere(blocks):
        result[r * LATENT : (r + 1) * LATENT, c * LATENT : (c + 1) * LATENT] = colour[r, c]
    return result


def network_bits(y_hat: NDArray[np.int32], stream_bytes: int) -> NDArray[np.float64]:
    """About how many of a tile's bits each block takes, (h, w): in proportion to the digits of its latents.

    y_hat: (h, w, M) in units of 1/64.
    """
    digits = np.zeros(y_hat.shape[:2], np.int64)
    for bit in range(5, 16):
        digits += np.count_nonzero(np.abs(y_hat) >= 1 << bit, axis=2)
    return 8.0 * stream_bytes * digits / max(1, int(digits.sum()))


def block_error(padded: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The squared error of each block, (h, w), summed over its pixels and colours."""
    return _per_block(np.square(padded.astype(np.int32) - decoded).sum(2))


def _quantised(
    padded: NDArray[np.uint8], inside: NDArray[np.bool_], weight: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colours, from dark to light, and the index of the nearest for each pixel inside; outside, their number.

    Starting with the most frequent, a colour is added if its error reduction, worth `weight` bits for each squared
    level, exceeds its cost: for itself, and for the pixels at edges that it makes harder to predict.
    """
    codes = _codes(padded)
    edge = np.ones(codes.shape, np.bool_)
    edge[:, 1:] = codes[:, 1:] != codes[:, :-1]
    found, inverse, counts = np.unique(codes[inside], return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    edges = np.bincount(inverse, edge[inside], len(found))
    rgb = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.int64)
    chosen = [int(counts.argmax())]
    distance, nearest = np.square(rgb - rgb[chosen[0]]).sum(1), np.zeros(len(rgb), np.int64)
    open_to = distance > 0
    for _ in range(_MOST_TRIALS):
        error = np.where(open_to, distance * counts, 0)
        candidate = int(error.argmax())
        if len(chosen) == MOST_COLOURS or error[candidate] * weight <= _COLOUR_BITS:
            break
        open_to[candidate] = False
        closer = distance - np.square(rgb - rgb[candidate]).sum(1)
        moved = closer > 0
        cost = _COLOUR_BITS + _EDGE_BITS * edges[moved].sum()
        if weight * int((closer * counts)[moved].sum()) > cost:
            distance[moved] -= closer[moved]
            nearest[moved] = len(chosen)
            chosen.append(candidate)
    totals = np.zeros((len(chosen), 3), np.int64)
    np.add.at(totals, nearest, rgb * counts[:, None])
    members = np.bincount(nearest, counts, len(chosen)).astype(np.int64)[:, None]
    colours = (2 * totals + members) // (2 * members)
    order = (colours @ np.array([3, 6, 1])).argsort(kind="stable")
    indexes = np.full(inside.shape, len(chosen), np.uint8)
    indexes[inside] = order.argsort(kind="stable")[nearest][inverse]
    return colours[order].astype(np.uint8), indexes


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours as single numbers."""
    r, g, b = (rgb[..., c].astype(np.int32) for c in range(3))
    return r << 16 | g << 8 | b


def _equal_pairs(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many of the 240 pairs of adjacent pixels in the rows of a block are equal, (h, w)."""
    equal = np.zeros(codes.shape, np.bool_)
    equal[:, 1:] = codes[:, 1:] == codes[:, :-1]
    equal[:, ::LATENT] = False
    return _per_block(equal)


def _per_block(values: NDArray[Any]) -> NDArray[np.int64]:
    """Sums over the pixels of each block: (16 h, 16 w) to (h, w)."""
    h, w = (side // LATENT for side in values.shape)
    sums: NDArray[np.int64] = values.reshape(h, LATENT, w, LATENT).sum((1, 3), dtype=np.int64)
    return sums


def _neighbours(blocks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the 8 blocks around each are set, (h, w)."""
    h, w = blocks.shape
    wide = np.pad(blocks, 1).astype(np.int64)
    around: NDArray[np.int64] = sum(wide[r : r + h, c : c + w] for r in range(3) for c in range(3)) - wide[1:-1, 1:-1]
    return around


def _per_pixel(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return blocks.repeat(LATENT, axis=0).repeat(LATENT, axis=1)


def _halved(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of squares of 2×2."""
    h, w = (-(-side // 2) for side in values.shape[:2])
    padding = [(0, 2 * h - values.shape[0]), (0, 2 * w - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
    sums: NDArray[np.int64] = np.pad(values, padding).reshape(h, 2, w, 2, *values.shape[2:]).sum((1, 3))
    return sums
