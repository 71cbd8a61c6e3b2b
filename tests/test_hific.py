"""The generative decoder: realism 0 is the base model, cost, tiles."""

from __future__ import annotations

import pytest
import torch

from neurocodec.models.complexity import count_generator_macs
from neurocodec.models.hific import ChannelNorm, Generator, GeneratorConfig, RealismGain
from neurocodec.models.hyperprior import HyperpriorConfig, Synthesis

BASE = HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8)
SMALL = GeneratorConfig(channels=32, blocks=3, fine_blocks=2)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    generator = Generator(SMALL, BASE)
    generator.head.weight.data.normal_(0.0, 0.5)
    return generator.eval()


@torch.no_grad()
def test_realism_0_is_the_base_decoder(generator):
    base = Synthesis(BASE).eval()
    base.load_state_dict(generator.trunk.state_dict())
    y_hat, quality_index = torch.randn(2, 16, 4, 5), torch.tensor([1.0, 7.5])
    x_hat = generator(y_hat, quality_index, torch.zeros(2))
    assert x_hat.shape == (2, 3, 64, 80)
    assert torch.equal(x_hat, base(y_hat, quality_index))
    assert not torch.allclose(generator(y_hat, quality_index, torch.ones(2)), x_hat, atol=1e-2)


@torch.no_grad()
def test_each_picture_of_a_batch_has_its_own_realism(generator):
    y_hat, quality_index = torch.randn(2, 16, 4, 4), torch.tensor([3.0, 12.0])
    both = generator(y_hat, quality_index, torch.tensor([0.3, 1.0]))
    for i, beta in enumerate((0.3, 1.0)):
        alone = generator(y_hat[i : i + 1], quality_index[i : i + 1], torch.tensor([beta]))
        assert torch.allclose(both[i : i + 1], alone, atol=1e-5)


def test_the_trunk_is_not_trained_and_everything_else_is(generator):
    generator(torch.randn(1, 16, 4, 4), torch.tensor([3.0]), torch.tensor([0.7])).square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert (parameter.grad is None) == name.startswith("trunk."), name
    trained = [p for n, p in generator.named_parameters() if not n.startswith("trunk.")]
    assert all(p.grad.abs().sum() > 0 for p in trained)


@torch.no_grad()
def test_pixels_depend_only_on_latents_within_the_halo(generator):
    y_hat, quality_index, beta = torch.randn(1, 16, 3, 24), torch.tensor([4.0]), torch.tensor([1.0])
    whole = generator(y_hat, quality_index, beta)
    halo = generator.halo() + BASE.latent_blocks + -(-BASE.decoder_blocks // 2)
    left = generator(y_hat[..., : 8 + halo], quality_index, beta)
    assert torch.allclose(left[..., : 8 * 16], whole[..., : 8 * 16], atol=1e-5)
    closer = generator(y_hat[..., : 8 + 1], quality_index, beta)
    assert not torch.allclose(closer[..., : 8 * 16], whole[..., : 8 * 16], atol=1e-5)


def test_channel_norm_by_hand():
    norm = ChannelNorm(2)
    y = norm(torch.tensor([[[[3.0]], [[1.0]]]]))  # mean 2, variance 1
    assert y.flatten().tolist() == pytest.approx([1 / (1 + 1e-3) ** 0.5, -1 / (1 + 1e-3) ** 0.5])


def test_realism_gain_starts_as_beta_and_is_zero_at_zero():
    gain = RealismGain(4, 3)
    assert gain(torch.tensor([0.0, 0.25, 1.0]))[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 1.0])
    gain.weight.data.normal_()
    assert (gain(torch.zeros(1)) == 0).all()


def test_complexity_of_the_default():
    macs = count_generator_macs(Generator(GeneratorConfig(), HyperpriorConfig()))
    assert 40_000 < macs["generator"] <= 100_000  # MAC a pixel, trunk included: the design's limit
    with pytest.raises(ValueError, match="multiple of 16"):
        GeneratorConfig(channels=100)
