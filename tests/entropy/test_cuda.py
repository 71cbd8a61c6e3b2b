"""The CUDA range coder, on this CPU through the shim: golden bytes, every layout, hostile bytes.

`make cuda-streams` and `make cuda-shim` do the same at length.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import cuda_shim
import numpy as np
import paths
import pytest

from neurocodec.entropy import coder, cuda, reference
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ChecksumError, NativeUnavailableError, NicFormatError, TruncatedError

VECTORS = json.loads((paths.GOLDEN / "coder" / "vectors.json").read_text())
TABLES = gaussian_tables(np.geomspace(0.11, 128, 64).tolist())
LARGE = Tables(  # more than fits into shared memory
    np.array([2] * 32767 + [2] + [1] * 65535 + [1], np.uint16),
    np.array([-5, 0], np.int32),
    np.array([32768, 65536], np.int32),
)


@pytest.fixture(scope="module")
def library() -> cuda.Library:
    return cuda_shim.build()


def decode(
    library: cuda.Library, streams: list[bytes], indexes: np.ndarray, tables: Tables, calls: list[int]
) -> tuple[np.ndarray, list[NicFormatError | None]]:
    decoder, pieces = cuda.BatchDecoder(streams, tables, library), []
    for piece in np.split(indexes, np.cumsum(calls)[:-1], axis=1):
        pieces.append(np.full(piece.shape, 77, np.int32))
        decoder.decode(np.ascontiguousarray(piece), pieces[-1])
    return np.concatenate(pieces, axis=1), decoder.finish()


def on_cpu(stream: bytes, indexes: np.ndarray, calls: list[int]) -> np.ndarray | NicFormatError:
    """The symbols, or the error."""
    try:
        decoder = coder.Decoder(stream, TABLES)
        pieces = [decoder.decode(piece) for piece in np.split(indexes, np.cumsum(calls)[:-1])]
        decoder.finish()
    except NicFormatError as error:
        return error
    return np.concatenate(pieces)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_golden_vectors(library: cuda.Library, case: dict[str, Any]) -> None:
    tables = Tables(
        np.array(case["frequencies"], np.uint16),
        np.array(case["offsets"], np.int32),
        np.array(case["lengths"], np.int32),
    )
    symbols, indexes = np.array([case["symbols"]], np.int32), np.array([case["indexes"]], np.uint8)
    data, calls = bytes.fromhex(case["hex"]), case["calls"]
    assert cuda.encode(symbols, indexes, tables, library, calls=calls, layouts=[tuple(case["layout"])]) == [data]
    decoded, errors = decode(library, [data], indexes, tables, calls)
    np.testing.assert_array_equal(decoded, symbols)
    assert errors == [None]


@pytest.mark.parametrize("tables", [TABLES, LARGE], ids=["shared memory", "global memory"])
def test_every_layout_in_one_batch(library: cuda.Library, tables: Tables) -> None:
    rng = np.random.default_rng(1)
    layouts = [(lanes, groups) for lanes in range(6) for groups in (0, 1, 4, 7)]
    calls = [40, 0, 7, 90]
    indexes = rng.integers(0, tables.rows, (len(layouts), sum(calls))).astype(np.uint8)
    symbols = np.rint(rng.normal(0, 30, indexes.shape)).astype(np.int32)
    symbols[rng.random(indexes.shape) < 0.02] = 1 << 30
    expected = [
        reference.encode(s, i, tables, calls=calls, layout=layout)
        for s, i, layout in zip(symbols, indexes, layouts, strict=True)
    ]
    assert cuda.encode(symbols, indexes, tables, library, calls=calls, layouts=layouts) == expected
    decoded, errors = decode(library, expected, indexes, tables, calls)
    np.testing.assert_array_equal(decoded, symbols)
    assert errors == [None] * len(layouts)


def test_damaged_streams_give_the_errors_of_the_cpu(library: cuda.Library) -> None:
    rng = np.random.default_rng(2)
    calls, kinds = [30, 25], set()
    for layout in ((0, 0), (2, 0), (5, 0), (1, 2)):
        indexes = np.tile(rng.integers(0, 64, sum(calls)).astype(np.uint8), (60, 1))
        symbols = np.rint(rng.normal(0, 20, sum(calls))).astype(np.int32)
        data = reference.encode(symbols, indexes[0], TABLES, calls=calls, layout=layout)
        streams = [b"", data[:1], data + b"\0", data + b"\0\0"]
        while len(streams) < len(indexes):
            copy = bytearray(data)
            copy[rng.integers(len(copy))] ^= 1 << int(rng.integers(8))
            streams.append(bytes(copy[: rng.integers(len(copy) + 1)] if len(streams) % 3 == 0 else copy))
        decoded, errors = decode(library, streams, indexes, TABLES, calls)
        for stream, mine, error in zip(streams, decoded, errors, strict=True):
            expected = on_cpu(stream, indexes[0], calls)
            kinds.add(type(error))
            if isinstance(expected, NicFormatError):
                assert (type(error), str(error)) == (type(expected), str(expected))
            else:
                assert error is None
                np.testing.assert_array_equal(mine, expected)
    assert kinds >= {NicFormatError, TruncatedError, ChecksumError}


def test_rejected_arguments(library: cuda.Library) -> None:
    indexes, symbols = np.full((2, 9), 64, np.uint8), np.zeros((2, 9), np.int32)
    data = coder.encode(symbols[0], indexes[0] - 1, TABLES)
    assert decode(library, [data] * 2, indexes - 1, TABLES, [9])[1] == [None, None]
    with pytest.raises(ValueError, match="names no table row"):
        decode(library, [data] * 2, indexes, TABLES, [9])
    with pytest.raises(ValueError, match="names no table row"):
        cuda.encode(symbols, indexes, TABLES, library, calls=[9], layouts=[(0, 0)] * 2)
    with pytest.raises(ValueError, match="lane or group"):
        cuda.encode(symbols, indexes - 1, TABLES, library, calls=[9], layouts=[(6, 0)] * 2)
    with pytest.raises(ValueError, match="shape"):
        cuda.encode(symbols, indexes - 1, TABLES, library, calls=[8], layouts=[(0, 0)] * 2)
    with pytest.raises(TypeError, match="not int32"):
        cuda.encode(symbols.astype(np.int64), indexes - 1, TABLES, library, calls=[9], layouts=[(0, 0)] * 2)
    with pytest.raises(ValueError, match="not contiguous"):
        cuda.encode(np.zeros((2, 18), np.int32)[:, ::2], indexes - 1, TABLES, library, calls=[9], layouts=[(0, 0)] * 2)
    with pytest.raises(RuntimeError, match="cudaSetDevice"):
        cuda.BatchDecoder([data], TABLES, library, device=3)


def test_gpu_layout() -> None:
    counts = [0, 2**15 - 1, 2**15, 2**16, 2**21, 2**30]
    assert [coder.layout_of("gpu", n) for n in counts] == [(5, 0), (5, 0), (5, 1), (5, 2), (5, 7), (5, 7)]
    assert coder.layout_of((32, 128), 0) == (5, 7)
    symbols = np.zeros(40, np.int32)
    data = coder.encode(symbols, symbols.astype(np.uint8), TABLES, layout=(8, 2))
    assert data[0] == 3 | 1 << 3
    np.testing.assert_array_equal(coder.Decoder(data, TABLES).decode(symbols.astype(np.uint8)), symbols)
    for layout in ("tpu", (3, 1), (64, 1), (1, 256), (0, 1), (1,)):
        with pytest.raises(ValueError, match="layout"):
            coder.layout_of(layout, 0)  # type: ignore[arg-type]


def test_choice_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROCODEC_CUDA", "off")
    assert cuda.library() is None
    monkeypatch.setenv("NEUROCODEC_CUDA", "perhaps")
    with pytest.raises(ValueError, match="perhaps"):
        cuda.library()
    monkeypatch.setenv("NEUROCODEC_CUDA", "auto")
    built = cuda.library()
    monkeypatch.setenv("NEUROCODEC_CUDA", "require")
    if built is not None:
        assert cuda.library() is built
        assert not built.on_host
        return
    with pytest.raises(NativeUnavailableError, match="nvcc"):
        cuda.library()


@pytest.mark.usefixtures("library")
def test_random_streams() -> None:
    script = paths.ROOT / "tools" / "compare_coders.py"
    command = [sys.executable, str(script), "--streams", "48", "--library", str(cuda_shim.TARGET)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "all coders agree" in done.stdout
