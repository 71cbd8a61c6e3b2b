"""The readable twin of csrc/range_coder.hpp; it defines the coded bytes. docs/coder.md describes them in prose.

Interleaved rANS (Duda 2013, arXiv:1311.2540) with a table row per symbol. A state x is an integer; a symbol with
frequency f, starting at c among 2**16 slots, turns it into x' = (x // f) * 2**16 + c + x % f, and x' gives both back.
Whenever x grows beyond 40 bits, its lower 16 move to the stream. Plain Python integers take about 1 µs per symbol.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.tables import PRECISION, TOTAL, Tables
from neurocodec.errors import ChecksumError, NicFormatError, TruncatedError

LOW = 1 << 24  # states rest in [LOW, LOW << 16)
SINGLE_START = 1 << 16  # initial state of a single lane; several lanes start at LOW
STATE_BYTES = 5
MAX_LANES_LOG2, MAX_GROUPS_LOG2 = 5, 7
ESCAPE_FLAG, RESERVED_BIT = 0x40, 0x80


def cpu_layout(nonzero: int) -> tuple[int, int]:
    """Base-2 logarithms of the lane and group counts for a given number of nonzero symbols.

    A lane costs about 4 bytes, and four keep a core busy. A group is one thread's work and costs about 20 bytes. In
    practice a nonzero symbol takes at least half a byte and zeros almost nothing, so the cost stays below 0.1 %.
    """
    if nonzero < 1 << 16:
        return 0, 0
    return 2, min(4, max(0, nonzero.bit_length() - 18))


def gpu_layout(nonzero: int) -> tuple[int, int]:
    """The same for a GPU, where each group is a warp and costs about a hundred bytes."""
    return MAX_LANES_LOG2, min(MAX_GROUPS_LOG2, max(0, nonzero.bit_length() - 15))


def encode(
    symbols: NDArray[np.int32],
    indexes: NDArray[np.uint8],
    tables: Tables,
    *,
    calls: Sequence[int] | None = None,
    threads: int = 1,
    layout: tuple[int, int] | None = None,
) -> bytes:
    """Like `neurocodec.entropy.coder.encode`. layout: as returned by `cpu_layout`."""
    del threads  # never changes the bytes
    lanes_log2, groups_log2 = cpu_layout(int(np.count_nonzero(symbols))) if layout is None else layout
    groups = 1 << groups_log2
    rows = _Rows(tables)
    flat_symbols, flat_indexes = symbols.reshape(-1), indexes.reshape(-1)
    rows.check(flat_indexes)
    lengths = [symbols.size] if calls is None else [int(n) for n in calls]
    if min(lengths, default=0) < 0 or sum(lengths) != symbols.size or indexes.size != symbols.size:
        raise ValueError("symbols, indexes and calls differ in size.")

    encoded = []
    for group in range(groups):
        pieces, begin = [], 0
        for n in lengths:
            pieces.append(np.arange(begin + group * n // groups, begin + (group + 1) * n // groups))
            begin += n
        mine = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
        encoded.append(_encode_group(flat_symbols[mine].tolist(), flat_indexes[mine].tolist(), rows, 1 << lanes_log2))

    escaped = any(escapes for escapes, _ in encoded)
    bodies = [(_varint(len(escapes)) if escaped else b"") + escapes + words for escapes, words in encoded]
    layout_byte = lanes_log2 | groups_log2 << 3 | (ESCAPE_FLAG if escaped else 0)
    return bytes([layout_byte]) + b"".join(_varint(len(body)) for body in bodies[:-1]) + b"".join(bodies)


class Decoder:
    """Like `neurocodec.entropy.coder.Decoder`."""

    def __init__(self, data: bytes, tables: Tables, *, threads: int = 1) -> None:
        del threads
        self._rows = _Rows(tables)
        self._error: NicFormatError | None = None
        if not data:
            raise TruncatedError("The coded stream ends before its symbols do.")
        lanes_log2, groups_log2 = data[0] & 7, data[0] >> 3 & 7
        if data[0] & RESERVED_BIT or lanes_log2 > MAX_LANES_LOG2:
            raise NicFormatError("The layout byte of the coded stream has reserved bits or an unknown lane count.")
        bad_group = NicFormatError("A group of the coded stream has an impossible length or state.")
        reader = _Bytes(data, 1)
        sizes = [reader.varint(bad_group) for _ in range((1 << groups_log2) - 1)]
        self._groups = []
        for size in [*sizes, None]:
            body = _Bytes(reader.take(reader.left if size is None else size))
            escapes = body.take(body.varint(bad_group)) if data[0] & ESCAPE_FLAG else b""
            self._groups.append(_GroupDecoder(body.take(body.left), escapes, 1 << lanes_log2, self._rows))

    def decode(self, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        flat = indexes.reshape(-1)
        self._rows.check(flat)
        if self._error is not None:
            raise self._error
        n, groups = flat.size, len(self._groups)
        try:
            chunks = [
                np.array(group.decode(flat[k * n // groups : (k + 1) * n // groups].tolist()), np.int32)
                for k, group in enumerate(self._groups)
            ]
        except NicFormatError as error:
            self._error = error
            raise
        return np.concatenate(chunks).reshape(indexes.shape)

    def finish(self) -> None:
        if self._error is not None:
            raise self._error
        if not all(group.finished() for group in self._groups):
            raise ChecksumError(
                "The coded stream does not end where its symbols do: damaged, or decoded with other tables."
            )


class _Rows:
    """The tables as Python lists."""

    def __init__(self, tables: Tables) -> None:
        self.offsets: list[int] = tables.offsets.tolist()
        self.starts: list[list[int]] = []  # cumulative frequencies, with 2**16 at the end
        begin = 0
        for length in tables.lengths.tolist():
            cumulative = np.cumsum(tables.frequencies[begin : begin + length], dtype=np.int64)
            self.starts.append([0, *cumulative.tolist()])
            begin += length

    def check(self, indexes: NDArray[np.uint8]) -> None:
        if indexes.size and int(indexes.max()) >= len(self.starts):
            raise ValueError(f"Index {indexes.max()} names no table row: there are {len(self.starts)}.")


def _start_state(lanes: int) -> int:
    return SINGLE_START if lanes == 1 else LOW


def _encode_group(symbols: list[int], indexes: list[int], rows: _Rows, lanes: int) -> tuple[bytes, bytes]:
    """Escapes, and states followed by words. rANS is a stack, so symbols are pushed from last to first."""
    if not symbols:
        return b"", b""
    states = [_start_state(lanes)] * lanes
    words: list[int] = []
    escapes: list[bytes] = []
    for i in range(len(symbols) - 1, -1, -1):
        offset, starts = rows.offsets[indexes[i]], rows.starts[indexes[i]]
        escape = len(starts) - 2
        position = symbols[i] - offset
        if not 0 <= position < escape:
            escapes.append(_varint(2 * (position - escape) if position >= 0 else 2 * (-1 - position) + 1))
            position = escape
        start = starts[position]
        frequency = starts[position + 1] - start
        x = states[i % lanes]
        if x >= frequency << 24:
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // frequency << PRECISION) + start + x % frequency
    if lanes == 1:
        x = states[0]
        first = x.to_bytes(3 if x < LOW else 4 if x < 1 << 32 else 5, "little")
    else:
        first = b"".join(x.to_bytes(STATE_BYTES, "little") for x in states)
    return b"".join(reversed(escapes)), first + np.array(words[::-1], "<u2").tobytes()


class _GroupDecoder:
    def __init__(self, body: bytes, escapes: bytes, lanes: int, rows: _Rows) -> None:
        self._rows = rows
        self._escapes = _Bytes(escapes)
        self._count = 0  # symbols decoded so far; symbol i belongs to lane i % lanes
        self._states = [_start_state(lanes)] * lanes
        self._words: list[int] = []
        self._next = 0
        if not body:  # no symbols
            return
        width = STATE_BYTES if lanes > 1 else 3 if len(body) <= 3 else 4 if len(body) % 2 == 0 else 5
        smallest = LOW if lanes > 1 else 1 << 8 * (width - 1)
        reader = _Bytes(body)
        states = reader.take(lanes * width)
        self._states = [int.from_bytes(states[i : i + width], "little") for i in range(0, len(states), width)]
        if reader.left % 2 or min(self._states) < smallest:
            raise NicFormatError("A group of the coded stream has an impossible length or state.")
        self._words = np.frombuffer(reader.take(reader.left), "<u2").tolist()

    def decode(self, indexes: list[int]) -> list[int]:
        symbols = []
        lanes, states, words = len(self._states), self._states, self._words
        for i, index in enumerate(indexes, self._count):
            offset, starts = self._rows.offsets[index], self._rows.starts[index]
            x = states[i % lanes]
            slot = x & (TOTAL - 1)
            position = bisect_right(starts, slot) - 1
            symbols.append(offset + position if position < len(starts) - 2 else self._escape(offset, len(starts) - 2))
            x = (starts[position + 1] - starts[position]) * (x >> PRECISION) + slot - starts[position]
            if x < LOW:
                if self._next < len(words):
                    x = x << 16 | words[self._next]
                    self._next += 1
                elif lanes > 1 or x < SINGLE_START:
                    raise TruncatedError("The coded stream ends before its symbols do.")
            states[i % lanes] = x
        self._count += len(indexes)
        return symbols

    def _escape(self, offset: int, escape: int) -> int:
        error = NicFormatError("An escape of the coded stream is missing or malformed.")
        zigzag = self._escapes.varint(error)
        symbol = offset - 1 - (zigzag >> 1) if zigzag & 1 else offset + escape + (zigzag >> 1)
        if not -(1 << 31) <= symbol < 1 << 31:
            raise error
        return symbol

    def finished(self) -> bool:
        start = _start_state(len(self._states))
        return set(self._states) == {start} and self._next == len(self._words) and not self._escapes.left


def _varint(value: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Bytes:
    """Reads bytes from the front."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._position = position

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise TruncatedError("The coded stream ends before its symbols do.")
        self._position += count
        return self._data[self._position - count : self._position]

    def varint(self, error: NicFormatError) -> int:
        """At most 5 bytes, in the shortest form."""
        value = 0
        for shift in range(0, 35, 7):
            if not self.left:
                raise error
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift > 0:
                    raise error
                return value
        raise error
