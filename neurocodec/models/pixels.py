"""8-bit RGB (H, W, 3) <-> x (1, 3, H, W) in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocodec.errors import ImageError


def to_tensor(rgb: NDArray[np.uint8]) -> Tensor:
    """uint8 (H, W, 3) -> x, float32 (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None].to(torch.float32) / 255.0


def from_tensor(x: Tensor, depth: int = 8) -> NDArray[Any]:
    """x, float (1, 3, H, W) -> pixels (H, W, 3): clamped to [0, 1], scaled to white and rounded, halves up.

    depth: 8 for uint8 (white is 255), 16 for uint16 (65535). Raises ImageError if x holds NaN.
    """
    levels = x.detach()[0].to(torch.float32)
    if bool(torch.isnan(levels).any()):
        raise ImageError("the picture holds NaN: the model file or the device is faulty")
    levels = (
        levels.clamp(0.0, 1.0).mul(2.0**depth - 1).add_(0.5).floor_().to(torch.uint8 if depth == 8 else torch.int32)
    )
    rgb: NDArray[Any] = levels.permute(1, 2, 0).contiguous().cpu().numpy()
    return rgb if depth == 8 else rgb.astype(np.uint16)
