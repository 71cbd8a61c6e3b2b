"""Pictures: every kind of input, orientation, metadata, alpha, and files that are written."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from neurocodec import container, errors, image
from neurocodec.image import Picture, load, save_pil, to_pil

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_ICC = SRGB[:16] + b"GRAY" + SRGB[20:]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'


def as_gray(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.repeat(plane[:, :, None], 3, axis=2)


def png(samples: np.ndarray[Any, Any], depth: int, colour: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of any bit depth, which Pillow does not write. samples: (H, W) or (H, W, C)."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = (rows[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in bits]
    body = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *extra]
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in [*chunks, (b"IDAT", body), (b"IEND", b"")]:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def exif(orientation: int, order: str = "<") -> bytes:
    """A TIFF structure with Make, Orientation and a trailing block that no tag names."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    make = struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0"
    turn = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 2) + make + turn + struct.pack(order + "I", 0) + b"maker note"


def written(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# Arrays


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
def test_arrays(channels: int | None, dtype: Any) -> None:
    top = 255 if dtype is np.uint8 else 65535
    values = RNG.integers(0, top + 1, (5, 7) if channels is None else (5, 7, channels)).astype(dtype)
    picture = load(values)
    reduced = np.floor(values / (top // 255) + 0.5).astype(np.uint8).reshape(5, 7, -1)
    gray = channels in (None, 1, 2)
    assert picture.gray == gray
    assert picture.depth == (8 if top == 255 else 16)
    np.testing.assert_array_equal(picture.rgb, as_gray(reduced[:, :, 0]) if gray else reduced[:, :, :3])
    assert (picture.alpha is not None) == (channels in (2, 4))
    if picture.alpha is not None:
        np.testing.assert_array_equal(picture.alpha, reduced[:, :, -1])


def test_sixteen_bits_are_rounded_to_nearest_at_every_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
    np.testing.assert_array_equal(load(values).rgb[:, :, 0], expected)


def test_a_picture_does_not_alias_the_callers_array() -> None:
    values = RGBA.copy()
    picture = load(values)
    values[:] = 0
    np.testing.assert_array_equal(picture.rgb, RGBA[:, :, :3])
    np.testing.assert_array_equal(picture.alpha, RGBA[:, :, 3])
    assert picture.rgb.flags.c_contiguous


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RGB / 255, "float64"),
        (np.full((2, 2), np.nan, np.float32), "float32"),
        (RGB.astype(np.int32), "int32"),
        (RGB > 9, "bool"),
        (RGB[0, 0], r"shape \(3, 1, 1\)|shape \(3,\)"),
        (RGB[None], r"shape \(1, 5, 7, 3\)"),
        (RGB[:, :, [0, 1, 2, 0, 1]], "1 to 4 channels"),
        (RGB[:, :, :0], "1 to 4 channels"),
        (RGB[:0], "at least one pixel"),
        (RGB[:, :0], "at least one pixel"),
    ],
)
def test_arrays_that_are_no_picture(values: Any, words: str) -> None:
    with pytest.raises(errors.ImageError, match=words):
        load(values)


@pytest.mark.parametrize("source", [None, 3, [[1, 2]], b"bytes"])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="expected a path, an open file, a PIL image or a NumPy array"):
        load(source)


# Modes of Pillow


@pytest.mark.parametrize("mode", Image.MODES)
@pytest.mark.parametrize("size", [(7, 5), (1, 1)])
def test_every_mode_loads(mode: str, size: tuple[int, int]) -> None:
    picture = load(Image.new(mode, size))
    assert picture.rgb.shape == (size[1], size[0], 3)
    assert picture.rgb.dtype == np.uint8
    assert picture.gray == (mode in ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
    assert (picture.alpha is not None) == (mode in ("LA", "La", "PA", "RGBA", "RGBa"))
    assert to_pil(picture).mode == ("L" if picture.gray else "RGB") + ("A" if picture.alpha is not None else "")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_plain_modes_come_back_exactly(mode: str) -> None:
    im = Image.fromarray(RGBA).convert(mode)
    again = to_pil(load(im))
    assert again.mode == mode
    np.testing.assert_array_equal(np.asarray(again), np.asarray(im))


def test_an_opaque_alpha_channel_is_kept() -> None:
    picture = load(Image.new("RGBA", (2, 2), (1, 2, 3, 255)))
    assert picture.alpha is not None
    assert (picture.alpha == 255).all()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
def test_colour_modes_become_rgb_as_pillow_converts(mode: str) -> None:
    im = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(load(im).rgb, np.asarray(im.convert("RGB")))


def test_premultiplied_alpha_is_undone() -> None:
    im = Image.fromarray(RGBA).convert("RGBa")
    picture = load(im)
    np.testing.assert_array_equal(picture.rgb, np.asarray(im.convert("RGBA"))[:, :, :3])
    np.testing.assert_array_equal(picture.alpha, RGBA[:, :, 3])


def test_bilevel() -> None:
    im = Image.fromarray(GRAY).convert("1")
    np.testing.assert_array_equal(load(im).rgb[:, :, 0], np.asarray(im) * 255)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_wide_gray_modes(mode: str) -> None:
    values = RNG.integers(0, 65536, (5, 7))
    im = Image.new(mode, (7, 5))
    for y, x in np.ndindex(5, 7):
        im.putpixel((x, y), int(values[y, x]))
    picture = load(im)
    np.testing.assert_array_equal(picture.rgb[:, :, 0], (values * 255 + 32767) // 65535)
    assert (picture.depth, picture.gray) == (16, True)


def test_float_mode() -> None:
    picture = load(Image.fromarray(GRAY).convert("F"))
    np.testing.assert_array_equal(picture.rgb[:, :, 0], GRAY)
    assert picture.depth == 32
    assert load(Image.new("F", (2, 2), 0.0)).rgb.max() == 0


@pytest.mark.parametrize(
    ("im", "words"),
    [
        (Image.new("F", (2, 2), float("nan")), "nan"),
        (Image.new("F", (2, 2), 255.5), "0 to 255"),
        (Image.new("F", (2, 2), 0.5), "multiply it by 255"),
        (Image.new("F", (2, 2), 1.0), "multiply it by 255"),
        (Image.new("I", (2, 2), -1), "0 to 65535"),
        (Image.new("I", (2, 2), 65536), "0 to 65535"),
        (Image.new("RGB", (0, 2)), "at least one pixel"),
        (Image.new("F", (2, 0)), "at least one pixel"),
    ],
)
def test_pil_images_that_do_not_fit(im: Image.Image, words: str) -> None:
    with pytest.raises(errors.ImageError, match=words):
        load(im)


@pytest.mark.parametrize("transparency", [None, 2, b"\xff\x80\x00"])
def test_palettes(tmp_path: Path, transparency: int | bytes | None) -> None:
    im = Image.new("P", (4, 1))
    im.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    im.putdata([0, 1, 2, 3])
    path = tmp_path / "p.png"
    im.save(path, **({} if transparency is None else {"transparency": transparency}))
    picture = load(path)
    assert picture.rgb[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]]
    expected = {None: None, 2: [255, 255, 0, 255], b"\xff\x80\x00": [255, 128, 0, 255]}[transparency]
    assert (None if picture.alpha is None else picture.alpha[0].tolist()) == expected


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_gray_png_with_a_transparent_level(tmp_path: Path, depth: int) -> None:
    top = 2**depth - 1
    samples = np.array([[0, 1, top, top - 1]])
    picture = load(written(tmp_path, "a.png", png(samples, depth, 0, (b"tRNS", struct.pack(">H", top)))))
    np.testing.assert_array_equal(picture.rgb[:, :, 0], (samples * 255 + top // 2) // top)
    np.testing.assert_array_equal(picture.alpha, np.where(samples == top, 0, 255))
    assert picture.depth == max(depth, 8)
    assert picture.gray


@pytest.mark.parametrize("transparent", [0, 5, 17])
def test_gray_gif_with_a_transparent_level(transparent: int) -> None:
    """A palette of 256 grays, which Pillow opens in mode L."""
    levels = [0, 17, 17, 0]
    codes = [code for level in levels for code in (256, level)] + [257]  # LZW of nine bits, cleared before each pixel
    stream = sum(code << 9 * i for i, code in enumerate(codes)).to_bytes(11, "little")
    head = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0xF7, 0, 0) + bytes(i // 3 for i in range(768))
    extension = b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    data = head + extension + b"\x2c" + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x08\x0b" + stream + b"\0\x3b"
    picture = load(io.BytesIO(data))
    assert picture.gray
    assert picture.rgb[..., 0].ravel().tolist() == levels
    assert picture.alpha is not None
    assert picture.alpha.ravel().tolist() == [0 if level == transparent else 255 for level in levels]


def test_rgb_png_with_a_transparent_colour(tmp_path: Path) -> None:
    key = struct.pack(">HHH", *RGB[2, 3].tolist())
    picture = load(written(tmp_path, "a.png", png(RGB, 8, 2, (b"tRNS", key))))
    np.testing.assert_array_equal(picture.rgb, RGB)
    np.testing.assert_array_equal(picture.alpha, np.where((picture.rgb == RGB[2, 3]).all(axis=-1), 0, 255))


def same(one: Picture, other: Picture) -> None:
    np.testing.assert_array_equal(one.rgb, other.rgb)
    np.testing.assert_array_equal(
        np.zeros(0) if one.alpha is None else one.alpha, np.zeros(0) if other.alpha is None else other.alpha
    )
    assert (one.gray, one.depth) == (other.gray, other.depth)


KEYED = {
    "1-bit gray, white": (np.array([[0, 1, 1, 0]]), 1, 0, struct.pack(">H", 1)),
    "1-bit gray, black": (np.array([[0, 1, 1, 0]]), 1, 0, struct.pack(">H", 0)),
    "4-bit gray, black": (np.array([[0, 5, 15, 9]]), 4, 0, struct.pack(">H", 0)),
    "8-bit gray": (np.array([[0, 5, 255, 9]]), 8, 0, struct.pack(">H", 9)),
    "16-bit gray": (np.array([[0, 300, 65535, 9]]), 16, 0, struct.pack(">H", 300)),
    "8-bit RGB": (RGB, 8, 2, struct.pack(">HHH", *RGB[2, 3].tolist())),
}


@pytest.mark.parametrize("case", sorted(KEYED))
def test_a_loaded_image_keeps_the_transparency_of_its_file(tmp_path: Path, case: str) -> None:
    samples, depth, colour, key = KEYED[case]
    path = written(tmp_path, "a.png", png(samples, depth, colour, (b"tRNS", key)))
    expected = load(path)
    assert expected.alpha is not None
    assert 0 < (expected.alpha == 0).sum() < expected.alpha.size
    with Image.open(path) as im:
        im.load()
        same(load(im), expected)
        same(load(im.copy()), expected)


def test_a_loaded_image_of_16_bits_keeps_its_transparent_colour(tmp_path: Path) -> None:
    samples = np.array([[[0x1234, 0x5678, 0x9ABC], [0, 0, 0]]])
    path = written(tmp_path, "a.png", png(samples, 16, 2, (b"tRNS", struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))))
    for source in (path, loaded(path), loaded(path).copy()):
        picture = load(source)
        assert picture.alpha is not None
        assert picture.alpha.tolist() == [[0, 255]]
        assert picture.depth == 16


@pytest.mark.parametrize(
    ("samples", "depth", "colour", "key"),
    [
        (np.array([[0, 5, 15, 9]]), 4, 0, struct.pack(">H", 5)),
        (np.array([[0, 1, 2, 3]]), 2, 0, struct.pack(">H", 2)),
        (np.array([[[3, 0, 0], [0x1234, 0x5678, 0x9ABC]]]), 16, 2, struct.pack(">HHH", 3, 0, 0)),
    ],
)
def test_transparency_that_a_loaded_image_has_lost_is_an_error(
    tmp_path: Path, samples: Any, depth: int, colour: int, key: bytes
) -> None:
    path = written(tmp_path, "a.png", png(samples, depth, colour, (b"tRNS", key)))
    picture = load(path)
    assert picture.alpha is not None
    assert (picture.alpha == 0).sum() == 1
    with pytest.raises(errors.ImageError, match=r"was loaded before.*give its path"):
        load(loaded(path))


def loaded(path: Path) -> Image.Image:
    im = Image.open(path)
    im.load()
    return im


def test_a_loaded_tiff_keeps_its_twelve_bits(tmp_path: Path) -> None:
    """It once had mean level 8 instead of 127."""
    values = np.array([[0, 1, 2047, 2048, 4094, 4095]])
    packed = np.packbits((values.reshape(-1, 1) >> np.arange(11, -1, -1) & 1).astype(np.uint8).ravel()).tobytes()
    tags = [
        (256, 6),
        (257, 1),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 9 * 12 + 4),
        (277, 1),
        (278, 1),
        (279, len(packed)),
    ]
    folder = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path = written(tmp_path, "a.tif", b"II*\0\x08\0\0\0" + folder + bytes(4) + packed)
    for source in (path, Image.open(path), loaded(path)):
        picture = load(source)
        assert picture.rgb[0, :, 0].tolist() == [0, 0, 127, 128, 255, 255]
        assert (picture.depth, picture.gray) == (12, True)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif", "bmp"])
def test_a_path_an_open_file_and_an_image_give_the_same_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save_pil(to_pil(Picture(RGB, metadata={container.ICC: SRGB, container.EXIF: exif(1)})), path)
    expected = load(path)
    with open(path, "rb") as file:
        for source in (file, io.BytesIO(path.read_bytes()), Image.open(path), loaded(path)):
            picture = load(source)
            same(picture, expected)
            assert picture.metadata == expected.metadata


def test_a_matrix() -> None:
    assert (load(GRAY.view(np.matrix)).rgb == as_gray(GRAY)).all()


def test_a_side_that_no_file_can_have() -> None:
    with pytest.raises(errors.ImageError, match="16777216 pixels, more than 16777215 on a side"):
        load(np.zeros((2**24, 1), np.uint8))


def test_a_path_of_bytes(tmp_path: Path) -> None:
    save_pil(to_pil(Picture(RGB)), tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    entries = {os.fsdecode(entry.name): entry for entry in os.scandir(os.fsencode(tmp_path))}
    assert (load(entries["a.png"]).rgb == RGB).all()  # type: ignore[arg-type]
    with pytest.raises(errors.ImageError, match=r"b\.png is not a picture"):
        load(entries["b.png"])  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "colour"), [(2, 4), (3, 2), (4, 6)])
def test_sixteen_bit_colour_png(tmp_path: Path, channels: int, colour: int) -> None:
    samples = RNG.integers(0, 65536, (5, 7, channels))
    picture = load(written(tmp_path, "a.png", png(samples, 16, colour)))
    assert picture.depth == 16
    assert picture.gray == (channels == 2)
    # Pillow itself reduces these by dropping the lower byte: at most one level from the nearest
    expected = samples / 257
    first = picture.rgb[:, :, :1] if channels == 2 else picture.rgb
    assert np.abs(first - expected[:, :, : first.shape[2]]).max() <= 1
    if channels != 3:
        assert picture.alpha is not None
        assert np.abs(picture.alpha - expected[:, :, -1]).max() <= 1


def fine_file(kind: str, samples: np.ndarray[Any, Any]) -> bytes:
    """A file of 16-bit samples (H, W, C)."""
    height, width, channels = samples.shape
    if kind == "png":
        return png(samples, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    if kind in ("ppm", "pgm"):
        head = b"P%d\n# a comment\n%d %d\n65535\n" % (6 if channels == 3 else 5, width, height)
        return head + samples.astype(">u2").tobytes()
    if kind == "tiff of another byte order":
        body, start = samples.astype(">u2").tobytes(), 8 + 2 + 10 * 12 + 4
        tags = [(256, 3, 1, width << 16), (257, 3, 1, height << 16), (258, 3, 3, start), (259, 3, 1, 1 << 16)]
        tags += [(262, 3, 1, 2 << 16), (273, 4, 1, start + 6), (277, 3, 1, 3 << 16), (278, 3, 1, height << 16)]
        tags += [(279, 4, 1, len(body)), (284, 3, 1, 1 << 16)]
        folder = b"".join(struct.pack(">HHII", *tag) for tag in tags)
        return (
            struct.pack(">2sHIH", b"MM", 42, 8, len(tags)) + folder + bytes(4) + struct.pack(">HHH", 16, 16, 16) + body
        )
    imagecodecs = pytest.importorskip("imagecodecs")
    options = {} if kind == "tiff" else {"compression": "deflate", "predictor": 2}
    data: bytes = imagecodecs.tiff_encode(samples.squeeze(), **options)
    return data


FINE = [*(("png", n) for n in (1, 2, 3, 4)), ("ppm", 3), ("pgm", 1), ("tiff of another byte order", 3)]
FINE += [(kind, n) for kind in ("tiff", "tiff, compressed") for n in (1, 3, 4)]


@pytest.mark.parametrize(("kind", "channels"), FINE)
def test_sixteen_bits_are_read_at_full_depth(tmp_path: Path, kind: str, channels: int) -> None:
    y, x = np.mgrid[:40, :300]
    samples = ((x * 211 + y * 97)[..., None] + RNG.integers(0, 999, (40, 300, channels))).astype(np.uint16)
    path = written(tmp_path, "fine", fine_file(kind, samples))
    with path.open("rb") as file:
        for source in (path, file, Image.open(path)):
            fine = load(source, full_depth=True)
            assert (fine.depth, fine.rgb.dtype) == (16, np.uint16)
            assert (image.samples(fine) == samples).all()
    opened = Image.open(path)
    load(opened, full_depth=True)
    same(load(opened), load(loaded(path)))  # the image is left as Pillow loads it
    assert load(path).rgb.dtype == np.uint8


def test_full_depth_of_other_sources(tmp_path: Path) -> None:
    samples = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    assert (load(samples, full_depth=True).rgb == samples).all()
    assert load(RGB, full_depth=True).rgb.dtype == np.uint8
    gray = Image.fromarray(samples[..., 0])
    assert (load(gray, full_depth=True).rgb == as_gray(samples[..., 0])).all()
    levels = Image.fromarray((samples[..., 0] / 257).astype(np.float32))
    assert (load(levels, full_depth=True).rgb == as_gray(samples[..., 0])).all()
    twelve = samples >> 4
    picture = load(written(tmp_path, "a.ppm", b"P6 7 5 4095\n" + twelve.astype(">u2").tobytes()), full_depth=True)
    assert (picture.rgb == np.rint(twelve / 4095 * 65535)).all()
    with pytest.raises(errors.ImageError, match="damaged"):
        load(written(tmp_path, "cut.ppm", b"P6 7 5 4095\n" + bytes(200)), full_depth=True)
    key = samples[2, 3]
    data = png(samples, 16, 2, (b"tRNS", key.astype(">u2").tobytes()))
    alpha = load(written(tmp_path, "a.png", data), full_depth=True).alpha
    assert alpha is not None
    assert (alpha == np.where((samples == key).all(2), 0, 65535)).all()


def test_samples_change_their_depth_without_loss_where_they_can() -> None:
    wide = image.at_depth(RGB, 16)
    assert (image.to_8_bits(wide) == RGB).all()
    assert image.narrowed(wide).dtype == np.uint8
    wide[0, 0, 0] ^= 1
    assert (image.narrowed(wide) == wide).all()


@pytest.mark.parametrize(("package", "suffix"), [("pillow_heif", "heic"), ("pillow_jxl", "jxl")])
def test_formats_of_optional_packages(tmp_path: Path, package: str, suffix: str) -> None:
    module = pytest.importorskip(package)
    if package == "pillow_heif":
        module.register_heif_opener()
    source = Image.fromarray(RGB).resize((64, 48))
    source.save(tmp_path / f"a.{suffix}", quality=95)
    script = "import sys, neurocodec.image as i; p = i.load(sys.argv[1]); print(p.rgb.shape, p.rgb.mean())"
    command = [sys.executable, "-c", script, str(tmp_path / f"a.{suffix}")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.startswith("(48, 64, 3)")
    assert abs(float(out.split()[-1]) - np.asarray(source).mean()) < 3


@pytest.mark.parametrize(
    ("start", "package"),
    [(b"\0\0\0\x18ftypheic", "pillow-heif"), (b"\xff\x0a" + bytes(20), "pillow-jxl-plugin")],
)
def test_a_missing_package_is_named(tmp_path: Path, start: bytes, package: str) -> None:
    with pytest.raises(errors.ImageError, match=f"needs {package}"):
        load(written(tmp_path, "a", start + bytes(40)))


# Orientation and metadata


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_all_planes_and_reset(tmp_path: Path, orientation: int, order: str) -> None:
    path = tmp_path / "turned.png"
    Image.fromarray(RGBA).save(path, exif=exif(orientation, order))
    with Image.open(path) as im:
        upright = np.asarray(ImageOps.exif_transpose(im))
    picture = load(path)
    np.testing.assert_array_equal(picture.rgb, upright[:, :, :3])
    np.testing.assert_array_equal(picture.alpha, upright[:, :, 3])
    assert picture.rgb.flags.c_contiguous
    assert picture.metadata.get(container.EXIF) == exif(1, order)  # and every other byte as it was


def test_orientation_in_jpeg_and_in_xmp_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0" + exif(6))
    assert load(path).rgb.shape == (7, 5, 3)
    im = Image.fromarray(RGB)
    im.info["xmp"] = XMP
    picture = load(im)
    np.testing.assert_array_equal(picture.rgb, np.rot90(RGB, -1))
    assert picture.metadata.get(container.XMP) == XMP.replace(b'"6"', b'"1"')


def test_tiff_is_turned_once_and_keeps_its_description(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(RGB).save(path, tiffinfo={0x0112: 6, 0x010F: "maker"})
    picture = load(path)
    np.testing.assert_array_equal(picture.rgb, np.rot90(RGB, -1))
    assert picture.metadata.get(container.EXIF) is not None
    kept = Image.Exif()
    kept.load(picture.metadata[container.EXIF])
    assert dict(kept) == {0x010F: "maker"}


def test_tiff_tags_of_another_type_do_not_stop_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(RGB).save(path, tiffinfo={0x010F: "maker"})
    data = bytearray(path.read_bytes())
    at = data.index(b"\x0f\x01\x02\x00\x06\x00\x00\x00")
    data[at + 2 : at + 8] = b"\x0c\x00\x01\x00\x00\x00"  # one double instead of six letters
    path.write_bytes(data)
    picture = load(path)
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.metadata.get(container.EXIF) is None


def with_tags(kind: str, tag: int | None, exif_tag: int | None, xmp_tag: int | None) -> bytes:
    """A file of RGB. tag: orientation in the container's own place. exif_tag, xmp_tag: in EXIF and XMP; None leaves it
    out. The EXIF of a TIFF is its own folder, so there it cannot differ from `tag`."""
    out, options = io.BytesIO(), {}
    xmp = XMP if xmp_tag is None else XMP.replace(b'Orientation="6"', b'Orientation="%d"' % xmp_tag)
    if xmp_tag is None:
        xmp = XMP.replace(b'tiff:Orientation="6" ', b"")
    if kind == "TIFF":
        options = {"tiffinfo": {700: xmp, **({} if tag is None else {0x0112: tag})}}
    else:
        options = {"xmp": xmp, **({} if exif_tag is None else {"exif": b"Exif\0\0" + exif(exif_tag)})}
        options |= {"quality": 100} if kind == "AVIF" else {"lossless": True} if kind == "WEBP" else {}
    if kind == "PNG":
        options = {name: value for name, value in options.items() if name != "xmp"}
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.fromarray(RGB).save(out, kind, **options)
    return out.getvalue()


ORIENTATIONS = [
    ("TIFF", 1, None, 6, False),  # a tool turned the pixels, and left the XMP: it once came out sideways
    ("TIFF", 6, None, 1, True),
    ("TIFF", 6, None, 6, True),
    ("TIFF", 6, None, None, True),
    ("TIFF", None, None, 1, False),
    *((kind, None, 1, 6, False) for kind in ("PNG", "JPEG", "WEBP", "AVIF")),
    *((kind, None, 6, 1, True) for kind in ("PNG", "JPEG", "WEBP", "AVIF")),
    *((kind, None, 6, 6, True) for kind in ("PNG", "JPEG", "WEBP", "AVIF")),
    *((kind, None, 6, None, True) for kind in ("PNG", "JPEG", "WEBP", "AVIF")),
    *((kind, None, None, 6, True) for kind in ("PNG", "JPEG", "WEBP")),
    ("AVIF", None, None, 6, False),  # what its boxes do not turn is not turned
    ("PNG", None, 9, 6, False),  # a tag that means nothing turns nothing
]


@pytest.mark.parametrize(("kind", "tag", "exif_tag", "xmp_tag", "turned"), ORIENTATIONS)
@pytest.mark.parametrize("way", ["path", "opened", "loaded"])
def test_the_orientation_of_the_container_wins(
    tmp_path: Path, kind: str, tag: int | None, exif_tag: int | None, xmp_tag: int | None, turned: bool, way: str
) -> None:
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    path = written(tmp_path, "a.bin", with_tags(kind, tag, exif_tag, xmp_tag))
    with Image.open(path) as im:
        if way == "loaded":
            im.load()
        picture = load(path if way == "path" else im)
    if kind in ("JPEG", "AVIF"):  # of lossy pixels, the shape tells
        assert picture.rgb.shape == ((7, 5, 3) if turned else (5, 7, 3))
    else:
        np.testing.assert_array_equal(picture.rgb, np.rot90(RGB, -1) if turned else RGB)
    assert not picture.metadata.get(container.XMP) or b'Orientation="6"' not in picture.metadata[container.XMP]
    assert to_pil(picture).getexif().get(0x0112, 1) in (1, 9)  # nobody turns it again


@pytest.mark.parametrize("broken", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"nonsense" * 4])
def test_broken_exif_does_not_stop_a_picture(broken: bytes) -> None:
    im = Image.fromarray(RGB)
    im.info["exif"] = b"Exif\0\0" + broken
    picture = load(im)
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.metadata.get(container.EXIF) == (broken or None)


@pytest.mark.parametrize(
    ("mode", "icc", "kept"),
    [
        ("RGB", SRGB, True),
        ("RGBA", SRGB, True),
        ("P", SRGB, True),
        ("L", SRGB, False),
        ("L", GRAY_ICC, True),
        ("LA", GRAY_ICC, True),
        ("RGB", GRAY_ICC, False),
        ("CMYK", SRGB, False),
        ("RGB", b"short", False),
    ],
)
def test_icc_profile_is_kept_only_where_it_fits(mode: str, icc: bytes, kept: bool) -> None:
    im = Image.fromarray(RGBA).convert(mode)
    im.info["icc_profile"] = icc
    assert load(im).metadata.get(container.ICC) == (icc if kept else None)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff"])
def test_metadata_goes_through_files(tmp_path: Path, suffix: str) -> None:
    picture = Picture(
        RGB, metadata={container.ICC: SRGB, container.EXIF: exif(1), container.XMP: XMP.replace(b'"6"', b'"1"')}
    )
    path = tmp_path / f"a{suffix}"
    save_pil(to_pil(picture), path)
    again = load(path)
    assert again.metadata.get(container.ICC) == SRGB
    assert again.metadata.get(container.XMP) == picture.metadata.get(container.XMP)
    if suffix == ".tiff":  # TIFF holds the tags in its own folder
        assert again.metadata.get(container.EXIF) is not None
        assert b"abc\0" in again.metadata[container.EXIF]
    else:
        assert again.metadata.get(container.EXIF) == picture.metadata.get(container.EXIF)
    if suffix != ".jpg":
        np.testing.assert_array_equal(again.rgb, RGB)


# Files that are no picture


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    Image.new("RGB", (4, 4), "red").save(path, save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert (load(path).rgb == [255, 0, 0]).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_truncated_files_are_an_image_error(tmp_path: Path, suffix: str) -> None:
    out = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
        out, Image.registered_extensions()[f".{suffix}"]
    )
    data = out.getvalue()
    for end in (0, 1, 7, 20, 40, len(data) // 2):
        with pytest.raises(errors.ImageError, match=r"^\S*cut\.") as caught:
            load(written(tmp_path, f"cut.{suffix}", data[:end]))
        assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "directory"),
        (written(tmp_path, "a.txt", b"hello"), "not a picture that Pillow can read"),
        (written(tmp_path, "a.nic", b"\x8fNIC\x01"), "neurocodec decode"),
        (
            written(tmp_path, "bomb.png", png(np.zeros((1, 1), int), 8, 0)[:16] + b"\0\0\xff\xff" * 2 + bytes(17)),
            "bomb",
        ),
    ]:
        with pytest.raises(errors.ImageError, match=words):
            load(path)


@pytest.mark.parametrize("step", ["load", "convert"])
def test_too_little_memory_is_not_called_damage(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    im = Image.fromarray(RGB).convert("YCbCr")
    monkeypatch.setattr(Image.Image, step, lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(errors.ImageError, match="more memory than is free"):
        load(im)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.png"
    Image.fromarray(RGB).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(errors.ImageError, match="MAX_IMAGE_PIXELS"):
        load(str(path))


# Large pictures


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_picture_is_refused_from_its_header(tmp_path: Path) -> None:
    blank = png(np.zeros((1, 1), int), 8, 0)
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 11586, 11586, 8, 0, 0, 0, 0)  # a little more than 2^27 pixels
    path = written(tmp_path, "a.png", blank[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + blank[33:])
    for source in (path, Image.open(path)):
        tracemalloc.start()
        with pytest.raises(
            errors.ImageError, match="11586 x 11586 pixels, more than the limit of 134217728: raise max_"
        ):
            load(source)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
    with pytest.raises(errors.ImageError, match="4 x 3 pixels, more than the limit of 11"):
        load(np.zeros((3, 4), np.uint8), max_pixels=11)
    assert load(np.zeros((3, 4), np.uint8), max_pixels=12).rgb.shape == (3, 4, 3)


# Pipes


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif", "jp2"])
def test_a_pipe_is_read_once(tmp_path: Path, suffix: str) -> None:
    path, fifo = tmp_path / f"a.{suffix}", tmp_path / "fifo"
    save_pil(Image.fromarray(RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)), path)
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()), daemon=True)
    writer.start()
    same(load(fifo), load(path))
    writer.join(10)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")
def test_a_device_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(errors.ImageError, match="not a picture"):
        load("/dev/zero")


# Padding


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 1), (3, 33), (64, 63)])
@pytest.mark.parametrize("multiple", [1, 16, 64])
def test_padding_repeats_the_edge(size: tuple[int, int], multiple: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    padded = image.pad_to_multiple(x, multiple)
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert padded.shape[0] < size[0] + multiple
    assert padded.shape[1] < size[1] + multiple
    np.testing.assert_array_equal(padded[: size[0], : size[1]], x)
    assert (padded[size[0] :] == padded[size[0] - 1]).all()
    assert (padded[:, size[1] :] == padded[:, size[1] - 1 : size[1]]).all()


# Writing


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = written(tmp_path, "a.png", b"precious")
    with pytest.raises(errors.OutputError, match="exists; use --force"):
        save_pil(Image.fromarray(RGB), path)
    assert path.read_bytes() == b"precious"
    save_pil(Image.fromarray(RGB), path, force=True)
    np.testing.assert_array_equal(load(path).rgb, RGB)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("a.jpg", "RGBA", "JPEG cannot hold the alpha channel"),
        ("a.jpg", "LA", "JPEG cannot hold the alpha channel"),
        ("a.ppm", "LA", "cannot hold the alpha channel"),
        ("a.ppm", "RGBA", "cannot hold the alpha channel"),
        ("a.bmp", "RGBA", "cannot hold the alpha channel"),
        ("a.ico", "RGB", "would change the size"),
        ("a.icns", "RGB", "would change the size"),
        ("a.xyz", "RGB", "expected a picture format that Pillow writes"),
        ("a", "RGB", "expected a picture format that Pillow writes"),
        ("none/a.png", "RGB", "there is no folder"),
        ("a.nic", "RGB", "expected a picture format that Pillow writes"),
    ],
)
def test_pictures_that_cannot_be_written(tmp_path: Path, name: str, mode: str, words: str) -> None:
    with pytest.raises(errors.OutputError, match=words):
        save_pil(Image.fromarray(RGBA).convert(mode), tmp_path / name)
    assert os.listdir(tmp_path) == []


LOSSLESS = ("png", "tif", "webp", "bmp", "ppm", "tga", "jp2")


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_formats_that_are_called_lossless_are(tmp_path: Path, suffix: str, mode: str) -> None:
    """WebP once changed the colour of transparent pixels."""
    assert {"png": "PNG", "tif": "TIFF", "webp": "WebP", "jp2": "JPEG 2000"}.get(suffix, suffix.upper()) in str(
        save_pil.__doc__
    )
    rgba = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    rgba[::2, :, 3] = 0
    im = Image.fromarray(rgba).convert(mode)
    path = tmp_path / f"a.{suffix}"
    if mode in ("LA", "RGBA") and suffix in ("bmp", "ppm"):
        with pytest.raises(errors.OutputError, match="alpha"):
            save_pil(im, path)
        return
    save_pil(im, path)
    with Image.open(path) as again:
        np.testing.assert_array_equal(np.asarray(again.convert(mode)), np.asarray(im))


def test_every_suffix_of_jpeg_has_the_same_settings(tmp_path: Path) -> None:
    im = to_pil(
        Picture(
            RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8), metadata={container.ICC: SRGB, container.EXIF: exif(1)}
        )
    )
    for suffix in ("jpg", "jpeg", "jfif", "mpo"):
        save_pil(im, tmp_path / f"a.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / "a.jpg").read_bytes()


def test_metadata_too_long_for_the_format_is_an_error(tmp_path: Path) -> None:
    im = to_pil(Picture(RGB, metadata={container.EXIF: exif(1) + bytes(70000)}))
    with pytest.raises(errors.OutputError, match=r"JPEG cannot hold this picture .*use \.png"):
        save_pil(im, tmp_path / "a.jpg")
    assert os.listdir(tmp_path) == []


def test_metadata_of_a_wrong_type_is_an_error(tmp_path: Path) -> None:
    tags = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIIId", 0x010F, 12, 1, 26, 0, 1.5)  # the maker is a double
    with pytest.raises(errors.OutputError, match=r"TIFF cannot hold this picture .*use \.png"):
        save_pil(to_pil(Picture(RGB, metadata={container.EXIF: tags})), tmp_path / "a.tiff")
    assert os.listdir(tmp_path) == []


def test_tags_about_another_file_do_not_spoil_a_tiff(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0100], tags[0x0111], tags[0x010F] = 4000, 99, "maker"
    tags[0x8769] = {0x9003: "2024:01:02 03:04:05"}
    save_pil(
        to_pil(Picture(RGB, metadata={container.EXIF: tags.tobytes().removeprefix(b"Exif\0\0")})), tmp_path / "a.tiff"
    )
    picture = load(tmp_path / "a.tiff")
    np.testing.assert_array_equal(picture.rgb, RGB)
    kept = Image.Exif()
    kept.load(picture.metadata.get(container.EXIF) or b"")
    assert kept[0x010F] == "maker"
    assert kept.get_ifd(0x8769) == {0x9003: "2024:01:02 03:04:05"}


FULL_DISK = """
import resource, signal, sys
import numpy as np
from PIL import Image
from neurocodec import errors, image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
noise = np.random.default_rng(0).integers(0, 256, (64, 256, 3), np.uint8)
for name in sys.argv[1:]:
    try:
        image.save_pil(Image.fromarray(noise), name)
    except errors.OutputError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    names = [str(tmp_path / f"picture.{suffix}") for suffix in ("jp2", "png", "tif", "webp")]
    command = [sys.executable, "-c", FULL_DISK, *names]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    assert out.splitlines() == [f"{name} cannot be written: File too large" for name in names]
    assert not list(tmp_path.iterdir())
