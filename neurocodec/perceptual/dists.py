"""DISTS, a distance between pictures that tolerates one sample of a texture in place of another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurocodec.errors import ImageError
from neurocodec.perceptual.features import VGG16, load_vgg16
from neurocodec.perceptual.weights import SHAPES, load_weights


class DISTS(nn.Module):
    """Deep image structure and texture similarity (Ding et al., TPAMI 2020, section 3).

        d(x, y) = 1 - sum over channels c of (α_c l_c + β_c s_c) / sum over c of (α_c + β_c)
        l = (2 μ_x μ_y + k) / (μ_x² + μ_y² + k)        s = (2 σ_xy + k) / (σ_x² + σ_y² + k)        k = 1e-6

    with means, variances and covariance over positions, for the channels of the pictures themselves and of the last
    layer of each stage of VGG16 with l2 pooling. Called with two tensors (B, 3, H, W) in [0, 1] it gives (B,), 0 for
    equal pictures, differentiable in both. The authors first scale pictures to 256 pixels on the shorter side; here the
    caller does that. Raises ImageError.

    network: VGG16 with its default layers and l2 pooling; alpha, beta: (1475,).
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, network: VGG16, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value.shape != SHAPES["dists"][name]:
                raise ValueError(f"{name} of shape {tuple(value.shape)}, expected (1475,)")
        self.network = network
        self.register_buffer("alpha", alpha)
        self.register_buffer("beta", beta)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape:
            raise ImageError(f"DISTS of shapes {tuple(x.shape)} and {tuple(y.shape)}, expected equal shapes")
        luminance, structure = [], []
        for f_x, f_y in zip([x, *self.network(x).values()], [y, *self.network(y).values()], strict=True):
            mean_x, mean_y = f_x.mean((2, 3)), f_y.mean((2, 3))  # (B, C)
            d_x, d_y = f_x - mean_x[:, :, None, None], f_y - mean_y[:, :, None, None]
            var_x, var_y, cov = ((a * b).mean((2, 3)) for a, b in ((d_x, d_x), (d_y, d_y), (d_x, d_y)))
            luminance.append((2 * mean_x * mean_y + 1e-6) / (mean_x.square() + mean_y.square() + 1e-6))
            structure.append((2 * cov + 1e-6) / (var_x + var_y + 1e-6))
        distance = self.alpha * (1 - torch.cat(luminance, 1)) + self.beta * (1 - torch.cat(structure, 1))  # (B, 1475)
        return distance.sum(1) / (self.alpha.sum() + self.beta.sum())


def load_dists(device: str | torch.device = "cpu", *, download: bool = True) -> DISTS:
    """DISTS with the published weights. Raises MissingWeightsError; for `download` see `weights.load_weights`."""
    weights = load_weights("dists", download=download)
    return DISTS(load_vgg16(pooling="l2", download=download), weights["alpha"], weights["beta"]).to(device)
