"""Writes the golden container files: python tests/golden/container/make.py

valid/*.nic must be read, and written again byte for byte; invalid/*.nic must be rejected with the error that
expected.json names. This file builds them from docs/format.md alone and imports nothing of neurocodec, so it is a
second writer. Files that exist are a promise: one changes only together with the format's version and the changelog.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

HERE = Path(__file__).parent
MODEL = bytes(range(0x10, 0x18))


def sealed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def header(
    width: int = 5,
    height: int = 3,
    *,
    flags: int = 0,
    quality: int = 475,
    version: int = 1,
    signature: bytes = b"\x8fNIC",
) -> bytes:
    sides = width.to_bytes(3, "little") + height.to_bytes(3, "little")
    return sealed(signature + struct.pack("<BBH", version, flags, quality) + sides + MODEL)


def chunk(name: bytes, payload: bytes = b"") -> bytes:
    return sealed(name + struct.pack("<I", len(payload)) + payload)


def tile(stream: bytes = b"\x01\x02\x03", ordinal: int = 0, symbols: int = 0xCAFEF00D) -> bytes:
    fields = struct.pack("<II", len(stream), symbols)
    return fields + struct.pack("<I", zlib.crc32(fields + stream + struct.pack("<I", ordinal))) + stream


def filtered(shift: int, weights: int = 54) -> bytes:
    return chunk(b"Filt", bytes([shift, *range(weights)]))


def records(name: bytes, *each: bytes) -> bytes:
    return chunk(name, b"".join(struct.pack("<I", len(record)) + record for record in each))


END = chunk(b"Tile")
PALETTE = b"\x01\x10\x20\x30" + b"abcd"
"""One colour and the shortest stream."""
PLAIN = header() + tile()
CHUNKED = (
    header(flags=0b11)
    + chunk(b"iccp", b"profile")
    + chunk(b"Alph", b"a PNG")
    + chunk(b"dept", b"\x10")
    + chunk(b"zzzz", b"from the future")
    + END
    + tile(b"")
)
FINE = header(flags=1) + chunk(b"Al16", b"a PNG") + chunk(b"dept", b"\x0c") + END + tile()
TILED = header(513, 257, flags=1 << 2) + b"".join(tile(bytes([i] * i), i) for i in range(6))


LOSSLESS_HEADER = header(version=2, flags=1 << 5)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def valid() -> dict[str, bytes]:
    return {
        "plain": PLAIN,
        "chunks": CHUNKED,
        "alpha-16": FINE,
        "tiles": TILED,
        "filter": header(flags=1) + filtered(8) + END + tile(),
        "palette": header(flags=1) + records(b"Plte", PALETTE) + END + tile(),
        "palette-in-one-tile": header(513, 1, flags=1 | 1 << 2)
        + records(b"Plte", b"", PALETTE, b"")
        + END
        + b"".join(tile(ordinal=i) for i in range(3)),
        "z-streams": header(flags=1) + records(b"Zstr", b"abcd") + END + tile(),
        "z-streams-lossless": header(version=2, flags=1 | 1 << 5)
        + records(b"Zstr", b"abcd")
        + END
        + tile()
        + tile(ordinal=1),
        "largest": header(2**15, 2**15, quality=960) + tile(),
        "lossless": LOSSLESS_HEADER + tile() + tile(b"\x04\x05", 1),
    }


def invalid() -> dict[str, tuple[str, str, bytes]]:
    """name -> (error class, words of its message, bytes)."""
    chunks = header(flags=1)
    huge = struct.pack("<I", 2**32 - 1)
    return {
        "empty": ("TruncatedError", "empty", b""),
        "jpeg": ("NicFormatError", "a JPEG file, not a .nic", b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"),
        "png": ("NicFormatError", "a PNG file, not a .nic", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        "text": ("NicFormatError", "not a .nic file", b"hello, world\n"),
        "signature-damaged": ("NicFormatError", "signature is damaged", b"\x0f" + PLAIN[1:]),
        "signature-cut": ("TruncatedError", "header", PLAIN[:3]),
        "version-0": ("UnsupportedVersionError", "version 0", header(version=0) + tile()),
        "version-2": ("NicFormatError", "version 2", header(version=2) + tile()),
        "version-3": ("UnsupportedVersionError", "version 3", header(version=3) + tile()),
        "residual-missing": ("TruncatedError", "too early", LOSSLESS_HEADER + tile()),
        "residual-cut": ("TruncatedError", "tile 1 claims", LOSSLESS_HEADER + tile() + tile(ordinal=1)[:-1]),
        "residual-damaged": ("ChecksumError", "tile 1", LOSSLESS_HEADER + tile() + flipped(tile(ordinal=1), 13)),
        "residual-is-a-tile": ("ChecksumError", "tile 1", LOSSLESS_HEADER + tile() + tile()),
        "residual-of-deep": (
            "NicFormatError",
            "dept",
            header(version=2, flags=1 | 1 << 5) + chunk(b"dept", b"\x10") + END + tile() + tile(ordinal=1),
        ),
        "residual-extra": ("NicFormatError", "bytes follow", LOSSLESS_HEADER + tile() + tile(ordinal=1) * 2),
        "header-cut": ("TruncatedError", "header", PLAIN[:25]),
        "header-damaged": ("ChecksumError", "header", flipped(PLAIN, 8)),
        "header-only": ("TruncatedError", "too early", header()),
        "flag-5": ("NicFormatError", "reserved", header(flags=1 << 5) + tile()),
        "flag-6": ("NicFormatError", "reserved", header(flags=1 << 6) + tile()),
        "flag-7": ("NicFormatError", "reserved", header(flags=1 << 7) + tile()),
        "quality-961": ("NicFormatError", "quality index", header(quality=961) + tile()),
        "width-0": ("NicFormatError", "0 x 3", header(0, 3) + tile()),
        "height-0": ("NicFormatError", "5 x 0", header(5, 0) + tile()),
        "pixels-over-limit": ("NicFormatError", "limit", header(2**15, 2**15 + 1) + tile()),
        "pixels-2-48": ("NicFormatError", "limit", header(2**24 - 1, 2**24 - 1, flags=1 << 2) + tile()),
        "tile-code-needless": ("NicFormatError", "tile code 0", header(256, 256, flags=1 << 2) + tile()),
        "tiles-claimed-2-14": ("TruncatedError", "too early", header(2**15, 2**15, flags=1 << 2) + tile()),
        "chunk-list-missing": ("TruncatedError", "chunk list", chunks),
        "chunk-list-empty": ("NicFormatError", "none follow", chunks + END + tile()),
        "chunk-list-unended": ("NicFormatError", "chunk type", chunks + chunk(b"exif", b"x") + tile()),
        "chunk-type-digit": ("NicFormatError", "chunk type", chunks + chunk(b"1ccp", b"x") + END + tile()),
        "chunk-type-space": ("NicFormatError", "chunk type", chunks + chunk(b"exi ", b"x") + END + tile()),
        "chunk-type-latin": ("NicFormatError", "chunk type", chunks + chunk(b"ex\xeff", b"x") + END + tile()),
        "chunk-length-huge": ("NicFormatError", "limit", chunks + b"iccp" + huge + tile()),
        "chunk-length-past-end": (
            "TruncatedError",
            "claims 1000",
            chunks + b"iccp" + struct.pack("<I", 1000) + b"x" * 99,
        ),
        "chunk-damaged": ("ChecksumError", "iccp", flipped(CHUNKED, 26 + 8)),
        "chunk-twice": ("NicFormatError", "twice", chunks + 2 * chunk(b"exif", b"x") + END + tile()),
        "alpha-twice": (
            "NicFormatError",
            "two alpha planes",
            chunks + chunk(b"Alph", b"x") + chunk(b"Al16", b"x") + END + tile(),
        ),
        "chunk-unknown-required": (
            "UnsupportedVersionError",
            "Newf",
            chunks + chunk(b"Newf", b"x") + END + tile(),
        ),
        "chunk-end-not-empty": (
            "NicFormatError",
            "end marker",
            chunks + chunk(b"exif", b"x") + chunk(b"Tile", b"x") + tile(),
        ),
        "depth-empty": ("NicFormatError", "dept", chunks + chunk(b"dept") + END + tile()),
        "depth-8": ("NicFormatError", "dept", chunks + chunk(b"dept", b"\x08") + END + tile()),
        "depth-33": ("NicFormatError", "dept", chunks + chunk(b"dept", b"\x21") + END + tile()),
        "depth-two-bytes": ("NicFormatError", "dept", chunks + chunk(b"dept", b"\x10\x10") + END + tile()),
        "architecture-foreign": (
            "UnsupportedVersionError",
            "CompressAI network mbt2018-mean/mse/3",
            header(flags=1, quality=0) + chunk(b"Arch", b"compressai/mbt2018-mean/mse/3") + END + tile(),
        ),
        "architecture-malformed": (
            "NicFormatError",
            "Arch holds",
            header(flags=1, quality=0) + chunk(b"Arch", b"compressai/../x") + END + tile(),
        ),
        "filter-short": ("NicFormatError", "Filt holds 54", chunks + filtered(8, 53) + END + tile()),
        "filter-shift-5": (
            "NicFormatError",
            "Filt holds",
            chunks + filtered(5) + END + tile(),
        ),
        "filter-shift-11": (
            "NicFormatError",
            "Filt holds",
            chunks + filtered(11) + END + tile(),
        ),
        "filter-foreign": (
            "NicFormatError",
            "Filt for a network of another project",
            header(flags=1, quality=0) + filtered(8) + chunk(b"Arch", b"compressai/x/mse/3") + END + tile(),
        ),
        "filter-lossless": (
            "NicFormatError",
            "Filt",
            header(version=2, flags=1 | 1 << 5) + filtered(8) + END + tile() + tile(ordinal=1),
        ),
        "palette-empty": (
            "NicFormatError",
            "Plte has only empty records",
            chunks + records(b"Plte", b"") + END + tile(),
        ),
        "palette-no-record": ("NicFormatError", "Plte ends after 0", chunks + records(b"Plte") + END + tile()),
        "palette-no-colours": (
            "NicFormatError",
            "Plte has 8 bytes for tile 0 and its 0 colours",
            chunks + records(b"Plte", b"\0" + PALETTE[1:]) + END + tile(),
        ),
        "palette-short": (
            "NicFormatError",
            "Plte has 7 bytes for tile 0 and its 1 colours",
            chunks + records(b"Plte", PALETTE[:-1]) + END + tile(),
        ),
        "palette-length-huge": (
            "NicFormatError",
            "Plte claims 4294967295 bytes for tile 0",
            chunks + chunk(b"Plte", huge + PALETTE) + END + tile(),
        ),
        "palette-two": (
            "NicFormatError",
            "12 bytes after the last record",
            chunks + records(b"Plte", PALETTE, PALETTE) + END + tile(),
        ),
        "palette-foreign": (
            "NicFormatError",
            "Plte for a network of another project",
            header(flags=1, quality=0)
            + records(b"Plte", PALETTE)
            + chunk(b"Arch", b"compressai/x/mse/3")
            + END
            + tile(),
        ),
        "palette-lossless": (
            "NicFormatError",
            "Plte",
            header(version=2, flags=1 | 1 << 5) + records(b"Plte", PALETTE) + END + tile() + tile(ordinal=1),
        ),
        "z-stream-short": (
            "NicFormatError",
            "Zstr has 3 bytes for tile 0",
            chunks + records(b"Zstr", b"abc") + END + tile(),
        ),
        "z-stream-missing": (
            "NicFormatError",
            "Zstr ends after 1 of 1 x 3",
            header(513, 1, flags=1 | 1 << 2)
            + records(b"Zstr", b"abcd")
            + END
            + b"".join(tile(ordinal=i) for i in range(3)),
        ),
        "z-streams-foreign": (
            "NicFormatError",
            "Zstr for a network of another project",
            header(flags=1, quality=0)
            + records(b"Zstr", b"abcd")
            + chunk(b"Arch", b"compressai/x/mse/3")
            + END
            + tile(),
        ),
        "tile-cut": ("TruncatedError", "tile 0", PLAIN[:-1]),
        "tile-length-huge": ("TruncatedError", "tile 0 claims", header() + huge + tile()[4:]),
        "tile-stream-damaged": ("ChecksumError", "tile 0", flipped(PLAIN, len(PLAIN) - 1)),
        "tile-symbols-damaged": ("ChecksumError", "tile 0", flipped(PLAIN, 26 + 4)),
        "tiles-swapped": (
            "ChecksumError",
            "tile 0",
            header(513, 1, flags=1 << 2) + tile(b"b", 1) + tile(b"a", 0) + tile(b"c", 2),
        ),
        "tile-last-missing": (
            "TruncatedError",
            "before tile 5",
            TILED[:26] + b"".join(tile(b"abc", i) for i in range(5)),
        ),
        "tile-extra": ("NicFormatError", "15 bytes follow", PLAIN + tile(ordinal=1)),
        "trailing-byte": ("NicFormatError", "1 byte follows", PLAIN + b"\0"),
    }


def files() -> dict[str, bytes]:
    """Path below this folder -> content."""
    rejected = invalid()
    index = {f"{name}.nic": {"error": error, "message": words} for name, (error, words, _) in rejected.items()}
    out = {f"valid/{name}.nic": data for name, data in valid().items()}
    out |= {f"invalid/{name}.nic": data for name, (_, _, data) in rejected.items()}
    out["expected.json"] = (json.dumps(index, indent=1, sort_keys=True) + "\n").encode()
    return out


if __name__ == "__main__":
    for path, content in files().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_bytes(content)
    print(f"wrote {len(files())} files to {HERE}")
