"""DCGAN: the sizes of the authors' networks, and who learns what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neurocodec.errors import ConfigError
from neurocodec.synthesis.dcgan import Dcgan, DcganConfig, Discriminator, Generator, Settings
from neurocodec.synthesis.system import Data
from neurocodec.training.distributed import Processes

HERE = Processes(torch.device("cpu"))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_authors_code():
    """64², z of 100, 64 channels: as PyTorch's tutorial and example, which follow the authors' code, count them."""
    assert count(Generator(Settings())) == 3_576_704
    assert count(Discriminator(Settings())) == 2_765_568


@pytest.mark.parametrize("size", [8, 32, 64])
def test_shapes_and_ranges(size):
    settings = Settings(size=size, latent=5, channels=4)
    x = Generator(settings)(torch.randn(3, 5))
    assert x.shape == (3, 3, size, size)
    assert 0 <= x.min() < x.max() <= 1
    assert Discriminator(settings)(x.detach()).shape == (3, 1, 1, 1)


def test_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    network = Generator(Settings(channels=16)).requires_grad_(False)
    convolutions = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.ConvTranspose2d)])
    assert float(convolutions.std()) == pytest.approx(0.02, rel=0.02)
    gains = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert float(gains.mean()) == pytest.approx(1.0, abs=0.01)
    assert network.layers[-2].weight.shape == (16, 3, 4, 4)


def test_spectral_norm_takes_the_place_of_batch_normalisation():
    network = Discriminator(Settings(size=32, channels=8, spectral_norm=True)).train().requires_grad_(False)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for _ in range(50):
        network(torch.rand(2, 3, 32, 32))
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):
            assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1.0, rel=0.05)


def test_each_step_teaches_one_network():
    system = Dcgan(DcganConfig(Data(crop=32), dcgan=Settings(size=32, latent=4, channels=4)), HERE)
    modules = system.modules
    steps = system.losses(modules, torch.rand(4, 3, 32, 32), torch.rand(4), 0, 0.0)
    for name, other in (("discriminator", "generator"), ("generator", "discriminator")):
        for module in modules.values():
            module.zero_grad()
        loss = next(steps)
        assert loss.module == name
        loss.value.backward()
        assert all(p.grad is not None for p in modules[name].parameters())
        assert all(p.grad is None for p in modules[other].parameters())
    with pytest.raises(ConfigError, match="make them equal"):
        Dcgan(DcganConfig(dcgan=Settings(size=32)), HERE)
