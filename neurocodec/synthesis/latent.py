"""The latents of a DCGAN that make a given picture, and where they lead.

In-domain inversion: an encoder, then optimisation that stays where the encoder agrees (Zhu, Shen, Zhao and Zhou, ECCV
2020). PULSE: a picture whose small version is the given one (Menon et al., CVPR 2020). Directions: the generator's
first layer has them in its weights (SeFa: Shen and Zhou, CVPR 2021).

The output shows what the generator has seen: PULSE became known for turning people of colour into white faces. Details
are invented and prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.errors import ConfigError, ImageError, ModelMismatchError
from neurocodec.models.pixels import from_tensor
from neurocodec.perceptual.adversarial import discriminator_loss, generator_loss
from neurocodec.synthesis import dcgan, pictures
from neurocodec.synthesis.system import SeededOptions, SynthesisConfig, TrainedSystem
from neurocodec.training.config import Count, NotNegative, Positive
from neurocodec.training.data import Rgb
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability

PULSE_SCALE = 4
SWEEP = (-3.0, -1.5, 0.0, 1.5, 3.0)
"""How far `directions` goes along each, in standard deviations of z."""


@dataclass(frozen=True)
class Settings:
    """model: the file of a DCGAN, whose size, latent and channels the next three repeat. Weights: of the picture's
    squared error, of z's for the generator's own pictures, and of the discriminator (0.1 in the paper)."""

    model: str = ""
    size: Count = 64
    latent: Count = 100
    channels: Count = 64
    pixel_weight: NotNegative = 1.0
    latent_weight: NotNegative = 0.1
    gan_weight: NotNegative = 0.1
    discriminator_learning_rate: NotNegative = 1e-4
    guard_window: Count = 200


@dataclass(frozen=True)
class LatentConfig(SynthesisConfig):
    """The configuration of a run."""

    latent: Settings = field(default_factory=Settings)


class Inverter(nn.Module):
    """A picture -> z -> a picture, by an encoder that learns and a generator that does not."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        shape = dcgan.Settings(size=settings.size, latent=settings.latent, channels=settings.channels)
        self.encoder = dcgan.Discriminator(shape, settings.latent)
        self.generator = dcgan.Generator(shape).requires_grad_(False)

    def train(self, mode: bool = True) -> Inverter:
        """The generator stays as it is applied."""
        super().train(mode)
        self.generator.eval()
        return self

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, size, size) in [0, 1] -> z, (B, latent)."""
        z: Tensor = self.encoder(x).flatten(1)
        return z

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The picture that the encoder makes of x; and what it makes of the picture of z."""
        return self.generator(self.encode(x)), self.encode(self.generator(z))

    def invert(self, x: Tensor, steps: int, rate: float, domain_weight: float) -> Tensor:
        """z of pictures: Adam from the encoder's, on |x - G(z)|² + domain weight · |z - E(G(z))|² / latent (eq. 6)."""
        return _minimise(
            self.encode(x).detach(),
            lambda z: _squares(x, y := self.generator(z)) + domain_weight * _squares(z, self.encode(y)),
            steps,
            rate,
        )

    def pulse(self, y: Tensor, steps: int, rate: float, starts: int, seed: int) -> Tensor:
        """z, on the sphere of radius √latent, whose small picture is nearest to y, (1, 3, size/4, size/4): the best of
        random starts (PULSE, algorithm 1)."""

        def on_sphere(z: Tensor) -> Tensor:
            unit: Tensor = F.normalize(z)
            return unit * math.sqrt(z.shape[1])

        def loss_of(z: Tensor) -> Tensor:
            small = F.interpolate(self.generator(on_sphere(z)), scale_factor=1 / PULSE_SCALE, mode="area")
            return _squares(y.expand_as(small), small)

        z = pictures.noise((starts, self.generator.latent), seed).to(y.device)
        z = _minimise(z, loss_of, steps, rate)
        best: Tensor = on_sphere(z[loss_of(z).argmin()][None])
        return best

    def directions(self, count: int) -> Tensor:
        """The directions of z that change the first layer's output most, (count, latent), orthonormal."""
        first = self.generator.layers[0]
        assert isinstance(first, nn.ConvTranspose2d)
        _, _, rows = torch.linalg.svd(first.weight.detach().flatten(1).T, full_matrices=False)
        best: Tensor = rows[:count]
        return best


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each picture or z, (B,)."""
    return (x - y).square().flatten(1).mean(1)


def _minimise(z: Tensor, loss_of: Callable[[Tensor], Tensor], steps: int, rate: float) -> Tensor:
    with torch.enable_grad():
        z = z.clone().requires_grad_()
        optimiser = torch.optim.Adam([z], rate)
        for _ in range(steps):
            optimiser.zero_grad()
            loss_of(z).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return z.detach()


@dataclass(frozen=True)
class LatentOptions(SeededOptions):
    """mode: "invert" shows the picture, the encoder's inversion and the optimised one; "pulse" enlarges the picture
    four times; "directions" changes it along four directions. steps: of Adam; rate: its learning rate; domain_weight:
    of the encoder's agreement, when inverting; starts, seed: of "pulse", which keeps the best of several random starts.
    """

    mode: Literal["invert", "pulse", "directions"] = "invert"
    steps: Count = 200
    rate: Positive = 0.05
    domain_weight: NotNegative = 0.1
    starts: Count = 8


class Latent(TrainedSystem[Settings, LatentOptions]):
    """Trains an encoder for a DCGAN; `apply` inverts, enlarges or changes a picture."""

    name = "latent"
    config_type = LatentConfig
    options = LatentOptions
    betas = (0.9, 0.99)

    @staticmethod
    def network(settings: Settings) -> Inverter:
        return Inverter(settings)

    def critics(self) -> dict[str, nn.Module]:
        settings = self.settings
        if not settings.gan_weight:
            return {}
        return {"discriminator": dcgan.Discriminator(dcgan.Settings(size=settings.size, channels=settings.channels))}

    def initialise(self, photographs: list[Rgb]) -> None:
        network = self.modules["generator"]
        assert isinstance(network, Inverter)
        try:
            generator, _ = dcgan.Dcgan.load(self.settings.model)
            network.generator.load_state_dict(generator.state_dict())
        except (ModelMismatchError, RuntimeError) as error:
            raise ConfigError(
                f"latent.model is {self.settings.model!r}, expected the model of a DCGAN of the size, latent and "
                f"channels of [latent]: {error}"
            ) from error
        if self.config.data.crop != self.settings.size:
            raise ConfigError(
                f"data.crop is {self.config.data.crop}, and latent.size {self.settings.size}: make them equal."
            )

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        settings = self.settings
        z = torch.randn(len(x), settings.latent, device=x.device)
        x_hat, z_hat = modules["generator"](x, z)
        terms = {
            "pixel": settings.pixel_weight * _squares(x, x_hat).mean(),
            "latent": settings.latent_weight * _squares(z, z_hat).mean(),
        }
        if settings.gan_weight:
            critic = self.modules["discriminator"]
            real, fake = modules["discriminator"](x), modules["discriminator"](x_hat.detach())
            scores = {"real": probability(real, "minimax").mean(), "fake": probability(fake, "minimax").mean()}
            self.guard.add(x, x_hat, scores["real"], scores["fake"])
            yield Loss("discriminator", discriminator_loss(real, fake, "non-saturating"), scores)
            with frozen(critic):
                terms["gan"] = settings.gan_weight * generator_loss(critic(x_hat), "non-saturating")
        yield Loss("generator", torch.stack(list(terms.values())).sum(), terms)

    def show(self, network: Inverter, x: Tensor) -> dict[str, Tensor]:
        return {"truth": x, "output": network.generator(network.encode(x))}

    @classmethod
    def transform(cls, network: Inverter, settings: Settings, x: Tensor, options: LatentOptions) -> Tensor:
        side = settings.size // PULSE_SCALE if options.mode == "pulse" else settings.size
        if min(x.shape[2:]) < side:
            raise ImageError(f"a picture of {x.shape[3]}×{x.shape[2]} pixels, expected at least {side}×{side}")
        small = F.interpolate(x, scale_factor=side / min(x.shape[2:]), mode="bicubic", antialias=True)
        x = pictures.centre_crops([from_tensor(small)], side).to(x.device)
        if options.mode == "pulse":
            enlarged: Tensor = network.generator(
                network.pulse(x, options.steps, options.rate, options.starts, options.seed)
            )
            return enlarged
        z = network.invert(x, options.steps, options.rate, options.domain_weight)
        if options.mode == "invert":
            return torch.cat((x, network.generator(network.encode(x)), network.generator(z)), 3)
        moved = [z + amount * d for d in network.directions(4) for amount in SWEEP]
        return pictures.grid(network.generator(torch.cat(moved)), len(SWEEP))
