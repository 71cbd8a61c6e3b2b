"""The alpha plane <-> PNG bytes. Read without a PNG library, because the bytes may be hostile.

Only one kind of PNG is accepted: gray with 8 or 16 bits, not interlaced, of the picture's size. Its scan lines are a
zlib stream of known length, which is decoded in bands of rows, down to the last row that is needed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec.errors import NicFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BAND_BYTES = 2**20
_MAX_CHUNKS = 2**16
_LAST_FILTER = 4
_AGAIN = "the file is damaged, encode the picture again"


def encode_alpha(alpha: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Alpha plane, uint8 or uint16 (H, W) -> lossless PNG bytes of the same depth."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, format="PNG", compress_level=9)
    return out.getvalue()


def decode_alpha(
    data: bytes, width: int, height: int, region: tuple[int, int, int, int] | None = None, depth: int = 8
) -> NDArray[Any]:
    """PNG bytes -> alpha plane (height, width), or a region of it; uint8 for a depth of 8, uint16 for 16.

    region: (x, y, width, height) in pixels, inside the plane. Rows below it are not checked. Memory stays within the
    result and a few bands, whatever the data contain. Raises NicFormatError for any other PNG and for damaged data.
    """
    _, _, columns, rows = region or (0, 0, width, height)
    alpha, top = np.empty((rows, columns), np.uint8 if depth == 8 else np.uint16), 0
    for band in alpha_bands(data, width, height, region, depth):
        alpha[top : top + len(band)], top = band, top + len(band)
    return alpha


def alpha_bands(
    data: bytes, width: int, height: int, region: tuple[int, int, int, int] | None = None, depth: int = 8
) -> Iterator[NDArray[Any]]:
    """What `decode_alpha` returns, in bands of a few rows from top to bottom."""
    x, y, columns, rows = region or (0, 0, width, height)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    above, top = np.zeros(width, np.uint8 if depth == 8 else np.uint16), 0
    for lines in _bands(_data_chunks(memoryview(data), header), width * depth // 8 + 1, width, height):
        band = _unfilter(lines, above)
        first, last = max(top, y), min(top + len(band), y + rows)
        if first < last:
            yield band[first - top : last - top, x : x + columns]
        above, top = band[-1], top + len(band)
        if y + rows <= top < height:
            break


def _data_chunks(png: memoryview, header: bytes) -> Iterator[memoryview]:
    """The pieces of the zlib stream in a PNG whose IHDR is `header`. Ancillary chunks are skipped."""
    if png[:8] != _SIGNATURE:
        raise NicFormatError(f"the alpha plane is not a PNG: {_AGAIN}")
    at, previous, ended = 8, b"", False
    for _ in range(_MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", png, at) if len(png) - at >= 12 else (len(png), b"")
        end = at + 8 + length
        if end + 4 > len(png):
            raise NicFormatError(f"the alpha plane ends inside a chunk: {_AGAIN}")
        payload = png[at + 8 : end]
        if zlib.crc32(png[at + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            raise NicFormatError(f"the checksum of a chunk of the alpha plane does not match: {_AGAIN}")
        if not previous and (name != b"IHDR" or payload != header):
            raise NicFormatError(
                f"the alpha plane has the header {bytes(payload[:13]).hex()}, expected {header.hex()}, "
                f"{header[8]}-bit gray and of the picture's size: encode the picture again"
            )
        ended = ended or (previous == b"IDAT" and name != b"IDAT")
        if name == b"IDAT" and not ended:
            yield payload
        elif name == b"IEND" and end + 4 == len(png):
            return
        elif previous and name[:1].isupper():
            raise NicFormatError(f"the alpha plane has a chunk {name!r} out of place: {_AGAIN}")
        at, previous = end + 4, name
    raise NicFormatError(f"the alpha plane has more than {_MAX_CHUNKS} chunks: {_AGAIN}")


def _bands(pieces: Iterable[memoryview], line_bytes: int, width: int, lines: int) -> Iterator[NDArray[np.uint8]]:
    """The decompressed scan lines, uint8 (n, line_bytes), a few at a time; there must be exactly `lines` of them."""
    wrong = NicFormatError(f"the alpha plane does not hold {width} x {lines} samples: {_AGAIN}")
    engine, held, left = zlib.decompressobj(), bytearray(), line_bytes * lines
    try:
        for piece in pieces:
            for start in range(0, len(piece), _BAND_BYTES):
                rest, full = piece[start : start + _BAND_BYTES], True
                while rest or full:  # after a full output, zlib may hold more
                    out = engine.decompress(rest, _BAND_BYTES)
                    rest, full = memoryview(engine.unconsumed_tail), len(out) == _BAND_BYTES
                    held += out
                    left -= len(out)
                    if left < 0 or engine.unused_data:
                        raise wrong
                    if held and (left == 0 or len(held) >= max(line_bytes, _BAND_BYTES)):
                        whole = len(held) // line_bytes * line_bytes
                        yield np.frombuffer(bytes(held[:whole]), np.uint8).reshape(-1, line_bytes)
                        del held[:whole]
    except zlib.error:
        raise wrong from None
    if left or not engine.eof:
        raise wrong


def _unfilter(lines: NDArray[np.uint8], above: NDArray[Any]) -> NDArray[Any]:
    """Scan lines, uint8 (n, 1 + bytes), each starting with its filter type -> samples (n, width), dtype of `above`.

    above: the samples of the preceding line. Pillow's zip decoder undoes the filters; it never sees a PNG header.
    """
    if lines[:, 0].max() > _LAST_FILTER:
        raise NicFormatError(f"the alpha plane has an unknown filter: {_AGAIN}")
    size = (len(above), 1 + len(lines))
    mode, rawmode = ("L", "L") if above.dtype == np.uint8 else ("I;16", "I;16B")
    stream = zlib.compress(b"\0" + above.astype(above.dtype.newbyteorder(">")).tobytes() + lines.tobytes(), 0)
    return np.asarray(Image.frombytes(mode, size, stream, "zip", rawmode))[1:]
