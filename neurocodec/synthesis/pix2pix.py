"""pix2pix: one picture from another (Isola, Zhu, Zhou and Efros, CVPR 2017), here photographs from their edges.

y ─U-Net→ x_hat; the 70×70 PatchGAN sees y with x or with x_hat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.perceptual.adversarial import PatchDiscriminator, discriminator_loss, generator_loss
from neurocodec.synthesis import pictures
from neurocodec.synthesis.blocks import Norm, norm, start_small
from neurocodec.synthesis.system import SeededOptions, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative, Range
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability

SOBEL = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
EDGE = 0.12
"""The length of the gradient of luma, of 1 for a step from black to white, above which there is an edge."""


@dataclass(frozen=True)
class Settings:
    """levels: halvings of the U-Net, 8 for pictures of 256²; channels: 64 in the paper, as in the discriminator.

    normalisation: "instance" equals the paper's batch normalisation at its batch size of 1; gan_weight: 0 leaves L1
    alone, to compare with.
    """

    levels: Annotated[int, Range("from 3 to 8", lambda value: 3 <= value <= 8)] = 8
    channels: Count = 64
    normalisation: Norm = "instance"
    l1_weight: NotNegative = 100.0
    gan_weight: NotNegative = 1.0
    discriminator_channels: Count = 64
    discriminator_learning_rate: NotNegative = 2e-4
    guard_window: Count = 200


@dataclass(frozen=True)
class Pix2PixConfig(SynthesisConfig):
    """The configuration of a run."""

    pix2pix: Settings = field(default_factory=Settings)


class UNet(nn.Module):
    """Halvings and doublings by 4×4 convolutions of stride 2; each doubling also sees what its halving made (appendix
    6.1.1: C64-C128-C256-C512-C512-C512-C512-C512, then CD512-CD512-CD512-C512-C256-C128-C64).

    (B, 3, H, W) in [0, 1] -> the same; H, W: multiples of 2^levels. The first and the innermost halving have no norm.
    Dropout of ½ in the first three doublings is the only noise, and stays on when the network is applied (section 3.2).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths = [settings.channels * min(8, 1 << i) for i in range(settings.levels)]
        kind, bias = settings.normalisation, settings.normalisation != "batch"
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (before, after) in enumerate(zip([3, *widths], widths, strict=False)):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=bias))
            if 0 < i < settings.levels - 1:
                layers.append(norm(kind, after, affine=False))
            self.down.append(nn.Sequential(*layers))
        joined = [widths[-1], *(2 * width for width in widths[-2::-1])]
        for i, (before, after) in enumerate(zip(joined, [*widths[-2::-1], 3], strict=True)):
            last = i == settings.levels - 1
            layers = [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=bias or last)]
            layers.append(nn.Tanh() if last else norm(kind, after, affine=False))
            self.up.append(nn.Sequential(*layers))
        self.apply(start_small)

    def forward(self, y: Tensor) -> Tensor:
        h, skips = 2 * y - 1, list[Tensor]()
        for down in self.down:
            h = down(h)
            skips.append(h)
        h = skips.pop()
        for i, up in enumerate(self.up):
            h = up(h if i == 0 else torch.cat((h, skips.pop()), 1))
            if i < 3 and skips:
                h = F.dropout(h, 0.5)  # in evaluation too
        return 0.5 * h + 0.5


def edges(x: Tensor) -> Tensor:
    """Black edges on white, by Sobel's gradient of luma: (B, 3, H, W) in [0, 1] -> (B, 3, H, W) of 0 and 1."""
    luma = (x * x.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)
    down = x.new_tensor(SOBEL)[None, None] / 4
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    length = torch.hypot(F.conv2d(padded, down), F.conv2d(padded, down.transpose(2, 3)))
    return (length < EDGE).to(x.dtype).expand_as(x)


@dataclass(frozen=True)
class Pix2PixOptions(SeededOptions):
    """photograph: the input is one, whose edges are drawn first; otherwise it is a drawing, black on white. seed: of
    the dropout."""

    photograph: bool = False


class Pix2Pix(TrainedSystem[Settings, Pix2PixOptions]):
    """Trains photographs from their edges; `apply` makes one of a drawing."""

    name = "pix2pix"
    config_type = Pix2PixConfig
    options = Pix2PixOptions

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        check_crop(config, 1 << self.settings.levels, 24)

    @staticmethod
    def network(settings: Settings) -> UNet:
        return UNet(settings)

    def critics(self) -> dict[str, nn.Module]:
        if not self.settings.gan_weight:
            return {}
        return {"discriminator": PatchDiscriminator(3, channels=self.settings.discriminator_channels)}

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        settings, y = self.settings, edges(x)
        x_hat = modules["generator"](y)
        if settings.gan_weight:
            real, fake = modules["discriminator"](x, y), modules["discriminator"](x_hat.detach(), y)
            scores = {"real": probability(real, "minimax").mean(), "fake": probability(fake, "minimax").mean()}
            self.guard.add(x, x_hat, scores["real"], scores["fake"])
            yield Loss("discriminator", discriminator_loss(real, fake, "non-saturating", weight=0.5), scores)

        terms = {"l1": settings.l1_weight * 2 * (x_hat - x).abs().mean()}  # of pictures in [-1, 1]
        if settings.gan_weight:
            with frozen(self.modules["discriminator"]):
                fake = self.modules["discriminator"](x_hat, y)
            terms["gan"] = settings.gan_weight * generator_loss(fake, "non-saturating")
        yield Loss("generator", torch.stack(list(terms.values())).sum(), terms)

    def show(self, network: UNet, x: Tensor) -> dict[str, Tensor]:
        y = edges(x)
        return {"input": y, "output": network(y), "truth": x}

    @classmethod
    def transform(cls, network: UNet, settings: Settings, x: Tensor, options: Pix2PixOptions) -> Tensor:
        torch.manual_seed(options.seed)
        return pictures.padded(network, edges(x) if options.photograph else x, 1 << settings.levels)
