"""The range coder: golden bytes, twin against C++, sizes, hostile bytes.

The golden vectors are a promise: changed bytes are a new format version. Only
    python tests/entropy/test_coder.py regenerate
writes them.
"""

import hashlib
import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import paths
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocodec.entropy import coder, reference
from neurocodec.entropy.native import _warn_once
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ChecksumError, NativeUnavailableError, NicFormatError, TruncatedError

try:
    from neurocodec import _native as native
except ImportError:
    native = None  # type: ignore[assignment]

GOLDEN = paths.GOLDEN / "coder" / "vectors.json"
INT32 = np.iinfo(np.int32)
SCALES = np.geomspace(0.11, 128, 64)
TABLES = gaussian_tables(SCALES.tolist())
EDGES = Tables(  # a sharp row, a flat one, one at each end of the 32-bit integers
    np.array([7, 65521, 7, 1] + [218] * 300 + [136, 40000, 25535, 1, 1, 65535], np.uint16),
    np.array([-1, -150, INT32.min, INT32.max], np.int32),
    np.array([4, 301, 3, 2], np.int32),
)
Arrays = tuple[np.ndarray, np.ndarray]


class Twin:
    """Both implementations behind one interface that also sets the layout."""

    Decoder: Any = reference.Decoder

    @staticmethod
    def encode(symbols: np.ndarray, indexes: np.ndarray, tables: Tables, **options: Any) -> bytes:
        return reference.encode(symbols, indexes, tables, **options)


class Native:
    @staticmethod
    def encode(
        symbols: np.ndarray,
        indexes: np.ndarray,
        tables: Tables,
        calls: list[int] | None = None,
        layout: tuple[int, int] | None = None,
        threads: int = 1,
    ) -> bytes:
        layout = coder.layout_of("cpu", int(np.count_nonzero(symbols))) if layout is None else layout
        compiled = coder._native_tables(native, tables)
        return bytes(native.encode(compiled, symbols, indexes, calls or [symbols.size], *layout, threads))

    @staticmethod
    def Decoder(data: bytes, tables: Tables, *, threads: int = 1) -> Any:
        return native.Decoder(data, coder._native_tables(native, tables), threads)


needs_native = pytest.mark.skipif(native is None, reason="the extension is not built")
both = pytest.mark.parametrize("impl", [Twin, pytest.param(Native, marks=needs_native)])


def draw(seed: int, n: int, *, mean_row: float = 10) -> Arrays:
    """Like real latents: most rows low, most symbols zero."""
    rng = np.random.default_rng(seed)
    indexes = np.minimum(63, rng.exponential(mean_row, n)).astype(np.uint8)
    return np.rint(rng.standard_normal(n) * SCALES[indexes]).astype(np.int32), indexes


def decode(
    impl: Any, data: bytes, indexes: np.ndarray, tables: Tables, calls: list[int], threads: int = 1
) -> np.ndarray:
    decoder = impl.Decoder(data, tables, threads=threads)
    pieces = [decoder.decode(piece) for piece in np.split(indexes, np.cumsum(calls)[:-1])]
    decoder.finish()
    return np.concatenate(pieces)


# ---------------------------------------------------------------------------------------------------- golden vectors


def golden_cases() -> list[dict[str, Any]]:
    """What `regenerate` encodes."""
    rng = np.random.default_rng(2)
    cases = []

    def add(name: str, tables: Tables, symbols: Any, indexes: Any, layout: tuple[int, int], calls: list[int]) -> None:
        symbols, indexes = np.asarray(symbols, np.int32), np.asarray(indexes, np.uint8)
        cases.append(
            {
                "name": name,
                **{key: getattr(tables, key).tolist() for key in ("frequencies", "offsets", "lengths")},
                "layout": layout,
                "calls": calls,
                "symbols": symbols.tolist(),
                "indexes": indexes.tolist(),
                "hex": reference.encode(symbols, indexes, tables, calls=calls, layout=layout).hex(),
            }
        )

    small = gaussian_tables([0.11, 0.5, 3.0, 20.0])
    add("empty", small, [], [], (0, 0), [0])
    add("empty, lanes and groups", small, [], [], (2, 1), [0])
    add("one symbol", small, [0], [0], (0, 0), [1])
    add("one rare symbol", small, [1], [0], (0, 0), [1])
    add("32-bit extremes", EDGES, [INT32.min, INT32.max, 0, -1, 150, 151, -151] * 4, np.arange(28) % 4, (0, 0), [28])
    for lanes_log2, groups_log2 in [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (2, 2), (3, 4)]:
        indexes = rng.integers(0, 4, 120).astype(np.uint8)
        symbols = np.rint(rng.standard_normal(120) * np.array([0.11, 0.5, 3.5, 24.0])[indexes])
        name = f"{1 << lanes_log2} lanes, {1 << groups_log2} groups, three calls"
        add(name, small, symbols, indexes, (lanes_log2, groups_log2), [50, 3, 67])
    return cases


def regenerate() -> None:
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case) for case in golden_cases())
    GOLDEN.write_text(f"[\n{lines}\n]\n")
    symbols, indexes = large()
    stream = reference.encode(symbols, indexes, EDGES, calls=[symbols.size - 5, 0, 5])
    GOLDEN.with_name("large.sha256").write_text(hashlib.sha256(stream).hexdigest() + "\n")


VECTORS: list[dict[str, Any]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else []


def test_golden_vectors_are_there() -> None:
    assert len(VECTORS) == len(golden_cases())


@both
@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["name"]))
def test_golden(impl: Any, case: dict[str, Any]) -> None:
    tables = Tables(
        np.array(case["frequencies"], np.uint16),
        np.array(case["offsets"], np.int32),
        np.array(case["lengths"], np.int32),
    )
    symbols, indexes = np.array(case["symbols"], np.int32), np.array(case["indexes"], np.uint8)
    data = bytes.fromhex(case["hex"])
    assert impl.encode(symbols, indexes, tables, calls=case["calls"], layout=tuple(case["layout"])) == data
    np.testing.assert_array_equal(decode(impl, data, indexes, tables, case["calls"]), symbols)


def test_golden_layouts() -> None:
    counts = [0, 1, 2**16 - 1, 2**16, 2**18 - 1, 2**18, 2**19, 2**20, 2**21, 2**22]
    layouts = [(0, 0), (0, 0), (0, 0), (2, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (2, 4)]
    for count, layout in zip(counts, layouts, strict=True):
        assert coder.layout_of("cpu", count) == layout


def large() -> Arrays:
    """Enough symbols for four groups of four lanes; integers only, so the same everywhere."""
    noise = (np.arange((1 << 21) + 3, dtype=np.uint32) * np.uint32(2654435761)) >> np.uint32(16)
    symbols = np.where(noise % 7 == 0, (noise >> 4) % 9, 0).astype(np.int32)
    return symbols - (noise % 3 == 0).astype(np.int32), (noise % 5 == 0).astype(np.uint8)


@needs_native
def test_golden_large_stream() -> None:
    """The layout follows from the symbols; the bytes are the same with any number of threads."""
    symbols, indexes = large()
    n = symbols.size
    streams = [Native.encode(symbols, indexes, EDGES, calls=[n - 5, 0, 5], threads=threads) for threads in (1, 2, 7)]
    assert streams[0] == streams[1] == streams[2]
    assert hashlib.sha256(streams[0]).hexdigest() == GOLDEN.with_name("large.sha256").read_text().strip()
    for threads in (1, 2):
        np.testing.assert_array_equal(decode(Native, streams[0], indexes, EDGES, [n - 5, 0, 5], threads), symbols)


# ------------------------------------------------------------------------------------------------------- round trips


@st.composite
def streams(draw_from: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int], tuple[int, int]]:
    calls = draw_from(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    n = sum(calls)
    values = st.one_of(st.integers(-2, 2), st.integers(-400, 400), st.integers(int(INT32.min), int(INT32.max)))
    symbols = np.array(draw_from(st.lists(values, min_size=n, max_size=n)), np.int32)
    indexes = np.array(draw_from(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.uint8)
    return symbols, indexes, calls, (draw_from(st.integers(0, 5)), draw_from(st.integers(0, 7)))


@needs_native
@settings(max_examples=150, deadline=None)
@given(streams())
def test_twin_equals_native(stream: tuple[np.ndarray, np.ndarray, list[int], tuple[int, int]]) -> None:
    symbols, indexes, calls, layout = stream
    data = Twin.encode(symbols, indexes, EDGES, calls=calls, layout=layout)
    assert Native.encode(symbols, indexes, EDGES, calls=calls, layout=layout) == data
    assert Native.encode(symbols, indexes, EDGES, calls=calls, layout=layout, threads=3) == data
    for impl in (Twin, Native):
        np.testing.assert_array_equal(decode(impl, data, indexes, EDGES, calls, threads=2), symbols)


@both
def test_one_group_decodes_in_any_pieces(impl: Any) -> None:
    symbols, indexes = draw(0, 23)
    for layout in ((0, 0), (2, 0)):
        data = impl.encode(symbols, indexes, TABLES, layout=layout)
        for first in range(24):
            for second in range(24 - first):
                calls = [first, second, 23 - first - second]
                np.testing.assert_array_equal(decode(impl, data, indexes, TABLES, calls), symbols)


@both
def test_every_row_and_every_symbol(impl: Any) -> None:
    """All symbols of all rows, and the first ones outside."""
    symbols, indexes = [], []
    for row, (offset, length) in enumerate(zip(TABLES.offsets.tolist(), TABLES.lengths.tolist(), strict=True)):
        symbols.append(np.arange(offset - 2, offset + length + 1))
        indexes.append(np.full(length + 3, row))
    s, i = np.concatenate(symbols).astype(np.int32), np.concatenate(indexes).astype(np.uint8)
    data = impl.encode(s, i, TABLES, layout=(1, 0))
    np.testing.assert_array_equal(decode(impl, data, i, TABLES, [s.size]), s)
    assert len(data) - TABLES.bits(s, i) / 8 < 20


@needs_native
def test_reciprocals_are_exact() -> None:
    """Every frequency from 1 to 65535 divides states of all sizes as the twin's // does."""
    rng = np.random.default_rng(3)
    f = np.arange(1, 65536)
    for begin in range(0, f.size, 4096):
        some = f[begin : begin + 4096]
        rows = 256
        chosen = rng.choice(some, rows, replace=some.size < rows)
        chosen[0], chosen[-1] = some[0], some[-1]
        tables = Tables(
            np.stack([chosen, 65536 - chosen], 1).reshape(-1).astype(np.uint16), np.zeros(rows, np.int32),
            np.full(rows, 2, np.int32),
        )  # fmt: skip
        indexes = rng.integers(0, rows, 3000).astype(np.uint8)
        symbols = (rng.random(3000) < 0.3).astype(np.int32)  # 1 is the escape
        assert Native.encode(symbols, indexes, tables) == Twin.encode(symbols, indexes, tables)


# -------------------------------------------------------------------------------------------------------------- sizes


def test_tiny_streams_stay_tiny() -> None:
    assert coder.encode(np.zeros(0, np.int32), np.zeros(0, np.uint8), TABLES) == b"\0"
    for seed in range(30):
        for n in (1, 10, 100, 500):
            symbols, indexes = draw(seed, n)
            assert len(coder.encode(symbols, indexes, TABLES)) - TABLES.bits(symbols, indexes) / 8 <= 5
    symbols, indexes = draw(0, 20_000, mean_row=16)
    ideal = TABLES.bits(symbols, indexes) / 8
    assert 4000 < ideal < 6000
    assert len(coder.encode(symbols, indexes, TABLES)) < 1.0012 * ideal


@needs_native
@pytest.mark.parametrize(
    ("n", "mean_row"), [(30_000, 30.0), (110_000, 10.0), (350_000, 10.0), (1_100_000, 3.0), (2_200_000, 10.0)]
)
def test_size_is_ideal_within_a_thousandth(n: int, mean_row: float) -> None:
    symbols, indexes = draw(1, n, mean_row=mean_row)
    ideal = TABLES.bits(symbols, indexes) / 8
    assert ideal > 10_000
    assert len(coder.encode(symbols, indexes, TABLES)) < 1.001 * ideal


def test_size_equals_constriction() -> None:
    """Within 0.5 % of an independent coder with exact Gaussians."""
    constriction = pytest.importorskip("constriction")
    symbols, indexes = draw(4, 30_000, mean_row=30)
    model = constriction.stream.model.QuantizedGaussian(-2000, 2000)
    theirs = constriction.stream.stack.AnsCoder()
    theirs.encode_reverse(symbols, model, np.zeros(symbols.size), SCALES[indexes])
    size = 4 * len(theirs.get_compressed())
    assert size > 10_000
    assert abs(len(coder.encode(symbols, indexes, TABLES)) / size - 1) < 0.005


# ---------------------------------------------------------------------------------------------------------- arguments


@pytest.fixture(params=["off", pytest.param("require", marks=needs_native)])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NEUROCODEC_NATIVE", request.param)
    return str(request.param)


@pytest.mark.usefixtures("mode")
def test_arrays_of_other_shapes_and_types() -> None:
    symbols, indexes = draw(5, 24)
    data = coder.encode(symbols, indexes, TABLES)
    assert coder.encode(symbols.reshape(2, 3, 4), indexes.reshape(2, 3, 4), TABLES) == data
    wide = np.zeros((24, 2), ">i4")
    wide[:, 0] = symbols
    assert coder.encode(wide[:, 0], np.repeat(indexes, 2)[::2], TABLES) == data
    assert coder.encode(symbols.clip(-99, 99).astype(np.int8), indexes, TABLES) == data
    decoder = coder.Decoder(bytearray(data), TABLES)  # type: ignore[arg-type]
    decoded = decoder.decode(np.asfortranarray(indexes.reshape(4, 6)))
    decoder.finish()
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols.reshape(4, 6))


@pytest.mark.usefixtures("mode")
def test_rejected_arguments() -> None:
    symbols, indexes = draw(6, 10)
    data = coder.encode(symbols, indexes, TABLES)
    with pytest.raises(TypeError, match="int32, not float64"):
        coder.encode(symbols * 1.0, indexes, TABLES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="uint8, not int64"):
        coder.encode(symbols, indexes.astype(np.int64), TABLES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="uint8, not bool"):
        coder.Decoder(data, TABLES).decode(indexes > 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        coder.encode(symbols, indexes[1:], TABLES)
    for calls in ([9], [11], [11, -1], []):
        with pytest.raises(ValueError, match="calls"):
            coder.encode(symbols, indexes, TABLES, calls=calls)
    indexes[7] = 64
    with pytest.raises(ValueError, match="Index 64 names no table row: there are 64"):
        coder.encode(symbols, indexes, TABLES)
    with pytest.raises(ValueError, match="Index 64 names no table row: there are 64"):
        coder.Decoder(data, TABLES).decode(indexes)
    for threads in (0, -1):
        with pytest.raises(ValueError, match="threads"):
            coder.Decoder(data, TABLES, threads=threads)


def test_choice_of_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, indexes = draw(7, 50)
    expected = reference.encode(symbols, indexes, TABLES)
    monkeypatch.setitem(sys.modules, "neurocodec._native", None)  # makes the import fail
    monkeypatch.setenv("NEUROCODEC_NATIVE", "auto")
    _warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="slow one"):
        coder.encode(symbols, indexes, TABLES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coder.encode(symbols, indexes, TABLES) == expected  # warns only once
    monkeypatch.setenv("NEUROCODEC_NATIVE", "require")
    with pytest.raises(NativeUnavailableError, match="cannot be loaded"):
        coder.encode(symbols, indexes, TABLES)
    monkeypatch.setenv("NEUROCODEC_NATIVE", "off")
    assert coder.encode(symbols, indexes, TABLES) == expected
    monkeypatch.setenv("NEUROCODEC_NATIVE", "perhaps")
    with pytest.raises(ValueError, match="perhaps"):
        coder.encode(symbols, indexes, TABLES)


def test_no_torch() -> None:
    code = "import sys, neurocodec.entropy.coder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------ hostile bytes


def outcome(impl: Any, data: bytes, indexes: np.ndarray, tables: Tables, calls: list[int]) -> Any:
    """The symbols, or the error's type and text. Anything but a NicFormatError escapes and fails the test."""
    try:
        return decode(impl, data, indexes, tables, calls).tolist()
    except NicFormatError as error:
        return type(error), str(error)


def same_outcome(data: bytes, indexes: np.ndarray, calls: list[int]) -> Any:
    result = outcome(Twin, data, indexes, EDGES, calls)
    if native is not None:
        assert outcome(Native, data, indexes, EDGES, calls) == result
    return result


@pytest.mark.parametrize("layout", [(0, 0), (2, 0), (1, 1)])
def test_truncation_and_flips(layout: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    indexes = rng.integers(0, 4, 90).astype(np.uint8)
    symbols = rng.integers(-3, 4, 90).astype(np.int32)
    data = Twin.encode(symbols, indexes, EDGES, calls=[40, 50], layout=layout)
    good = symbols.tolist()
    assert same_outcome(data, indexes, [40, 50]) == good
    for end in range(len(data)):
        assert same_outcome(data[:end], indexes, [40, 50]) != good
    for i in range(len(data)):
        for bit in (0, 3, 7):
            damaged = bytearray(data)
            damaged[i] ^= 1 << bit
            same_outcome(bytes(damaged), indexes, [40, 50])
    assert same_outcome(data + b"\0", indexes, [40, 50]) != good
    assert same_outcome(data + b"\0\0", indexes, [40, 50]) != good


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([None, 0x00, 0x40, 0x02, 0x4A]))
def test_random_bytes(data: bytes, n: int, layout_byte: int | None) -> None:
    if layout_byte is not None:
        data = bytes([layout_byte]) + data
    same_outcome(data, (np.arange(n) % 4).astype(np.uint8), [n // 3, n - n // 3])


@both
@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", TruncatedError),
        ("80", NicFormatError),  # reserved bit
        ("06", NicFormatError),  # 64 lanes
        ("07", NicFormatError),  # 128 lanes
        ("38", NicFormatError),  # 128 groups, no length
        ("00", TruncatedError),  # no symbols there
        ("0001", TruncatedError),  # a state of one byte
        ("00000000", NicFormatError),  # a state below its start
        ("0000000000", NicFormatError),  # the same in four bytes
        ("01" + "00" * 9, TruncatedError),  # two lanes, one state
        ("01" + "0000000001" * 2 + "00", NicFormatError),  # half a word
        ("01" + "0000000000" * 2, NicFormatError),  # states too small
        ("08", NicFormatError),  # two groups, no length
        ("0880", NicFormatError),  # unfinished length
        ("088000", NicFormatError),  # length not in its shortest form
        ("08ffffffff7f", TruncatedError),  # a group of 32 GB
        ("08ffffffffff01", NicFormatError),  # a length of six bytes
        ("40", NicFormatError),  # no number of escapes
        ("40ffffffff7f", TruncatedError),  # more escapes than bytes
    ],
)
def test_rejected_streams(impl: Any, data: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        decode(impl, bytes.fromhex(data), np.zeros(5, np.uint8), EDGES, [5])
    assert caught.type is error


@both
def test_rejected_escapes(impl: Any) -> None:
    """Escapes cut off, too long, outside 32 bits, or left over."""
    table = Tables(np.array([1, 65535], np.uint16), np.array([0], np.int32), np.array([2], np.int32))
    data = impl.encode(np.array([77], np.int32), np.zeros(1, np.uint8), table)
    assert data[:4].hex() == "4002" + "9801"  # 2 * 76 = 0x98
    rest = data[4:]
    for escapes in ("", "98", "9800", "ffffffff7f", "ffffffffff01"):
        raw = bytes.fromhex(escapes)
        with pytest.raises(NicFormatError, match="escape"):
            decode(impl, b"\x40" + bytes([len(raw)]) + raw + rest, np.zeros(1, np.uint8), table, [1])
    with pytest.raises(ChecksumError, match="does not end"):
        decode(impl, bytes.fromhex("4003980100") + rest, np.zeros(1, np.uint8), table, [1])


@both
def test_wrong_use_is_found_at_the_end(impl: Any) -> None:
    symbols, indexes = draw(9, 100)
    data = impl.encode(symbols, indexes, TABLES)
    decoder = impl.Decoder(data, TABLES)
    decoder.decode(indexes[:99])
    with pytest.raises(ChecksumError, match="does not end"):
        decoder.finish()
    decoder.decode(indexes[99:])
    decoder.finish()
    with pytest.raises(TruncatedError):
        decoder.decode(np.full(50, 63, np.uint8))
    with pytest.raises(TruncatedError):  # and stays failed
        decoder.decode(indexes[:1])
    with pytest.raises(TruncatedError):
        decoder.finish()


if __name__ == "__main__" and sys.argv[1:] == ["regenerate"]:
    regenerate()
