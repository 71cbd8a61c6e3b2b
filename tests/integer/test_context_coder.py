"""Streams of adaptive contexts, palettes and z: C++ against the programs that define them, and damage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurocodec.entropy.native import extension
from neurocodec.errors import ChecksumError, NicFormatError, TruncatedError
from neurocodec.integer import hyper, palette

compiled = pytest.mark.skipif(extension() is None, reason="the extension is not built")


def drawn(seed: int, height: int, width: int, colours: int) -> NDArray[np.uint8]:
    """Indexes of a drawing of rectangles and dots, with some blocks left out."""
    rng = np.random.default_rng(seed)
    indexes = np.zeros((16 * height, 16 * width), np.uint8)
    for _ in range(12):
        top, left = rng.integers(0, 16 * height), rng.integers(0, 16 * width)
        indexes[top : top + rng.integers(1, 20), left : left + rng.integers(1, 20)] = rng.integers(colours)
    dots = rng.random(indexes.shape) < 0.02
    indexes[dots] = rng.integers(0, colours, int(dots.sum()))
    left_out = (rng.random((height, width)) < 0.2).repeat(16, 0).repeat(16, 1)
    indexes[left_out] = colours
    return indexes


def z_of(seed: int, shape: tuple[int, int, int], spread: float) -> NDArray[np.int32]:
    values = np.random.default_rng(seed).standard_cauchy(shape) * spread
    return np.rint(values).clip(-hyper.LARGEST, hyper.LARGEST).astype(np.int32)


@pytest.fixture(params=["C++", "Python"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both implementations in turn."""
    if request.param == "Python":
        monkeypatch.setenv("NEUROCODEC_NATIVE", "off")
    elif extension() is None:
        pytest.skip("the extension is not built")
    return str(request.param)


@compiled
@given(
    seed=st.integers(0, 9999),
    height=st.integers(1, 2),
    width=st.integers(1, 3),
    colours=st.sampled_from([1, 2, 3, 17, 64, 255]),
)
def test_a_palette_is_coded_as_defined(seed: int, height: int, width: int, colours: int) -> None:
    indexes = drawn(seed, height, width, colours)
    stream, costs = palette.encode(indexes, colours)
    assert np.array_equal(palette.decode(stream, height, width, colours), indexes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROCODEC_NATIVE", "off")
        defined, defined_costs = palette.encode(indexes, colours)
        assert np.array_equal(palette.decode(stream, height, width, colours), indexes)
    assert defined == stream
    assert np.array_equal(defined_costs, costs)


@compiled
@given(
    seed=st.integers(0, 9999),
    height=st.integers(1, 3),
    width=st.integers(1, 4),
    channels=st.integers(1, 9),
    spread=st.sampled_from([0.0, 0.3, 2.0, 50.0]),
)
def test_z_is_coded_as_defined(seed: int, height: int, width: int, channels: int, spread: float) -> None:
    z_hat = z_of(seed, (height, width, channels), spread)
    stream = hyper.encode(z_hat)
    assert np.array_equal(hyper.decode(stream, *z_hat.shape), z_hat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROCODEC_NATIVE", "off")
        assert hyper.encode(z_hat) == stream
        assert np.array_equal(hyper.decode(stream, *z_hat.shape), z_hat)


def test_costs_add_up_to_the_stream(either: str) -> None:
    indexes = drawn(3, 2, 3, 20)
    stream, costs = palette.encode(indexes, 20)
    assert costs[indexes[::16, ::16] == 20].sum() == 0
    assert len(stream) - 10 < costs.sum() / 2048 < 1.1 * len(stream) + 10


def test_what_repeats_costs_little(either: str) -> None:
    flat, _ = palette.encode(np.zeros((64, 64), np.uint8), 2)
    assert len(flat) < 12
    striped, _ = palette.encode(np.tile(np.arange(16, dtype=np.uint8) // 8, (64, 4)), 2)
    assert len(striped) < 60
    assert len(hyper.encode(np.full((4, 4, 8), 3, np.int32))) < 40


def test_the_largest_values_of_z_are_kept(either: str) -> None:
    z_hat = np.array([19, 20, 21, -20, -hyper.LARGEST, hyper.LARGEST, 0, 1], np.int32).reshape(1, 2, 4)
    assert np.array_equal(hyper.decode(hyper.encode(z_hat), 1, 2, 4), z_hat)


CODERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "palette": (palette.encode(drawn(1, 2, 3, 20), 20)[0], lambda stream: palette.decode(stream, 2, 3, 20)),
    "z": (hyper.encode(z_of(1, (3, 4, 8), 2.0)), lambda stream: hyper.decode(stream, 3, 4, 8)),
}


@pytest.mark.parametrize("name", CODERS)
def test_a_stream_that_is_cut_or_longer_is_an_error(name: str, either: str) -> None:
    stream, decode = CODERS[name]
    for length in (0, 3, 4, len(stream) // 2, len(stream) - 1):
        with pytest.raises(NicFormatError):
            decode(stream[:length])
    with pytest.raises(TruncatedError):
        decode(b"")
    with pytest.raises(ChecksumError, match="does not end"):
        decode(stream + b"\0")
    with pytest.raises(ChecksumError, match="does not end"):
        decode(stream[:-1] + bytes([stream[-1] ^ 1]))


@compiled
@pytest.mark.parametrize("name", CODERS)
def test_damage_has_the_same_effect_in_both(name: str) -> None:
    """An error of one type, or the same values: the checksums of the file tell then."""
    stream, decode = CODERS[name]
    rng = np.random.default_rng(5)

    def outcome(damaged: bytes) -> object:
        try:
            return np.asarray(decode(damaged)).tolist()
        except NicFormatError as error:
            return type(error)

    for _ in range(60):
        damaged = bytearray(stream)
        damaged[rng.integers(len(stream))] ^= 1 << int(rng.integers(8))
        ours = outcome(bytes(damaged))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NEUROCODEC_NATIVE", "off")
            assert outcome(bytes(damaged)) == ours


def test_a_colour_that_a_palette_lacks_is_an_error(either: str) -> None:
    """Index 2 of 3 colours has as many bits as index 3, which 3 colours do not have."""
    indexes = np.zeros((16, 16), np.uint8)
    indexes[3, 4] = 3
    stream, _ = palette.encode(indexes, 4)
    with pytest.raises(NicFormatError):
        palette.decode(stream, 1, 1, 3)
