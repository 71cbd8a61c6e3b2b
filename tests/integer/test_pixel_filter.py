"""The filter of decoded pixels: C++ against its definition, the fit, and files that carry one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import neurocodec
from neurocodec import codec, container, image, tiles
from neurocodec.entropy.native import extension
from neurocodec.errors import NicFormatError
from neurocodec.integer import pixel_filter
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.integer.pixel_filter import PixelFilter, Statistics
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.metrics import psnr
from neurocodec.model import Model

compiled = pytest.mark.skipif(extension() is None, reason="the extension is not built")


def noise(seed: int, height: int, width: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 65536, (height, width, 3)).astype(np.uint16)


def blurred(rgb: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Half of each pixel and a quarter of its left and right neighbours."""
    wide = rgb.astype(np.uint32)
    return ((np.roll(wide, -1, 1) + 2 * wide + np.roll(wide, 1, 1)) // 4).astype(np.uint16)


def by_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_filter, "extension", lambda: None)


@compiled
@given(
    seed=st.integers(0, 99),
    height=st.integers(1, 70),
    width=st.integers(1, 20),
    shift=st.sampled_from(container.FILTER_SHIFTS),
    extreme=st.booleans(),
)
def test_the_extension_computes_the_definition(seed: int, height: int, width: int, shift: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.choice([-128, 127], (3, 3, 6)) if extreme else rng.integers(-128, 128, (3, 3, 6))
    rgb = noise(seed, height, width)
    if extreme:
        rgb = np.where(rgb < 32768, 0, 65535).astype(np.uint16)
    found, decoded = PixelFilter(shift, weights.astype(np.int8)), noise(seed + 1, height, width)
    sums = Statistics.none()
    sums.add(decoded, rgb)
    with pytest.MonkeyPatch.context() as patch:
        expected = [found.define(rgb.astype(np.int64), depth) for depth in (8, 16)]
        by_definition(patch)
        defined = Statistics.none()
        defined.add(decoded, rgb)
        slow = [found(rgb, depth) for depth in (8, 16)]
    for depth, wide, narrow in zip((8, 16), expected, slow, strict=True):
        assert np.array_equal(found(rgb, depth), wide)
        assert np.array_equal(narrow, wide)
        assert found(rgb, depth).dtype == narrow.dtype
    assert np.array_equal(sums.products, defined.products)
    assert np.array_equal(sums.errors, defined.errors)


def test_the_fit_lowers_the_error_by_what_it_says(photo: NDArray[np.uint8]) -> None:
    """And the filter survives its chunk."""
    x = image.at_depth(photo[:160, :200], 16)
    x_hat, sums = blurred(x), Statistics.none()
    sums.add(x_hat[:80], x[:80])
    sums.add(x_hat[80:], x[80:])
    found, gain = sums.fit()
    again = PixelFilter.of(found.payload)
    assert len(found.payload) == container.FILTER_BYTES
    assert np.array_equal(again(x_hat, 16), found(x_hat, 16))

    def error(rgb: NDArray[np.uint16]) -> float:
        return float(np.square((rgb.astype(np.float64) - x) / 257).sum())

    assert error(found(x_hat, 16)) == pytest.approx(error(x_hat) - gain, rel=0.05)
    assert gain > 0.3 * error(x_hat)


def test_a_picture_without_error_needs_no_correction() -> None:
    x, none, same = noise(5, 40, 40), Statistics.none(), Statistics.none()
    same.add(x, x)
    for sums in (none, same):
        found, gain = sums.fit()
        assert gain == 0
        assert np.array_equal(found(x, 16), x)


@pytest.fixture(scope="module")
def filtered(photo: NDArray[np.uint8], base_model: Model) -> bytes:
    """A file of the bundled photograph that carries a filter."""
    data = codec.encode_picture(image.load(photo), base_model, 700)
    assert container.FILTER in container.read(data).chunks
    return data


def test_it_brings_the_picture_closer(filtered: bytes, photo: NDArray[np.uint8], base_model: Model) -> None:
    nic = container.read(filtered)
    plain = replace(nic, chunks={})
    with_filter, without = (psnr(photo, codec.decode_picture(n, base_model).rgb) for n in (nic, plain))
    assert with_filter > without + 0.03
    assert len(filtered) == len(container.write(plain)) + container.FILTER_BYTES + 2 * container.RECORD_BYTES


def test_regions_depths_and_definition_agree(filtered: bytes, base_model: Model) -> None:
    whole = np.asarray(neurocodec.decode(filtered))
    for x, y, width, height in ((0, 0, 40, 40), (100, 31, 65, 50), (250, 250, 30, 20)):
        part = np.asarray(neurocodec.decode(filtered, region=(x, y, width, height)))
        assert np.array_equal(part, whole[y : y + height, x : x + width])
    nic = container.read(filtered)
    fine = codec.decode_picture(nic, base_model, depth=16, region=(80, 80, 64, 64)).rgb
    assert np.array_equal(image.to_8_bits(fine), whole[80:144, 80:144])
    slow = LayerwiseNetwork(base_model, NumpyArithmetic())
    assert np.array_equal(codec.decode_picture(nic, slow, region=(80, 80, 32, 32)).rgb, whole[80:112, 80:112])


def test_realism_does_without_it(filtered: bytes) -> None:
    nic = container.read(filtered)
    plain = container.write(replace(nic, chunks={}))
    assert np.array_equal(*(np.asarray(neurocodec.decode(d, realism=0.5)) for d in (filtered, plain)))


def test_tiles_do_not_show(photo: NDArray[np.uint8], base_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of several tiles decodes as a whole to the pixels of a filter over the whole picture."""
    monkeypatch.setattr(codec.tiling, "tile_edge", lambda height, width: 256)
    data = codec.encode_picture(image.load(photo[:300, :320]), base_model, 700)
    nic = container.read(data)
    assert len(nic.tiles) == 4
    found = tiles.filter_of(nic)
    assert found
    fine = codec.decode_picture(replace(nic, chunks={}), base_model, depth=16).rgb
    decoded = codec.decode_picture(nic, base_model).rgb
    assert np.array_equal(decoded[:-2, :-2], found(fine, 8)[:-2, :-2])  # the last rows see the extended picture


def test_small_pictures_and_lossless_files_have_none(photo: NDArray[np.uint8]) -> None:
    for data in (neurocodec.encode(photo[:16, :16]), neurocodec.encode(photo[:90, :90], lossless=True)):
        assert container.FILTER not in container.read(data).chunks


@pytest.mark.parametrize("payload", [b"", bytes(54), bytes([6]) + bytes(53), bytes([5]) + bytes(54), bytes([11]) * 55])
def test_a_malformed_filter_is_refused(filtered: bytes, payload: bytes) -> None:
    nic = container.read(filtered)
    with pytest.raises(NicFormatError, match="Filt"):
        container.write(replace(nic, chunks={container.FILTER: payload}))


def test_it_does_not_go_with_a_foreign_network(filtered: bytes) -> None:
    nic = container.read(filtered)
    with pytest.raises(NicFormatError, match="Filt"):
        container.write(replace(nic, chunks={**nic.chunks, container.ARCHITECTURE: b"compressai/mbt2018/mse/1"}))
