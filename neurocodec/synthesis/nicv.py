"""The .nicv container of a sequence of frames: bytes <-> header and frame records.

docs/video.md is normative; this module is its reader and writer. It knows nothing of pixels, motion or models.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from neurocodec.container import QUALITY_INDEX_MAX
from neurocodec.errors import ChecksumError, NicFormatError, TruncatedError, UnsupportedVersionError

SIGNATURE = b"\x8fNIV"
VERSION = 1
MAX_SIDE = 2048
"""Pixels, so that every frame is one tile."""
MAX_FRAMES = 2**24
MAX_FRAME_BYTES = 2**28
INTRA, PREDICTED = 0, 1

_HEADER = struct.Struct("<4sBBHHIHHH8s")
_RECORD = struct.Struct("<BII")
_U32 = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _U32.size


@dataclass(frozen=True)
class Header:
    """The fixed part of a .nicv file.

    width, height: pixels, 1 to 2048. frames: 1 to 2**24. rate: frames per second as a fraction of two numbers from 1 to
    65535. quality_index: of the residuals, 0 to 960. model_id: of the model of the residuals, 8 bytes.
    """

    width: int
    height: int
    frames: int
    rate: tuple[int, int]
    quality_index: int
    model_id: bytes


@dataclass(frozen=True)
class Record:
    """One frame. kind: INTRA, and payload is a .nic file; or PREDICTED, and it is that of `pack_predicted`."""

    kind: int
    payload: bytes


def write(header: Header, records: Sequence[Record]) -> bytes:
    """The bytes of a .nicv file. Raises NicFormatError if a field is out of range or the records do not fit."""
    if len(records) != header.frames:
        raise NicFormatError(f"{len(records)} frames were given for a header that announces {header.frames}")
    _check(header)
    head = _HEADER.pack(
        *(SIGNATURE, VERSION, 0, header.width, header.height, header.frames),
        *(*header.rate, header.quality_index, header.model_id),
    )
    parts = [head, _U32.pack(zlib.crc32(head))]
    for ordinal, record in enumerate(records):
        _check_record(ordinal, record.kind, len(record.payload))
        length = len(record.payload)
        parts += [_RECORD.pack(record.kind, length, _crc(ordinal, record.kind, record.payload)), record.payload]
    return b"".join(parts)


def read_header(data: bytes) -> Header:
    """The header, from the first 32 bytes; the rest is not checked.

    Raises TruncatedError, ChecksumError, UnsupportedVersionError, or NicFormatError if the data are not a .nicv file or
    a field is out of range.
    """
    if not SIGNATURE.startswith(data[:4]) or not data:
        raise NicFormatError(f"this is not a .nicv file: it starts with {data[:4].hex(' ') or 'nothing'}")
    if len(data) > 4 and data[4] != VERSION:
        raise UnsupportedVersionError(
            f"this .nicv file has format version {data[4]}, this release reads version {VERSION}: upgrade neurocodec"
        )
    if len(data) < HEADER_BYTES:
        raise TruncatedError(f"the file ends after {len(data)} bytes, inside the header of {HEADER_BYTES}: {_RETRY}")
    _, _, flags, width, height, frames, *rate, quality_index, model_id = _HEADER.unpack_from(data)
    if _U32.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
        raise ChecksumError(f"the header's checksum does not match: {_RETRY}")
    if flags:
        raise NicFormatError(f"the header sets reserved flag bits (0x{flags:02x}): upgrade neurocodec")
    header = Header(width, height, frames, (rate[0], rate[1]), quality_index, model_id)
    _check(header)
    return header


def read(data: bytes) -> tuple[Header, list[Record]]:
    """Parses a .nicv file and verifies every byte of it, before anything is decoded. Raises what `read_header` does."""
    header = read_header(data)
    if header.frames * _RECORD.size > len(data) - HEADER_BYTES:  # checked before a list of that length is built
        raise TruncatedError(f"the file ends at byte {len(data)}, too early for {header.frames} frames: {_RETRY}")
    records, at = [], HEADER_BYTES
    for ordinal in range(header.frames):
        if len(data) - at < _RECORD.size:
            raise TruncatedError(f"the file ends at byte {len(data)}, before frame {ordinal}: {_RETRY}")
        kind, length, crc = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        _check_record(ordinal, kind, length)
        if length > len(data) - at:
            raise TruncatedError(f"frame {ordinal} claims {length} bytes, {len(data) - at} are left: {_RETRY}")
        payload = data[at : at + length]
        if crc != _crc(ordinal, kind, payload):
            raise ChecksumError(f"the checksum of frame {ordinal} does not match: {_RETRY}")
        records.append(Record(kind, payload))
        at += length
    if at != len(data):
        raise NicFormatError(f"{len(data) - at} bytes follow the last frame, expected none: {_RETRY}")
    return header, records


def pack_predicted(motion: bytes, residual: tuple[int, bytes] | None) -> bytes:
    """The payload of a predicted frame. residual: the checksum of its symbols and its stream; None without one."""
    head = _U32.pack(len(motion)) + motion
    return head if residual is None else head + _U32.pack(residual[0]) + residual[1]


def unpack_predicted(payload: bytes) -> tuple[bytes, tuple[int, bytes] | None]:
    """The inverse of `pack_predicted`. Raises TruncatedError."""
    if len(payload) < _U32.size or (end := _U32.size + _U32.unpack_from(payload)[0]) > len(payload):
        raise TruncatedError(f"a predicted frame of {len(payload)} bytes is too short for its motion: {_RETRY}")
    if end == len(payload):
        return payload[_U32.size :], None
    if len(payload) < end + _U32.size:
        raise TruncatedError(f"a predicted frame of {len(payload)} bytes ends inside a checksum: {_RETRY}")
    return payload[_U32.size : end], (_U32.unpack_from(payload, end)[0], payload[end + _U32.size :])


def _check(header: Header) -> None:
    """Checks the limits that hold for writers and readers."""
    for name, value, least, most in (
        ("width", header.width, 1, MAX_SIDE),
        ("height", header.height, 1, MAX_SIDE),
        ("number of frames", header.frames, 1, MAX_FRAMES),
        ("numerator of the frame rate", header.rate[0], 1, 2**16 - 1),
        ("denominator of the frame rate", header.rate[1], 1, 2**16 - 1),
        ("quality index", header.quality_index, 0, QUALITY_INDEX_MAX),
        ("length of the model id", len(header.model_id), 8, 8),
    ):
        if not least <= value <= most:
            raise NicFormatError(f"the {name} is {value}, expected {least} to {most}")


def _check_record(ordinal: int, kind: int, length: int) -> None:
    if kind not in (INTRA, PREDICTED):
        raise NicFormatError(f"frame {ordinal} is of kind {kind}, expected {INTRA} or {PREDICTED}")
    if ordinal == 0 and kind != INTRA:
        raise NicFormatError("the first frame is predicted, expected one that stands alone")
    if length > MAX_FRAME_BYTES:
        raise NicFormatError(f"frame {ordinal} claims {length} bytes, the limit is {MAX_FRAME_BYTES}: {_RETRY}")


def _crc(ordinal: int, kind: int, payload: bytes) -> int:
    """CRC-32 over the ordinal, which the file does not store, the kind, the length and the payload."""
    return zlib.crc32(payload, zlib.crc32(struct.pack("<IBI", ordinal, kind, len(payload))))


_RETRY = "the file is damaged or incomplete, get another copy or encode it again"
