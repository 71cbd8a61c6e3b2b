"""Rebuild a picture from the features of one layer (Mahendran and Vedaldi, CVPR 2015): what that layer still knows.

    python examples/feature_inversion.py photo.png --layer relu4_2 -o out.png

Minimises, over the pixels, from noise: the squared distance of the features, relative to their squared length,
+ TV weight · total variation.
"""

from __future__ import annotations

import argparse
import sys

import pixels
import torch
from torch import Tensor

from neurocodec.errors import NeurocodecError
from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import feature_loss, total_variation_isotropic


def invert(x: Tensor, layer: str, tv_weight: float, iterations: int, seed: int) -> tuple[Tensor, list[float]]:
    """x: (1, 3, H, W) in [0, 1], of which only the features are used. Returns a picture and the course of the loss."""
    network = load_vgg16((layer,), device=x.device)
    with torch.no_grad():
        target = network(x)[layer]
        scale = 1 / feature_loss(torch.zeros_like(target), target)

    def loss_of(x: Tensor) -> Tensor:
        return (scale * feature_loss(network(x)[layer], target) + tv_weight * total_variation_isotropic(x)).sum()

    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    return pixels.minimise(loss_of, 0.5 + 0.05 * noise, iterations)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", help="the picture whose features are used")
    parser.add_argument("-o", "--output", required=True, help="the picture to write")
    parser.add_argument("--layer", default="relu4_2", help="of VGG16: conv1_1, relu1_1 to relu5_3, pool1 (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="shorter side in pixels (%(default)s)")
    parser.add_argument("--iterations", type=int, default=100, help="of L-BFGS (%(default)s)")
    parser.add_argument("--tv-weight", type=float, default=0.3, help="more: smoother (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    options = parser.parse_args(arguments)
    try:
        pixels.check(options.output, options.device, force=options.force)
        picture = pixels.read(options.picture, options.size).to(options.device)
        x, losses = invert(picture, options.layer, options.tv_weight, options.iterations, options.seed)
        pixels.write(x, options.output, force=options.force)
    except (NeurocodecError, ValueError) as error:  # ValueError: no such layer
        print(f"feature_inversion: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: loss from {losses[0]:.4g} to {losses[-1]:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
