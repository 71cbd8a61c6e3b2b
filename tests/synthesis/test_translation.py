"""pix2pix, CycleGAN, fast style transfer and SPADE: published sizes, objectives by hand, who learns what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocodec.errors import ConfigError
from neurocodec.models.pixels import to_tensor
from neurocodec.perceptual.adversarial import PatchDiscriminator
from neurocodec.perceptual.style import feature_loss, gram_matrix, style_loss, total_variation_isotropic
from neurocodec.synthesis import cyclegan, faststyle, pix2pix, spade
from neurocodec.synthesis.blocks import ResidualGenerator
from neurocodec.synthesis.system import Data, Training
from neurocodec.training.distributed import Processes

HERE = Processes(torch.device("cpu"))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def take_steps(system, x):
    """The losses of a step by module, each after its backward pass; checks that no other module got a gradient."""
    losses = {}
    for loss in system.losses(system.modules, x, torch.zeros(len(x)), 0, 0.0):
        for module in system.modules.values():
            module.zero_grad()
        loss.value.backward()
        for name, module in system.modules.items():
            given = [p.grad is not None for p in module.parameters() if p.requires_grad]
            assert all(given) if name == loss.module else not any(given), (loss.module, name)
        losses[loss.module] = loss
    return losses


# pix2pix


def test_the_unet_of_the_authors_has_their_parameters():
    """U-Net-256 with batch normalisation: 54.414 million; PatchGAN of 70×70 of six channels: 2.769 million with batch
    normalisation, 2.765 million of three channels with instance normalisation (pytorch-CycleGAN-and-pix2pix)."""
    settings = pix2pix.Settings(normalisation="batch")
    assert count(pix2pix.UNet(settings)) == 54_413_955
    batch_norms, biases = 2 * (128 + 256 + 512), 128 + 256 + 512
    assert count(PatchDiscriminator(3)) + batch_norms - biases == 2_768_705
    assert count(PatchDiscriminator()) == 2_764_737


def test_a_logit_of_the_patch_discriminator_sees_70_pixels():
    network = PatchDiscriminator(channels=2, normalisation="none")
    x = torch.rand(1, 3, 256, 256, requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    for seen in (x.grad.abs().sum((0, 1, 2)), x.grad.abs().sum((0, 1, 3))):
        assert int((seen > 0).sum()) == 70


def test_the_unet_sees_far_and_near_and_keeps_its_dropout():
    network = pix2pix.UNet(pix2pix.Settings(levels=5, channels=4)).eval()
    y = torch.rand(1, 3, 64, 32)
    one, two = network(y), network(y)
    assert one.shape == y.shape
    assert 0 <= one.min() < one.max() <= 1
    assert not torch.equal(one, two)
    torch.manual_seed(1)
    one = network(y)
    torch.manual_seed(1)
    assert torch.equal(one, network(y))
    torch.manual_seed(1)
    far = network(y.index_fill(3, torch.tensor([31]), 0.5))
    assert (far - one)[:, :, :, 0].abs().max() > 0


def test_edges_by_hand():
    x = torch.zeros(1, 3, 8, 8)
    x[:, :, :, 4:] = 1.0
    expected = torch.ones(8, 8)
    expected[:, 3:5] = 0.0
    assert torch.equal(pix2pix.edges(x), expected.expand(1, 3, 8, 8))
    assert pix2pix.edges(0.1 * x).min() == 1  # a step of 0.1 is none
    assert pix2pix.edges(0.15 * x).min() == 0


def test_pix2pix_by_hand():
    settings = pix2pix.Settings(levels=3, channels=4, discriminator_channels=4)
    system = pix2pix.Pix2Pix(pix2pix.Pix2PixConfig(Data(crop=32), pix2pix=settings), HERE)
    x = torch.rand(2, 3, 32, 32)
    y = pix2pix.edges(x)
    torch.manual_seed(3)
    losses = take_steps(system, x)
    torch.manual_seed(3)
    x_hat = system.modules["generator"](y)
    critic = system.modules["discriminator"]
    real, fake = critic(x, y), critic(x_hat, y)
    expected = 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
    torch.testing.assert_close(losses["discriminator"].value, expected)
    torch.testing.assert_close(losses["generator"].value, F.softplus(-fake).mean() + 200 * (x_hat - x).abs().mean())
    alone = pix2pix.Settings(levels=3, channels=4, gan_weight=0.0)
    system = pix2pix.Pix2Pix(pix2pix.Pix2PixConfig(Data(crop=32), pix2pix=alone), HERE)
    assert list(take_steps(system, x)) == ["generator"]
    with pytest.raises(ConfigError, match="a multiple of 256"):
        pix2pix.Pix2Pix(pix2pix.Pix2PixConfig(Data(crop=64), pix2pix=pix2pix.Settings(channels=4)), HERE)


# CycleGAN


def cycle_config(**settings):
    data = Data(crop=32, in_turn=True, mix={"b": 0.5})
    tiny = cyclegan.Settings(channels=4, blocks=1, pool=3, discriminator_channels=4, **settings)
    return cyclegan.CycleGanConfig(data, Training(batch=4), cyclegan=tiny)


def test_generators_have_the_published_parameters():
    """Nine blocks: 11.378 million (pytorch-CycleGAN-and-pix2pix); fast style transfer: 1,679,235 (pytorch/examples)."""
    nine = ResidualGenerator(64, 9, kernel=7, upsampling="transposed", affine=False)
    assert count(nine) == 11_378_179
    assert count(faststyle.FastStyle.network(faststyle.Settings())) == 1_679_235
    assert nine(torch.rand(1, 3, 32, 24)).shape == (1, 3, 32, 24)


def test_cyclegan_by_hand():
    system = cyclegan.CycleGan(cycle_config(), HERE)
    x = torch.rand(4, 3, 32, 32)
    losses = take_steps(system, x)
    b, a = x[::2], x[1::2]
    made, critic = system.modules["generator"](a, b), system.modules["discriminator"]
    fake_b, fake_a = system.modules["generator"].to_b(a), system.modules["generator"].to_a(b)
    torch.testing.assert_close(made["cycle_a"], system.modules["generator"].to_a(fake_b))
    real, fake = (critic.a(a), critic.b(b)), (critic.a(fake_a), critic.b(fake_b))
    expected = sum(0.5 * (r - 1).square().mean() + 0.5 * f.square().mean() for r, f in zip(real, fake, strict=True))
    torch.testing.assert_close(losses["discriminator"].value, expected)
    expected = sum((f - 1).square().mean() for f in fake)
    pairs = {"cycle_a": (a, 10), "cycle_b": (b, 10), "same_a": (a, 5), "same_b": (b, 5)}
    expected = expected + sum(2 * w * (made[key] - y).abs().mean() for key, (y, w) in pairs.items())
    torch.testing.assert_close(losses["generator"].value, expected)


def test_the_pool_gives_old_pictures_half_of_the_time():
    torch.manual_seed(0)
    pool = cyclegan.Pool(50, 2)
    first = torch.arange(50.0).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    assert torch.equal(pool.exchange(first), first)  # until it is full
    new = torch.arange(1000.0, 2000.0).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    given = pool.exchange(new)[:, 0, 0, 0]
    kept = int((given == new[:, 0, 0, 0]).sum())
    assert 450 < kept < 550
    both = torch.cat([given, pool.pictures[:, 0, 0, 0]])
    assert sorted(both.tolist()) == [float(i) for i in (*range(50), *range(1000, 2000))]  # none is lost
    assert int(pool.count) == 50


@pytest.mark.parametrize("change", [{"mix": {}}, {"in_turn": False}, {"batch": 3}])
def test_cyclegan_needs_two_folders_in_turn(change):
    data = {"crop": 32, "in_turn": True, "mix": {"b": 0.5}} | {k: v for k, v in change.items() if k != "batch"}
    with pytest.raises(ConfigError, match=r"one other folder in data\.mix"):
        cyclegan.CycleGan(cyclegan.CycleGanConfig(Data(**data), Training(batch=change.get("batch", 2))), HERE)


# Fast style transfer


def test_fast_style_by_hand(pictures):
    settings = faststyle.Settings(str(pictures / "0.png"), 32, channels=4, blocks=1, content_weight=2.0, tv_weight=3.0)
    system = faststyle.FastStyle(faststyle.FastStyleConfig(Data(crop=32), faststyle=settings), HERE)
    x = torch.rand(2, 3, 32, 32)
    x_hat = system.modules["generator"](x)
    features, target = system.vgg(x_hat), system.vgg(x)["relu2_2"]
    layers = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
    assert tuple(features) == layers
    expected = 3.0 * total_variation_isotropic(x_hat).mean()
    expected = expected + 2.0 * (feature_loss(features["relu2_2"], target) / target.square().mean((1, 2, 3))).mean()
    expected = expected + style_loss(features, system.grams, system.weights).mean()
    torch.testing.assert_close(take_steps(system, x)["generator"].value, expected)
    nothing = {layer: torch.zeros_like(f) for layer, f in features.items()}
    torch.testing.assert_close(style_loss(nothing, system.grams, system.weights), torch.ones(2))  # what weights are for
    assert gram_matrix(features["relu1_2"]).shape[1:] == system.grams["relu1_2"].shape[1:]
    with pytest.raises(ConfigError, match="name the file of a painting"):
        faststyle.FastStyle(faststyle.FastStyleConfig(), HERE)


# SPADE


def test_spade_has_the_parameters_that_its_authors_code_prints():
    """19 labels: 92.5 million in the generator, 5.6 million in the discriminators of two scales."""
    assert count(spade.Generator(spade.Settings(labels=19))) == 92_538_819
    assert count(spade.Discriminators(spade.Settings(labels=19))) == 5_568_386


def test_spade_by_hand():
    """Gain and offset of a position come from its labels alone, on top of a norm without any of its own."""
    layer = spade.Spade(2, spade.Settings(labels=3, hidden=4))
    for conv, bias in ((layer.gain, 0.5), (layer.offset, -2.0)):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, bias)
    x, labels = torch.randn(4, 2, 8, 8), torch.rand(4, 3, 16, 16)
    normal = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(layer(x, labels), 1.5 * normal - 2.0)


@pytest.mark.parametrize("conditioning", ["spade", "concatenation"])
def test_spade_objective_by_hand(conditioning):
    settings = spade.Settings(
        labels=3, levels=2, channels=4, hidden=4, conditioning=conditioning, discriminator_channels=4
    )
    system = spade.SpadeSystem(spade.SpadeConfig(Data(crop=48), spade=settings), HERE)
    x = torch.rand(2, 3, 48, 48)
    for module in system.modules.values():
        module.eval()
    losses = take_steps(system, x)
    network, critic = system.modules["generator"], system.modules["discriminator"]
    labels = network.one_hot(network.layout(x))
    assert torch.equal(labels.sum(1), torch.ones(2, 48, 48))
    x_hat = network(labels)
    real, fake = critic(x, labels), critic(x_hat, labels)
    hinge = [F.relu(1 - r[-1]).mean() + F.relu(1 + f[-1]).mean() for r, f in zip(real, fake, strict=True)]
    torch.testing.assert_close(losses["discriminator"].value, torch.stack(hinge).mean())
    matching = [
        sum((a - b).abs().mean() for a, b in zip(r[:-1], f[:-1], strict=True)) for r, f in zip(real, fake, strict=True)
    ]
    expected = -torch.stack([f[-1].mean() for f in fake]).mean() + 10 * torch.stack(matching).mean()
    features, target = system.vgg(x_hat), system.vgg(x)
    weights = {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1}
    expected = expected + 10 * sum(w * (features[k] - target[k]).abs().mean() for k, w in weights.items())
    torch.testing.assert_close(losses["generator"].value, expected)


def test_the_palette_is_that_of_the_pictures():
    colours = torch.tensor([[0, 0, 0], [0, 255, 0], [255, 0, 0], [255, 255, 255]])
    rgb = colours.repeat_interleave(32, 0)[None].expand(128, -1, -1).to(torch.uint8).numpy()
    settings = spade.Settings(labels=4, levels=2, channels=4, hidden=4, feature_weight=0.0, discriminator_channels=4)
    system = spade.SpadeSystem(spade.SpadeConfig(Data(crop=48), spade=settings), HERE)
    system.initialise([rgb])
    network = system.modules["generator"]
    assert {tuple(c) for c in (255 * network.palette).round().int().tolist()} == {tuple(c) for c in colours.tolist()}
    x = to_tensor(rgb)
    layout = network.layout(x)
    assert torch.equal(network.painted(layout)[:, :, :, 8], x[:, :, :, 8])
    assert torch.equal(network.layout(network.painted(layout)), layout)
