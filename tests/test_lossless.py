"""Lossless files: exact pictures of every kind, the lossy one first, and damage."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import neurocodec
from neurocodec import container
from neurocodec.integer import lossless

GOLDEN = (1063, 919878399)
"""Length and CRC-32 of a stream. If they change, so must the version of the format."""


def waves(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """A smooth picture with a little noise."""
    y, x, c = np.mgrid[:height, :width, :channels]
    noise = np.random.default_rng(0).normal(0, 2, y.shape)
    return np.clip(128 + 80 * np.sin(x / 9 + c) + 40 * np.cos(y / 7) + noise, 0, 255).astype(np.uint8)


def text(height: int, width: int) -> NDArray[np.uint8]:
    """Black marks on white."""
    marks = np.random.default_rng(1).random((-(-height // 4), -(-width // 3))) < 0.3
    return np.where(np.kron(marks, np.ones((4, 3), bool))[:height, :width, None], 0, 255).repeat(3, 2).astype(np.uint8)


PICTURES = {
    "one pixel": np.array([[[1, 2, 3]]], np.uint8),
    "odd sides": waves(33, 47, 3),
    "gray": waves(40, 30, 1)[..., 0],
    "flat": np.full((48, 64, 3), 77, np.uint8),
    "noise": np.random.default_rng(2).integers(0, 256, (40, 50, 3)).astype(np.uint8),
    "text": text(60, 70),
    "one row": waves(1, 90, 3),
    "one column": waves(90, 1, 3),
    "alpha": waves(20, 30, 4),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_exact(name: str) -> None:
    picture = PICTURES[name]
    decoded = neurocodec.decode(neurocodec.encode(picture, lossless=True))
    assert np.array_equal(np.asarray(decoded), picture)


def test_tiles_and_regions_are_exact() -> None:
    picture = waves(40, 2100, 3)
    data = neurocodec.encode(picture, lossless=True)
    assert neurocodec.info(data).tiles == 3
    assert np.array_equal(np.asarray(neurocodec.decode(data)), picture)
    for x, y, width, height in ((0, 0, 1, 1), (1000, 3, 60, 20), (2090, 39, 10, 1)):
        region = np.asarray(neurocodec.decode(data, region=(x, y, width, height)))
        assert np.array_equal(region, picture[y : y + height, x : x + width])


def test_the_lossy_picture_comes_first() -> None:
    picture = PICTURES["odd sides"]
    data, lossy = neurocodec.encode(picture, quality=30, lossless=True), neurocodec.encode(picture, quality=30)
    info = neurocodec.info(data)
    assert (info.version, info.lossless, info.first_bytes) == (2, True, len(lossy))
    expected = np.asarray(neurocodec.decode(lossy))
    for part in (data, data[: len(lossy)], data[:-1]):
        assert np.array_equal(np.asarray(neurocodec.decode(part, lossless=False)), expected)
    with pytest.raises(neurocodec.TruncatedError):
        neurocodec.decode(data[:-1])


def test_smaller_than_png() -> None:
    picture = waves(128, 128, 3)
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG", optimize=True)
    assert len(neurocodec.encode(picture, lossless=True)) < 0.85 * len(png.getvalue())


def test_pillow_saves_and_opens() -> None:
    file = io.BytesIO()
    Image.fromarray(PICTURES["odd sides"]).save(file, "NIC", lossless=True)
    assert np.array_equal(np.asarray(Image.open(file)), PICTURES["odd sides"])


def test_what_cannot_be_meant_is_refused() -> None:
    picture = PICTURES["odd sides"]
    with pytest.raises(neurocodec.ArgumentValueError, match="target_bpp"):
        neurocodec.encode(picture, lossless=True, target_bpp=1)
    with pytest.raises(neurocodec.ImageError, match="8 bits per sample"):
        neurocodec.encode(picture.astype(np.uint16) * 257, lossless=True)
    with pytest.raises(neurocodec.ArgumentValueError, match="lossless=False"):
        neurocodec.decode(neurocodec.encode(picture, lossless=True), realism=1)


def test_a_damaged_residual_is_an_error() -> None:
    nic = container.read(neurocodec.encode(PICTURES["text"], lossless=True))
    stream = nic.residuals[0].stream
    rng = np.random.default_rng(3)
    damaged = [stream[:k] for k in (0, 3, 5, len(stream) - 2)] + [stream + b"\0\0"]
    for _ in range(60):
        changed = bytearray(stream)
        changed[rng.integers(len(stream))] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    for bad in damaged:  # the container's checksum is repaired
        data = container.write(replace(nic, residuals=(replace(nic.residuals[0], stream=bad),)))
        with pytest.raises(neurocodec.NicFormatError):
            neurocodec.decode(data)
    wrong = replace(nic.residuals[0], symbols_crc=nic.residuals[0].symbols_crc ^ 1)
    with pytest.raises(neurocodec.ChecksumError, match="other pixels"):
        neurocodec.decode(container.write(replace(nic, residuals=(wrong,))))


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 3), (5, 3, 1), (9, 37, 3), (3, 70, 1)])
@pytest.mark.parametrize("kind", ["noise", "flat", "extremes", "waves"])
def test_the_reference_codes_the_same_bytes(kind: str, height: int, width: int, channels: int) -> None:
    rng = np.random.default_rng(4)
    shape = height, width, channels
    exact = {
        "noise": rng.integers(0, 256, shape),
        "flat": np.full(shape, 200),
        "extremes": 255 * rng.integers(0, 2, shape),
        "waves": waves(*shape),
    }[kind].astype(np.uint8)
    x_hat = np.clip(exact.astype(int) + rng.integers(-9, 10, shape), 0, 255).astype(np.uint8)
    reference = lossless.Reference(x_hat)
    stream = reference.encode(exact)
    assert lossless.encode(exact, x_hat) == stream
    assert np.array_equal(lossless.decode(stream, x_hat), exact)
    assert np.array_equal(reference.decode(stream), exact)


def test_a_stream_never_changes() -> None:
    y, x, c = np.mgrid[:24, :40, :3]
    exact = ((y * y + 3 * x * y + 40 * c + 7 * (x % 5)) // 4 % 256).astype(np.uint8)
    x_hat = ((y * y + 3 * x * y + 40 * c) // 4 % 256).astype(np.uint8)
    stream = lossless.encode(exact, x_hat)
    assert np.array_equal(lossless.decode(stream, x_hat), exact)
    assert (len(stream), zlib.crc32(stream)) == GOLDEN


def test_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = PICTURES["odd sides"][:9, :11]
    data = neurocodec.encode(picture, lossless=True)
    monkeypatch.setenv("NEUROCODEC_NATIVE", "off")
    assert neurocodec.encode(picture, lossless=True) == data
    assert np.array_equal(np.asarray(neurocodec.decode(data)), picture)
