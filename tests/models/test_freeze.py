"""Freezing and thawing: exact, stable, and with scales that let 16-bit activations lose less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from integer.lively import CONFIG, REFERENCE, lively_network

from neurocodec.errors import ModelMismatchError
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.model import Model
from neurocodec.models.freeze import freeze, thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.scales import flow, measure_scales, scaled


def noise(seed=1):
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def scales():
    return measure_scales(lively_network(), [noise()])


def same(a: Model, b: Model) -> bool:
    return a.arrays.keys() == b.arrays.keys() and all(
        a.arrays[n].dtype == b.arrays[n].dtype and np.array_equal(a.arrays[n], b.arrays[n]) for n in a.arrays
    )


@pytest.mark.parametrize("with_scales", [False, True])
def test_thawing_and_freezing_again_changes_nothing(scales, with_scales):
    model = freeze(lively_network(), scales=scales if with_scales else None)
    thawed = thaw(model)
    again = freeze(thawed, tables=model.tables, scales=model.part("scales."))
    assert same(again, model)
    twice = thaw(again).state_dict()
    assert all(torch.equal(value, twice[name]) for name, value in thawed.state_dict().items())


def test_the_shipped_model_is_stable_too(base_model):
    again = freeze(thaw(base_model), tables=base_model.tables, scales=base_model.part("scales."))
    assert same(again, base_model)


@torch.no_grad()
@pytest.mark.parametrize("with_scales", [False, True])
def test_a_thawed_network_is_nearly_the_trained_one(scales, with_scales):
    network = lively_network()
    thawed = thaw(freeze(network, scales=scales if with_scales else None))
    x, row = noise(2), torch.tensor([5.3])
    y, z = network.g_a(x, row), torch.randn(1, CONFIG.latent_channels, 4, 4) * 3
    assert torch.allclose(thawed.g_a(x, row), y, atol=2e-3 * float(y.abs().max()))
    assert torch.allclose(thawed.h_a(z, row), network.h_a(z, row), atol=0.02)
    assert torch.allclose(thawed.g_s(z, row), network.g_s(z, row), atol=2e-3)
    ours, theirs = thawed.g_s.features(z, row), network.g_s.features(z, row)
    assert thawed.g_s.log_head_gain.abs().max() == 0, "the head holds it"
    assert torch.allclose(ours, theirs, atol=2e-3 * float(theirs.abs().max())), "generators read these features"


def test_the_head_holds_its_gain():
    network = lively_network()
    model = freeze(network)
    with torch.no_grad():
        network.g_s.head.weight.mul_(network.g_s.log_head_gain.exp())
        network.g_s.log_head_gain.zero_()
    assert same(freeze(network), model)


def test_diverged_transforms_are_not_frozen():
    for layer in ("g_a.stem", "h_a.down1", "g_s.latent_blocks.0.conv_dw"):
        for value in (1e9, float("nan"), float("inf")):
            network = lively_network()
            with torch.no_grad():
                network.get_submodule(layer).weight[0] = value
            with pytest.raises(ModelMismatchError, match=rf"{layer}.*diverged"):
                freeze(network)


@torch.no_grad()
def test_scaled_networks_compute_the_same():
    network = lively_network().double()
    rng = np.random.default_rng(0)
    sizes = {"g_a.blocks": 20, "g_a.log_gain": 20, "g_s.up": 20, "g_s.blocks": 20}
    scales = {}
    for _, source, target in flow(CONFIG):
        for name in {source, target} - {None}:
            small = name.startswith(("g_a.blocks", "g_s.blocks"))
            scales[name] = rng.integers(-4, 5, sizes.get(name, 20 if small else 16)).astype(np.int8)
    other = Hyperprior(CONFIG).double()
    weights = scaled({n: v.numpy() for n, v in network.state_dict().items()}, CONFIG, scales)
    other.load_state_dict({n: torch.from_numpy(np.asarray(v)) for n, v in weights.items()})
    x, row = noise().double(), torch.tensor([5.3], dtype=torch.float64)
    y = network.g_a(x, row).double()
    assert torch.allclose(other.g_a(x, row).double(), y, atol=1e-4)
    assert torch.allclose(other.g_s(y, row).double(), network.g_s(y, row).double(), atol=1e-4)
    assert not torch.allclose(other.g_s.features(y, row), network.g_s.features(y, row))


def test_measured_scales_name_every_activation_of_the_transforms(scales):
    assert scales.keys() == {name for _, *ends in flow(CONFIG) for name in ends if name}
    assert all(value.dtype == np.int8 and np.abs(value).max() <= 4 for value in scales.values())


def test_scales_are_measured_without_a_trace():
    network = lively_network()
    before = {n: v.clone() for n, v in network.state_dict().items()}
    first = measure_scales(network, [noise()])
    second = measure_scales(network, [noise()])
    assert all((first[n] == second[n]).all() for n in first)
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
    louder = measure_scales(network, [noise(), 4 * noise()])
    assert all((louder[n] <= first[n]).all() for n in first)


@torch.no_grad()
def test_scales_bring_the_integers_closer_to_the_float_network(scales):
    network, row = lively_network().double(), torch.tensor([7.5], dtype=torch.float64)
    rgb = (noise(3)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    y = network.g_a(torch.from_numpy(rgb / 255.0).permute(2, 0, 1)[None], row)[0].permute(1, 2, 0).double().numpy()
    errors = []
    for model in (freeze(lively_network()), freeze(lively_network(), scales=scales)):
        errors.append(np.sqrt(np.mean(((LayerwiseNetwork(model, REFERENCE).analyse(rgb, 480) + 0.5) / 64 - y) ** 2)))
    assert errors[1] < 0.7 * errors[0]


def test_scales_are_no_part_of_the_decoder(scales):
    model = freeze(lively_network(), scales=scales)
    bare = Model(model.config, {n: v for n, v in model.arrays.items() if not n.startswith("scales.")})
    assert model.model_id == bare.model_id
    assert model.decoder().arrays.keys() == bare.decoder().arrays.keys()
    assert bare.encodes
    assert not model.decoder().encodes
