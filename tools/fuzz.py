"""Fuzzes the readers written in Python, guided by coverage: the container and the alpha plane.

    python tools/fuzz.py container|alpha [OPTION...] FOLDER|FILE...

With atheris (pip install atheris) this is a libFuzzer program: inputs that reach new code go into the first folder, and
options are libFuzzer's, such as -max_total_time=600. Without it, or with --once, every input is run once.

container: an input is a .nic file; if a checksum is wrong, it is read again with all of them repaired. A file that is
accepted must come out of the writer as it went in.

alpha: an input is width - 1, height - 1 and a mode, one byte each, then four bytes that choose a region. Then comes a
PNG, whose checksums are repaired if bit 0 of the mode is set; or, with bit 1, scan lines, which are compressed and cut
into chunks of as many bytes as the bits above say. A plane that is accepted must be Pillow's, and a region of it a part
of the whole.
"""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with (
    atheris.instrument_imports(include=["neurocodec.alpha", "neurocodec.container"])
    if atheris
    else (contextlib.nullcontext())
):
    from neurocodec import alpha, container

import numpy as np
from mutate import repaired
from PIL import Image

from neurocodec.errors import ChecksumError, NicFormatError

MAX_SIDE = 64  # pixels
BAND_BYTES = 64  # small, so that small inputs have several bands
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_text(error: NicFormatError) -> None:
    """Errors have one sentence, of a length that can be read."""
    assert 0 < len(str(error)) < 500, str(error)
    assert "\n" not in str(error), str(error)


def container_input(data: bytes) -> None:
    """Reads a .nic file; the damage of one with wrong checksums lies deeper, so it is read again with right ones."""
    try:
        nic = container.read(data, any_architecture=True)
    except ChecksumError as error:
        check_text(error)
        if (right := repaired(data)) != data:
            container_input(right)
    except NicFormatError as error:
        check_text(error)
    else:
        assert container.write(nic) == data
        container.info_of(nic, len(data))


def alpha_input(data: bytes) -> None:
    """Decodes an alpha plane, then a region of it."""
    if len(data) < 7:
        return
    width, height, mode = 1 + data[0] % MAX_SIDE, 1 + data[1] % MAX_SIDE, data[2]
    x, y = data[3] % width, data[4] % height
    region = (x, y, 1 + data[5] % (width - x), 1 + data[6] % (height - y))
    content = data[7:]
    if mode & 2:
        content = png_of(content, width, height, 1 + (mode >> 2))
    elif mode & 1:
        content = repaired_png(content)
    try:
        plane = alpha.decode_alpha(content, width, height)
    except NicFormatError as error:
        check_text(error)
        plane = None
    try:
        part = alpha.decode_alpha(content, width, height, region)
    except NicFormatError as error:
        check_text(error)
        assert plane is None, "a region of a good plane is refused"
        return
    assert part.shape == (region[3], region[2])
    if plane is None:  # what lies below a region is not read
        return
    assert plane.shape == (height, width)
    assert (part == plane[y : y + region[3], x : x + region[2]]).all()
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as im:
            im.load()
    except Exception:  # Pillow refuses damaged chunks that are of no use here
        return
    if im.mode == "L":  # a palette, though it has no meaning in a gray PNG, makes another mode of it
        assert (np.asarray(im) == plane).all()


def png_of(lines: bytes, width: int, height: int, piece: int) -> bytes:
    """The PNG of scan lines, each led by its filter, in chunks of `piece` bytes. Zeros stand in for missing lines."""
    stream = zlib.compress(lines.ljust((width + 1) * height, b"\0"))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))]
    chunks += [(b"IDAT", stream[at : at + piece]) for at in range(0, len(stream), piece)]
    return SIGNATURE + b"".join(map(chunk, *zip(*chunks, (b"IEND", b""), strict=True)))


def chunk(name: bytes, payload: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def repaired_png(data: bytes) -> bytes:
    """The PNG with right checksums, as far as its chunks can be followed."""
    out, at = bytearray(data), len(SIGNATURE)
    while at + 12 <= len(out):
        end = at + 8 + struct.unpack_from(">I", out, at)[0]
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


TARGETS: dict[str, Callable[[bytes], None]] = {"container": container_input, "alpha": alpha_input}


def main(argv: list[str]) -> int:
    """Fuzzes, or runs the inputs once."""
    target = TARGETS.get(argv[1] if len(argv) > 1 else "")
    if target is None or len(argv) < 3:
        print(__doc__)
        return 2
    alpha._BAND_BYTES = BAND_BYTES
    if atheris and "--once" not in argv:
        atheris.Setup([argv[0], *argv[2:]], target)
        atheris.Fuzz()
    paths = [Path(word) for word in argv[2:] if not word.startswith("-")]
    inputs = [path for given in paths for path in (sorted(given.iterdir()) if given.is_dir() else [given])]
    for path in inputs:
        try:
            target(path.read_bytes())
        except BaseException:
            print(path)
            raise
    print(f"{len(inputs)} inputs, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
