"""Removal of JPEG artefacts and of noise by one network, blind to their strength.

DnCNN (Zhang et al., "Beyond a Gaussian denoiser", TIP 2017), which learns what to subtract; with a discriminator it
invents texture too (Galteri et al., "Deep generative adversarial compression artifact removal", ICCV 2017).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from neurocodec.errors import ConfigError
from neurocodec.models.pixels import from_tensor, to_tensor
from neurocodec.synthesis.blocks import Norm, norm, start_at_zero
from neurocodec.synthesis.restoration import Restoration, RestorationSettings
from neurocodec.synthesis.system import SynthesisConfig
from neurocodec.training.config import Count, NotNegative, Range

Quality = Annotated[int, Range("between 1 and 95", lambda value: 1 <= value <= 95)]


@dataclass(frozen=True)
class Settings(RestorationSettings):
    """damage: what to remove; quality_min, quality_max: of JPEG; sigma_max: noise has σ from 0 to this, of 255 (the
    paper's blind range); layers: 20 in the paper's blind networks, 17 in those of one σ."""

    damage: Literal["jpeg", "noise"] = "jpeg"
    quality_min: Quality = 5
    quality_max: Quality = 60
    sigma_max: NotNegative = 55.0
    channels: Count = 64
    layers: Annotated[int, Range("at least 3", lambda value: value >= 3)] = 20
    normalisation: Norm = "batch"

    def __post_init__(self) -> None:
        if self.quality_min > self.quality_max:
            raise ConfigError("artefacts.quality_min is above artefacts.quality_max.")


@dataclass(frozen=True)
class ArtefactsConfig(SynthesisConfig):
    """The configuration of a run."""

    artefacts: Settings = field(default_factory=Settings)


class DnCNN(nn.Module):
    """y less the noise that 3×3 convolutions with norm and ReLU see in it: (B, 3, H, W) -> the same (fig. 1).

    The last layer starts at zero, so that an untrained network changes nothing.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        n, plain = settings.channels, settings.normalisation == "none"
        layers: list[nn.Module] = [nn.Conv2d(3, n, 3, padding=1), nn.ReLU()]
        for _ in range(settings.layers - 2):
            layers += [nn.Conv2d(n, n, 3, padding=1, bias=plain), norm(settings.normalisation, n), nn.ReLU()]
        last = nn.Conv2d(n, 3, 3, padding=1)
        self.layers = nn.Sequential(*layers, last)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        start_at_zero(last)

    def forward(self, y: Tensor) -> Tensor:
        x_hat: Tensor = y - self.layers(y)
        return x_hat


def jpeg(x: Tensor, quality: list[int]) -> Tensor:
    """Each picture through a JPEG file of its quality, 4:2:0 as Pillow writes it. x: (B, 3, H, W) in [0, 1]."""
    decoded = []
    for picture, q in zip(x.cpu(), quality, strict=True):
        file = io.BytesIO()
        Image.fromarray(from_tensor(picture[None])).save(file, "JPEG", quality=q)
        decoded.append(to_tensor(np.asarray(Image.open(file))))
    return torch.cat(decoded).to(x.device)


class Artefacts(Restoration[Settings]):
    """Trains a network that repairs pictures; `apply` repairs one."""

    name = "artefacts"
    config_type = ArtefactsConfig

    @staticmethod
    def network(settings: Settings) -> DnCNN:
        return DnCNN(settings)

    def degrade(self, x: Tensor, amount: Tensor) -> Tensor:
        settings = self.settings
        if settings.damage == "noise":  # not clamped, as in the paper
            sigma = settings.sigma_max / 255 * amount[:, None, None, None]
            return x + sigma * torch.randn_like(x)
        span = settings.quality_max - settings.quality_min
        return jpeg(x, [settings.quality_min + round(span * (1 - a)) for a in amount.tolist()])

    def show(self, network: DnCNN, x: Tensor) -> dict[str, Tensor]:
        y = self.degrade(x, torch.linspace(0.3, 0.9, len(x)).to(x.device))
        return {"input": y, "output": network(y), "truth": x}
