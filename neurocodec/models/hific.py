"""The generative decoder: the base model's synthesis, and detail on top of it whose amount the viewer chooses.

y_hat ─g_s→ features (C, 1/8) ─┬ head ──────────────────────────────────────── x_hat of the base model ─┐
                               └ modulated blocks at 1/8 ─PixelShuffle(4)→ blocks at 1/2 ─→ detail ── × ─┴→ x_hat
                                                 β → Fourier features → a gain for each channel ──────────┘

Detail for β in [½, 1] is learned. Below ½, the detail of β = ½ fades, so that every step of the slider has an effect.
At β = 0 nothing is left, and the picture is exactly the base decoder's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.model import GeneratorConfig, HyperpriorConfig
from neurocodec.models.hyperprior import Synthesis
from neurocodec.models.layers import Depthwise, Pointwise, QualityRows

LEAST_LEARNED = 0.5
"""Below this β, the detail is that of this β, scaled down in proportion.

A power of β in the objective leaves little to learn in the lowest quarter of the slider, and what was learned there
raised LPIPS by up to 1.4 %. Scaled-down detail lowers it from the first step on.
"""


class ChannelNorm(nn.Module):
    """Normalises each position over its channels, with a learned gain and offset (HiFiC, Mentzer et al. 2020, A.1).

    Statistics of a single position: the result does not depend on the size of a tile.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.offset = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        y = F.layer_norm(x.permute(0, 2, 3, 1).float(), self.gain.shape, self.gain.float(), self.offset.float(), 1e-3)
        return y.permute(0, 3, 1, 2).to(x.dtype)


class RealismGain(nn.Module):
    """β (B,) in [0, 1] -> a gain for each channel, (B, C, 1, 1); zero at β = 0.

    A linear map, without a bias, of β and of sin(π k β) and 1 − cos(π k β), k = 1, ..., K: Fourier features as in
    multi-realism compression (Agustsson et al., CVPR 2023), shifted so that they vanish at 0.
    """

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.weight = nn.Parameter(torch.zeros(channels, 1 + 2 * frequencies))
        with torch.no_grad():
            self.weight[:, 0] = 1.0  # the gain starts as β

    def forward(self, beta: Tensor) -> Tensor:
        return F.linear(self.features(beta), self.weight)[:, :, None, None]

    def features(self, beta: Tensor) -> Tensor:
        """(B,) -> (B, 1 + 2 K)."""
        angle = math.pi * beta.float()[:, None] * torch.arange(1, self.frequencies + 1, device=beta.device)
        return torch.cat([beta.float()[:, None], angle.sin(), 1.0 - angle.cos()], dim=1)


class ModulatedBlock(nn.Module):
    """x + gain(β) · f(x), with f: channel norm, 1×1, depthwise 3×3, gate, 1×1 (3 C² + 18 C MAC per position)."""

    def __init__(self, channels: int, frequencies: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv_in = Pointwise(channels, 2 * channels)
        self.conv_dw = Depthwise(2 * channels)
        self.conv_out = Pointwise(channels, channels, gain=0.5)
        self.gain = RealismGain(channels, frequencies)

    def forward(self, x: Tensor, beta: Tensor) -> Tensor:
        value, gate = self.conv_dw(self.conv_in(self.norm(x))).chunk(2, dim=1)
        change: Tensor = self.conv_out(value * F.silu(gate))
        y: Tensor = x + self.gain(beta).to(x.dtype) * change
        return y


class Generator(nn.Module):
    """y_hat and β -> a picture. `trunk` is the base model's g_s, without gradients unless the base model learns too.

    The detail is conditioned on the quality index too: the lower the rate, the more there is to invent.
    """

    def __init__(self, config: GeneratorConfig, base: HyperpriorConfig) -> None:
        super().__init__()
        self.config = config
        channels, fine = config.channels, config.fine_channels
        self.trunk = Synthesis(base).requires_grad_(False)
        self.halo = base.synthesis_halo + config.halo
        """How many latents beyond a tile its pixels depend on."""
        self.norm_in = ChannelNorm(base.channels)
        self.conv_in = Pointwise(base.channels, channels)
        self.quality = QualityRows(base.quality_rows, channels)
        self.blocks = nn.ModuleList(ModulatedBlock(channels, config.frequencies) for _ in range(config.blocks))
        self.to_fine = Pointwise(channels, 16 * fine)
        self.fine_blocks = nn.ModuleList(ModulatedBlock(fine, config.frequencies) for _ in range(config.fine_blocks))
        self.head = Pointwise(fine, 12, gain=0.05)
        self.gain = RealismGain(3, config.frequencies)

    def forward(self, y_hat: Tensor, quality_index: Tensor, beta: Tensor) -> Tensor:
        """y_hat: (B, M, H/16, W/16) in quantisation steps; quality_index, beta: (B,) -> (B, 3, H, W), not clamped."""
        picture, detail = self.parts(y_hat, quality_index, beta)
        return picture + detail

    def parts(self, y_hat: Tensor, quality_index: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The base model's picture and the detail to add to it for β, each (B, 3, H, W)."""
        amount = (beta.float() / LEAST_LEARNED).clamp(max=1.0)[:, None, None, None]
        beta = beta.clamp(min=LEAST_LEARNED)
        features = self.trunk.features(y_hat, quality_index)
        u = self.conv_in(self.norm_in(features)) + self.quality(quality_index)
        for block in self.blocks:
            u = block(u, beta)
        u = F.pixel_shuffle(self.to_fine(u), 4)  # 1/2
        for block in self.fine_blocks:
            u = block(u, beta)
        detail = F.pixel_shuffle(self.head(u), 2).float()
        return self.trunk.picture(features), amount * self.gain(beta) * detail
