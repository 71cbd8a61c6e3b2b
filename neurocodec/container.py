"""The .nic container: file bytes <-> header, chunks and coded tiles.

docs/format.md is normative; this module reads and writes it. It knows nothing of pixels, models or entropy coding: a
tile is an opaque stream and a checksum, which the caller computes over the decoded symbols. It imports nothing heavy,
so `neurocodec info` answers at once.

    bytes -> read_header -> Header                      checks the first 26 bytes only
    bytes -> read        -> NicFile -> write -> bytes   verifies everything; gives the same bytes again
    bytes -> describe    -> NicInfo                     what `neurocodec info` prints
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from neurocodec import files
from neurocodec.errors import (
    ArgumentValueError,
    ChecksumError,
    NeurocodecError,
    NicFormatError,
    TruncatedError,
    UnsupportedVersionError,
)

SIGNATURE = b"\x8fNIC"
VERSION = 1
LOSSLESS_VERSION = 2  # version 1 plus residual records, which make the picture exact
HEADER_BYTES = 26
RECORD_BYTES = 12  # fields of a tile besides its stream, or of a chunk besides its payload

MAX_SIDE = 2**24 - 1  # pixels
MAX_PIXELS = 2**30  # largest width * height of a file; decoding has a lower default, tiling.MAX_PIXELS
MAX_CHUNK_BYTES = 2**28
QUALITY_INDEX_MAX = 15 * 64  # in 1/64 of a row of the model's gain table
FILTER_BYTES, FILTER_SHIFTS = 55, range(6, 11)  # length, and values of the first byte
CONTEXT_STREAM_BYTES = 4  # of a stream of docs/contexts.md, at least
TILE_EDGES = (256, 512, 1024, 2048, 4096, 8192, 16384)  # tile codes 1 to 7

ICC = "iccp"
EXIF = "exif"
XMP = "xmpd"
ALPHA = "Alph"
ALPHA16 = "Al16"  # replaces ALPHA where 8 bits would lose precision
DEPTH = "dept"
FILTER = "Filt"  # corrects decoded pixels
PALETTE = "Plte"  # replaces blocks of decoded pixels
Z_STREAMS = "Zstr"  # z_hat, which then is not in the tiles' streams
ARCHITECTURE = "Arch"  # names a network of another project: docs/interop.md
METADATA = {ICC: "ICC", EXIF: "EXIF", XMP: "XMP"}
"""Chunks that encoding and decoding pass through unchanged, and their usual names."""
_END = "Tile"  # closes the chunk list

_FLAG_CHUNKS = 0b00000001
_FLAG_GRAY = 0b00000010
_FLAG_TILE = 0b00011100
_FLAG_LOSSLESS = 0b00100000  # version 2 only
_FLAG_RESERVED = 0b11000000

_HEADER = struct.Struct("<4sBBH3s3s8sI")
_U32 = struct.Struct("<I")
_TILE = struct.Struct("<III")
_CHUNK_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9]{3}", re.ASCII)
_ARCHITECTURE = re.compile(rb"(?=.{3,64}$)[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)+", re.DOTALL)


@dataclass(frozen=True)
class Header:
    """The fixed part of a .nic file.

    width, height: pixels, 1 to 2**24 - 1. quality_index: 0 to QUALITY_INDEX_MAX. model_id: 8 bytes.
    gray: the decoder returns mode L or LA. tile_edge: pixels, one of TILE_EDGES, or None for a single tile; it must be
    None if one tile of that edge would cover the picture. lossless: residual records follow the tile records.
    """

    width: int
    height: int
    quality_index: int
    model_id: bytes
    gray: bool = False
    tile_edge: int | None = None
    lossless: bool = False


@dataclass(frozen=True)
class Tile:
    """One tile: its entropy-coded stream and the CRC-32 of the symbols it decodes to."""

    stream: bytes
    symbols_crc: int


@dataclass(frozen=True)
class NicFile:
    """A whole .nic file. chunks: type -> payload, in file order. tiles: row by row, filling `tile_grid`.

    residuals: one per tile if the file is lossless; their symbols_crc is the CRC-32 of the tile's exact pixels.
    """

    header: Header
    chunks: dict[str, bytes] = field(default_factory=dict)
    tiles: tuple[Tile, ...] = ()
    residuals: tuple[Tile, ...] = ()


@dataclass(frozen=True)
class NicInfo:
    """What the fields of a .nic file say; no network runs.

    width, height: pixels. mode: mode of the decoded picture, L, LA, RGB or RGBA. quality: the user's number, 1 to 100.
    model_id: 16 hex digits. tiles: number of tiles. bytes: file length. bpp: file bits per pixel. metadata: size in
    bytes of each kind present, by the names ICC, EXIF and XMP. source_depth: bits per sample of the source picture;
    above 8, the file decodes to 16. note: sentences for the user, or empty. architecture: the content of chunk Arch,
    such as compressai/mbt2018-mean/mse/3, or empty; files that have one report quality 1 and decode to 8 bits.
    lossless: the picture is exact. first_bytes: length of the lossy picture at the start of a lossless file, or the
    whole length of a lossy file.
    """

    width: int
    height: int
    mode: str
    quality: float
    quality_index: int
    model_id: str
    tiles: int
    bytes: int
    bpp: float
    has_alpha: bool
    metadata: dict[str, int]
    source_depth: int
    version: int
    note: str
    architecture: str = ""
    lossless: bool = False
    first_bytes: int = 0


def tile_grid(header: Header) -> tuple[int, int]:
    """Rows and columns of tiles; (1, 1) if the picture is one tile."""
    edge = header.tile_edge
    return (1, 1) if edge is None else (-(-header.height // edge), -(-header.width // edge))


def join_records(records: Sequence[bytes]) -> bytes:
    """The payload of a chunk that has a record for each tile."""
    return b"".join(_U32.pack(len(record)) + record for record in records)


def tile_records(nic: NicFile, name: str) -> list[bytes]:
    """The records of a chunk, one for each tile; empty ones if the file lacks it."""
    rows, cols = tile_grid(nic.header)
    return _tile_records(nic.header, name, nic.chunks[name]) if name in nic.chunks else [b""] * (rows * cols)


def _tile_records(header: Header, name: str, payload: bytes) -> list[bytes]:
    """The inverse of `join_records`. Raises NicFormatError unless the payload holds a proper record for each tile."""
    rows, cols = tile_grid(header)
    records, at = [], 0
    for ordinal in range(rows * cols):
        if len(payload) - at < 4:
            raise NicFormatError(f"chunk {name} ends after {ordinal} of {rows} x {cols} tiles")
        (length,) = _U32.unpack_from(payload, at)
        record = payload[at + 4 : at + 4 + length]
        if len(record) < length:
            raise NicFormatError(f"chunk {name} claims {length} bytes for tile {ordinal}, more than are left")
        if name == Z_STREAMS and length < CONTEXT_STREAM_BYTES:
            raise NicFormatError(f"chunk {name} has {length} bytes for tile {ordinal}, fewer than a stream has")
        if name == PALETTE and record and not (record[0] and length >= 1 + 3 * record[0] + CONTEXT_STREAM_BYTES):
            raise NicFormatError(f"chunk {name} has {length} bytes for tile {ordinal} and its {record[0]} colours")
        records.append(record)
        at += 4 + length
    if not any(records):
        raise NicFormatError(f"chunk {name} has only empty records")
    if at != len(payload):
        raise NicFormatError(f"chunk {name} has {len(payload) - at} bytes after the last record")
    return records


def write(nic: NicFile) -> bytes:
    """The bytes of a .nic file. Raises NicFormatError if a field is out of range or the tiles do not fill the grid."""
    header = nic.header
    _check_header(header, max_pixels=MAX_PIXELS)
    rows, cols = tile_grid(header)
    if len(nic.tiles) != rows * cols:
        raise NicFormatError(f"{len(nic.tiles)} tiles were given for a grid of {rows} x {cols}")
    if len(nic.residuals) != rows * cols * header.lossless:
        raise NicFormatError(f"{len(nic.residuals)} residuals were given for a grid of {rows} x {cols}")

    flags = (_FLAG_CHUNKS if nic.chunks else 0) | (_FLAG_GRAY if header.gray else 0)
    if header.tile_edge is not None:
        flags |= (TILE_EDGES.index(header.tile_edge) + 1) << 2
    if header.lossless:
        flags |= _FLAG_LOSSLESS
    fields = _HEADER.pack(
        SIGNATURE,
        LOSSLESS_VERSION if header.lossless else VERSION,
        flags,
        header.quality_index,
        header.width.to_bytes(3, "little"),
        header.height.to_bytes(3, "little"),
        header.model_id,
        0,
    )[:-4]
    parts = [fields, _U32.pack(zlib.crc32(fields))]

    for name, payload in nic.chunks.items():
        if not _CHUNK_TYPE.fullmatch(name) or name == _END:
            raise NicFormatError(f"{name!r} cannot name a chunk: use a letter and three letters or digits, not {_END}")
        _check_chunk(name, len(payload), payload)
        parts += _chunk(name, payload)
    _check_pairs(nic.chunks)
    _check_against_header(header, nic.chunks)
    if nic.chunks:
        parts += _chunk(_END, b"")

    for ordinal, tile in enumerate((*nic.tiles, *nic.residuals)):
        if not 0 <= tile.symbols_crc < 2**32 or len(tile.stream) >= 2**32:
            raise NicFormatError(f"tile {ordinal} has a stream length or a symbol checksum that does not fit 32 bits")
        parts += [
            _TILE.pack(len(tile.stream), tile.symbols_crc, _tile_crc(tile.stream, tile.symbols_crc, ordinal)),
            tile.stream,
        ]
    return b"".join(parts)


def read_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the header from the first 26 bytes of a .nic file; the rest is not checked.

    Raises TruncatedError, ChecksumError, UnsupportedVersionError, or NicFormatError if the data are not a .nic file or
    a field is out of range.
    """
    return _read_header(data, max_pixels)[0]


def read(
    data: bytes, *, max_pixels: int = MAX_PIXELS, any_architecture: bool = False, residuals: bool = True
) -> NicFile:
    """Parses a .nic file and verifies every byte of it, before anything is decoded.

    Lengths are checked before anything is allocated, so the result is never larger than `data`. any_architecture:
    accept files for networks of other projects too. residuals: if False, a lossless file is read as the lossy one at
    its start, and the rest may be cut off or damaged. Raises the errors of `read_header`, also for chunks and tiles,
    and UnsupportedVersionError for an unknown required chunk or a network of another project.
    """
    header, has_chunks = _read_header(data, max_pixels)
    view = memoryview(data)
    chunks, at = _read_chunks(view, HEADER_BYTES) if has_chunks else ({}, HEADER_BYTES)
    _check_against_header(header, chunks)
    tiles, at = _read_tiles(view, at, header, 0)
    residual_tiles: tuple[Tile, ...] = ()
    if header.lossless and residuals:
        residual_tiles, at = _read_tiles(view, at, header, len(tiles))
    elif header.lossless:
        header, at = replace(header, lossless=False), len(view)
    if at != len(view):
        extra = len(view) - at
        follow = "1 byte follows" if extra == 1 else f"{extra} bytes follow"
        raise NicFormatError(f"{follow} the last tile, expected none: {_RETRY}")
    nic = NicFile(header, chunks, tiles, residual_tiles)
    if ARCHITECTURE in chunks and not any_architecture:
        raise UnsupportedVersionError(_foreign(chunks[ARCHITECTURE].decode("ascii"), header.model_id))
    return nic


def read_bytes(data: bytes | str | os.PathLike[str] | IO[bytes]) -> bytes:
    """The bytes of a .nic file: `data` itself, or what the file at a path or an open file holds.

    An open file is read from its current position. A file is read beyond its header only if that is the header of a
    .nic file. Raises what `read_header` raises, NicFormatError if the file cannot be read or has more than
    files.MAX_BYTES, and ArgumentTypeError for data of another type.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        try:
            return bytes(data)
        except ValueError as error:  # a released memoryview
            raise ArgumentValueError(f"the data cannot be read: {error}.") from error
    try:
        with files.reading(data) as file:
            read_header(file.read(HEADER_BYTES), max_pixels=MAX_SIDE**2)
            if (size := file.seek(0, os.SEEK_END)) > files.MAX_BYTES:
                raise NicFormatError(f"the file has {size} bytes, the limit is {files.MAX_BYTES}: {_RETRY}")
            file.seek(0)
            return file.read()
    except NeurocodecError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path, or a closed file
        name = f" {os.fsdecode(data)!r}" if isinstance(data, (str, os.PathLike)) else " the file"
        raise NicFormatError(f"cannot read{name}: {getattr(error, 'strerror', None) or error}") from error


def describe(data: bytes) -> NicInfo:
    """What `neurocodec info` prints. Verifies the whole file and raises what `read` raises; no network runs."""
    return info_of(read(data, any_architecture=True), len(data))


def info_of(nic: NicFile, size: int) -> NicInfo:
    """What `describe` returns, for a parsed file of `size` bytes."""
    header, chunks = nic.header, nic.chunks
    depth = chunks[DEPTH][0] if DEPTH in chunks else 8
    architecture = chunks.get(ARCHITECTURE, b"").decode("ascii")
    outcome = "they were reduced to 8" if architecture else "PNG, TIFF and PPM are written with 16"
    notes = [
        f"The source had {depth} bits per sample; {outcome}." if depth > 8 else "",
        "Its network computes in floating point: another machine may fail to decode it, with an error."
        if architecture
        else "",
    ]
    has_alpha = ALPHA in chunks or ALPHA16 in chunks
    return NicInfo(
        width=header.width,
        height=header.height,
        mode=("L" if header.gray else "RGB") + ("A" if has_alpha else ""),
        quality=1 + 99 * header.quality_index / QUALITY_INDEX_MAX,
        quality_index=header.quality_index,
        model_id=header.model_id.hex(),
        tiles=len(nic.tiles),
        bytes=size,
        bpp=8 * size / (header.width * header.height),
        has_alpha=has_alpha,
        metadata={kind: len(chunks[name]) for name, kind in METADATA.items() if name in chunks},
        source_depth=depth,
        version=LOSSLESS_VERSION if header.lossless else VERSION,
        note=" ".join(filter(None, notes)),
        architecture=architecture,
        lossless=header.lossless,
        first_bytes=size - sum(RECORD_BYTES + len(residual.stream) for residual in nic.residuals),
    )


def _read_header(data: bytes, max_pixels: int) -> tuple[Header, bool]:
    """The header, and whether chunks follow it."""
    if not data:
        raise TruncatedError("the file is empty, expected a .nic file: check that it was written or copied completely")
    if not SIGNATURE.startswith(bytes(data[:4])):
        raise NicFormatError(_not_a_nic(bytes(data[:16])))
    if len(data) > 4 and data[4] not in (VERSION, LOSSLESS_VERSION):
        raise UnsupportedVersionError(
            f"this .nic file has format version {data[4]}, this release reads versions {VERSION} "
            f"and {LOSSLESS_VERSION}: "
            "upgrade neurocodec, or get another copy of the file if it may be damaged"
        )
    if len(data) < HEADER_BYTES:
        raise TruncatedError(f"the file ends after {len(data)} bytes, inside the header of {HEADER_BYTES}: {_RETRY}")
    _, version, flags, quality_index, width, height, model_id, crc = _HEADER.unpack_from(data)
    if crc != zlib.crc32(data[: HEADER_BYTES - 4]):
        raise ChecksumError(f"the header's checksum does not match: {_RETRY}")
    if flags & _FLAG_RESERVED:
        raise NicFormatError(f"the header sets reserved flag bits (0x{flags:02x}): upgrade neurocodec")
    if bool(flags & _FLAG_LOSSLESS) != (version == LOSSLESS_VERSION):
        raise NicFormatError(
            f"the header of version {version} sets reserved flag bits or lacks its own (0x{flags:02x})"
        )
    code = (flags & _FLAG_TILE) >> 2
    header = Header(
        width=int.from_bytes(width, "little"),
        height=int.from_bytes(height, "little"),
        quality_index=quality_index,
        model_id=model_id,
        gray=bool(flags & _FLAG_GRAY),
        tile_edge=TILE_EDGES[code - 1] if code else None,
        lossless=version == LOSSLESS_VERSION,
    )
    _check_header(header, max_pixels)
    return header, bool(flags & _FLAG_CHUNKS)


def _read_chunks(view: memoryview, at: int) -> tuple[dict[str, bytes], int]:
    """The chunks that start at offset `at`, and the offset after their end marker."""
    chunks: dict[str, bytes] = {}
    while True:
        if len(view) - at < RECORD_BYTES:
            raise TruncatedError(f"the file ends at byte {len(view)}, inside the chunk list: {_RETRY}")
        name = bytes(view[at : at + 4]).decode("latin-1")
        (length,) = _U32.unpack_from(view, at + 4)
        if not _CHUNK_TYPE.fullmatch(name):
            raise NicFormatError(f"byte {at} holds {name!r}, expected a chunk type of a letter and 3 letters or digits")
        if length > MAX_CHUNK_BYTES:
            raise NicFormatError(f"chunk {name} claims {length} bytes, the limit is {MAX_CHUNK_BYTES}: {_RETRY}")
        end = at + 8 + length
        if len(view) - end < 4:
            raise TruncatedError(f"chunk {name} claims {length} bytes, more than are left: {_RETRY}")
        if _U32.unpack_from(view, end)[0] != zlib.crc32(view[at:end]):
            raise ChecksumError(f"the checksum of chunk {name} does not match: {_RETRY}")
        payload = view[at + 8 : end]
        at = end + 4
        if name == _END:
            if length:
                raise NicFormatError(f"the end marker {_END} holds {length} bytes, expected none")
            if not chunks:
                raise NicFormatError("the header announces chunks, but none follow")
            return chunks, at
        if name in chunks:
            raise NicFormatError(f"chunk {name} appears twice, expected at most one of each type")
        _check_chunk(name, length, payload)
        chunks[name] = bytes(payload)
        _check_pairs(chunks)


def _read_tiles(view: memoryview, at: int, header: Header, first: int) -> tuple[tuple[Tile, ...], int]:
    """One record per tile from offset `at`, and the offset after them. first: number of the first record."""
    rows, cols = tile_grid(header)
    if rows * cols * RECORD_BYTES > len(view) - at:  # checked before a list of that length is built
        raise TruncatedError(f"the file ends at byte {len(view)}, too early for {rows} x {cols} tiles: {_RETRY}")
    tiles = []
    for ordinal in range(first, first + rows * cols):
        if len(view) - at < RECORD_BYTES:
            raise TruncatedError(f"the file ends at byte {len(view)}, before tile {ordinal}: {_RETRY}")
        length, symbols_crc, crc = _TILE.unpack_from(view, at)
        at += RECORD_BYTES
        if length > len(view) - at:
            raise TruncatedError(f"tile {ordinal} claims {length} bytes, {len(view) - at} are left: {_RETRY}")
        stream = bytes(view[at : at + length])
        if crc != _tile_crc(stream, symbols_crc, ordinal):
            raise ChecksumError(f"the checksum of tile {ordinal} does not match: {_RETRY}")
        tiles.append(Tile(stream, symbols_crc))
        at += length
    return tuple(tiles), at


def _check_header(header: Header, max_pixels: int) -> None:
    """Checks the limits that writers and readers share."""
    width, height, edge = header.width, header.height, header.tile_edge
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise NicFormatError(f"the picture is {width} x {height} pixels, expected 1 to {MAX_SIDE} on each side")
    if width * height > max_pixels:
        raise NicFormatError(f"the picture is {width} x {height} pixels, more than the limit of {max_pixels}")
    if not 0 <= header.quality_index <= QUALITY_INDEX_MAX:
        raise NicFormatError(f"the quality index is {header.quality_index}, expected 0 to {QUALITY_INDEX_MAX}")
    if len(header.model_id) != 8:
        raise NicFormatError(f"the model id has {len(header.model_id)} bytes, expected 8")
    if edge is not None and edge not in TILE_EDGES:
        raise NicFormatError(f"the tile edge is {edge}, expected None or one of {TILE_EDGES}")
    if edge is not None and edge >= width and edge >= height:
        raise NicFormatError(f"one tile of edge {edge} covers all of {width} x {height}, expected tile code 0")


def _check_chunk(name: str, length: int, payload: bytes | memoryview) -> None:
    if length > MAX_CHUNK_BYTES:
        raise NicFormatError(f"chunk {name} has {length} bytes, the limit is {MAX_CHUNK_BYTES}: drop or shrink it")
    if name == DEPTH and (length != 1 or not 9 <= payload[0] <= 32):
        raise NicFormatError(f"chunk {name} holds {bytes(payload[:8]).hex()!r}, expected one byte from 9 to 32")
    if name == FILTER and (length != FILTER_BYTES or payload[0] not in FILTER_SHIFTS):
        raise NicFormatError(
            f"chunk {name} holds {length} bytes, {bytes(payload[:8]).hex()!r}, expected {FILTER_BYTES}, the first of "
            f"them from {FILTER_SHIFTS[0]} to {FILTER_SHIFTS[-1]}"
        )
    if name == ARCHITECTURE and not _ARCHITECTURE.fullmatch(payload):
        raise NicFormatError(
            f"chunk {name} holds {bytes(payload[:64])!r}, expected a name such as compressai/mbt2018-mean/mse/3"
        )
    if name[0].isupper() and name not in (ALPHA, ALPHA16, FILTER, PALETTE, Z_STREAMS, ARCHITECTURE):
        raise UnsupportedVersionError(
            f"the file needs the feature {name!r}, unknown to this release: upgrade neurocodec"
        )


def _check_pairs(chunks: dict[str, bytes]) -> None:
    """Checks for chunks that exclude each other."""
    if ALPHA in chunks and ALPHA16 in chunks:
        raise NicFormatError(f"the file has two alpha planes, {ALPHA} and {ALPHA16}: encode the picture again")
    for name in (FILTER, PALETTE, Z_STREAMS):
        if name in chunks and ARCHITECTURE in chunks:
            raise NicFormatError(f"the file has a {name} for a network of another project: encode the picture again")


def _check_against_header(header: Header, chunks: dict[str, bytes]) -> None:
    for name in (PALETTE, Z_STREAMS):
        if name in chunks:
            _tile_records(header, name, chunks[name])
    if header.lossless and (names := sorted({DEPTH, ALPHA16, FILTER, PALETTE, ARCHITECTURE} & chunks.keys())):
        raise NicFormatError(f"a lossless file cannot have a chunk {names[0]}, and this one does")


def _chunk(name: str, payload: bytes) -> list[bytes]:
    head = name.encode("ascii") + _U32.pack(len(payload))
    return [head, payload, _U32.pack(zlib.crc32(payload, zlib.crc32(head)))]


def _tile_crc(stream: bytes, symbols_crc: int, ordinal: int) -> int:
    """CRC-32 over length, symbol checksum, stream and ordinal; the file does not store the ordinal."""
    head = struct.pack("<II", len(stream), symbols_crc)
    return zlib.crc32(_U32.pack(ordinal), zlib.crc32(stream, zlib.crc32(head)))


def _foreign(architecture: str, model_id: bytes) -> str:
    """A sentence that says why neurocodec cannot decode the file, and what can."""
    library, _, model = architecture.partition("/")
    if library != "compressai":
        return f"the file needs the network {model} of {library}, which this release does not know: upgrade neurocodec"
    return (
        f"the file needs the CompressAI network {model} with the weights {model_id.hex()}: install compressai and "
        "decode it with neurocodec.interop.compressai.decode"
    )


_RETRY = "the file is damaged or incomplete, get another copy or encode it again"

_KINDS = (
    (rb"\xff\xd8\xff", "a JPEG"),
    (rb"\x89PNG", "a PNG"),
    (rb"GIF8", "a GIF"),
    (rb"RIFF....WEBP", "a WebP"),
    (rb"BM", "a BMP"),
    (rb"II\*\0|MM\0\*", "a TIFF"),
    (rb"....ftypavi[fs]", "an AVIF"),
    (rb"....ftyp(hei|mif1)", "a HEIC"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL"),
    (rb"BPG\xfb", "a BPG"),
)


def _not_a_nic(start: bytes) -> str:
    for pattern, kind in _KINDS:
        if re.match(pattern, start, re.DOTALL):
            return f"this is {kind} file, not a .nic file: encode it first, with `neurocodec encode`"
    if start[1:4] == SIGNATURE[1:]:
        return f"the signature is damaged, {start[:4].hex(' ')} instead of {SIGNATURE.hex(' ')}: {_RETRY}"
    return f"this is not a .nic file: it starts with {start[:4].hex(' ')}, expected {SIGNATURE.hex(' ')}"
