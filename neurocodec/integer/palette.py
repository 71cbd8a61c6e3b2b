"""A tile's palette indexes <-> stream: docs/contexts.md as a program.

`encode` and `decode` use C++ where it was built; `Reference`, in plain integers, defines the bytes. It takes about a
tenth of a millisecond a pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.native import extension
from neurocodec.errors import NicFormatError
from neurocodec.integer.context_coder import Bit, Code, Decoder, Encoder, Mixer, mix

BLOCK, MOST_COLOURS = 16, 255
TEMPLATE = (
    *((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (-2, 1), (-2, -1), (0, -3), (-3, 0)),
    *((0, -4), (0, -5), (-1, -3), (-1, 3), (-2, 2), (-2, -2), (-3, -1), (-3, 1), (-4, 0), (-2, 3), (-3, 2)),
)
"""Rows and columns from a pixel to its neighbours."""
NEAR = 12
ABOVE, LEFT, RIGHT = 4, 5, 3
CANDIDATES = (0, 1, 3, 2, 4, 5)
MOST_CANDIDATES = 4
MOST_SLOTS = 1 << 20


def encode(indexes: NDArray[np.uint8], colours: int) -> tuple[bytes, NDArray[np.int64]]:
    """The stream of a tile, and what the pixels of each block cost, in 1/256 bit, (h, w).

    indexes: uint8 (16 h, 16 w); in blocks that the palette does not have, all are `colours`. colours: 1 to 255.
    """
    if native := extension():
        stream, costs = native.palette_encode(np.ascontiguousarray(indexes), colours)
        return stream, costs
    encoder, (height, width) = Encoder(), indexes.shape
    reference = Reference(encoder.code, height // BLOCK, width // BLOCK, colours)
    reference.run(indexes)
    return encoder.finish(), reference.costs


def decode(stream: bytes, height: int, width: int, colours: int) -> NDArray[np.uint8]:
    """The indexes, uint8 (16 height, 16 width). Raises TruncatedError, ChecksumError or NicFormatError for damage."""
    indexes: NDArray[np.uint8]
    if native := extension():
        indexes = native.palette_decode(bytes(stream), height, width, colours)
        return indexes
    decoder = Decoder(stream)
    indexes = Reference(decoder.code, height, width, colours).run()
    decoder.finish()
    return indexes


class Reference:
    """One tile of (height, width) blocks. costs: what the pixels of each block have cost, in 1/256 bit."""

    def __init__(self, code: Code, height: int, width: int, colours: int) -> None:
        pixels = height * width * BLOCK**2
        self._mixer = Mixer(code, 1 << min(pixels, MOST_SLOTS).bit_length() - 1, MOST_CANDIDATES + 8)
        self._height, self._width, self._none = height, width, colours
        self._values = np.full((height * BLOCK + ABOVE, width * BLOCK + LEFT + RIGHT), colours, np.uint8)
        self._depth = (colours - 1).bit_length()
        self.costs = np.zeros((height, width), np.int64)

    def run(self, indexes: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Codes a tile's indexes, and returns them. indexes: None to decode. Raises NicFormatError for one too high."""
        given = np.zeros((self._height * BLOCK, self._width * BLOCK), np.uint8) if indexes is None else indexes
        blocks = np.zeros((self._height + 1, self._width + 2), np.int64)
        shapes = [Bit() for _ in range(16)]
        for r, c in np.ndindex(self._height, self._width):
            shape = blocks[r + 1, c] | blocks[r, c + 1] << 1 | blocks[r, c] << 2 | blocks[r, c + 2] << 3
            blocks[r + 1, c + 1] = self._mixer.one(bool(given[r * BLOCK, c * BLOCK] != self._none), shapes[shape])
        for y, x in np.ndindex(given.shape):
            if blocks[y // BLOCK + 1, x // BLOCK + 1]:
                before = self._mixer.cost
                value = self._pixel(y + ABOVE, x + LEFT, int(given[y, x]))
                if value >= self._none:
                    raise NicFormatError("the stream of a palette names a colour that it does not have.")
                self._values[y + ABOVE, x + LEFT] = value
                self.costs[y // BLOCK, x // BLOCK] += self._mixer.cost - before
        return self._values[ABOVE:, LEFT:-RIGHT].copy()

    def _pixel(self, y: int, x: int, value: int) -> int:
        v = [int(self._values[y + dy, x + dx]) for dy, dx in TEMPLATE]
        hashes = [0]
        for neighbour in v:
            hashes.append(mix(hashes[-1], neighbour + 1))
        west, north, whole = v[0], v[1], hashes[-1]
        candidates: list[int] = []
        if west != self._none and all(neighbour == west for neighbour in v[:NEAR]):
            if self._mixer.one(value == west, self._mixer.slot(5, mix(whole, 99))):
                return west
        else:
            distinct = dict.fromkeys(v[i] for i in CANDIDATES if v[i] != self._none)
            candidates = list(distinct)[:MOST_CANDIDATES]
        pairs = ((0, 1), (0, 2), (1, 2), (1, 3), (4, 0), (5, 1), (3, 6), (8, 3), (7, 2))
        pattern = sum((v[a] == v[b]) << i for i, (a, b) in enumerate(pairs))
        for i, candidate in enumerate(candidates):
            one = mix(8 * candidate + i, 1000)
            contexts = [
                mix(mix(pattern, i), 3),
                *(mix(hashes[n], one) for n in (4, 6, 12)),
                mix(mix(mix(one, west), north), 5),
                mix(whole, one),
            ]
            if self._mixer.mixed(value == candidate, contexts, i):
                return candidate
        node = 1
        for bit in reversed(range(self._depth)):
            one = mix(node, 2000)
            contexts = [
                one,
                mix(mix(one, west), 1),
                mix(mix(one, north), 2),
                mix(mix(mix(one, west), north), 3),
                mix(hashes[4], one),
                mix(hashes[6], one),
            ]
            node = 2 * node + self._mixer.mixed(bool(value >> bit & 1), contexts, MOST_CANDIDATES + bit)
        return node - (1 << self._depth)
