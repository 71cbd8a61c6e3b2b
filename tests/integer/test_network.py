"""The exact entropy path: torch equals the int64 definition, bounds hold, freezing follows the float networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden.make import CASES
from golden.make import small_model as make_small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import GOLDEN

from neurocodec import codec, container
from neurocodec.entropy.grid import HIDDEN_MAX, LIMIT, OUTPUT_LIMIT, PASSES, SUM_LIMIT, gather, lattice, scatter
from neurocodec.entropy.reference import Decoder
from neurocodec.errors import ModelMismatchError
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import NativeArithmetic, kernels
from neurocodec.integer.network import EntropyNetwork, interpolate_rows
from neurocodec.integer.reference import IntegerLayer, NumpyArithmetic
from neurocodec.model import HyperpriorConfig
from neurocodec.models.freeze import freeze_entropy, thaw_entropy
from neurocodec.models.hyperprior import Hyperprior, pass_masks

REFERENCE = NumpyArithmetic()


def arithmetics():
    """Every way to run the layers on this machine's CPU, by name."""
    found = {"torch": TorchArithmetic()}
    for kernel in kernels():
        found |= {
            f"{kernel}-1": NativeArithmetic(kernel, threads=1),
            f"{kernel}-3": NativeArithmetic(kernel, threads=3),
        }
    return found


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 12),
    shift=st.integers(0, 15),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
    lattice_bias=st.booleans(),
    wide=st.booleans(),
)
def test_layers_equal_the_definition(height, width, inputs, outputs, shift, seed, extreme, lattice_bias, wide):
    """With the largest sums that the proof admits, too: extreme inputs, and weights that use up all of 2^31."""
    rng = np.random.default_rng(seed)
    values = [-LIMIT, LIMIT - 1] if extreme else np.arange(-LIMIT, LIMIT)
    x = rng.choice(values, (height, width, inputs)).astype(np.int64)

    def layer(*shape):
        products = int(np.prod(shape[1:]))
        largest = min(LIMIT - 1, (SUM_LIMIT - 2**20 - 2**shift) // (LIMIT * products))
        weight = rng.choice([-largest, largest], shape) if extreme else rng.integers(-largest, largest + 1, shape)
        return IntegerLayer(weight.astype(np.int16), rng.integers(-(2**18), 2**18, shape[0]), shift)

    pointwise, depthwise = layer(4 * outputs, inputs), layer(inputs, 3, 3)
    bias = rng.integers(-(2**18), 2**18, (2, 2, 4 * outputs) if lattice_bias else 4 * outputs)
    low, high = (-OUTPUT_LIMIT, OUTPUT_LIMIT - 1) if wide else (-LIMIT, HIDDEN_MAX)
    expected = REFERENCE.pointwise(x, pointwise, bias, low, high)
    expected_depthwise = REFERENCE.depthwise(x, depthwise)
    for name, arithmetic in arithmetics().items():
        found = arithmetic.pointwise(arithmetic.load(x), pointwise, bias, low, high)
        assert (arithmetic.store(found) == expected).all(), name
        assert (arithmetic.store(arithmetic.shuffle(found)) == REFERENCE.shuffle(expected)).all(), name
        found = arithmetic.depthwise(arithmetic.load(x), depthwise)
        assert (arithmetic.store(found) == expected_depthwise).all(), name


@pytest.mark.parametrize("name", sorted(arithmetics()))
def test_large_layers_are_shared_among_threads(name):
    """Enough work that the native kernels start threads, sizes that no block divides."""
    rng = np.random.default_rng(5)
    arithmetic = arithmetics()[name]
    x = rng.integers(-300, 300, (67, 71, 101))
    pointwise = IntegerLayer(rng.integers(-600, 600, (83, 101)).astype(np.int16), rng.integers(-99, 99, 83), 7)
    depthwise = IntegerLayer(rng.integers(-6000, 6000, (101, 3, 3)).astype(np.int16), rng.integers(-99, 99, 101), 9)
    bias = rng.integers(-9999, 9999, (2, 2, 83))
    found = arithmetic.pointwise(arithmetic.load(x), pointwise, bias, 0, HIDDEN_MAX)
    assert (arithmetic.store(found) == REFERENCE.pointwise(x, pointwise, bias, 0, HIDDEN_MAX)).all()
    found = arithmetic.depthwise(arithmetic.load(x), depthwise)
    assert (arithmetic.store(found) == REFERENCE.depthwise(x, depthwise)).all()


def test_the_native_layers_refuse_what_does_not_fit():
    native = pytest.importorskip("neurocodec._native")
    layer = native.Pointwise(np.zeros((4, 3), np.int16))
    x, bias = np.zeros((2, 2, 3), np.int16), np.zeros(4, np.int32)
    layer.run(x, bias, 3, 0, 9, "generic", 1)
    for change in (
        {"x": x[:, :, :2].copy()},
        {"x": x[0]},
        {"bias": bias[:3].copy()},
        {"bias": np.zeros((3, 2, 4), np.int32)},
        {"shift": 31},
        {"shift": -1},
        {"kernel": "mmx"},
    ):
        arguments = {"x": x, "bias": bias, "shift": 3, "low": 0, "high": 9, "kernel": "generic", "threads": 1} | change
        with pytest.raises(ValueError, match=r"(?i)shape|shift|kernel"):
            layer.run(**arguments)
    with pytest.raises(TypeError):
        layer.run(x.astype(np.int32), bias, 3, 0, 9, "generic", 1)
    with pytest.raises(ValueError, match="shape"):
        native.Depthwise(np.zeros((4, 3, 2), np.int16), bias)


def test_requantisation_rounds_halves_up_also_below_zero():
    layer = IntegerLayer(np.array([[1]], np.int16), np.zeros(1, np.int64), 1)
    x = np.array([[[-3], [-2], [-1], [0], [1], [2], [3]]])
    for arithmetic in (REFERENCE, *arithmetics().values()):
        found = arithmetic.pointwise(arithmetic.load(x), layer, np.zeros(1, np.int64), -9, 9)
        assert arithmetic.store(found).ravel().tolist() == [-1, -1, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("case", sorted(CASES))
def test_symbols_of_golden_files_from_the_reference_alone(case, small_model):
    """Nothing but int64 NumPy, the readable range coder and the model file: an independent decoder of the latents."""
    nic = container.read((GOLDEN / "valid" / f"{case}.nic").read_bytes())
    header, tile = nic.header, nic.tiles[0]
    height, width = -(-header.height // 16), -(-header.width // 16)
    network = EntropyNetwork(small_model.config, small_model.part("entropy."), REFERENCE)
    decoder = Decoder(tile.stream, small_model.tables)

    y_hat, stages = np.zeros((height, width, small_model.config.latent_channels), np.int32), []
    for stage in network.stages(header.quality_index, y_hat):
        stage.symbols = decoder.decode(stage.rows)
        stages.append(stage)
    decoder.finish()
    assert codec.Latents.of(stages, y_hat).checksum() == tile.symbols_crc


@pytest.mark.parametrize("name", sorted(arithmetics()))
@pytest.mark.parametrize("quality_index", [0, 333, 960])
def test_base_model_equals_the_definition(base_model, quality_index, name):
    rng = np.random.default_rng(quality_index)
    height, width, config = 6, 9, base_model.config
    reference = EntropyNetwork(config, base_model.part("entropy."), REFERENCE)
    network = EntropyNetwork(config, base_model.part("entropy."), arithmetics()[name])
    y_hats = np.zeros((2, height, width, config.latent_channels), np.int32)
    walks = [n.stages(quality_index, y_hat) for n, y_hat in zip((reference, network), y_hats, strict=True)]
    for slow, fast in zip(*walks, strict=True):
        assert (slow.rows == fast.rows).all()
        assert (slow.means == fast.means).all()
        spread = 3 if slow.step is None else 2 * 10**slow.step
        slow.symbols = fast.symbols = (rng.standard_normal(slow.rows.shape) * spread).astype(np.int32)
    assert (y_hats[0] == y_hats[1]).all()
    assert y_hats.any()


def lively_model() -> Hyperprior:
    """Random weights whose context passes and scales really matter."""
    torch.manual_seed(0)
    model = Hyperprior(HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=16))
    with torch.no_grad():
        for parameter in [model.prediction.head.weight, *(c.head.weight for c in model.contexts)]:
            parameter.normal_(0.0, 0.1)
        model.prediction.bias.weight.normal_(2.0, 1.0)
        for context in model.contexts:
            context.phase_bias.normal_(0.0, 0.3)
            context.bias.weight.normal_(0.0, 0.3)
    return model


def state(model):
    return {n: v.detach().numpy() for n, v in model.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("fake_quantise", [False, True])
def test_frozen_network_follows_the_float_network(fake_quantise):
    """Closely, because of the widths chosen; nearly to the last bit if the float network rounds as well."""
    model = lively_model()
    model.fake_quantise = fake_quantise
    network = EntropyNetwork(model.config, freeze_entropy(state(model)), REFERENCE)
    z_hat = torch.randint(-3, 4, (1, 8, 2, 2)).float()
    symbols = torch.randint(-5, 6, (8, 8, 16)).numpy().astype(np.int32)
    row = torch.tensor([333 / 64])
    features = model.h_s(z_hat, row)
    base = model.prediction(features, row)
    y_hat, same = np.zeros((8, 8, 16), np.int32), []
    for stage in network.stages(333, y_hat):
        if stage.step is None:
            stage.symbols = z_hat[0].permute(1, 2, 0).numpy().astype(np.int32)
            continue
        decoded = torch.from_numpy(y_hat).permute(2, 0, 1)[None] / 64.0
        expected = base if stage.step == 0 else base + model.contexts[stage.step - 1](features, decoded, row)
        expected = expected[0].permute(1, 2, 0).numpy()
        means, rows = (gather(half.copy(), stage.step) for half in (expected[..., :16], expected[..., 16:]))
        assert np.abs(stage.means / 64 - means).max() < 0.1
        assert np.abs(stage.rows - np.clip(rows * 8, 0, 63)).max() < 1.0
        same.append(stage.means == np.floor(means * 64 + 0.5))
        same.append(stage.rows == np.clip(np.floor(rows * 8 + 0.5), 0, 63))
        stage.symbols = gather(symbols, stage.step)
    # Biases are rounded to a finer grid that training leaves out, so a value at a border may fall to the other side.
    share = np.mean(same)
    assert share > (0.998 if fake_quantise else 0.8)


@torch.no_grad()
def test_fake_quantisation_reaches_the_grids_under_autocast():
    model = lively_model()
    y, z, row = torch.randn(1, 16, 8, 8) * 4, torch.randn(1, 8, 2, 2) * 3, torch.tensor([5.2])
    plain = model._predict(y, z, row)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model._predict(y, z, row)[0], plain[0])
    model.fake_quantise = True
    exact = model._predict(y, z, row)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(model._predict(y, z, row), exact, strict=True))


def test_fake_quantisation_trains():
    model = lively_model()
    model.fake_quantise = True
    with torch.no_grad():
        model.h_a.down2.weight.mul_(30.0)  # so that z is not all zeros
    output = model(torch.rand(1, 3, 64, 64), torch.tensor([5.0]))
    (output["y_bits"].sum() + output["z_bits"].sum()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("h_s", "prediction", "contexts")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_thawing_undoes_freezing():
    weights = state(lively_model())
    frozen = freeze_entropy(weights)
    thawed = thaw_entropy(frozen)
    entropy = {n: v for n, v in weights.items() if n.startswith(("h_s.", "prediction.", "contexts.", "z_index."))}
    assert thawed.keys() == entropy.keys()
    for name, value in entropy.items():
        assert np.abs(thawed[name] - value).max() < 2e-3 * max(1.0, np.abs(value).max()), name
    again = freeze_entropy(thawed)
    assert all((again[name] == value).all() for name, value in frozen.items())


def test_diverged_weights_are_not_frozen():
    weights = state(lively_model())
    weights["h_s.up1.weight"] = weights["h_s.up1.weight"] * 1e6
    with pytest.raises(ModelMismatchError, match=r"h_s\.up1.*diverged"):
        freeze_entropy(weights)


def test_passes_cover_each_latent_once():
    values = np.arange(5 * 7 * 16).reshape(5, 7, 16)
    parts = [gather(values, step) for step in range(PASSES)]
    assert sorted(np.concatenate(parts).ravel().tolist()) == values.ravel().tolist()
    again = np.zeros_like(values)
    for step, part in enumerate(parts):
        scatter(part, step, again)
    assert (again == values).all()
    trained = pass_masks(16, 5, 7, torch.device("cpu"))
    for step, mask in enumerate(trained):
        assert sorted(values[mask[0].permute(1, 2, 0).numpy()].tolist()) == sorted(parts[step].ravel().tolist())
    assert {(r.start, c.start) for r, c, _ in lattice(0, 16)} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_rows_between_two_rows():
    rows = np.array([[0, -64], [64, 64], [128, 0]])
    assert interpolate_rows(rows, 0).tolist() == [0, -64]
    assert interpolate_rows(rows, 32).tolist() == [32, 0]
    assert interpolate_rows(rows, 128).tolist() == [128, 0]


def test_models_that_could_overflow_or_lack_something_are_refused():
    model = make_small_model()
    arrays = model.part("entropy.")
    name = "h_s.conv_in"
    broken = {
        "exact": {f"{name}.bias": np.full_like(arrays[f"{name}.bias"], 2**53)},
        "expected int16": {f"{name}.weight": arrays[f"{name}.weight"].astype(np.int32)},
        "could leave": {f"{name}.shift": np.array([99])},
        "range in which": {"contexts.0.phase_bias": np.full_like(arrays["contexts.0.phase_bias"], 2**31)},
        "sums of layer h_s.up1": {"h_s.up1.weight": np.full_like(arrays["h_s.up1.weight"], 2**14)},
        "layer h_s.up2": {"h_s.up2.weight": np.full_like(arrays["h_s.up2.weight"], -LIMIT)},
        "layer h_s.conv_in": {"h_s.bias": np.full_like(arrays["h_s.bias"], np.iinfo(np.int64).min)},
    }
    for message, change in broken.items():
        with pytest.raises(ModelMismatchError, match=message):
            EntropyNetwork(model.config, arrays | change, REFERENCE)
    with pytest.raises(ModelMismatchError, match="nothing as log_table"):
        EntropyNetwork(model.config, {n: v for n, v in arrays.items() if n != "log_table"}, REFERENCE)
