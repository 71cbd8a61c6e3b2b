"""Compares the three range coders on random streams of every layout: NumPy, C++, and CUDA.

    python tools/compare_coders.py --streams 10000 --library build/native/libcuda-shim.so

The CUDA coder is the installed one, or one built with csrc/cuda/host_shim.hpp, which runs on the CPU. All must write
the same bytes and read them back, and must meet a damaged copy of each stream with the same symbols or the same error.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

import numpy as np

from neurocodec.entropy import coder, cuda, reference
from neurocodec.entropy.native import extension
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import NicFormatError

INT32 = np.iinfo(np.int32)
TABLES = (
    gaussian_tables(np.geomspace(0.11, 128, 64).tolist()),
    Tables(  # a sharp row, a flat one, one at each end of the 32-bit integers
        np.array([7, 65521, 7, 1] + [218] * 300 + [136, 40000, 25535, 1, 1, 65535], np.uint16),
        np.array([-1, -150, INT32.min, INT32.max], np.int32),
        np.array([4, 301, 3, 2], np.int32),
    ),
)
LAYOUTS = [(lanes, groups) for lanes in range(6) for groups in range(8)]
"""Binary logarithms of the numbers of lanes and groups."""
BATCH = 8


def draw(rng: np.random.Generator, tables: Tables, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and indexes; many symbols, some or none are outside their rows."""
    indexes = rng.integers(0, tables.rows, (BATCH, n)).astype(np.uint8)
    inside = rng.integers(0, 1 << 30, (BATCH, n)) % (tables.lengths[indexes] - 1)
    small = np.minimum(rng.integers(0, 3, (BATCH, n)), tables.lengths[indexes] - 2)
    symbols = tables.offsets[indexes] + np.where(rng.random((BATCH, n)) < 0.5, small, inside)
    escaped = rng.random((BATCH, n)) < rng.choice([0, 0.001, 0.05, 1])
    outside = rng.integers(INT32.min, int(INT32.max) + 1, (BATCH, n)) >> rng.integers(0, 32, (BATCH, n))
    return np.where(escaped, outside, symbols).astype(np.int32), indexes


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """A copy with bits flipped, and sometimes cut or with bytes added."""
    copy = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        copy[rng.integers(len(copy) if rng.random() < 0.5 else min(len(copy), 12))] ^= 1 << int(rng.integers(8))
    if rng.random() < 0.25:
        del copy[rng.integers(len(copy) + 1) :]
    if rng.random() < 0.125:
        copy += rng.bytes(int(rng.integers(9)))
    return bytes(copy)


def decode(decoder: Any, indexes: np.ndarray, calls: list[int]) -> np.ndarray | type[Exception]:
    """Symbols of one stream, or the class of the error. decoder: makes one, which may fail too."""
    try:
        made = decoder()
        pieces = [made.decode(piece) for piece in np.split(indexes, np.cumsum(calls)[:-1])]
        made.finish()
        return np.concatenate(pieces)
    except NicFormatError as error:
        return type(error)


def decode_batch(
    streams: list[bytes], indexes: np.ndarray, tables: Tables, calls: list[int], library: cuda.Library
) -> list[Any]:
    """As `decode`, for all streams together on a device."""
    on_device = Arrays(library)
    decoder, pieces = cuda.BatchDecoder(streams, tables, library), []
    for piece in np.split(indexes, np.cumsum(calls)[:-1], axis=1):
        symbols = on_device.put(np.full(piece.shape, 77, np.int32))
        decoder.decode(on_device.put(np.ascontiguousarray(piece)), symbols)
        pieces.append(symbols)
    errors = decoder.finish()
    symbols = np.concatenate([on_device.get(piece) for piece in pieces], axis=1)
    return [symbols[i] if error is None else type(error) for i, error in enumerate(errors)]


class Arrays:
    """NumPy arrays to where a library works, and back: through torch to a GPU, or no way at all."""

    def __init__(self, library: cuda.Library) -> None:
        self._on_host = library.on_host

    def put(self, values: np.ndarray) -> Any:
        if self._on_host:
            return values
        import torch

        return torch.from_numpy(values).cuda()

    def get(self, array: Any) -> np.ndarray:
        return array if self._on_host else array.cpu().numpy()


def same(a: Any, b: Any) -> bool:
    return a is b if isinstance(a, type) or isinstance(b, type) else np.array_equal(a, b)


def compare(seed: int, layout: tuple[int, int], library: cuda.Library, outcomes: Counter[str]) -> None:
    """One batch of one layout. Raises AssertionError where the coders differ."""
    rng = np.random.default_rng(seed)
    tables = TABLES[seed % 2]
    longest = 20 << rng.integers(0, 4)
    calls = [int(rng.integers(longest)) for _ in range(rng.integers(1, 4))]
    symbols, indexes = draw(rng, tables, sum(calls))
    native = extension()
    compiled = coder._native_tables(native, tables)
    streams = [
        reference.encode(s, i, tables, calls=calls, layout=layout) for s, i in zip(symbols, indexes, strict=True)
    ]
    for stream, s, i in zip(streams, symbols, indexes, strict=True):
        assert native.encode(compiled, s, i, calls, *layout, 1) == stream, f"C++ writes other bytes: seed {seed}"
    on_device = Arrays(library)
    arrays = on_device.put(symbols), on_device.put(indexes)
    encoded = cuda.encode(*arrays, tables, library, calls=calls, layouts=[layout] * BATCH)
    assert encoded == streams, f"CUDA writes other bytes: seed {seed}"

    for kind, given in (("intact", streams), ("damaged", [damaged(rng, stream) for stream in streams])):
        batch = decode_batch(given, indexes, tables, calls, library)
        for stream, s, i, from_cuda in zip(given, symbols, indexes, batch, strict=True):
            twin = decode(lambda stream=stream: reference.Decoder(stream, tables), i, calls)
            assert same(decode(lambda stream=stream: native.Decoder(stream, compiled, 1), i, calls), twin), (
                f"C++ reads a {kind} stream otherwise: seed {seed}"
            )
            assert same(from_cuda, twin), f"CUDA reads a {kind} stream otherwise: seed {seed}"
            assert kind == "damaged" or same(twin, s), f"a stream decodes to other symbols: seed {seed}"
            outcomes[f"{kind}: {twin.__name__ if isinstance(twin, type) else 'symbols'}"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--streams", type=int, default=10_000, help="number of streams, rounded up to whole batches of 8"
    )
    parser.add_argument("--library", metavar="FILE", help="a CUDA coder, by default the installed one")
    args = parser.parse_args()
    library = cuda.Library(args.library) if args.library else cuda.library()
    if library is None or extension() is None:
        raise SystemExit("compare_coders: the CUDA coder or the compiled core was not built.")
    started, outcomes = time.perf_counter(), Counter[str]()
    batches = -(-args.streams // BATCH)
    for batch in range(batches):
        compare(batch, LAYOUTS[batch % len(LAYOUTS)], library, outcomes)
    where = "on the CPU, through the shim" if library.on_host else "on the GPU"
    print(
        f"{batches * BATCH:,} streams of {min(batches, len(LAYOUTS))} layouts, CUDA {where}: all coders agree,", end=" "
    )
    print(f"{time.perf_counter() - started:.0f} s")
    for outcome, count in sorted(outcomes.items()):
        print(f"  {outcome}: {count:,}")


if __name__ == "__main__":
    main()
