"""The layers of all networks: 1×1 and depthwise 3×3 convolutions, a gated block, and per-quality parameters.

1×1 weights are stored as matrices and depthwise weights as (C, 3, 3), because coding (`neurocodec.integer`) runs the
same layers in integers, as matrix products and shifted multiply-adds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.entropy.grid import ACTIVATION_BITS, weight_shift


class Pointwise(nn.Module):
    """1×1 convolution. weight: (out, in), bias: (out,)."""

    fake_quantise = False

    def __init__(self, in_channels: int, out_channels: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels) * (gain / math.sqrt(in_channels)))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        weight = on_weight_grid(self.weight, self.bias) if self.fake_quantise else self.weight
        # As a matrix product: permuting channels-last tensors copies nothing.
        return F.linear(x.permute(0, 2, 3, 1), weight, self.bias).permute(0, 3, 1, 2)


class Depthwise(nn.Module):
    """Depthwise 3×3 convolution, zero padding. weight: (C, 3, 3), bias: (C,). Starts near the identity."""

    fake_quantise = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        weight = torch.randn(channels, 3, 3) * 0.1
        weight[:, 1, 1] += 1.0
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        weight = on_weight_grid(self.weight, self.bias) if self.fake_quantise else self.weight
        y: Tensor = F.conv2d(x, weight[:, None], self.bias, padding=1, groups=x.shape[1])
        return on_grid(y, ACTIVATION_BITS) if self.fake_quantise else y


class Block(nn.Module):
    """Residual block: 1×1, depthwise 3×3, 1×1, then a gated pair of 1×1 layers (5 C² + 9 C MAC per position).

    The depthwise block with a gated feed-forward part follows DCVC-RT (Jia et al., CVPR 2025, fig. 4).
    """

    def __init__(self, channels: int, *, residual_gain: float = 0.0) -> None:
        super().__init__()
        self.conv_in = Pointwise(channels, channels, gain=math.sqrt(2.0))
        self.conv_dw = Depthwise(channels)
        self.conv_out = Pointwise(channels, channels, gain=residual_gain)
        self.gate_in = Pointwise(channels, 2 * channels)
        self.gate_out = Pointwise(channels, channels, gain=residual_gain)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        x = x + self.conv_out(self.conv_dw(F.leaky_relu(self.conv_in(x), 0.01)))
        value, gate = self.gate_in(x).chunk(2, dim=1)
        gated: Tensor = self.gate_out(value * F.hardsigmoid(gate))
        return x + gated


class QualityRows(nn.Module):
    """Per-channel parameters that depend on the quality index, interpolated between rows. weight: (rows, C)."""

    def __init__(self, rows: int, channels: int, *, fill: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((rows, channels), fill))

    def forward(self, quality_index: Tensor) -> Tensor:
        """quality_index: (B,) float in [0, rows - 1] -> (B, C, 1, 1)."""
        low = quality_index.floor().clamp(0, self.weight.shape[0] - 2).long()
        fraction = (quality_index - low)[:, None]
        return torch.lerp(self.weight[low], self.weight[low + 1], fraction)[:, :, None, None]


def on_grid(x: Tensor, bits: int) -> Tensor:
    """Rounds to multiples of 2^-bits, halves up, like the integer path; the gradient is the identity's."""
    return x + (torch.floor(x.detach() * 2.0**bits + 0.5) * 2.0**-bits - x.detach())


def on_weight_grid(weight: Tensor, bias: Tensor) -> Tensor:
    """Weights (out, ...) rounded as `freeze_entropy` will round them; the gradient is the identity's."""
    with torch.no_grad():
        absolute = weight.abs().flatten(1)
        scale = weight_shift(absolute.sum(1).max(), absolute.max(), bias.abs().max(), absolute.shape[1]).exp2()
        on: Tensor = (weight * scale).round() / scale
    return weight + (on - weight).detach()


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still lets x rise from below the bound (tensorflow/compression's lower_bound)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where((x >= ctx.bound) | (grad < 0), grad, torch.zeros_like(grad)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), elementwise; the gradient passes where x ≥ bound or where it would raise x."""
    bounded: Tensor = _LowerBound.apply(x, bound)  # type: ignore[no-untyped-call]
    return bounded


def ste_round(x: Tensor) -> Tensor:
    """round(x) with the gradient of the identity (straight-through)."""
    return x + (x.round() - x).detach()


def dct_matrix(size: int = 8) -> Tensor:
    """Orthonormal DCT-II matrix, (size, size), one frequency per row."""
    n = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * size)) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def opponent_matrix() -> Tensor:
    """Orthonormal opponent-colour transform of RGB, (3, 3): luma, red-blue, green-magenta."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    return F.normalize(rows, dim=1)


def colour_dct_matrix() -> Tensor:
    """Orthonormal 8×8 DCT of opponent colours, (192, 192), for the channels of PixelUnshuffle(8) of an RGB picture."""
    dct = dct_matrix(8)
    two_dimensional = torch.einsum("ui,vj->uvij", dct, dct).reshape(64, 64)
    return torch.einsum("kc,fp->kfcp", opponent_matrix(), two_dimensional).reshape(192, 192)


def haar_matrix() -> Tensor:
    """Orthonormal 2×2 Haar step, (4, 4): low-low, and the three details; columns in PixelUnshuffle(2) order."""
    return 0.5 * torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64)
