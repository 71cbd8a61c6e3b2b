"""Super-resolution: SRResNet and SRGAN (Ledig et al., CVPR 2017), RRDB and ESRGAN (Wang et al., ECCVW 2018).

x ─bicubic, antialiased→ a smaller picture ─network→ x_hat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.synthesis.blocks import ResidualBlock, start_at_zero
from neurocodec.synthesis.restoration import Restoration, RestorationSettings
from neurocodec.synthesis.system import SynthesisConfig, check_crop
from neurocodec.training.config import Count, Range
from neurocodec.training.distributed import Processes


@dataclass(frozen=True)
class Settings(RestorationSettings):
    """scale: the factor; channels, blocks: 64 and 16 in SRResNet, 64 and 23 in RRDB; growth: of RRDB's dense blocks.

    skip: adds the bicubic enlargement to what the network makes, as VDSR does and the two papers do not: short runs
    start there.
    """

    scale: Annotated[int, Range("2 or 4", lambda value: value in (2, 4))] = 2
    network: Literal["srresnet", "rrdb"] = "srresnet"
    channels: Count = 64
    blocks: Count = 16
    growth: Count = 32
    skip: bool = False


@dataclass(frozen=True)
class SuperResolutionConfig(SynthesisConfig):
    """The configuration of a run."""

    superresolution: Settings = field(default_factory=Settings)


class SRResNet(nn.Module):
    """Residual blocks with batch normalisation and PReLU, then PixelShuffle (Ledig et al., fig. 4): k9n64s1, B blocks
    of k3n64s1, k3n64s1, k3n256s1 for each doubling, k9n3s1. (B, 3, h, w) -> (B, 3, scale · h, scale · w)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        n = settings.channels
        self.head = nn.Sequential(nn.Conv2d(3, n, 9, padding=4), nn.PReLU())
        blocks = [ResidualBlock(n, "batch", activation=nn.PReLU) for _ in range(settings.blocks)]
        self.trunk = nn.Sequential(*blocks, nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n))
        doublings: list[nn.Module] = []
        for _ in range(settings.scale // 2):
            doublings += [nn.Conv2d(n, 4 * n, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.tail = nn.Sequential(*doublings, nn.Conv2d(n, 3, 9, padding=4))

    def forward(self, y: Tensor) -> Tensor:
        features = self.head(y)
        x_hat: Tensor = self.tail(features + self.trunk(features))
        return x_hat


class DenseBlock(nn.Module):
    """x + 0.2 · the last of five 3×3 convolutions, each of which sees all before it (Wang et al., fig. 4).

    All but the last have `growth` channels and leaky ReLU of slope 0.2.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [channels]
        self.layers = nn.ModuleList(nn.Conv2d(channels + i * growth, w, 3, padding=1) for i, w in enumerate(widths))
        for layer in self.layers:
            start_smaller(layer)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers[:-1]:
            features.append(F.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        y: Tensor = x + 0.2 * self.layers[-1](torch.cat(features, 1))
        return y


class ResidualInResidual(nn.Module):
    """x + 0.2 · three dense blocks."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + 0.2 * self.layers(x)
        return y


class RRDBNet(nn.Module):
    """ESRGAN's network: no normalisation, residual-in-residual dense blocks, nearest neighbours and a convolution for
    each doubling, two more convolutions (the authors' code). (B, 3, h, w) -> (B, 3, scale · h, scale · w)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        n = settings.channels
        self.head = nn.Conv2d(3, n, 3, padding=1)
        blocks = [ResidualInResidual(n, settings.growth) for _ in range(settings.blocks)]
        self.trunk = nn.Sequential(*blocks, nn.Conv2d(n, n, 3, padding=1))
        doublings: list[nn.Module] = []
        for _ in range(settings.scale // 2):
            doublings += [nn.Upsample(scale_factor=2), nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(0.2)]
        last = [nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(n, 3, 3, padding=1)]
        self.tail = nn.Sequential(*doublings, *last)

    def forward(self, y: Tensor) -> Tensor:
        features = self.head(y)
        x_hat: Tensor = self.tail(features + self.trunk(features))
        return x_hat


def start_smaller(layer: nn.Module) -> None:
    """A tenth of He's random weights, which deep networks without normalisation need (Wang et al., section 3.1)."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    nn.init.kaiming_normal_(layer.weight)
    layer.weight.data *= 0.1
    nn.init.zeros_(layer.bias)


class WithSkip(nn.Module):
    """The bicubic enlargement, plus what a network adds, which is nothing at first."""

    def __init__(self, network: SRResNet | RRDBNet, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        start_at_zero(network.tail[-1])

    def forward(self, y: Tensor) -> Tensor:
        x_hat: Tensor = enlarge(y, self.scale) + self.network(y)
        return x_hat


def shrink(x: Tensor, scale: int) -> Tensor:
    """Bicubic with antialiasing, on 8 bits: (B, 3, H, W) in [0, 1] -> (B, 3, H/scale, W/scale)."""
    y = F.interpolate(x, scale_factor=1 / scale, mode="bicubic", antialias=True)
    return (255 * y.clamp(0, 1)).round() / 255


def enlarge(y: Tensor, scale: int) -> Tensor:
    """Bicubic, not clamped: (B, 3, h, w) -> (B, 3, scale · h, scale · w)."""
    return F.interpolate(y, scale_factor=scale, mode="bicubic", antialias=True)


class SuperResolution(Restoration[Settings]):
    """Trains a network that enlarges; `apply` enlarges a picture."""

    name = "superresolution"
    config_type = SuperResolutionConfig

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        check_crop(config, config.superresolution.scale, 16)  # type: ignore[attr-defined]
        super().__init__(config, processes)

    @staticmethod
    def network(settings: Settings) -> nn.Module:
        network = SRResNet(settings) if settings.network == "srresnet" else RRDBNet(settings)
        return WithSkip(network, settings.scale) if settings.skip else network

    def degrade(self, x: Tensor, amount: Tensor) -> Tensor:
        return shrink(x, self.settings.scale)

    def show(self, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
        y = self.degrade(x, x.new_zeros(len(x)))
        bicubic = enlarge(y, self.settings.scale)
        return {"bicubic": bicubic, "output": network(y), "truth": x}
