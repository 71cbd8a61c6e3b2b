"""Binary decisions coded one by one, with probabilities that adapt: docs/contexts.md as a program.

`integer.palette` and `integer.hyper` code with it; csrc/context_coder.hpp gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from neurocodec.errors import ChecksumError, TruncatedError
from neurocodec.integer.lossless_table import LOGISTIC

CONTEXTS = 6
MOST_STRETCH = 2815
WORD = 0xFFFFFFFF

Code = Callable[[bool, int], bool]
"""Codes a bit that is 1 with a probability of 16 bits, or ignores the bit and returns the one that it decodes."""


def mix(a: int, b: int) -> int:
    """A hash of 32 bits."""
    return (a ^ b) * 0x9E3779B1 & WORD ^ a >> 15


def squash(x: int) -> int:
    """2^16 / (1 + e^(-x / 256)), for |x| at most MOST_STRETCH."""
    low, high = LOGISTIC[(x >> 3) + 384], LOGISTIC[(x >> 3) + 385]
    return low + ((high - low) * (x & 7) >> 3)


def _stretches() -> list[int]:
    table, x = [], -MOST_STRETCH
    for p in range(1 << 12):
        while x < MOST_STRETCH and squash(x) < 16 * p + 8:
            x += 1
        table.append(x)
    return table


STRETCH = _stretches()
"""The inverse of `squash`, for probabilities of 12 bits."""


class Bit:
    """A probability that adapts, of 22 bits."""

    __slots__ = ("probability", "uses")

    def __init__(self) -> None:
        self.probability, self.uses = 1 << 21, 0

    def learn(self, bit: bool) -> None:
        target = (1 << 22) - 1 if bit else 0
        self.probability += (target - self.probability) * (655360 // (10 * self.uses + 16)) >> 16
        self.uses = min(self.uses + 1, 127)


class Mixer:
    """Codes bits. slots: of each table of contexts, a power of two. sets: of weights.

    cost: what the bits have cost, in 1/256 bit.
    """

    def __init__(self, code: Code, slots: int, sets: int) -> None:
        self._code, self._slot_shift = code, 33 - slots.bit_length()
        self._tables: list[dict[int, Bit]] = [{} for _ in range(CONTEXTS)]
        self._weights = [[1 << 14] * (2 * CONTEXTS + 1) for _ in range(sets)]
        self.cost = 0

    def slot(self, table: int, value: int) -> Bit:
        """The probability that a table has for a hash."""
        return self._tables[table].setdefault(value >> self._slot_shift, Bit())

    def one(self, bit: bool, context: Bit) -> bool:
        """A bit in one context."""
        bit = self._coded(bit, min(max(context.probability >> 6, 1), 65535))
        context.learn(bit)
        return bit

    def mixed(self, bit: bool, hashes: list[int], weight_set: int) -> bool:
        """A bit in several contexts, whose predictions are mixed."""
        weights = self._weights[weight_set]
        contexts = [self.slot(k, value) for k, value in enumerate(hashes)]
        inputs: list[int] = []
        for context in contexts:
            p, confidence = context.probability >> 10, 3 if context.uses > 30 else 2 if context.uses > 3 else 1
            inputs += [STRETCH[p], (p - 2048) * confidence >> 2] if context.uses else [0, 0]
        inputs.append(256)
        total = sum(weight * value for weight, value in zip(weights, inputs, strict=True)) >> 16
        p = squash(min(max(total, -MOST_STRETCH), MOST_STRETCH))
        bit = self._coded(bit, p)
        error = (bit << 16) - p
        for k, value in enumerate(inputs):
            weights[k] = min(max(weights[k] + (2 * value * error + (1 << 15) >> 16), -(1 << 20)), 1 << 20)
        for context in contexts:
            context.learn(bit)
        return bit

    def _coded(self, bit: bool, p: int) -> bool:
        bit = self._code(bit, p)
        share = p if bit else 65536 - p
        octave = share.bit_length() - 1
        self.cost += 256 * (16 - octave) - ((share << 8 >> octave) - 256)
        return bit

    def plain(self, value: int, count: int) -> int:
        """The lowest bits of a value, each as likely 0 as 1, the highest first."""
        coded = 0
        for bit in reversed(range(count)):
            coded = 2 * coded + self._coded(bool(value >> bit & 1), 1 << 15)
        return coded


class _Interval:
    """The interval of an arithmetic coder of 32 bits."""

    def __init__(self) -> None:
        self.low, self.high = 0, WORD

    def middle(self, p: int) -> int:
        size = self.high - self.low
        return self.low + (size >> 16) * p + ((size & 0xFFFF) * p >> 16)

    def narrow(self, bit: bool, middle: int) -> int:
        """Takes one part, and returns how many bytes have become certain."""
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        certain = 0
        while (self.low ^ self.high) >> 24 == 0:
            self.low, self.high, certain = self.low << 8 & WORD, self.high << 8 & WORD | 255, certain + 1
        return certain


class Encoder(_Interval):
    def __init__(self) -> None:
        super().__init__()
        self._bytes = bytearray()

    def code(self, bit: bool, p: int) -> bool:
        middle = self.middle(p)
        low = self.low if bit else middle + 1
        self._bytes += low.to_bytes(4, "big")[: self.narrow(bit, middle)]
        return bit

    def finish(self) -> bytes:
        return bytes(self._bytes) + self.low.to_bytes(4, "big")


class Decoder(_Interval):
    def __init__(self, stream: bytes) -> None:
        super().__init__()
        self._stream, self._at, self._value = stream, 0, 0
        self._take(4)

    def code(self, _: bool, p: int) -> bool:
        middle = self.middle(p)
        bit = self._value <= middle
        self._take(self.narrow(bit, middle))
        return bit

    def finish(self) -> None:
        if self._at != len(self._stream) or self._value != self.low:
            raise ChecksumError("a stream of contexts does not end where its symbols do: the file is damaged.")

    def _take(self, count: int) -> None:
        taken = self._stream[self._at : self._at + count]
        if len(taken) < count:
            raise TruncatedError("a stream of contexts ends before its symbols do: the file is damaged.")
        self._value = (self._value << 8 * count | int.from_bytes(taken, "big")) & WORD
        self._at += count
