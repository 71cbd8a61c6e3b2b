"""DCGAN: pictures from noise (Radford, Metz and Chintala, ICLR 2016).

z ~ N(0, 1) ─4×4 transposed convolutions of stride 2─→ a picture; the discriminator mirrors the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from neurocodec.errors import ArgumentValueError, ConfigError
from neurocodec.perceptual.adversarial import discriminator_loss, generator_loss
from neurocodec.synthesis import pictures
from neurocodec.synthesis.blocks import start_small
from neurocodec.synthesis.system import Options, SynthesisConfig, TrainedSystem
from neurocodec.training.config import Count, NotNegative, Range
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability

SAMPLES = 64
"""The number of samples on a sheet."""
FullRows = Annotated[int, Range("1 to 8, or a multiple of 8", lambda n: n > 0 and (n < 8 or n % 8 == 0))]


@dataclass(frozen=True)
class Settings:
    """size: of the pictures in pixels; latent: the length of z; channels: of the layers next to the picture, doubled
    with every halving (64 in the authors' code, 128 in the paper's figure)."""

    size: Annotated[int, Range("a power of two from 8 on", lambda n: n >= 8 and n & (n - 1) == 0)] = 64
    latent: Count = 100
    channels: Count = 64
    gan: Literal["minimax", "non-saturating", "least-squares", "hinge"] = "non-saturating"
    spectral_norm: bool = False  # of the discriminator, instead of its batch normalisation (Miyato et al. 2018)
    discriminator_learning_rate: NotNegative = 2e-4
    guard_window: Count = 200


@dataclass(frozen=True)
class DcganConfig(SynthesisConfig):
    """The configuration of a run."""

    dcgan: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class DcganOptions(Options):
    """count: of pictures, eight in a row."""

    count: FullRows = SAMPLES


class Generator(nn.Module):
    """z (B, latent) -> (B, 3, size, size) in [0, 1].

    Batch normalisation and ReLU after every layer but the last, which ends in tanh, here scaled to [0, 1]; no biases
    (section 3 of the paper, and the authors' code).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.latent = settings.latent
        widths = [settings.channels * settings.size // side for side in sides(settings.size)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(settings.latent, widths[0], 4, bias=False)]
        for before, after in zip(widths, [*widths[1:], 3], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh()).apply(start_small)

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.layers(z[:, :, None, None])
        return 0.5 * y + 0.5


class Discriminator(nn.Module):
    """(B, 3, size, size) in [0, 1] -> logits (B, outputs, 1, 1): one, or for an encoder as many as z has.

    Leaky ReLU of slope 0.2, batch normalisation in all layers but the first and the last; or, with spectral_norm,
    spectral normalisation in all layers and no other.
    """

    def __init__(self, settings: Settings, outputs: int = 1) -> None:
        super().__init__()
        widths = [settings.channels * settings.size // side for side in sides(settings.size)[::-1]]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([3, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if i and not settings.spectral_norm:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], outputs, 4, bias=False)).apply(start_small)
        if settings.spectral_norm:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(2 * x - 1)
        return y


def sides(size: int) -> list[int]:
    """The sides of what the generator's doublings return: 8, 16, ..., size."""
    return [8 << i for i in range((size // 8).bit_length())]


class Dcgan(TrainedSystem[Settings, DcganOptions]):
    """Trains the generator against the discriminator; `apply` paints samples of a seed."""

    name = "dcgan"
    config_type = DcganConfig
    options = DcganOptions

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        if config.data.crop != self.settings.size:
            raise ConfigError(f"data.crop is {config.data.crop}, and dcgan.size {self.settings.size}: make them equal.")

    @staticmethod
    def network(settings: Settings) -> Generator:
        return Generator(settings)

    def critics(self) -> dict[str, nn.Module]:
        return {"discriminator": Discriminator(self.settings)}

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        kind, discriminator = self.settings.gan, self.modules["discriminator"]
        fake = modules["generator"](torch.randn(len(x), self.settings.latent, device=x.device))

        real_logits, fake_logits = modules["discriminator"](x), modules["discriminator"](fake.detach())
        scores = {"real": probability(real_logits, kind).mean(), "fake": probability(fake_logits, kind).mean()}
        self.guard.add(x, fake, scores["real"], scores["fake"])
        yield Loss("discriminator", discriminator_loss(real_logits, fake_logits, kind), scores)

        with frozen(discriminator):
            loss = generator_loss(discriminator(fake), kind)
        yield Loss("generator", loss, {})

    def show(self, network: Generator, x: Tensor) -> dict[str, Tensor]:
        z = pictures.noise((SAMPLES, network.latent), 0).to(x.device)
        return {"samples": pictures.grid(network(z), 8)}

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: DcganOptions, *, force: bool) -> str:
        pictures.check(output, options.device, force=force)
        network, settings = cls.load(sources[0], options.device)
        if not sources[1].isdecimal() or len(sources[1]) > 18:  # PyTorch's seeds have 64 bits
            raise ArgumentValueError(f"the seed is {sources[1]!r}, expected a whole number of up to 18 digits")
        z = pictures.noise((options.count, settings.latent), int(sources[1])).to(options.device)
        with torch.no_grad():
            pictures.write(pictures.grid(network(z), min(8, options.count)), output, force=force)
        return f"{output}: {options.count} pictures of seed {sources[1]}"
