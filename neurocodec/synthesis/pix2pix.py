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
from neurocodec.synthesis.blocks import Norm, norm, start_small
from neurocodec.synthesis.system import Options, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative, Range
from neurocodec.training.data import Rgb
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability

SOBEL = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
EDGE = 0.25
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
    """Halvings and doublings by 4×4 convolutions of stride 2, each halving's input joined to its doubling's output
    (appendix 6.1.1: C64-C128-C256-C512-C512-...; CD512-CD512-CD512-C512-...-C64).

    (B, 3, H, W) in [0, 1] -> the same, H and W multiples of 2^levels. No norm in the first and the innermost layer;
    dropout of ½ in the first three doublings inside the innermost one. It is the only source of noise, and stays on
    when the network is applied (section 3.2).
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        widths = [settings.channels * min(8, 1 << i) for i in range(settings.levels)]
        kind = settings.normalisation
        bias = kind != "batch"
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            plain = i in (0, settings.levels - 1)
            conv = nn.Conv2d(widths[i - 1] if i else 3, width, 4, 2, 1, bias=bias or (plain and i == 0 and False))
            self.down.append(nn.Sequential(*([nn.LeakyReLU(0.2)] if i else []), conv, *([] if plain else [norm(kind, width, affine=False)])))
