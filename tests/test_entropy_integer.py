"""The exact entropy path: torch equals the int64 definition, bounds hold, freezing follows the float networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from golden.make import CASES
from golden.make import small_model as make_small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocodec import codec, container
from neurocodec.entropy.integer import (
    HIDDEN_MAX,
    LIMIT,
    PASSES,
    EntropyNetwork,
    IntegerLayer,
    NumpyArithmetic,
    TorchArithmetic,
    freeze_entropy,
    interpolate_rows,
    pass_mask,
)
from neurocodec.entropy.reference import Decoder
from neurocodec.errors import ModelMismatchError
from neurocodec.models.hyperprior import Hyperprior, HyperpriorConfig, pass_masks

REFERENCE = NumpyArithmetic()


def integers(model):
    return {name[8:]: value for name, value in model.arrays.items() if name.startswith("entropy.")}


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 3),
    shift=st.integers(0, 15),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
def test_torch_layers_equal_the_definition(height, width, inputs, outputs, shift, seed, extreme):
    rng = np.random.default_rng(seed)
    values = [-LIMIT, LIMIT - 1] if extreme else np.arange(-LIMIT, LIMIT)
    x = rng.choice(values, (height, width, inputs)).astype(np.int64)
    arithmetic = TorchArithmetic()

    def layer(*shape):
        weight = rng.choice(values, shape).astype(np.int16)
        return IntegerLayer(weight, rng.integers(-(2**40), 2**40, shape[0]), shift)

    pointwise, depthwise = layer(4 * outputs, inputs), layer(inputs, 3, 3)
    bias = rng.integers(-(2**30), 2**30, 4 * outputs)
    expected = REFERENCE.pointwise(x, pointwise, bias, -LIMIT, HIDDEN_MAX)
    found = arithmetic.pointwise(arithmetic.load(x), pointwise, arithmetic.load(bias), -LIMIT, HIDDEN_MAX)
    assert (arithmetic.store(found) == expected).all()
    assert (arithmetic.store(arithmetic.shuffle(found)) == REFERENCE.shuffle(expected)).all()
    found = arithmetic.depthwise(arithmetic.load(x), depthwise)
    assert (arithmetic.store(found) == REFERENCE.depthwise(x, depthwise)).all()


def test_requantisation_rounds_halves_up_also_below_zero():
    layer = IntegerLayer(np.array([[1]], np.int16), np.zeros(1, np.int64), 1)
    x = np.array([[[-3], [-2], [-1], [0], [1], [2], [3]]])
    expected = [-1, -1, 0, 0, 1, 1, 2]
    assert REFERENCE.pointwise(x, layer, 0, -9, 9).ravel().tolist() == expected
    arithmetic = TorchArithmetic()
    assert arithmetic.store(arithmetic.pointwise(arithmetic.load(x), layer, 0, -9, 9)).ravel().tolist() == expected


@pytest.mark.parametrize("case", sorted(CASES))
def test_symbols_of_golden_files_from_the_reference_alone(case, small_model):
    """Nothing but int64 NumPy, the readable range coder and the model file: an independent decoder of the latents."""
    nic = container.read((GOLDEN / "valid" / f"{case}.nic").read_bytes())
    header, tile = nic.header, nic.tiles[0]
    height, width = -(-header.height // 16), -(-header.width // 16)
    channels = small_model.config.latent_channels
    network = EntropyNetwork(small_model.config, integers(small_model), REFERENCE)
    decoder = Decoder(tile.stream, small_model.tables)

    def take(rows):
        symbols = np.zeros(rows.shape, np.int32)
        symbols[rows > 0] = decoder.decode(rows[rows > 0])
        return symbols

    z_hat = take(network.z_rows(header.quality_index, height, width))
    passes = network.start(z_hat, header.quality_index, height, width)
    y_hat = np.zeros((height, width, channels), np.int32)
    for step in range(PASSES):
        means, rows = passes.predict(step, y_hat)
        mask = pass_mask(step, height, width, channels)
        y_hat[mask] = take(rows[mask]) * 16 + means[mask]
    decoder.finish()
    assert codec._checksum(z_hat, y_hat) == tile.symbols_crc


@pytest.mark.parametrize("quality_index", [0, 333, 960])
def test_base_model_equals_the_definition(base_model, quality_index):
    rng = np.random.default_rng(quality_index)
    height, width, config = 6, 9, base_model.config
    reference = EntropyNetwork(config, integers(base_model), REFERENCE)
    network = EntropyNetwork(config, integers(base_model), TorchArithmetic())
    z_hat = rng.integers(-4, 5, (2, 3, config.hyper_channels)).astype(np.int32)
    known = (rng.standard_normal((height, width, config.latent_channels)) * 100).astype(np.int32)
    slow, fast = (path.start(z_hat, quality_index, height, width) for path in (reference, network))
    for step in range(PASSES):
        for expected, found in zip(slow.predict(step, known), fast.predict(step, known), strict=True):
            assert (expected == found).all()


def test_frozen_network_follows_the_float_network():
    torch.manual_seed(0)
    config = HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=16)
    model = Hyperprior(config)
    with torch.no_grad():
        for parameter in [model.prediction.head.weight, *(c.head.weight for c in model.contexts)]:
            parameter.normal_(0.0, 0.1)
        model.prediction.bias.weight.normal_(2.0, 1.0)
    arrays = freeze_entropy({n: v.detach().numpy() for n, v in model.state_dict().items()})
    network = EntropyNetwork(config, arrays, TorchArithmetic())
    z_hat = torch.randint(-3, 4, (1, 8, 2, 2)).float()
    y_hat = torch.randint(-80, 80, (1, 16, 8, 8)) / 16.0
    row = torch.tensor([333 / 64])
    with torch.no_grad():
        features = model.h_s(z_hat, row)
        base = model.prediction(features, row)
        passes = network.start(z_hat[0].permute(1, 2, 0).numpy().astype(np.int32), 333, 8, 8)
        for step in range(PASSES):
            expected = base if step == 0 else base + model.contexts[step - 1](features, y_hat, row)
            known = (y_hat[0].permute(1, 2, 0).numpy() * 16).astype(np.int32)
            means, rows = passes.predict(step, known)
            expected = expected[0].permute(1, 2, 0).numpy()
            assert np.abs(means / 16 - expected[..., :16]).max() < 0.1
            assert np.abs(rows - np.clip(expected[..., 16:] * 8, 0, 63)).max() < 1.0


def test_passes_cover_each_latent_once():
    masks = np.stack([pass_mask(step, 5, 7, 16) for step in range(PASSES)])
    assert (masks.sum(0) == 1).all()
    trained = np.stack([m[0].permute(1, 2, 0).numpy() for m in pass_masks(16, 5, 7, torch.device("cpu"))])
    assert (masks == trained.astype(bool)).all()


def test_rows_between_two_rows():
    rows = np.array([[0, -64], [64, 64], [128, 0]])
    assert interpolate_rows(rows, 0).tolist() == [0, -64]
    assert interpolate_rows(rows, 32).tolist() == [32, 0]
    assert interpolate_rows(rows, 128).tolist() == [128, 0]


def test_models_that_could_overflow_or_lack_something_are_refused():
    model = make_small_model()
    arrays = integers(model)
    name = "h_s.conv_in"
    broken = {
        "exact": {f"{name}.bias": np.full_like(arrays[f"{name}.bias"], 2**53)},
        "needed": {f"{name}.weight": arrays[f"{name}.weight"].astype(np.int32)},
        "could leave": {f"{name}.shift": np.array([99])},
        "range in which": {"contexts.0.phase_bias": np.full_like(arrays["contexts.0.phase_bias"], 2**53)},
    }
    for message, change in broken.items():
        with pytest.raises(ModelMismatchError, match=message):
            EntropyNetwork(model.config, arrays | change, REFERENCE)
    with pytest.raises(ModelMismatchError, match="nothing as log_table"):
        EntropyNetwork(model.config, {n: v for n, v in arrays.items() if n != "log_table"}, REFERENCE)
