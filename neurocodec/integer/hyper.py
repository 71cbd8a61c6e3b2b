"""A tile's z_hat <-> a stream of its own, whose probabilities adapt to the picture: docs/contexts.md as a program.

`encode` and `decode` use C++ where it was built; `_run`, in plain integers, defines the bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.native import extension
from neurocodec.integer.context_coder import Decoder, Encoder, Mixer, mix

SLOTS = 1 << 16
UNARY, PLAIN_BITS = 20, 8
LARGEST = UNARY + (1 << PLAIN_BITS) - 1
"""The largest magnitude that can be coded."""
SIGNS, MAGNITUDES, MOST_MAGNITUDES = 1, 2, 7
REACH = 6


def encode(z_hat: NDArray[np.int32]) -> bytes:
    """The stream of z_hat, int32 (h, w, N), magnitudes at most `LARGEST`."""
    if native := extension():
        stream: bytes = native.hyper_encode(np.ascontiguousarray(z_hat))
        return stream
    encoder = Encoder()
    _run(Mixer(encoder.code, SLOTS, MAGNITUDES + 2 * MOST_MAGNITUDES), z_hat.tolist())
    return encoder.finish()


def decode(stream: bytes, height: int, width: int, channels: int) -> NDArray[np.int32]:
    """z_hat, int32 (height, width, channels). Raises TruncatedError or ChecksumError for damage."""
    z_hat: NDArray[np.int32]
    if native := extension():
        z_hat = native.hyper_decode(bytes(stream), height, width, channels)
        return z_hat
    decoder = Decoder(stream)
    values = np.zeros((height, width, channels), np.int32).tolist()
    _run(Mixer(decoder.code, SLOTS, MAGNITUDES + 2 * MOST_MAGNITUDES), values)
    decoder.finish()
    return np.array(values, np.int32)


def _run(mixer: Mixer, z: list[list[list[int]]]) -> None:
    """Codes z, which an encoder reads and a decoder writes."""
    height, width, channels = len(z), len(z[0]), len(z[0][0])
    outside = [0] * channels
    for y in range(height):
        for x in range(width):
            here = z[y][x]
            neighbours = [
                z[r][c] if r >= 0 and 0 <= c < width else outside
                for r, c in ((y, x - 1), (y - 1, x), (y - 1, x + 1), (y - 1, x - 1))
            ]
            for c in range(channels):
                near = [_class(values[c]) for values in neighbours]
                active = min(12, sum(abs(value) for value in here[max(0, c - REACH) : c]))
                before = _class(here[c - 1]) if c else 2
                channel, two = mix(0, c + 1), near[0] + 5 * near[1]
                four = two + 25 * near[2] + 125 * near[3]
                shared = [
                    channel,
                    mix(channel, 100 + two),
                    mix(channel, 1000 + four),
                    mix(channel, 50 + active),
                    mix(2000 + four, active),
                    mix(mix(channel, 200 + two), before),
                ]
                here[c] = _value(mixer, shared, here[c])


def _class(value: int) -> int:
    return min(max(value, -2), 2) + 2


def _value(mixer: Mixer, shared: list[int], value: int) -> int:
    """Codes one value in its contexts."""

    def code(bit: bool, kind: int) -> bool:
        return mixer.mixed(bit, [mix(context, 7 + kind) for context in shared], kind)

    if code(value == 0, 0):
        return 0
    positive = code(value > 0, SIGNS)
    magnitude = 1
    while magnitude < UNARY:
        kind = MAGNITUDES + 2 * min(magnitude - 1, MOST_MAGNITUDES - 1) + positive
        if code(abs(value) == magnitude, kind):
            break
        magnitude += 1
    else:
        magnitude += mixer.plain(abs(value) - UNARY, PLAIN_BITS)
    return magnitude if positive else -magnitude
