"""The entropy path: an independent decoder, bounds, and that freezing follows the float networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden.make import CASES
from integer.lively import REFERENCE, lively_network
from paths import GOLDEN

from neurocodec import container
from neurocodec.entropy.grid import LIMIT, PASSES, gather, lattice, scatter
from neurocodec.entropy.reference import Decoder
from neurocodec.errors import ModelMismatchError
from neurocodec.integer import hyper
from neurocodec.integer.entropy import EntropyNetwork
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.network import Latents
from neurocodec.models.freeze import freeze_entropy, thaw_entropy
from neurocodec.models.hyperprior import pass_masks


@pytest.mark.parametrize("case", sorted(CASES))
def test_symbols_of_golden_files_from_the_reference_alone(case, small_model):
    """Nothing but int64 NumPy, the readable range coder and the model file: an independent decoder of the latents."""
    nic = container.read((GOLDEN / "valid" / f"{case}.nic").read_bytes())
    header, tile = nic.header, nic.tiles[0]
    height, width = -(-header.height // 16), -(-header.width // 16)
    network = EntropyNetwork(small_model.config, small_model.part("entropy."), REFERENCE)
    decoder = Decoder(tile.stream, small_model.tables)

    y_hat, stages = np.zeros((height, width, small_model.config.latent_channels), np.int32), []
    (z_stream,) = container.tile_records(nic, container.Z_STREAMS)
    for stage in network.stages(header.quality_index, y_hat):
        apart = stage.step is None and z_stream
        stage.symbols = hyper.decode(z_stream, *stage.rows.shape) if apart else decoder.decode(stage.rows)
        stages.append(stage)
    decoder.finish()
    assert Latents.of(stages, y_hat).checksum() == tile.symbols_crc


@pytest.mark.parametrize("quality_index", [0, 333, 960])
def test_torch_equals_the_definition_on_the_shipped_model(base_model, quality_index):
    rng = np.random.default_rng(quality_index)
    height, width, config = 6, 9, base_model.config
    arrays = base_model.part("entropy.")
    y_hats = np.zeros((2, height, width, config.latent_channels), np.int32)
    networks = [EntropyNetwork(config, arrays, arithmetic) for arithmetic in (REFERENCE, TorchArithmetic())]
    walks = [n.stages(quality_index, y_hat) for n, y_hat in zip(networks, y_hats, strict=True)]
    for slow, fast in zip(*walks, strict=True):
        assert (slow.rows == fast.rows).all()
        assert (slow.means == fast.means).all()
        spread = 3 if slow.step is None else 2 * 10**slow.step
        slow.symbols = fast.symbols = (rng.standard_normal(slow.rows.shape) * spread).astype(np.int32)
    assert (y_hats[0] == y_hats[1]).all()
    assert y_hats.any()


def state(model):
    return {n: v.detach().numpy() for n, v in model.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("fake_quantise", [False, True])
def test_frozen_network_follows_the_float_network(fake_quantise):
    """Closely, because of the widths chosen; nearly to the last bit if the float network rounds as well."""
    model = lively_network()
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
    model = lively_network()
    y, z, row = torch.randn(1, 16, 8, 8) * 4, torch.randn(1, 8, 2, 2) * 3, torch.tensor([5.2])
    plain = model._predict(y, z, row)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model._predict(y, z, row)[0], plain[0])
    model.fake_quantise = True
    exact = model._predict(y, z, row)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(model._predict(y, z, row), exact, strict=True))


def test_fake_quantisation_trains():
    model = lively_network()
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
    weights = state(lively_network())
    frozen = freeze_entropy(weights)
    thawed = thaw_entropy(frozen)
    entropy = {n: v for n, v in weights.items() if n.startswith(("h_s.", "prediction.", "contexts.", "z_index."))}
    assert thawed.keys() == entropy.keys()
    for name, value in entropy.items():
        assert np.abs(thawed[name] - value).max() < 2e-3 * max(1.0, np.abs(value).max()), name
    again = freeze_entropy(thawed)
    assert all((again[name] == value).all() for name, value in frozen.items())


def test_diverged_weights_are_not_frozen():
    weights = state(lively_network())
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


def test_models_that_could_overflow_or_lack_something_are_refused(small_model):
    arrays = small_model.part("entropy.")
    name = "h_s.conv_in"
    broken = {
        "expected int32": {f"{name}.bias": arrays[f"{name}.bias"].astype(np.int64)},
        "expected int16": {f"{name}.weight": arrays[f"{name}.weight"].astype(np.int32)},
        "could leave": {f"{name}.shift": np.full_like(arrays[f"{name}.shift"], 99)},
        "range in which": {"contexts.0.phase_bias": np.full_like(arrays["contexts.0.phase_bias"], 2**31 - 1)},
        "sums of layer h_s.up1": {"h_s.up1.weight": np.full_like(arrays["h_s.up1.weight"], 2**14)},
        "layer h_s.up2": {"h_s.up2.weight": np.full_like(arrays["h_s.up2.weight"], -LIMIT)},
        "layer h_s.conv_in": {"h_s.bias": np.full_like(arrays["h_s.bias"], np.iinfo(np.int32).min)},
    }
    for message, change in broken.items():
        with pytest.raises(ModelMismatchError, match=message):
            EntropyNetwork(small_model.config, arrays | change, REFERENCE)
    with pytest.raises(ModelMismatchError, match="nothing as log_table"):
        EntropyNetwork(small_model.config, {n: v for n, v in arrays.items() if n != "log_table"}, REFERENCE)
