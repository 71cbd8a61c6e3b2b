"""The .nic container: round trips, golden files, and every way a file can be wrong."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neurocodec
from neurocodec import container, errors
from neurocodec.container import Header, NicFile, Tile, describe, read, read_header, tile_grid, write

GOLDEN = Path(__file__).parent / "golden" / "container"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
MODEL = bytes(range(0x10, 0x18))
TYPED = (errors.TruncatedError, errors.ChecksumError, errors.UnsupportedVersionError, errors.NicFormatError)


def small(*, tiles: int = 1, chunks: dict[str, bytes] | None = None) -> NicFile:
    edge = None if tiles == 1 else 256
    header = Header(5 if tiles == 1 else 256 * tiles, 3, 475, MODEL, gray=True, tile_edge=edge)
    return NicFile(header, chunks or {}, tuple(Tile(bytes([i, 7, 9]), 0xCAFEF00D + i) for i in range(tiles)))


@st.composite
def nic_files(draw: st.DrawFn) -> NicFile:
    edge = draw(st.sampled_from([None, *container.TILE_EDGES]))
    if edge is None:
        width = draw(st.integers(1, 2**24 - 1))
        height = draw(st.integers(1, min(2**24 - 1, container.MAX_PIXELS // width)))
    else:
        width, height = draw(st.integers(1, 4 * edge)), draw(st.integers(1, 4 * edge))
        if width <= edge and height <= edge:
            width += edge
        height = min(height, container.MAX_PIXELS // width)
        if width <= edge and height <= edge:
            edge = None
    header = Header(
        width, height, draw(st.integers(0, 960)), draw(st.binary(min_size=8, max_size=8)), draw(st.booleans()), edge
    )
    optional = st.from_regex(r"[a-z][A-Za-z0-9]{3}", fullmatch=True).filter(lambda name: name != "dept")
    chunks = draw(st.dictionaries(st.one_of(optional, st.just("Alph")), st.binary(max_size=40), max_size=4))
    if draw(st.booleans()):
        chunks["dept"] = bytes([draw(st.integers(9, 32))])
    rows, cols = tile_grid(header)
    streams = draw(st.lists(st.binary(max_size=20), min_size=rows * cols, max_size=rows * cols))
    crc = draw(st.integers(0, 2**32 - 1))
    return NicFile(header, chunks, tuple(Tile(stream, crc ^ i) for i, stream in enumerate(streams)))


@settings(max_examples=150)
@given(nic_files())
def test_read_gives_back_what_was_written(nic: NicFile) -> None:
    data = write(nic)
    again = read(data)
    assert again == nic
    assert list(again.chunks) == list(nic.chunks)
    assert read_header(data[: container.HEADER_BYTES]) == nic.header
    info = describe(data)
    assert (info.width, info.height, info.tiles, info.bytes) == (
        nic.header.width,
        nic.header.height,
        len(nic.tiles),
        len(data),
    )


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: write(small())[:26] + tail)))
def test_arbitrary_bytes_are_a_typed_error_or_canonical(data: bytes) -> None:
    try:
        nic = read(data)
    except errors.NicFormatError:
        return
    assert write(nic) == data


def test_a_plain_picture_costs_38_bytes() -> None:
    nic = small()
    assert len(write(nic)) - len(nic.tiles[0].stream) == 38


CORRUPTED = [small(chunks={"iccp": b"profile", "zzzz": b"", "dept": b"\x10"}), small(tiles=3)]


@pytest.mark.parametrize("nic", CORRUPTED, ids=["chunks", "tiles"])
def test_every_truncation_is_a_typed_error(nic: NicFile) -> None:
    data = write(nic)
    for end in range(len(data)):
        with pytest.raises(errors.TruncatedError):
            read(data[:end])


@pytest.mark.parametrize("nic", CORRUPTED, ids=["chunks", "tiles"])
def test_every_changed_byte_is_a_typed_error(nic: NicFile) -> None:
    data = write(nic)
    for at in range(len(data)):
        for value in range(256):
            if value != data[at]:
                with pytest.raises(TYPED):
                    read(data[:at] + bytes([value]) + data[at + 1 :])


def test_every_removed_doubled_or_moved_byte_is_a_typed_error() -> None:
    data = write(CORRUPTED[0])
    for at in range(len(data)):
        for wrong in (
            data[:at] + data[at + 1 :],
            data[: at + 1] + data[at:],
            data[:at] + data[at + 1 : at + 2] + data[at : at + 1] + data[at + 2 :],
        ):
            if wrong != data:
                with pytest.raises(TYPED):
                    read(wrong)


def test_tiles_of_one_file_cannot_change_places() -> None:
    data = write(small(tiles=3))
    records = [data[26 + 15 * i : 41 + 15 * i] for i in range(3)]
    with pytest.raises(errors.ChecksumError, match="tile 1"):
        read(data[:26] + records[0] + records[2] + records[1])


@pytest.mark.parametrize("path", sorted((GOLDEN / "valid").glob("*.nic")), ids=lambda path: path.stem)
def test_golden_file_is_read_and_written_again(path: Path) -> None:
    data = path.read_bytes()
    assert write(read(data)) == data


def test_golden_files_mean_what_they_did() -> None:
    plain = NicFile(Header(5, 3, 475, MODEL), {}, (Tile(b"\x01\x02\x03", 0xCAFEF00D),))
    assert read((GOLDEN / "valid/plain.nic").read_bytes()) == plain
    chunks = {"iccp": b"profile", "Alph": b"a PNG", "dept": b"\x10", "zzzz": b"from the future"}
    assert read((GOLDEN / "valid/chunks.nic").read_bytes()) == NicFile(
        Header(5, 3, 475, MODEL, gray=True), chunks, (Tile(b"", 0xCAFEF00D),)
    )
    tiled = read((GOLDEN / "valid/tiles.nic").read_bytes())
    assert tiled.header == Header(513, 257, 475, MODEL, tile_edge=256)
    assert tile_grid(tiled.header) == (2, 3)
    assert [tile.stream for tile in tiled.tiles] == [bytes([i] * i) for i in range(6)]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_invalid_file_is_rejected(name: str) -> None:
    kind, words = EXPECTED[name]["error"], EXPECTED[name]["message"]
    with pytest.raises(errors.NicFormatError, match=re.escape(words)) as caught:
        read((GOLDEN / "invalid" / name).read_bytes())
    assert type(caught.value).__name__ == kind
    assert "\n" not in str(caught.value)


def test_committed_golden_files_are_what_make_py_writes() -> None:
    built = runpy.run_path(str(GOLDEN / "make.py"))["files"]()
    committed = {
        path.relative_to(GOLDEN).as_posix(): path.read_bytes()
        for path in GOLDEN.rglob("*")
        if path.suffix in (".nic", ".json")
    }
    assert committed == built


@pytest.mark.parametrize("name", ["pixels-2-48", "tiles-claimed-2-14", "chunk-length-huge", "tile-length-huge"])
def test_claimed_sizes_take_no_memory(name: str) -> None:
    data = (GOLDEN / "invalid" / f"{name}.nic").read_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(errors.NicFormatError):
            read(data, max_pixels=2**48)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_pixel_limit_is_the_callers() -> None:
    data = write(small())
    assert read(data, max_pixels=15) == small()
    with pytest.raises(errors.NicFormatError, match="5 x 3 pixels, more than the limit of 14"):
        read(data, max_pixels=14)
    with pytest.raises(errors.NicFormatError, match="limit of 14"):
        read_header(data, max_pixels=14)


@pytest.mark.parametrize(
    ("nic", "error", "words"),
    [
        (NicFile(Header(0, 3, 0, MODEL), {}, small().tiles), errors.NicFormatError, "0 x 3"),
        (NicFile(Header(2**24, 1, 0, MODEL), {}, small().tiles), errors.NicFormatError, "16777215"),
        (NicFile(Header(2**20, 2**20, 0, MODEL), {}, small().tiles), errors.NicFormatError, "limit"),
        (NicFile(Header(5, 3, 961, MODEL), {}, small().tiles), errors.NicFormatError, "quality index"),
        (NicFile(Header(5, 3, -1, MODEL), {}, small().tiles), errors.NicFormatError, "quality index"),
        (NicFile(Header(5, 3, 0, b"short"), {}, small().tiles), errors.NicFormatError, "model id"),
        (NicFile(Header(999, 3, 0, MODEL, tile_edge=300), {}, small().tiles), errors.NicFormatError, "tile edge"),
        (NicFile(Header(5, 3, 0, MODEL, tile_edge=256), {}, small().tiles), errors.NicFormatError, "tile code 0"),
        (NicFile(Header(257, 3, 0, MODEL, tile_edge=256), {}, small().tiles), errors.NicFormatError, "1 x 2"),
        (NicFile(Header(5, 3, 0, MODEL), {}, ()), errors.NicFormatError, "0 tiles"),
        (NicFile(Header(5, 3, 0, MODEL), {}, (Tile(b"", 2**32),)), errors.NicFormatError, "tile 0"),
        (small(chunks={"Tile": b""}), errors.NicFormatError, "cannot name"),
        (small(chunks={"exif\n": b""}), errors.NicFormatError, "cannot name"),
        (small(chunks={"dept": b"\x08"}), errors.NicFormatError, "9 to 32"),
        (small(chunks={"Newf": b""}), errors.UnsupportedVersionError, "Newf"),
    ],
)
def test_write_refuses_what_read_would(nic: NicFile, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        write(nic)


def test_describe() -> None:
    chunks = {"iccp": bytes(300), "exif": bytes(20), "xmpd": bytes(7), "Alph": b"png", "dept": b"\x10"}
    nic = NicFile(Header(40, 20, 960, MODEL), chunks, small().tiles)
    info = describe(write(nic))
    assert (info.mode, info.quality, info.source_depth, info.tiles) == ("RGBA", 100.0, 16, 1)
    assert info.metadata == {"ICC": 300, "EXIF": 20, "XMP": 7}
    assert info.has_alpha
    assert info.model_id == "1011121314151617"
    assert info.bpp == pytest.approx(8 * info.bytes / 800)
    assert "16 bits" in info.note
    plain = describe(write(small()))
    assert (plain.mode, plain.note, plain.metadata, plain.source_depth) == ("L", "", {}, 8)


def test_a_file_of_another_projects_network() -> None:
    data = (GOLDEN / "invalid" / "architecture-foreign.nic").read_bytes()
    nic = read(data, any_architecture=True)
    assert nic.chunks == {"Arch": b"compressai/mbt2018-mean/mse/3"}
    assert write(nic) == data
    info = describe(data)
    assert info.architecture == "compressai/mbt2018-mean/mse/3"
    assert "another machine may fail to decode it" in info.note
    assert describe(write(small())).architecture == ""
    sentence = (
        "CompressAI network mbt2018-mean/mse/3 with the weights 1011121314151617: install compressai and decode it"
    )
    for source in (data, GOLDEN / "invalid" / "architecture-foreign.nic"):
        with pytest.raises(errors.UnsupportedVersionError, match=sentence):
            neurocodec.decode(source)
    other = write(small(chunks={"Arch": b"other/network"}))
    with pytest.raises(errors.UnsupportedVersionError, match="network of other, which this release does not know"):
        read(other)


@pytest.mark.parametrize(
    "name", [b"", b"compressai", b"compressai/", b"/x", b"a//b", b"a/.b", b"A/b", b"a/b\n", b"a/b c", b"a/" + b"b" * 63]
)
def test_malformed_architectures(name: bytes) -> None:
    with pytest.raises(errors.NicFormatError, match="Arch holds"):
        write(small(chunks={"Arch": name}))
    write(small(chunks={"Arch": b"a/" + b"b" * 62}))


def test_importing_the_container_is_light() -> None:
    code = "import sys, neurocodec.container; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "numpy"} & set(loaded)
