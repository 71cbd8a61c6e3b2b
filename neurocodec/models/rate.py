"""Differentiable rates for training. Coding uses the frozen integer tables instead."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neurocodec.entropy.grid import LOG_SCALE_STEP, SCALE_LEVELS, SCALE_MIN
from neurocodec.models.layers import lower_bound


def gaussian_bits(residual: Tensor, index: Tensor) -> Tensor:
    """Bits of a residual in a unit-width bin under a zero-mean Gaussian, elementwise.

    residual: y − mean, noisy or rounded; index: fractional table row. Ballé et al. 2018, eq. 9 with the bin
    integrated through erfc, which keeps its precision in the tail.
    """
    index = lower_bound(index, 0.0).clamp_max(SCALE_LEVELS - 1)
    inverse = torch.exp(-index * LOG_SCALE_STEP - (math.log(SCALE_MIN) + 0.5 * math.log(2.0)))  # 1 / (scale · sqrt 2)
    magnitude = residual.abs()
    upper = torch.erfc((magnitude - 0.5) * inverse)
    lower = torch.erfc((magnitude + 0.5) * inverse)
    likelihood = lower_bound(0.5 * (upper - lower), 2.0**-18)
    return -torch.log2(likelihood)


def training_bits(residual: Tensor, index: Tensor) -> Tensor:
    """Bits of the rounded residual, with gradients that can be trained on, elementwise.

    The value, and the gradient for the scale index, come from the rounded residual, which is what will be coded.
    Rounding has no useful gradient for the residual: it gets that of additive uniform noise (Ballé et al. 2017).
    Learning scales from noise instead overstates the rate of small latents by a tenth of a bit each.
    """
    rounded = gaussian_bits(residual.detach().round(), index)
    noisy = gaussian_bits(residual + torch.empty_like(residual).uniform_(-0.5, 0.5), index.detach())
    return rounded + (noisy - noisy.detach())
