"""Pictures written in bands: the pixels, the metadata that Pillow would write, and what formats cannot hold."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from neurocodec import bands, container, image, metadata
from neurocodec.errors import OutputError

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>é</a></x:xmpmeta>'.encode()
STRIPS = (273, 278, 279)  # offsets, rows and sizes


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x010F], tags[0x8769] = "Maker", {0x9003: "2026:01:02 03:04:05", 0x829A: 0.02}
    return tags.tobytes().removeprefix(b"Exif\0\0")


CHUNKS = {container.ICC: ICC, container.EXIF: exif(), container.XMP: XMP, container.DEPTH: b"\x10"}


def samples_of(height: int, width: int, mode: str, depth: int) -> np.ndarray[Any, Any]:
    """Smooth, with noise and flat parts, so that every filter is chosen somewhere."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    values = (x * 3 + y * 2 + (x * y >> 6))[..., None] * 2 ** (depth - 8) + rng.integers(
        0, 9, (height, width, len(mode))
    )
    values[: height // 3, : width // 2] = 5
    return (values % 2**depth).astype(np.uint8 if depth == 8 else np.uint16)


def cut(samples: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """In bands of unequal height."""
    at, rows = 0, 1
    while at < len(samples):
        yield samples[at : at + rows]
        at, rows = at + rows, rows * 3


def written(name: str, samples: np.ndarray[Any, Any], mode: str, chunks: dict[str, bytes] | None = None) -> bytes:
    out, size = io.BytesIO(), (samples.shape[1], samples.shape[0])
    bands.write(out, name, size, mode, 8 * samples.itemsize, CHUNKS if chunks is None else chunks, cut(samples))
    return out.getvalue()


MODES = ("L", "LA", "RGB", "RGBA")


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, mode) for name in ("a.png", "a.tif") for mode in MODES), ("a.ppm", "L"), ("a.ppm", "RGB")],
)
@pytest.mark.parametrize("size", [(1, 1), (150, 257), (3, 40_000)])
def test_eight_bits_are_what_pillow_writes(size: tuple[int, int], name: str, mode: str) -> None:
    samples = samples_of(*size, mode, 8)
    whole = Image.fromarray(samples.squeeze(2) if len(mode) == 1 else samples)
    metadata.attach(whole, CHUNKS)
    pillow = image.to_file_bytes(whole, name)
    data = written(name, samples, mode)
    with Image.open(io.BytesIO(data)) as im, Image.open(io.BytesIO(pillow)) as expected:
        assert (im.format, im.mode, im.size) == (expected.format, mode, whole.size)
        np.testing.assert_array_equal(np.asarray(im), np.asarray(expected))
        assert im.info == expected.info
        if name == "a.tif":
            ours, theirs = im.tag_v2, expected.tag_v2  # type: ignore[attr-defined]
            assert {tag for tag in {*ours, *theirs} if ours.get(tag) != theirs.get(tag)} <= {*STRIPS, 34665}
        assert im.getexif().get_ifd(34665) == expected.getexif().get_ifd(34665)
    if name == "a.png":
        assert len(data) <= 1.1 * len(pillow)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
def test_sixteen_bits_come_back(name: str, mode: str) -> None:
    samples = samples_of(90, 133, mode, 16)
    if name == "a.ppm" and mode.endswith("A"):
        with pytest.raises(OutputError, match="cannot hold the alpha"):
            written(name, samples, mode)
        return
    data = written(name, samples, mode)
    if name == "a.tif" and mode == "LA":  # Pillow reads none
        imagecodecs = pytest.importorskip("imagecodecs")
        np.testing.assert_array_equal(imagecodecs.tiff_decode(data), samples)
        return
    picture = image.load(io.BytesIO(data), full_depth=True)
    np.testing.assert_array_equal(image.samples(picture), samples)
    assert picture.depth == 16
    assert picture.metadata.get(container.XMP) == (None if name == "a.ppm" else XMP)


def test_a_tiff_of_more_than_4_gib_is_refused_before_it_is_decoded() -> None:
    def never() -> Iterator[np.ndarray[Any, Any]]:
        pytest.fail("decoded for nothing")
        yield

    with pytest.raises(OutputError, match="4 GiB"):
        bands.write(io.BytesIO(), "a.tif", (30_000, 30_000), "RGB", 16, {}, never())
