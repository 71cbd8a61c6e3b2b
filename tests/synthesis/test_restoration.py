"""Super-resolution and the removal of damage: published sizes, and the objective by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from neurocodec.errors import ConfigError
from neurocodec.models.pixels import to_tensor
from neurocodec.perceptual.adversarial import discriminator_loss, relativistic
from neurocodec.synthesis import artefacts, superresolution
from neurocodec.synthesis.artefacts import Artefacts, ArtefactsConfig, DnCNN, jpeg
from neurocodec.synthesis.restoration import Discriminator
from neurocodec.synthesis.superresolution import (
    RRDBNet,
    SRResNet,
    SuperResolution,
    SuperResolutionConfig,
    enlarge,
    shrink,
)
from neurocodec.synthesis.system import Data, save_model
from neurocodec.training.distributed import Processes

HERE = Processes(torch.device("cpu"))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts():
    """SRResNet ×4 by hand, 1.5 million in EDSR's table 1; RRDB ×4 in the authors' repository and BasicSR; SRGAN's
    discriminator for 96²; DnCNN for colour, 20 layers, norms merged, in the authors' KAIR."""
    head, block = 3 * 64 * 81 + 64 + 1, 2 * (64 * 64 * 9 + 64 + 128) + 1
    trunk, doubling, tail = 64 * 64 * 9 + 64 + 128, 64 * 256 * 9 + 256 + 1, 64 * 3 * 81 + 3
    assert count(SRResNet(superresolution.Settings(scale=4))) == head + 16 * block + trunk + 2 * doubling + tail
    assert count(RRDBNet(superresolution.Settings(scale=4, blocks=23))) == 16_697_987
    discriminator = Discriminator(64, 96)
    statistics = sum(2 * m.num_features for m in discriminator.modules() if isinstance(m, nn.BatchNorm2d))
    assert count(discriminator) + statistics == 23_569_217  # Keras counts the statistics too
    assert count(DnCNN(artefacts.Settings(normalisation="none"))) == 668_227


@pytest.mark.parametrize("network", ["srresnet", "rrdb"])
@pytest.mark.parametrize("scale", [2, 4])
def test_sizes_and_the_skip(network, scale):
    settings = superresolution.Settings(scale=scale, network=network, channels=8, blocks=1, growth=4)
    y = torch.rand(2, 3, 12, 10)
    assert SuperResolution.network(settings)(y).shape == (2, 3, 12 * scale, 10 * scale)
    skipping = SuperResolution.network(dataclasses.replace(settings, skip=True))
    assert torch.equal(skipping(y), enlarge(y, scale))


def test_shrinking_is_pillow_s_bicubic(photo):
    rgb = photo[:64, :96]
    expected = np.asarray(Image.fromarray(rgb).resize((48, 32), Image.Resampling.BICUBIC)).astype(int)
    y = (255 * shrink(to_tensor(rgb), 2)).round()[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(y - expected).max() <= 1


def test_jpeg_is_pillow_s_and_worse_at_lower_quality(photo):
    x = to_tensor(photo[:64, :64]).repeat(2, 1, 1, 1)
    low, high = (jpeg(x, [10, 90]) - x).square().mean((1, 2, 3))
    assert low > 4 * high > 0


def test_noise_has_its_sigma():
    settings = artefacts.Settings(damage="noise", channels=4, layers=3)
    system = Artefacts(ArtefactsConfig(Data(crop=32), artefacts=settings), HERE)
    x = torch.full((2, 3, 200, 200), 0.5)
    noisy = system.degrade(x, torch.tensor([0.2, 1.0]))
    assert (noisy - x).flatten(1).std(1).tolist() == pytest.approx([11 / 255, 55 / 255], rel=0.02)
    network = DnCNN(settings).eval()
    assert torch.equal(network(noisy), noisy)  # before training
    with pytest.raises(ConfigError, match="quality_min is above"):
        artefacts.Settings(quality_min=50, quality_max=40)


def test_relativistic_losses_by_hand():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])
    better, worse = relativistic(real, fake)
    assert better.tolist() == [0.0, 2.0]
    assert worse.tolist() == [-2.0, 0.0]
    expected = F.softplus(-better).mean() + F.softplus(worse).mean()
    assert torch.equal(discriminator_loss(better, worse, "non-saturating"), expected)


def test_the_objective_by_hand():
    """Pixels, features and the relativistic generator's loss, with their weights; each step teaches one network."""
    settings = superresolution.Settings(
        channels=4, blocks=1, pixel="l1", pixel_weight=0.5, feature_weight=2.0, features="alexnet",
        gan_weight=0.25, relativistic=True, discriminator_channels=4,
    )  # fmt: skip
    system = SuperResolution(SuperResolutionConfig(Data(crop=32), superresolution=settings), HERE)
    x, modules = torch.rand(2, 3, 32, 32), system.modules
    for module in modules.values():
        module.eval()
    first, second = system.losses(modules, x, torch.rand(2), 0, 0.0)
    x_hat = modules["generator"](shrink(x, 2))
    real, fake = modules["discriminator"](x), modules["discriminator"](x_hat)
    better, worse = real - fake.mean(), fake - real.mean()
    assert first.module == "discriminator"
    torch.testing.assert_close(first.value, F.softplus(-better).mean() + F.softplus(worse).mean())
    assert system.features is not None
    features = (system.features(x_hat)["conv5"] - system.features(x)["conv5"]).square().mean()
    gan = F.softplus(-worse).mean() + F.softplus(better).mean()
    torch.testing.assert_close(second.value, 0.5 * (x_hat - x).abs().mean() + 2 * features + 0.25 * gan)
    second.value.backward()
    assert all(p.grad is None for p in modules["discriminator"].parameters())


def test_a_run_starts_from_a_model_file(tmp_path):
    settings = superresolution.Settings(channels=4, blocks=1)
    network = SuperResolution.network(settings)
    path = tmp_path / "start.safetensors"
    save_model(path, "superresolution", settings, network)
    for channels in (4, 5):
        other = superresolution.Settings(channels=channels, blocks=1, start=str(path))
        system = SuperResolution(SuperResolutionConfig(superresolution=other), HERE)
        if channels == 5:
            with pytest.raises(ConfigError, match="cannot start from"):
                system.initialise([])
            continue
        system.initialise([])
        for name, value in system.modules["generator"].state_dict().items():
            assert torch.equal(value, network.state_dict()[name]), name
