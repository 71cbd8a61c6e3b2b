"""g_a, h_a and g_s in integers: every implementation equals the definition, which follows the float networks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer.lively import CONFIG, REFERENCE, fast_networks, lively_network

from neurocodec.entropy.grid import LIMIT, MAX_LATENT, UNIT
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.entropy import context_input
from neurocodec.integer.native import NativeNetwork, kernels
from neurocodec.integer.network import LayerwiseNetwork, nearest_symbols
from neurocodec.integer.transforms import fine_pixels
from neurocodec.model import Model
from neurocodec.models.freeze import freeze
from neurocodec.models.scales import measure_scales
from neurocodec.tiling import LATENT, Window

QUALITY_INDEXES = (0, 333, 960)


@pytest.fixture(scope="module")
def lively() -> Model:
    network = lively_network()
    pictures = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))]
    return freeze(network, scales=measure_scales(network, pictures))


def random_pixels(height, width, seed=0):
    """Smooth, with noise and black and white spots; sides in latents."""
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[: LATENT * height, : LATENT * width]
    rgb = 128 + 90 * np.sin(np.stack([x / 9, y / 7, (x + y) / 11], 2)) + rng.normal(0, 12, (*x.shape, 3))
    rgb[rng.random(x.shape) < 0.01] = 0
    rgb[rng.random(x.shape) < 0.01] = 255
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality_index", QUALITY_INDEXES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 6), (5, 2)])
def test_all_implementations_equal_the_definition(lively, shape, quality_index):
    definition = LayerwiseNetwork(lively, REFERENCE)
    rgb = random_pixels(*shape)
    y = definition.analyse(rgb, quality_index)
    stream, latents = definition.encode(y, quality_index)
    pixels = definition.synthesise(latents.y_hat, quality_index)
    assert (definition.decode(stream, *shape, quality_index).y_hat == latents.y_hat).all()
    for name, network in fast_networks(lively):
        assert (network.analyse(rgb, quality_index) == y).all(), name
        fast_stream, fast = network.encode(y, quality_index)
        assert fast_stream == stream, name
        for result in (fast, network.decode(stream, *shape, quality_index)):
            assert (result.z_hat == latents.z_hat).all(), name
            assert all((a == b).all() for a, b in zip(result.symbols, latents.symbols, strict=True)), name
            assert (result.y_hat == latents.y_hat).all(), name
            assert result.checksum() == latents.checksum(), name
        assert (network.synthesise(latents.y_hat, quality_index) == pixels).all(), name


@pytest.mark.parametrize("quality_index", QUALITY_INDEXES)
def test_sixteen_bit_pixels_are_exact_and_contain_those_of_eight(lively, quality_index):
    definition = LayerwiseNetwork(lively, REFERENCE)
    rgb = random_pixels(3, 6)
    fine = np.random.default_rng(3).integers(0, 65536, rgb.shape, dtype=np.uint16)
    fine[:, :48] = rgb[:, :48].astype(np.uint16) * 257 + fine[:, :48] % 200
    wide = rgb.astype(np.uint16) * 257
    y, plain = definition.analyse(fine, quality_index), definition.analyse(rgb, quality_index)
    assert (y != plain).any()
    pixels, coarse = definition.synthesise(y, quality_index, 16), definition.synthesise(y, quality_index)
    assert pixels.dtype == np.uint16
    assert np.abs(pixels / 257 - coarse).max() <= 0.5
    assert len(np.unique(pixels)) > 256
    for name, network in [("NumPy", definition), *fast_networks(lively)]:
        assert (network.analyse(fine, quality_index) == y).all(), name
        assert (network.analyse(wide, quality_index) == plain).all(), name
        assert (network.synthesise(y, quality_index, 16) == pixels).all(), name


def test_every_16_bit_level_is_the_nearest_of_256_steps_a_level():
    levels = np.arange(65536)
    values = fine_pixels(levels.astype(np.uint16)).astype(np.int64)
    assert np.abs(257 * (values + 32768) - 256 * levels).max() <= 128
    assert (values[::257] == 256 * (np.arange(256) - 128)).all()


@pytest.mark.parametrize("largest", [1 << 14, MAX_LATENT])
def test_extreme_latents_saturate_alike(lively, largest):
    """What a forged stream may hold, and pixels of noise: activations are clamped everywhere, and nothing overflows."""
    rng = np.random.default_rng(0)
    y_hat = rng.integers(-largest, largest + 1, (3, 5, CONFIG.latent_channels)).astype(np.int32)
    noise = (rng.integers(0, 2, (48, 80, 3)) * 255).astype(np.uint8)
    definition = LayerwiseNetwork(lively, REFERENCE)
    for name, network in fast_networks(lively):
        for depth in (8, 16):
            assert (network.synthesise(y_hat, 500, depth) == definition.synthesise(y_hat, 500, depth)).all(), name
        assert (network.analyse(noise, 960) == definition.analyse(noise, 960)).all(), name
        assert network.encode(y_hat, 500)[0] == definition.encode(y_hat, 500)[0], name


def test_the_shipped_model_equals_the_definition(base_model, photo):
    definition = LayerwiseNetwork(base_model, REFERENCE)
    rgb = photo[64:128, 192:272]
    for quality_index in QUALITY_INDEXES:
        y = definition.analyse(rgb, quality_index)
        stream, latents = definition.encode(y, quality_index)
        pixels = definition.synthesise(latents.y_hat, quality_index)
        for name, network in fast_networks(base_model):
            assert (network.analyse(rgb, quality_index) == y).all(), name
            assert network.encode(y, quality_index)[0] == stream, name
            assert (network.synthesise(latents.y_hat, quality_index) == pixels).all(), name


@torch.no_grad()
@pytest.mark.parametrize("quality_index", QUALITY_INDEXES)
def test_integers_follow_the_float_networks(lively, quality_index):
    network = lively_network().double()
    row = torch.tensor([quality_index / 64], dtype=torch.float64)
    rgb = random_pixels(8, 8)
    integers = LayerwiseNetwork(lively, REFERENCE)

    y = integers.analyse(rgb, quality_index)
    x = torch.from_numpy(rgb / 255.0).permute(2, 0, 1)[None]
    y_float = network.g_a(x, row)[0].permute(1, 2, 0).double().numpy()
    difference = (y + 0.5) / UNIT - y_float  # y is rounded down
    assert np.abs(difference).max() < 0.02 * np.abs(y_float).max()
    assert np.sqrt(np.mean(difference**2)) < 0.004 * y_float.std() + 0.3 / UNIT

    _, latents = integers.encode(y, quality_index)
    z = network.h_a(torch.from_numpy(y / UNIT).permute(2, 0, 1)[None], row)[0].permute(1, 2, 0).numpy()
    assert latents.z_hat.any()
    assert np.abs(latents.z_hat - z).max() < 0.55
    assert np.mean(latents.z_hat == np.rint(z)) > 0.9  # of 32 values, some lie near a half

    y_hat = torch.from_numpy(latents.y_hat / UNIT).permute(2, 0, 1)[None]
    expected = 255 * network.g_s(y_hat, row)[0].permute(1, 2, 0).double().numpy()
    difference = integers.synthesise(latents.y_hat, quality_index) - expected.clip(0, 255)
    assert np.abs(difference).max() < 3.0
    assert np.sqrt(np.mean(difference**2)) < 0.35  # of rounding to whole levels alone it is 0.289
    assert expected.clip(0, 255).std() > 20


@given(st.integers(-1_000_000, 1_000_000), st.integers(-(2**20), 2**20))
def test_rounding_y_down_first_leaves_its_symbol_the_nearest(y, mean):
    """y in units of 1/512, as the last activations of g_a; means in units of 1/64."""
    symbol = int(nearest_symbols(np.array([y >> 3]), np.array([mean]))[0])
    if abs(symbol) < 65535:
        assert -256 <= y - 8 * mean - 512 * symbol < 256


def test_symbols_decode_to_the_nearest_latents():
    y = np.arange(-200, 200, dtype=np.int32)
    means = np.full_like(y, 13)
    symbols = nearest_symbols(y, means)
    assert np.abs(symbols * UNIT + means - y).max() == UNIT // 2
    assert nearest_symbols(np.array([13 - 32, 13 + 31, 13 + 32]), np.array([13])).tolist() == [0, 0, 1]
    assert nearest_symbols(np.array([MAX_LATENT, -MAX_LATENT]), np.array([-(2**21), 2**21])).tolist() == [65535, -65535]


def test_what_h_a_and_the_contexts_read_of_latents(small_model):
    table = small_model.arrays["entropy.log_table"]
    y = np.array([[[0, 1, -1, 2, 64, -192, 20000, -MAX_LATENT]]], np.int32)
    linear, logarithm = np.split(context_input(REFERENCE, y, table), 2, axis=2)
    assert linear.ravel().tolist() == [0, 1, 0, 1, 32, -96, 10000, -LIMIT]
    assert logarithm.ravel().tolist() == [0, 6, 6, 11, 256, 512, table[-1], table[-1]]


def test_h_a_repeats_the_edges_of_y(lively):
    rng = np.random.default_rng(0)
    y = rng.integers(-300, 300, (6, 3, CONFIG.latent_channels)).astype(np.int32)
    whole = np.pad(y, ((0, 2), (0, 1), (0, 0)), mode="edge")
    network = LayerwiseNetwork(lively, REFERENCE)
    assert (network.encode(y, 300)[1].z_hat == network.encode(whole, 300)[1].z_hat).all()


@pytest.mark.parametrize("part", ["analysis", "synthesis"])
def test_with_its_halo_a_window_is_exactly_a_part_of_the_whole(lively, part):
    height, width = 14, 13
    network = next(network for _, network in reversed(list(fast_networks(lively))))
    whole, window = Window(0, 0, height, width), Window(5, 4, 8, 7)
    rng = np.random.default_rng(0)
    y_hat = rng.integers(-200, 200, (height, width, CONFIG.latent_channels)).astype(np.int32)
    rgb = random_pixels(height, width)

    def seen_with(halo):
        seen = window.grow(halo, height, width)
        if part == "analysis":
            return network.analyse(rgb[seen.within(whole, LATENT)], 480)[window.within(seen)]
        return network.synthesise(y_hat[seen.within(whole)], 480)[window.within(seen, LATENT)]

    halo = CONFIG.analysis_halo if part == "analysis" else CONFIG.synthesis_halo
    expected = seen_with(99)
    assert halo < 4, "else the window with its halo is the whole"
    assert (seen_with(halo) == expected).all()
    assert not (seen_with(halo - 1) == expected).all()


def build_all(model):
    yield lambda: LayerwiseNetwork(model, REFERENCE)
    if kernels():
        yield lambda: NativeNetwork(model)


@pytest.mark.parametrize("network", ["g_a", "h_a", "g_s"])
def test_arrays_that_do_not_fit_are_refused(lively, network):
    layer = {"g_a": "g_a.latent_blocks.1.gate_in", "h_a": "h_a.down1", "g_s": "g_s.blocks.0.conv_dw"}[network]
    arrays = dict(lively.arrays)
    weight, shift, bias = (arrays[f"{layer}.{part}"] for part in ("weight", "shift", "bias"))
    changes = {
        "sums": [
            {f"{layer}.weight": np.full_like(weight, 32767) if weight.ndim == 2 else np.full_like(weight, -LIMIT)},
            {f"{layer}.bias": np.full_like(bias, 2**31 - 1)},
            {f"{layer}.bias": np.full_like(bias, -(2**31))},
            {f"{layer}.shift": np.full_like(shift, 31)},
            {f"{layer}.shift": np.full_like(shift, -1)},
        ],
        f"(lacks|holds).*{layer}": [
            {f"{layer}.weight": weight.astype(np.int32)},
            {f"{layer}.weight": np.ascontiguousarray(weight[:-1])},
            {f"{layer}.shift": shift.astype(np.int16)},
        ],
        "exp2_table": [{"exp2_table": arrays["exp2_table"] - 1}, {"exp2_table": arrays["exp2_table"][:-1].copy()}],
    }
    if network == "h_a":
        changes["sums"].append({"h_a.bias": np.full_like(arrays["h_a.bias"], 2**31 - 1)})
    else:
        gain = f"{network}.log_gain"
        changes["out of range"] = [{gain: np.full_like(arrays[gain], value << 16)} for value in (15, -17)]
        changes[f"(lacks|holds).*{gain}"] = [{gain: arrays[gain].astype(np.int64)}]
    for message, cases in changes.items():
        for change in cases:
            for build in build_all(Model(lively.config, arrays | change)):
                with pytest.raises(ModelMismatchError, match=message):
                    build()
    for missing in (f"{layer}.bias", "h_a.bias" if network == "h_a" else f"{network}.log_y_gain"):
        for build in build_all(Model(lively.config, {n: v for n, v in arrays.items() if n != missing})):
            with pytest.raises(ModelMismatchError, match=missing):
                build()


def test_another_number_of_blocks_is_refused(lively):
    for name in ("encoder_blocks", "decoder_blocks", "latent_blocks"):
        config = dataclasses.replace(lively.config, **{name: 3})
        for build in build_all(Model(config, lively.arrays)):
            with pytest.raises(ModelMismatchError, match=r"(lacks|holds nothing as) .*blocks\.2"):
                build()
