"""LPIPS, a distance between pictures: deep features, weighted to fit human judgements."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.errors import ImageError
from neurocodec.perceptual.features import VGG16, AlexNet, FeatureNetwork, load_alexnet, load_vgg16
from neurocodec.perceptual.weights import load_weights


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 (Zhang et al., CVPR 2018, eq. 1).

        d(x, y) = sum over layers l of mean over positions of sum over channels c of w_lc (f_lc(x) - f_lc(y))²

    where f_l are the features of layer l, scaled to length 1 over the channels at every position; w are the squares of
    the paper's w. Called with two tensors (B, 3, H, W) in [0, 1] it gives (B,), 0 for equal pictures, differentiable in
    both. Raises ImageError.

    network: AlexNet or VGG16; heads: the weights w_l of each of its layers, (C_l,), at least 0.
    """

    def __init__(self, network: FeatureNetwork, heads: list[Tensor]) -> None:
        super().__init__()
        if len(heads) != len(network.layers):
            raise ValueError(f"{len(heads)} heads for {len(network.layers)} layers, expected one each")
        self.network = network
        self.heads = nn.ParameterList([nn.Parameter(head, requires_grad=False) for head in heads])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape:
            raise ImageError(f"LPIPS of shapes {tuple(x.shape)} and {tuple(y.shape)}, expected equal shapes")
        distance = x.new_zeros(x.shape[0])
        for w, f_x, f_y in zip(self.heads, self.network(x).values(), self.network(y).values(), strict=True):
            difference = F.normalize(f_x, dim=1, eps=1e-10) - F.normalize(f_y, dim=1, eps=1e-10)
            distance = distance + (difference.square() * w.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return distance


def load_lpips(
    net: Literal["alex", "vgg"] = "alex", device: str | torch.device = "cpu", *, download: bool = True
) -> LPIPS:
    """LPIPS with the published weights. net: "alex", usual for measuring, or "vgg", usual as a loss.

    Raises MissingWeightsError, which says where to put them; for `download` see `weights.load_weights`.
    """
    network: AlexNet | VGG16
    if net == "alex":
        network = load_alexnet(download=download)
    elif net == "vgg":
        network = load_vgg16(download=download)
    else:
        raise ValueError(f"LPIPS with net {net!r}, expected alex or vgg")
    heads = load_weights(f"lpips_{net}", download=download)
    return LPIPS(network, list(heads.values())).to(device)
