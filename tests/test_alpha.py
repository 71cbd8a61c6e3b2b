"""The alpha plane: lossless, and read from hostile bytes without trusting what they say."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from neurocodec.alpha import decode_alpha, encode_alpha
from neurocodec.errors import NicFormatError

ALPHA = np.random.default_rng(7).integers(0, 256, (5, 7), dtype=np.uint8)
IEND = (b"IEND", b"")


def ihdr(width: int, height: int, *rest: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, *(rest or (8, 0, 0, 0, 0)))


def scan_lines(plane: Any) -> bytes:
    """Rows, each led by filter 0."""
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(plane, np.uint8))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, with right checksums."""
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


@settings(max_examples=50)
@given(
    hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)), st.data()
)
def test_alpha_is_lossless_and_so_is_every_region(alpha: Any, data: Any) -> None:
    height, width = alpha.shape
    depth = 8 * alpha.itemsize
    encoded = encode_alpha(alpha)
    assert encoded == encode_alpha(alpha.copy())
    decoded = decode_alpha(encoded, width, height, depth=depth)
    assert decoded.dtype == alpha.dtype
    np.testing.assert_array_equal(decoded, alpha)
    with pytest.raises(NicFormatError, match=f"{24 - depth}-bit gray"):
        decode_alpha(encoded, width, height, depth=24 - depth)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    part = decode_alpha(encoded, width, height, (x, y, w, h), depth)
    np.testing.assert_array_equal(part, alpha[y : y + h, x : x + w])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1200, 1100), (3, 600_000), (300_000, 4)])
def test_planes_of_several_bands_use_every_filter(shape: tuple[int, int], kind: Any) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    alpha = (x * 3 + y * 5 + (x * y >> 7) + np.random.default_rng(0).integers(0, 4, shape)).astype(kind)
    data, depth = encode_alpha(alpha), 8 * np.dtype(kind).itemsize
    np.testing.assert_array_equal(decode_alpha(data, shape[1], shape[0], depth=depth), alpha)
    region = (shape[1] // 3, shape[0] // 2, shape[1] // 2, shape[0] // 3)
    expected = alpha[region[1] : region[1] + region[3], region[0] : region[0] + region[2]]
    np.testing.assert_array_equal(decode_alpha(data, shape[1], shape[0], region, depth), expected)


def test_an_alpha_plane_may_come_in_pieces_with_chunks_that_readers_ignore() -> None:
    stream = zlib.compress(scan_lines(ALPHA))
    pieces = [(b"IDAT", stream[i : i + 1]) for i in range(len(stream))]
    data = png(ihdr(7, 5), (b"tEXt", b"a\0b"), *pieces, (b"tIME", bytes(7)), IEND)
    np.testing.assert_array_equal(decode_alpha(data, 7, 5), ALPHA)


def test_a_second_header_in_the_alpha_plane_is_refused() -> None:
    """Pillow decodes such a PNG at the size of the last header, whatever was checked of the first."""
    large = zlib.compress(scan_lines(np.zeros((1000, 1000))))
    data = zlib.compress(scan_lines(ALPHA))
    for chunks in (
        [ihdr(7, 5), ihdr(1000, 1000), (b"IDAT", large), IEND],
        [ihdr(7, 5), ihdr(7, 5), (b"IDAT", data), IEND],
        [ihdr(7, 5), (b"IDAT", data), ihdr(1000, 1000), (b"IDAT", large), IEND],
        [ihdr(7, 5), (b"IDAT", data), ihdr(7, 5), IEND],
    ):
        with pytest.raises(NicFormatError, match="alpha plane"):
            decode_alpha(png(*chunks), 7, 5)


def hostile() -> dict[str, bytes]:
    good, stream = encode_alpha(ALPHA), zlib.compress(scan_lines(ALPHA))
    data = (b"IDAT", stream)
    return {
        "empty": b"",
        "cut in the header": good[:20],
        "cut in the data": good[:-30],
        "a jpeg in front": b"\xff\xd8" + good,
        "bytes behind": good + b"\0",
        "a chunk that is longer than the file": good[:33] + b"\xff\xff\xff\xff" + good[37:],
        "no header": png(data, IEND),
        "no data": png(ihdr(7, 5), IEND),
        "no end": png(ihdr(7, 5), data),
        "another size": png(ihdr(8, 5), data, IEND),
        "four bits": png(ihdr(7, 5, 4, 0, 0, 0, 0), data, IEND),
        "colour": png(ihdr(7, 5, 8, 2, 0, 0, 0), data, IEND),
        "interlaced": png(ihdr(7, 5, 8, 0, 0, 0, 1), data, IEND),
        "another compression": png(ihdr(7, 5, 8, 0, 1, 0, 0), data, IEND),
        "a palette": png(ihdr(7, 5), (b"PLTE", bytes(3)), data, IEND),
        "data in two places": png(ihdr(7, 5), data, (b"tEXt", b"a\0b"), data, IEND),
        "an unknown chunk that matters": png(ihdr(7, 5), (b"NEWF", b""), data, IEND),
        "an unknown filter": png(ihdr(7, 5), (b"IDAT", zlib.compress(b"\5" + scan_lines(ALPHA)[1:])), IEND),
        "too few rows": png(ihdr(7, 5), (b"IDAT", zlib.compress(scan_lines(ALPHA[:4]))), IEND),
        "part of a row": png(ihdr(7, 5), (b"IDAT", zlib.compress(scan_lines(ALPHA)[:-1])), IEND),
        "too many rows": png(ihdr(7, 5), (b"IDAT", zlib.compress(scan_lines(ALPHA) + bytes(8))), IEND),
        "a stream that does not end": png(ihdr(7, 5), (b"IDAT", stream[:-4]), IEND),
        "a stream with a wrong checksum": png(ihdr(7, 5), (b"IDAT", stream[:-1] + bytes([stream[-1] ^ 1])), IEND),
        "bytes after the stream": png(ihdr(7, 5), (b"IDAT", stream + b"\0"), IEND),
        "a second stream": png(ihdr(7, 5), data, data, IEND),
        "no stream": png(ihdr(7, 5), (b"IDAT", b"no zlib"), IEND),
        "very many chunks": png(ihdr(7, 5), *[(b"tEXt", b"")] * 70_000, data, IEND),
    }


HOSTILE = hostile()


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_alpha_planes_are_typed_errors(case: str) -> None:
    with pytest.raises(NicFormatError, match="alpha plane") as caught:
        decode_alpha(HOSTILE[case], 7, 5)
    assert "\n" not in str(caught.value)


def test_an_alpha_plane_that_inflates_without_end_is_not_read_to_its_end() -> None:
    packer = zlib.compressobj(9)
    stream = packer.compress(bytes(1 << 26)) + packer.flush()
    data = png(ihdr(7, 5), (b"IDAT", stream), IEND)
    with _peak_below(2**22), pytest.raises(NicFormatError, match="does not hold 7 x 5"):
        decode_alpha(data, 7, 5)
    data = png(ihdr(7, 500_000), (b"IDAT", stream), IEND)
    with _peak_below(2**24):
        assert decode_alpha(data, 7, 500_000, (0, 0, 1, 1)).tolist() == [[0]]


def test_a_region_bounds_the_memory_of_the_alpha_plane() -> None:
    """A plane of 2^26 pixels in 64 kB: a region takes a few bands, wherever it is."""
    side = 2**13
    packer, row = zlib.compressobj(9), b"\2" + bytes(side)
    stream = b"".join(packer.compress(row * 64) for _ in range(side // 64)) + packer.flush()
    data = png(ihdr(side, side), (b"IDAT", stream), IEND)
    for at in (0, side - 2):
        with _peak_below(2**24):
            assert decode_alpha(data, side, side, (at, at, 2, 2)).tolist() == [[0, 0], [0, 0]]


def test_changed_bytes_in_an_alpha_plane_never_change_it_silently() -> None:
    data = encode_alpha(ALPHA)
    for at in range(len(data)):
        with pytest.raises(NicFormatError):
            decode_alpha(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :], 7, 5)


def test_pillow_reads_the_plane_that_is_written(tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(encode_alpha(ALPHA))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), ALPHA)


class _peak_below:
    """Fails if the block takes more bytes than the limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __enter__(self) -> None:
        tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < self.limit, f"{peak:,} bytes"
