"""What super-resolution and the removal of artefacts and noise share: one objective, from MSE alone to a GAN.

A degradation y of a picture x ─network→ x_hat, and a loss of pixels, of features and of a discriminator:
pixel weight · |x_hat - x| or squares + feature weight · features' squares + GAN weight · the generator's loss.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from neurocodec.errors import ConfigError, ModelMismatchError
from neurocodec.perceptual.adversarial import discriminator_loss, generator_loss, relativistic
from neurocodec.perceptual.features import FeatureNetwork, load_alexnet, load_vgg16
from neurocodec.perceptual.style import feature_loss
from neurocodec.synthesis.system import Options, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative
from neurocodec.training.data import Rgb
from neurocodec.training.log import mean_psnr
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability


@dataclass(frozen=True)
class RestorationSettings:
    """The objective. By default MSE alone; SRGAN's and ESRGAN's weights are in the configurations that ship."""

    pixel: Literal["mse", "l1"] = "mse"
    pixel_weight: NotNegative = 1.0
    feature_weight: NotNegative = 0.0
    features: Literal["vgg16", "alexnet"] = "vgg16"  # of the last convolution, before its activation
    gan_weight: NotNegative = 0.0
    relativistic: bool = False  # a discriminator of pairs (ESRGAN, section 3.2)
    discriminator_channels: Count = 64
    discriminator_learning_rate: NotNegative = 1e-4
    start: str = ""  # a model file of the same network to start from, such as one of MSE alone
    guard_window: Count = 200


class Discriminator(nn.Module):
    """SRGAN's: eight 3×3 convolutions of 64, 64, 128, ..., 512 channels, every second of stride 2, then 1,024 units
    (Ledig et al., CVPR 2017, fig. 4). (B, 3, crop, crop) in [0, 1] -> logits (B, 1); crop: a multiple of 16.
    """

    def __init__(self, channels: int, crop: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i in range(8):
            after = channels << i // 2
            layers.append(nn.Conv2d(before, after, 3, 1 + i % 2, 1))
            layers += [nn.BatchNorm2d(after)] if i else []
            layers.append(nn.LeakyReLU(0.2))
            before = after
        dense = nn.Linear(before * (crop // 16) ** 2, 16 * channels)
        self.layers = nn.Sequential(*layers, nn.Flatten(), dense, nn.LeakyReLU(0.2), nn.Linear(16 * channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(2 * x - 1)
        return y


R = TypeVar("R", bound=RestorationSettings)


class Restoration(TrainedSystem[R, Options]):
    """Learns x from its degradation. A subclass says how pictures are degraded, and has the network."""

    betas = (0.9, 0.999)

    @abstractmethod
    def degrade(self, x: Tensor, amount: Tensor) -> Tensor:
        """The input of the network. x: (B, 3, H, W) in [0, 1]; amount: (B,) in [0, 1], spread evenly over a batch."""

    def critics(self) -> dict[str, nn.Module]:
        settings = self.settings
        self.features = feature_network(settings.features, self.processes.device) if settings.feature_weight else None
        if not settings.gan_weight:
            return {}
        check_crop(self.config, 16, 32)
        return {"discriminator": Discriminator(settings.discriminator_channels, self.config.data.crop)}

    def initialise(self, photographs: list[Rgb]) -> None:
        if self.settings.start:
            try:
                network, _ = self.load(self.settings.start)
                self.modules["generator"].load_state_dict(network.state_dict())
            except (ModelMismatchError, RuntimeError) as error:
                raise ConfigError(f"cannot start from {self.settings.start!r}: {error}") from error

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        settings = self.settings
        x_hat = modules["generator"](self.degrade(x, quality_index))
        if settings.gan_weight:
            real, fake = modules["discriminator"](x), modules["discriminator"](x_hat.detach())
            scores = {"real": probability(real, "minimax").mean(), "fake": probability(fake, "minimax").mean()}
            self.guard.add(x, x_hat, scores["real"], scores["fake"])
            if settings.relativistic:
                real, fake = relativistic(real, fake)
            yield Loss("discriminator", discriminator_loss(real, fake, "non-saturating"), scores)

        mse = (x_hat - x).square().mean((1, 2, 3))
        terms = {"pixel": settings.pixel_weight * (mse.mean() if settings.pixel == "mse" else (x_hat - x).abs().mean())}
        if self.features is not None:
            with torch.no_grad():
                (target,) = self.features(x).values()
            (features,) = self.features(x_hat).values()
            terms["feature"] = settings.feature_weight * feature_loss(features, target).mean()
        if settings.gan_weight:
            with frozen(self.modules["discriminator"]):
                fake = self.modules["discriminator"](x_hat)
                if settings.relativistic:  # both sides: the generator has to be more real than the pictures
                    fake, real = relativistic(fake, self.modules["discriminator"](x))
                    terms["gan"] = settings.gan_weight * discriminator_loss(fake, real, "non-saturating")
                else:
                    terms["gan"] = settings.gan_weight * generator_loss(fake, "non-saturating")
        log = terms | {"psnr": mean_psnr(mse.detach().clamp(min=1e-10))}
        yield Loss("generator", torch.stack(list(terms.values())).sum(), log)


def feature_network(name: Literal["vgg16", "alexnet"], device: torch.device) -> FeatureNetwork:
    """The last convolution of VGG16, for the papers' VGG19, or of AlexNet; before its activation (ESRGAN, section 3.3).

    Raises MissingWeightsError.
    """
    return load_vgg16(("conv5_3",), device=device) if name == "vgg16" else load_alexnet(("conv5",), device=device)
