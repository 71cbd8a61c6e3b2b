"""Inversion of a small generator, which has been given structure: known latents come back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neurocodec.errors import ConfigError, ImageError
from neurocodec.synthesis import dcgan
from neurocodec.synthesis.latent import Inverter, Latent, LatentConfig, LatentOptions, Settings
from neurocodec.synthesis.system import Data, save_model
from neurocodec.training.distributed import Processes

HERE = Processes(torch.device("cpu"))
SETTINGS = Settings(size=32, latent=6, channels=8)


@pytest.fixture
def inverter():
    """A generator whose pictures vary with z: DCGAN's small random weights, enlarged."""
    torch.manual_seed(0)
    network = Inverter(SETTINGS).requires_grad_(False)
    for name, parameter in network.generator.named_parameters():
        parameter *= 4 if name.endswith("weight") and parameter.dim() == 4 else 1
    return network.eval()


def test_optimisation_finds_the_latents_of_a_sample(inverter):
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
    x = inverter.generator(z)
    start = (inverter.generator(inverter.encode(x)) - x).square().mean()
    z_hat = inverter.invert(x, steps=150, rate=0.1, domain_weight=0.0)
    assert (inverter.generator(z_hat) - x).square().mean() < 0.1 * start
    assert inverter.generator.layers[0].weight.grad is None


def test_pulse_is_consistent_and_stays_on_the_sphere(inverter):
    z = F.normalize(torch.randn(1, 6, generator=torch.Generator().manual_seed(6))) * 6**0.5
    y = F.interpolate(inverter.generator(z), scale_factor=0.25, mode="area")
    z_hat = inverter.pulse(y, steps=150, rate=0.1, starts=4, seed=1)
    assert z_hat.norm() == pytest.approx(6**0.5, rel=1e-5)
    again = F.interpolate(inverter.generator(z_hat), scale_factor=0.25, mode="area")
    assert (again - y).square().mean() < 0.1 * y.var()


def test_directions_are_those_of_the_first_layer(inverter):
    directions = inverter.directions(6)
    torch.testing.assert_close(directions @ directions.T, torch.eye(6), atol=1e-5, rtol=0)
    lengths = (
        F.conv_transpose2d(directions[:, :, None, None], inverter.generator.layers[0].weight).flatten(1).norm(dim=1)
    )
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)


def test_the_generator_does_not_learn_and_the_objective_by_hand(tmp_path):
    path = tmp_path / "dcgan.safetensors"
    shape = dcgan.Settings(size=32, latent=6, channels=8)
    save_model(path, "dcgan", shape, generator := dcgan.Generator(shape))
    settings = Settings(str(path), 32, 6, 8, gan_weight=0.0, pixel_weight=2.0, latent_weight=0.5)
    system = Latent(LatentConfig(Data(crop=32), latent=settings), HERE)
    system.initialise([])
    network = system.modules["generator"]
    assert torch.equal(network.generator.layers[0].weight, generator.layers[0].weight)
    network.train()
    assert not network.generator.training
    x = torch.rand(4, 3, 32, 32)
    torch.manual_seed(2)
    (loss,) = system.losses(system.modules, x, torch.zeros(4), 0, 0.0)
    torch.manual_seed(2)
    z = torch.randn(4, 6)
    x_hat, z_hat = network(x, z)
    torch.testing.assert_close(loss.value, 2 * (x - x_hat).square().mean() + 0.5 * (z - z_hat).square().mean())
    loss.value.backward()
    assert all(p.grad is None for p in network.generator.parameters())
    wrong = Settings(str(path), 32, 7, 8)
    with pytest.raises(ConfigError, match="expected the model of a DCGAN"):
        Latent(LatentConfig(Data(crop=32), latent=wrong), HERE).initialise([])


@pytest.mark.parametrize(("mode", "shape"), [("invert", (32, 96)), ("pulse", (32, 32)), ("directions", (128, 160))])
def test_what_apply_shows(inverter, mode, shape):
    options = LatentOptions(mode=mode, steps=2, starts=2)
    y = Latent.transform(inverter, SETTINGS, torch.rand(1, 3, 40, 50), options)
    assert y.shape == (1, 3, *shape)
    with pytest.raises(ImageError, match="expected at least"):
        Latent.transform(inverter, SETTINGS, torch.rand(1, 3, 7, 50), options)
