"""A tile's exact pixels <-> stream, given the pixels that the networks decode: docs/lossless.md as a program.

`encode` and `decode` use C++ where it was built; `Reference`, in plain integers, defines the bytes. It takes about a
millisecond a value, so a large picture takes it many minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.native import extension
from neurocodec.errors import ChecksumError, NicFormatError, TruncatedError
from neurocodec.integer.lossless_table import FIRST_MEAN, LOGISTIC, WEIGHT

OWN = (
    *((-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-2, -1), (-2, 1)),
    *((-1, -2), (-1, 2), (-2, -2), (-2, 2), (0, -3), (-3, 0)),
)
OTHER = ((0, 0), (0, 1), (1, 0), (-1, 0), (-1, 1), (-1, -1))
WIDE = (
    *((0, -3), (0, -4), (-1, -2), (-1, 2), (-1, 3), (-2, -1)),
    *((-2, 1), (-2, -2), (-2, 2), (-3, 0), (-3, -1), (-3, 1)),
)
PAD, BLOCK, PARTS, LEVELS = 4, 16, 9, 64
WHITE, END = 255 * 256, 12 << 13
LOW, PROBABILITY_BITS = 1 << 24, 20

Mixture = tuple[list[int], list[int], list[int]]
"""Centres with 8 fractional bits, slopes, and the weights of the 9 parts, which sum to 2^16."""
Code = Callable[[int, int, int, Mixture], int]
"""Codes the value at a plane, row and column under a mixture, and returns it."""


def encode(exact: NDArray[np.uint8], x_hat: NDArray[np.uint8]) -> bytes:
    """The stream of a tile. exact, x_hat: uint8 (h, w, 1 or 3)."""
    exact, x_hat = np.ascontiguousarray(exact), np.ascontiguousarray(x_hat)
    native = extension()
    stream: bytes = native.lossless_encode(exact, x_hat) if native else Reference(x_hat).encode(exact)
    return stream


def decode(stream: bytes, x_hat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The exact pixels, uint8 (h, w, 1 or 3). Raises TruncatedError, ChecksumError or NicFormatError for damage."""
    x_hat = np.ascontiguousarray(x_hat)
    native = extension()
    exact: NDArray[np.uint8] = (
        native.lossless_decode(bytes(stream), x_hat) if native else Reference(x_hat).decode(stream)
    )
    return exact


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def shifted(value: int, shift: int) -> int:
    """value * 2^shift, rounded down."""
    return value << shift if shift >= 0 else value >> -shift


class Average:
    """A running mean: of the first values, then of recent ones."""

    def __init__(self, value: int = 0) -> None:
        self.value, self.count = value, 0

    def add(self, value: int, limit: int) -> None:
        self.value += (value - self.value) * (65536 // (self.count + 2)) >> 16
        self.count = min(self.count + 1, limit)


class Parts:
    """Weights of the parts of a mixture, learnt from how well each predicted."""

    def __init__(self) -> None:
        self.weights = [65536 // PARTS] * (PARTS - 1)
        self.count = 0

    def add(self, shares: list[int]) -> None:
        rate = 65536 // (self.count + 4)
        self.count = min(self.count + 1, 12)
        for q, share in enumerate(shares[:-1]):
            self.weights[q] += (share - (share >> 6) + 64 - self.weights[q]) * rate >> 16


def least_squares(gram: NDArray[np.int64]) -> list[int]:
    """The n weights, with 12 fractional bits. gram: (n + 1, n + 1), lower triangle; the target is last."""
    n, ridge, most, most_factor = len(gram) - 1, 256, 2**31 - 1, 2**26
    g = gram.tolist()
    scale = [(29 - ((g[i][i] + ridge).bit_length() - 1)) >> 1 for i in range(n + 1)]
    value = [[0] * n for _ in range(n + 1)]
    factor = [[0] * n for _ in range(n + 1)]
    for j in range(n):
        diagonal = shifted(g[j][j] + ridge, 2 * scale[j])
        rest = diagonal + (diagonal >> 13) - (sum(value[j][q] * factor[j][q] for q in range(j)) >> 20)
        rest = clamp(rest, diagonal >> 14, most)
        up = 31 - rest.bit_length()
        reciprocal = 2**61 // (rest << up)
        for i in range(j + 1, n + 1):
            part = sum(value[i][q] * factor[j][q] for q in range(j)) >> 20
            value[i][j] = clamp(shifted(g[i][j], scale[i] + scale[j]) - part, -most, most)
            factor[i][j] = clamp(value[i][j] * reciprocal >> (41 - up), -most_factor, most_factor)
    solved, weights = [0] * n, [0] * n
    for i in reversed(range(n)):
        part = sum(factor[j][i] * solved[j] for j in range(i + 1, n)) >> 20
        solved[i] = clamp(factor[n][i] - part, -most_factor, most_factor)
        weights[i] = clamp(shifted(solved[i], scale[i] - scale[n] - 8), -32768, 32767)
    return weights


def below(value: int, mixture: Mixture) -> list[int]:
    """The cumulative probability of each part below a value, with 16 bits."""
    if value <= 0 or value >= 256:
        return [0 if value <= 0 else 65536] * PARTS
    result = []
    for centre in mixture[0]:
        for slope in mixture[1]:
            z = clamp((value * 256 - 128 - centre) * slope >> 8, -END, END) + END
            low, high = LOGISTIC[z >> 8], LOGISTIC[(z >> 8) + 1]
            result.append(low + ((high - low) * (z & 255) >> 8))
    return result


def start(value: int, mixture: Mixture) -> int:
    """Where a value begins in the range of 2^20."""
    total = sum(weight * part for weight, part in zip(mixture[2], below(value, mixture), strict=True))
    return value + (total >> 12) - (total >> 24)


class Reference:
    """One tile. x_hat: uint8 (h, w, 1 or 3)."""

    def __init__(self, x_hat: NDArray[np.uint8]) -> None:
        self.shape = x_hat.shape
        self._channels = (0,) if x_hat.shape[2] == 1 else (1, 0, 2)
        self._x_hat = [np.pad(x_hat[..., channel].astype(np.int64), PAD, mode="edge") for channel in self._channels]

    def encode(self, exact: NDArray[np.uint8]) -> bytes:
        pieces: list[tuple[int, int]] = []

        def code(plane: int, y: int, x: int, mixture: Mixture) -> int:
            value = int(exact[y, x, self._channels[plane]])
            begin = start(value, mixture)
            pieces.append((begin, start(value + 1, mixture) - begin))
            return value

        self._run(code)
        state, words = LOW, list[int]()
        for begin, frequency in reversed(pieces):
            while state >= frequency << (40 - PROBABILITY_BITS):
                words.append(state & 0xFFFF)
                state >>= 16
            state = (state // frequency << PROBABILITY_BITS) + begin + state % frequency
        return state.to_bytes(5, "little") + np.array(words[::-1], "<u2").tobytes()

    def decode(self, stream: bytes) -> NDArray[np.uint8]:
        if len(stream) < 5 or len(stream) % 2 == 0:
            raise TruncatedError("the stream of a residual ends before its pixels do.")
        state, words, at = int.from_bytes(stream[:5], "little"), np.frombuffer(stream[5:], "<u2").tolist(), 0
        if state < LOW:
            raise NicFormatError("the stream of a residual has an impossible state.")
        exact = np.empty(self.shape, np.uint8)

        def code(plane: int, y: int, x: int, mixture: Mixture) -> int:
            nonlocal state, at
            slot = state % 2**PROBABILITY_BITS
            low, high = 0, 256
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if start(middle, mixture) <= slot else (low, middle)
            begin = start(low, mixture)
            state = (start(low + 1, mixture) - begin) * (state >> PROBABILITY_BITS) + slot - begin
            while state < LOW:
                if at == len(words):
                    raise TruncatedError("the stream of a residual ends before its pixels do.")
                state, at = state << 16 | words[at], at + 1
            exact[y, x, self._channels[plane]] = low
            return low

        self._run(code)
        if state != LOW or at != len(words):
            raise ChecksumError("the stream of a residual does not end where its pixels do.")
        return exact

    def _run(self, code: Code) -> None:
        values = list[NDArray[np.int64]]()
        errors = list[NDArray[np.int64]]()
        for plane, x_hat in enumerate(self._x_hat):
            values.append(x_hat.copy())
            errors.append(np.full(x_hat.shape, 32, np.int64))
            self._run_plane(plane, x_hat, values, errors, code)

    def _run_plane(
        self,
        plane: int,
        x_hat: NDArray[np.int64],
        values: list[NDArray[np.int64]],
        errors: list[NDArray[np.int64]],
        code: Code,
    ) -> None:
        height, width = self.shape[:2]
        own, error_plane = values[plane], errors[plane]
        terms = len(OWN) + 2 + plane * len(OTHER) + 1
        blocks = -(-width // BLOCK)
        near = np.zeros((blocks + 2, terms, terms), np.int64)  # one more at each end, which stay zero
        far = np.zeros(((blocks + 1) // 2 + 2, terms, terms), np.int64)
        far_weights = [[0] * (terms - 1) for _ in far]
        means = [[Average(FIRST_MEAN[level]) for _ in range(4)] for level in range(LEVELS)]
        biases = [[Average() for _ in range(512)] for _ in range(2)]
        by_level, by_shape = [Parts() for _ in range(LEVELS)], [Parts() for _ in range(128)]

        for y in range(height):
            r = y + PAD
            for block in range(blocks):
                b, pair = block + 1, block // 2 + 1
                near_weights = least_squares(near[b - 1 : b + 2].sum(axis=0))
                near[b] -= near[b] >> 3
                if block % 2 == 0:
                    if y < 2 or (y + pair - 1) % 4 == 0:
                        far_weights[pair] = least_squares(far[pair - 1 : pair + 2].sum(axis=0))
                    far[pair] -= far[pair] >> 5
                products = np.zeros((terms, terms), np.int64)
                for x in range(block * BLOCK, min(block * BLOCK + BLOCK, width)):
                    c = x + PAD
                    west = int(own[r, c - 1])
                    f = [int(own[r + dy, c + dx]) - west for dy, dx in OWN]
                    f += [int(x_hat[r, c - 1]) - west, int(x_hat[r, c] - x_hat[r, c - 1])]
                    for other in values[:plane]:
                        f += [int(other[r + dy, c + dx] - other[r, c - 1]) for dy, dx in OTHER]
                    guess, far_guess = (
                        clamp(west * 256 + (sum(w * v for w, v in zip(weights, f, strict=True)) >> 4), 0, WHITE)
                        for weights in (near_weights, far_weights[pair])
                    )

                    # How uncertain: the errors around.
                    e = error_plane
                    close = 4 * (e[r, c - 1] + e[r - 1, c]) + 2 * (e[r - 1, c - 1] + e[r - 1, c + 1])
                    close = int(close + e[r, c - 2] + e[r - 2, c])
                    wide = int(sum(e[r + dy, c + dx] for dy, dx in WIDE))
                    others = sum(int(5 * o[r, c] + 2 * (o[r, c + 1] + o[r + 1, c])) for o in errors[:plane])
                    activity = close + (wide >> 2) + (others >> 1 if plane == 2 else others)
                    octave = (activity + 4).bit_length() - 1
                    level = min(LEVELS - 1, 4 * (octave - 2) + (activity + 4 >> octave - 2) % 4)
                    p, q = 7 * wide + 160, 6 * close + 160
                    trend = (5 * p > 3 * q) + (p > q) + (5 * p > 8 * q)

                    # On which side: the neighbours against the guess, and other planes against their neighbours.
                    n, n2 = int(own[r - 1, c]), int(own[r - 2, c])
                    around = (west, n, own[r - 1, c - 1], own[r - 1, c + 1], n2, own[r, c - 2], 2 * n - n2)
                    shape = sum((int(v) * 256 > guess) << k for k, v in enumerate(around))
                    signs = [
                        int(x_hat[r, c]) * 256 > guess,
                        x_hat[r + 1, c] > x_hat[r, c],
                        x_hat[r, c + 1] > x_hat[r, c],
                    ]
                    if plane:
                        o = values[plane - 1]
                        signs += [o[r, c] > v for v in (o[r, c - 1], o[r - 1, c], o[r, c + 1], o[r + 1, c])]
                    second = sum(int(v) << k for k, v in enumerate(signs))
                    coarse = min(3, level >> 4) << 7
                    corrections = biases[0][shape | coarse], biases[1][second | coarse]

                    size = means[level][trend]
                    slope = (182044 << 8) // max(size.value, 64)
                    sets = by_level[level], by_shape[shape]
                    weights = [u + v >> 1 for u, v in zip(sets[0].weights, sets[1].weights, strict=True)]
                    mixture = (
                        [far_guess, *(clamp(guess + (bias.value >> 4), 0, WHITE) for bias in corrections)],
                        [2 * slope, slope, slope >> 1],
                        [*weights, 65536 - sum(weights)],
                    )
                    value = code(plane, y, x, mixture)

                    # Learn from the value.
                    own[r, c] = value
                    lower, upper = below(value, mixture), below(value + 1, mixture)
                    masses = [w * (v - u) for w, u, v in zip(mixture[2], lower, upper, strict=True)]
                    if (mass := sum(masses)) >= 1 << 12:
                        reciprocal = 2**44 // mass
                        for parts in sets:
                            parts.add([m * reciprocal >> 28 for m in masses])
                    error = value * 256 - guess
                    size.add(abs(error) * 16, 255)
                    for bias in corrections:
                        bias.add(error * 16, 100)
                    e[r, c] = abs(error) >> 4
                    f.append(value - west)
                    products += WEIGHT[level] * np.outer(f, f)
                near[b] += products
                far[pair] += products
            own[r, :PAD], own[r, PAD + width :] = own[r, PAD], own[r, PAD + width - 1]
        own[:PAD], own[PAD + height :] = own[PAD], own[PAD + height - 1]
