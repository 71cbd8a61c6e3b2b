"""Losses on features and pixels for style, texture, content and smoothness. All return (B,) and are differentiable."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from neurocodec.errors import ImageError


def gram_matrix(features: Tensor) -> Tensor:
    """G_ij = 1/M sum over positions k of F_ik F_jk: which channels are active together, regardless of where.

    features: (B, C, h, w), M = h·w. Returns (B, C, C), symmetric, positive semi-definite. Gatys, Ecker and Bethge,
    "Image style transfer using convolutional neural networks", CVPR 2016, eq. 3, divided by M so that pictures of
    different sizes can be compared. Raises ImageError for another shape.
    """
    if features.dim() != 4 or features.shape[2] * features.shape[3] == 0:
        raise ImageError(f"Gram matrix of shape {tuple(features.shape)}, expected (B, C, h, w)")
    flat = features.flatten(2)  # (B, C, M)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def style_loss(
    features: Mapping[str, Tensor], grams: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> Tensor:
    """sum over layers l of w_l / (4 C_l²) · sum over i, j of (G_ij - A_ij)² (Gatys et al. 2016, eq. 4 and 5).

    features: (B, C, h, w) of at least the layers in `grams`, from a FeatureNetwork; grams: the `gram_matrix` of the
    style picture, (1 or B, C, C), for each layer; weights: w_l of each layer, by default 1 / (number of layers). The M²
    of eq. 4's 1 / (4 C² M²) is in the Gram matrices. Returns (B,). Raises ImageError where shapes
    differ, ValueError where the layers do.
    """
    if weights is None:
        weights = dict.fromkeys(grams, 1.0 / max(len(grams), 1))
    if not grams or not set(grams) <= set(features) or set(weights) != set(grams):
        raise ValueError(
            f"style loss with Gram matrices of {sorted(grams)}, weights of {sorted(weights)} and features of "
            f"{sorted(features)}, expected the same layers, at least one"
        )
    losses = []
    for layer, target in grams.items():
        gram = gram_matrix(features[layer])
        _check_target(gram, target, f"style loss of {layer}")
        losses.append(weights[layer] / (4 * gram.shape[1] ** 2) * (gram - target).square().sum((1, 2)))
    return torch.stack(losses).sum(0)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """½ · sum over channels and positions of (F - P)² (Gatys et al. 2016, eq. 1).

    features: (B, C, h, w) of the picture; target: (1 or B, C, h, w) of the content picture. Returns (B,). Raises
    ImageError where shapes differ.
    """
    _check_target(features, target, "content loss")
    return 0.5 * (features - target).square().flatten(1).sum(1)


def feature_loss(features: Tensor, target: Tensor) -> Tensor:
    """1/(C h w) · sum of (F - P)²: the feature reconstruction loss of Johnson et al. 2016 (ECCV, eq. 2).

    features: (B, C, h, w); target: (1 or B, C, h, w). Returns (B,), independent of the size. Raises ImageError where
    shapes differ.
    """
    _check_target(features, target, "feature loss")
    return (features - target).square().flatten(1).mean(1)


def total_variation_anisotropic(x: Tensor) -> Tensor:
    """Mean over channels and positions of |x_{i+1,j} - x_ij| + |x_{i,j+1} - x_ij|: favours edges along the axes.

    x: (B, C, H, W). Returns (B,). Beyond the last row and column differences are 0. Esedoglu and Osher, "Decomposition
    of images by the anisotropic Rudin-Osher-Fatemi model", 2004.
    """
    down, right = _differences(x)
    return (down.abs() + right.abs()).flatten(1).mean(1)


def total_variation_isotropic(x: Tensor) -> Tensor:
    """Mean over channels and positions of sqrt((x_{i+1,j} - x_ij)² + (x_{i,j+1} - x_ij)²): the same in all directions.

    x: (B, C, H, W). Returns (B,). Beyond the last row and column differences are 0; where both are 0 so is the
    gradient. Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", 1992.
    """
    length: Tensor = torch.linalg.vector_norm(torch.stack(_differences(x)), dim=0)
    return length.flatten(1).mean(1)


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the pixel below and to the pixel on the right, of x's shape; 0 at the border."""
    if x.dim() != 4 or x.numel() == 0:
        raise ImageError(f"total variation of shape {tuple(x.shape)}, expected (B, C, H, W)")
    below = torch.cat((x[:, :, 1:], x[:, :, -1:]), 2)
    right = torch.cat((x[:, :, :, 1:], x[:, :, :, -1:]), 3)
    return below - x, right - x


def _check_target(features: Tensor, target: Tensor, what: str) -> None:
    if features.dim() == 0 or features.shape[1:] != target.shape[1:] or target.shape[0] not in (1, features.shape[0]):
        raise ImageError(f"{what}: shapes {tuple(features.shape)} and {tuple(target.shape)}, expected the same")
