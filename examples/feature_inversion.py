"""Rebuild a picture from the features of one layer (Mahendran and Vedaldi, CVPR 2015): what that layer still knows.

    python examples/feature_inversion.py photo.png --layer relu4_2 -o out.png

Minimises over the pixels, from noise: the squared distance of the features, relative to their squared length,
+ TV weight · total variation.
"""

from __future__ import annotations

import sys

import pixels
import torch
from torch import Tensor

from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import feature_loss, total_variation_isotropic


def invert(x: Tensor, layer: str, tv_weight: float, iterations: int, seed: int) -> tuple[Tensor, list[float]]:
    """x: (1, 3, H, W) in [0, 1], of which only the features are used. Returns a picture and the losses."""
    network = load_vgg16((layer,), device=x.device)
    with torch.no_grad():
        target = network(x)[layer]
        scale = 1 / feature_loss(torch.zeros_like(target), target)

    def loss_of(x: Tensor) -> Tensor:
        return (scale * feature_loss(network(x)[layer], target) + tv_weight * total_variation_isotropic(x)).sum()

    return pixels.minimise(loss_of, 0.5 + 0.05 * pixels.noise(tuple(x.shape), seed).to(x.device), iterations)


def main(arguments: list[str] | None = None) -> int:
    parser = pixels.parser("feature_inversion", __doc__, iterations=100)
    parser.add_argument("picture", help="the picture whose features are used")
    parser.add_argument("--layer", default="relu4_2", help="of VGG16: conv1_1, relu1_1 to relu5_3, pool1 (%(default)s)")
    parser.add_argument("--tv-weight", type=float, default=0.3, help="more: smoother (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (%(default)s)")
    return pixels.run(
        parser,
        arguments,
        lambda o: invert(pixels.read(o.picture, o.size, o.device), o.layer, o.tv_weight, o.iterations, o.seed),
    )


if __name__ == "__main__":
    sys.exit(main())
