"""Multi-scale structural similarity, through the pytorch-msssim package."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

import numpy as np

from neurocodec.errors import ImageError
from neurocodec.metrics.psnr import check_pair
from neurocodec.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

MS_SSIM_MIN_SIDE = 161
"""Pixels. Four halvings must leave more than the window of 11: both sides exceed (11 - 1) * 2⁴ = 160."""


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """MS-SSIM, 1 for equal pictures, averaged over the channels; data range 255, five scales, Gaussian window of 11.

    a, b: uint8 (H, W, 3) RGB, both sides above 160 pixels. Wang, Simoncelli and Bovik, "Multiscale structural
    similarity for image quality assessment", 2003, as pytorch-msssim computes it. Raises ImageError if a picture is
    too small or no pair, MissingPackageError if pytorch-msssim is not installed.
    """
    check_pair(a, b)
    if a.ndim != 3 or a.shape[2] != 3 or min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        raise ImageError(f"MS-SSIM of shape {a.shape}, expected (H, W, 3) with both sides above 160 pixels")
    package = require("pytorch_msssim", "pytorch-msssim", "MS-SSIM")
    import torch

    x, y = (torch.from_numpy(np.ascontiguousarray(v.transpose(2, 0, 1))).unsqueeze(0).float() for v in (a, b))
    with torch.inference_mode():
        return float(package.ms_ssim(x, y, data_range=255.0))


def ms_ssim_available() -> bool:
    """Whether pytorch-msssim is installed."""
    return importlib.util.find_spec("pytorch_msssim") is not None


def ms_ssim_db(value: float) -> float:
    """-10 log10(1 - MS-SSIM), in dB; inf for 1."""
    return math.inf if value >= 1.0 else -10.0 * math.log10(1.0 - value)
