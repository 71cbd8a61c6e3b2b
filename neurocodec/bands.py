"""Writes pictures in bands of rows, with 8 or 16 bits per sample, so that memory does not grow with the picture.

Pillow first writes a one-pixel picture with the same metadata; its pixel is then replaced by the bands. The file thus
holds the same metadata as one from Pillow.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from PIL import Image

from neurocodec import image, metadata
from neurocodec.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("PNG", "PPM", "TIFF")
"""The formats that can be written in bands, as Pillow spells them."""
_PIECE_BYTES = 2**18  # filtered and compressed at a time
_LEVEL, _MEMORY_LEVEL = 6, 9  # zlib settings, the same as Pillow's
_STRIP_BYTES = 2**16  # size of a TIFF strip, the same as Pillow's
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
_TIFF_OFFSETS, _TIFF_ROWS, _TIFF_COUNTS = 273, 278, 279
_SHORT, _LONG = 3, 4


def write(
    file: BinaryIO,
    name: str,
    size: tuple[int, int],
    mode: str,
    depth: int,
    chunks: Mapping[str, bytes],
    bands: Iterable[NDArray[Any]],
) -> None:
    """Writes a picture to an open file, in the format (one of `KINDS`) that the suffix of `name` names.

    size: width and height in pixels. mode: L, LA, RGB or RGBA. depth: bits per sample, 8 or 16. chunks: metadata, see
    `metadata.attach`. bands: arrays (rows, width, channels) from top to bottom, uint8 for a depth of 8, else uint16.
    Raises OutputError if the format cannot hold the picture.
    """
    kind = image.check_format(name)
    pixel = Image.new(mode, (1, 1))
    metadata.attach(pixel, chunks)
    frame = image.to_file_bytes(pixel, name)
    line_bytes = size[0] * len(mode) * depth // 8
    if kind == "PNG":
        _write_png(file, frame, size, depth, len(mode), _lines(bands, line_bytes, "big"))
    elif kind == "TIFF":
        order = "<" if frame[:2] == b"II" else ">"
        file.write(_tiff_start(name, frame, order, size, depth, len(mode)))
        file.writelines(line.data for line in _lines(bands, line_bytes, "little" if order == "<" else "big"))
    else:
        file.write(b"%s\n%d %d\n%d\n" % (frame[:2], *size, 2**depth - 1))
        file.writelines(line.data for line in _lines(bands, line_bytes, "big"))


def _lines(
    bands: Iterable[NDArray[Any]], line_bytes: int, order: Literal["little", "big"]
) -> Iterator[NDArray[np.uint8]]:
    """The bands as bytes in the given order, uint8 (rows, line_bytes), a few rows at a time."""
    step = max(1, _PIECE_BYTES // line_bytes)
    for band in bands:
        for first in range(0, len(band), step):
            rows = np.ascontiguousarray(band[first : first + step], band.dtype.newbyteorder(order))
            yield rows.view(np.uint8).reshape(len(rows), line_bytes)


def _write_png(
    file: BinaryIO,
    frame: bytes,
    size: tuple[int, int],
    depth: int,
    channels: int,
    lines: Iterable[NDArray[np.uint8]],
) -> None:
    """Copies the chunks of the one-pixel PNG `frame`, replacing its header and pixels."""
    file.write(frame[:8])
    at = 8
    while at < len(frame):
        length, kind = struct.unpack_from(">I4s", frame, at)
        payload = frame[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            payload = struct.pack(">IIB", *size, depth) + payload[9:]
        for part in _compressed(lines, channels * depth // 8) if kind == b"IDAT" else [payload]:
            head = kind + part
            file.write(struct.pack(">I", len(part)) + head + struct.pack(">I", zlib.crc32(head)))
        at += 12 + length


def _compressed(lines: Iterable[NDArray[np.uint8]], pixel_bytes: int) -> Iterator[bytes]:
    """The zlib stream of PNG scan lines, in pieces; run-length matching only, as in `image`."""
    engine = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_RLE)
    above = None
    for rows in lines:
        above = np.zeros_like(rows[0]) if above is None else above
        if data := engine.compress(_filtered(rows, above, pixel_bytes).data):
            yield data
        above = rows[-1]
    yield engine.flush()


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], pixel_bytes: int) -> NDArray[np.uint8]:
    """PNG scan lines, uint8 (n, 1 + bytes). Each row uses the filter with the smallest sum of absolute residuals."""
    up = np.vstack([above, rows[:-1]])
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, pixel_bytes:], corner[:, pixel_bytes:] = rows[:, :-pixel_bytes], up[:, :-pixel_bytes]
    a, b, c = (plane.astype(np.int16) for plane in (left, up, corner))
    to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))
    results = [rows - left, rows - up, rows - ((a + b) >> 1).astype(np.uint8), rows - paeth]
    costs = [np.minimum(result, -result).sum(axis=1, dtype=np.int64) for result in results]
    best = np.argmin(costs, axis=0)
    out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    out[:, 0] = best + 1
    for number, result in enumerate(results):
        chosen = best == number
        out[chosen, 1:] = result[chosen]
    return out


def _tiff_start(name: str, frame: bytes, order: str, size: tuple[int, int], depth: int, channels: int) -> bytes:
    """The one-pixel TIFF `frame` with the directory entries that describe the pixels replaced; strips follow it."""
    width, height = size
    line_bytes = width * channels * depth // 8
    rows = max(1, _STRIP_BYTES // line_bytes)
    counts = [min(rows, height - top) * line_bytes for top in range(0, height, rows)]
    fields: dict[int, tuple[int, list[int]]] = {
        _TIFF_WIDTH: (_LONG, [width]),
        _TIFF_HEIGHT: (_LONG, [height]),
        _TIFF_BITS: (_SHORT, [depth] * channels),
        _TIFF_ROWS: (_LONG, [rows]),
        _TIFF_COUNTS: (_LONG, counts),
        _TIFF_OFFSETS: (_LONG, counts),  # placeholders until the length of the start is known
    }

    def packed(tag: int) -> bytes:
        kind, values = fields[tag]
        return struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)

    tail = {tag: len(packed(tag)) for tag in fields if len(packed(tag)) > 4}
    end = len(frame) + len(frame) % 2 + sum(tail.values())
    if end + line_bytes * height >= 2**32:
        raise OutputError(f"{name}: TIFF cannot hold more than 4 GiB: use .png")
    offsets = np.cumsum([end, *counts[:-1]])
    fields[_TIFF_OFFSETS] = _LONG, offsets.tolist()

    start = bytearray(frame) + bytes(len(frame) % 2)
    (folder,) = struct.unpack_from(order + "I", frame, 4)
    (entries,) = struct.unpack_from(order + "H", frame, folder)
    for at in range(folder + 2, folder + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from(order + "H", frame, at)
        if tag in fields:
            kind, values = fields[tag]
            data = packed(tag)
            if tag in tail:
                place = struct.pack(order + "I", len(start))
                start += data
            else:
                place = data.ljust(4, b"\0")
            start[at + 2 : at + 12] = struct.pack(order + "HI", kind, len(values)) + place
    return bytes(start)
