"""The steerable pyramid is a tight frame with the published filters; textures take over its histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PHOTO
from PIL import Image

from neurocodec.cli.main import main
from neurocodec.errors import ImageError
from neurocodec.synthesis import pyramid

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """Cloth in the bundled photograph, uint8 (100, 130, 3)."""
    return np.asarray(Image.open(PHOTO).convert("RGB").crop((60, 300, 190, 400)))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(4, 9), st.integers(4, 9), st.integers(0, 99))
def test_collapse_inverts_and_squares_add_up(levels: int, orientations: int, h: int, w: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(h << levels, w << levels))
    bands = pyramid.decompose(x, levels, orientations)
    assert np.abs(pyramid.collapse(bands) - x).max() < 1e-12
    assert sum((band**2).sum() for _, band in bands.planes()) == pytest.approx((x**2).sum(), rel=1e-12)


def test_waves_arrive_in_the_bands_that_their_frequency_and_direction_name() -> None:
    """cos 2 pi (8 x) / 64 has a quarter of the Nyquist frequency: level 1 passes it whole, and with two orientations
    band 0, cos(angle), is all of it. Its derivative turns the cosine into a sine; the residuals hold nothing."""
    x = np.arange(64)
    for axis in (0, 1):
        wave = np.cos(2 * math.pi * 8 * x / 64)
        picture = np.tile(wave, (64, 1)) if axis == 0 else np.tile(wave, (64, 1)).T
        bands = pyramid.decompose(picture, 2, 2)
        energy = {name: (band**2).sum() for name, band in bands.planes()}
        assert energy[f"band 1,{axis}"] == pytest.approx(64 * 32, rel=1e-9)
        assert max(value for name, value in energy.items() if name != f"band 1,{axis}") < 1e-20
        sine = np.sin(2 * math.pi * 8 * x[::2] / 64)
        plane = bands.bands[1][axis][0] if axis == 0 else bands.bands[1][axis][:, 0]
        assert np.abs(plane) == pytest.approx(np.abs(2 * sine), abs=1e-9)  # half the samples a side, twice the values


def test_half_the_energy_passes_in_the_middle_of_the_octave() -> None:
    """log2 of the frequency 2^-0.5 is half way from 0 to -1: cos²(pi / 4) of the energy goes to the high band."""
    frequency = round(64 * 2**-0.5)  # of 64 at the Nyquist frequency
    wave = np.tile(np.cos(2 * math.pi * frequency * np.arange(128) / 128), (128, 1))
    share = (pyramid.decompose(wave, 1, 1).high ** 2).sum() / (wave**2).sum()
    assert share == pytest.approx(math.cos(math.pi / 2 * math.log2(frequency / 64)) ** 2, rel=1e-9)
    assert share == pytest.approx(0.5, abs=0.02)


def test_pyrtools_gives_the_same_bands() -> None:
    """Apart from its tables of the masks, 2e-5, and 2^level, because its bands keep no squares."""
    pyrtools = pytest.importorskip("pyrtools", reason="pip install pyrtools compares the pyramid with pyrtools")
    x = RNG.normal(size=(64, 96))
    ours = dict(pyramid.decompose(x, 3, 4).planes())
    theirs = pyrtools.pyramids.SteerablePyramidFreq(x, height=3, order=3).pyr_coeffs
    names = {"residual_highpass": ("high", 1), "residual_lowpass": ("low", 8)}
    assert len(theirs) == len(ours)
    for key, band in theirs.items():
        name, scale = names.get(key) or (f"band {key[0]},{key[1]}", 2 ** key[0])
        assert np.abs(scale * ours[name] - band).max() < 1e-4 * band.std(), name


def test_histograms_are_matched_by_rank() -> None:
    values = np.array([[5.0, -1.0], [2.0, 9.0]])
    assert np.array_equal(pyramid.match_histogram(values, np.array([1.0, 2, 3, 4])), [[3, 1], [2, 4]])
    # two samples for four values: the quantiles 1/8, 3/8, 5/8, 7/8 lie at -1/4, 1/4, 3/4 and 5/4 of them
    assert np.array_equal(pyramid.match_histogram(values, np.array([0.0, 4.0])), [[3, 0], [1, 4]])


def test_the_periodic_component_has_no_jump_at_the_border() -> None:
    ramp = np.tile(np.arange(64.0), (64, 1))
    periodic = pyramid.periodic_component(ramp)
    assert periodic.mean() == pytest.approx(ramp.mean())
    assert np.abs(periodic - periodic.mean()).max() < 0.5  # a ramp is little but its jump of 63
    turned = np.roll(np.tile(np.cos(2 * math.pi * np.arange(64) / 64), (64, 1)), 16, axis=1)
    change = np.abs(pyramid.periodic_component(turned) - turned).max()
    assert change < np.abs(turned[:, -1] - turned[:, 0]).max()  # what is periodic stays nearly as it is


def test_a_texture_takes_over_the_statistics_of_every_band(texture: np.ndarray) -> None:
    gray = texture[:96, :128].mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)
    made = pyramid.synthesise(gray, 96, 128, levels=2, iterations=10)
    noise = pyramid.match_histogram(RNG.normal(size=(96, 128)), np.sort(gray[..., 0], axis=None).astype(float))
    assert made.shape == (96, 128, 3)
    pictures = (pyramid.periodic_component(gray[..., 0].astype(float)), made[..., 0].astype(float), noise)
    target, result, start = (pyramid.statistics(picture, levels=2) for picture in pictures)
    for name, (deviation, skewness, kurtosis) in target.items():
        assert result[name][0] == pytest.approx(deviation, rel=0.1), name
        assert result[name][1] == pytest.approx(skewness, abs=0.5), name
        assert result[name][2] == pytest.approx(kurtosis, rel=0.25), name
    assert start["high"][0] > 2 * target["high"][0]  # what it started from is far from it


def test_same_seed_same_texture_and_colours_stay(texture: np.ndarray) -> None:
    first, again, other = (pyramid.synthesise(texture, 64, 64, levels=2, iterations=2, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for made in (first, other):
        assert np.abs(made.mean((0, 1)) - texture.mean((0, 1))).max() < 4


@pytest.mark.parametrize(("height", "width"), [(100, 128), (128, 0), (32, 128)])
def test_sides_that_do_not_fit_are_refused(texture: np.ndarray, height: int, width: int) -> None:
    with pytest.raises(ImageError, match="multiples of 16 and at least 64"):
        pyramid.synthesise(texture, height, width)
    with pytest.raises(ImageError, match="multiples of 16"):
        pyramid.synthesise(texture[:40], 64, 64)


def test_the_command_makes_a_texture(tmp_path, texture: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(texture).save(source)
    words = [
        "synth",
        "apply",
        "pyramid",
        str(source),
        "-o",
        str(output),
        "size=64",
        "levels=2",
        "iterations=2",
        "seed=3",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{output}: 64×64\n"
    expected = pyramid.synthesise(texture, 64, 64, levels=2, iterations=2, seed=3)
    assert np.array_equal(np.asarray(Image.open(output)), expected)
    assert main(words) == 1  # it exists
    assert main([*words[:3], str(source), "-o", str(tmp_path / "no.png"), "size=60", "levels=3"]) == 1
    assert "multiples of 8" in capsys.readouterr().err
