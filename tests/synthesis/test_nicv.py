"""The .nicv container: round trips, its page's example, and every way a file can be wrong."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocodec import errors
from neurocodec.synthesis import nicv
from neurocodec.synthesis.nicv import INTRA, PREDICTED, Header, Record

HEADER = Header(320, 240, 3, (25, 1), 475, bytes(range(0x10, 0x18)))
RECORDS = [Record(INTRA, b"a picture"), Record(PREDICTED, b""), Record(PREDICTED, b"xy")]
DATA = nicv.write(HEADER, RECORDS)


@settings(max_examples=60)
@given(
    st.integers(1, 2048),
    st.integers(1, 2048),
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)),
    st.integers(0, 960),
    st.binary(min_size=8, max_size=8),
    st.lists(st.tuples(st.sampled_from([INTRA, PREDICTED]), st.binary(max_size=30)), max_size=5),
)
def test_round_trip(width, height, rate, quality_index, model_id, frames):
    records = [Record(INTRA, b"first"), *(Record(*frame) for frame in frames)]
    header = Header(width, height, len(records), rate, quality_index, model_id)
    data = nicv.write(header, records)
    assert nicv.read(data) == (header, records)
    assert nicv.read_header(data[: nicv.HEADER_BYTES]) == header
    assert len(data) == 32 + sum(9 + len(record.payload) for record in records)


def test_bytes_of_a_small_file():
    """The example of docs/video.md."""
    header = dataclasses.replace(HEADER, frames=1)
    data = nicv.write(header, [Record(INTRA, b"\x01\x02\x03")])
    assert data.hex(" ") == (
        "8f 4e 49 56 01 00 40 01 f0 00 01 00 00 00 19 00 01 00 db 01 10 11 12 13 14 15 16 17 "
        + zlib.crc32(data[:28]).to_bytes(4, "little").hex(" ")
        + " 00 03 00 00 00 "
        + zlib.crc32(bytes.fromhex("00000000 00 03000000 010203")).to_bytes(4, "little").hex(" ")
        + " 01 02 03"
    )


@pytest.mark.parametrize("length", range(len(DATA)))
def test_every_shorter_file_is_refused(length):
    with pytest.raises(errors.NicFormatError):
        nicv.read(DATA[:length])


def test_every_changed_bit_is_noticed():
    for bit in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(errors.NicFormatError):
            nicv.read(bytes(damaged))


def with_header(**fields):
    """DATA with other fields in its header, and a checksum that fits."""
    header = dataclasses.replace(HEADER, **fields)
    head = struct.pack(
        "<4sBBHHIHHH8s",
        *(nicv.SIGNATURE, 1, 0, header.width, header.height, header.frames, *header.rate),
        *(header.quality_index, header.model_id),
    )
    return head + struct.pack("<I", zlib.crc32(head)) + DATA[nicv.HEADER_BYTES :]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", errors.NicFormatError, "starts with nothing"),
        (b"\x8fNIC", errors.NicFormatError, "not a .nicv file"),
        (DATA[:4] + b"\2" + DATA[5:], errors.UnsupportedVersionError, "version 2"),
        (DATA[:20], errors.TruncatedError, "inside the header"),
        (DATA[:6] + b"\7" + DATA[7:], errors.ChecksumError, "header's checksum"),
        (DATA[:-1], errors.TruncatedError, "frame 2 claims 2 bytes, 1 are left"),
        (DATA[:-1] + b"z", errors.ChecksumError, "frame 2"),
        (DATA + b"\0", errors.NicFormatError, "1 bytes follow"),
        (with_header(width=0), errors.NicFormatError, "the width is 0"),
        (with_header(height=2049), errors.NicFormatError, "the height is 2049"),
        (with_header(frames=0), errors.NicFormatError, "number of frames is 0"),
        (with_header(frames=2**24), errors.TruncatedError, "too early for 16777216 frames"),
        (with_header(rate=(25, 0)), errors.NicFormatError, "denominator"),
        (with_header(quality_index=961), errors.NicFormatError, "quality index is 961"),
        (with_header(frames=2), errors.NicFormatError, "11 bytes follow"),
    ],
)
def test_wrong_files_have_their_error(data, error, words):
    with pytest.raises(error, match=words):
        nicv.read(data)


def test_reserved_flags_and_unknown_kinds_are_refused():
    head = DATA[:5] + b"\1" + DATA[6:28]
    with pytest.raises(errors.NicFormatError, match="reserved"):
        nicv.read(head + struct.pack("<I", zlib.crc32(head)) + DATA[32:])
    for kind, words in ((2, "of kind 2"), (PREDICTED, "first frame is predicted")):
        with pytest.raises(errors.NicFormatError, match=words):
            nicv.write(HEADER, [Record(kind, b""), *RECORDS[1:]])
    with pytest.raises(errors.NicFormatError, match="2 frames were given"):
        nicv.write(HEADER, RECORDS[:2])


def test_frames_cannot_be_exchanged():
    """Their checksums hold their numbers."""
    same = nicv.write(HEADER, [RECORDS[0], Record(PREDICTED, b"ab"), Record(PREDICTED, b"xy")])
    swapped = same[:50] + same[61:72] + same[50:61]
    assert len(swapped) == len(same)
    with pytest.raises(errors.ChecksumError, match="frame 1"):
        nicv.read(swapped)


@given(st.binary(max_size=20), st.none() | st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=20)))
def test_predicted_frames(motion, residual):
    assert nicv.unpack_predicted(nicv.pack_predicted(motion, residual)) == (motion, residual)


@pytest.mark.parametrize("payload", [b"", b"\1\0\0", b"\5\0\0\0abcd", b"\0\0\0\0abc"])
def test_predicted_frames_that_are_too_short(payload):
    with pytest.raises(errors.TruncatedError):
        nicv.unpack_predicted(payload)
