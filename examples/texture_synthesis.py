"""Make more of a texture, from noise (Gatys, Ecker and Bethge, "Texture synthesis using CNNs", NeurIPS 2015).

    python examples/texture_synthesis.py texture.jpg -o out.png

Minimises, over the pixels, from noise, the style loss: what is found has the texture's Gram matrices, and so its small
shapes and colours, but not their places. The loss is relative to the texture's Gram matrices: 1 without any features.
"""

from __future__ import annotations

import argparse
import sys

import pixels
import torch
from torch import Tensor

from neurocodec.errors import NeurocodecError
from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import gram_matrix, style_loss

LAYERS = ("relu1_1", "pool1", "pool2", "pool3", "pool4")


def synthesise(texture: Tensor, size: int, iterations: int, seed: int) -> tuple[Tensor, list[float]]:
    """texture: (1, 3, H, W) in [0, 1]. Returns a picture (1, 3, size, size) and the course of the loss."""
    network = load_vgg16(LAYERS, pooling="average", device=texture.device)
    with torch.no_grad():
        grams = {layer: gram_matrix(features) for layer, features in network(texture).items()}
    weights = {layer: float(4 * gram.shape[1] ** 2 / gram.square().sum()) / len(grams) for layer, gram in grams.items()}
    # white noise with the texture's mean colour
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(texture.device)
    start = texture.mean((2, 3), keepdim=True) + 0.1 * noise
    return pixels.minimise(lambda x: style_loss(network(x), grams, weights).sum(), start, iterations)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("texture", help="a picture of the texture")
    parser.add_argument("-o", "--output", required=True, help="the picture to write")
    parser.add_argument("--size", type=int, default=256, help="sides of the new one, shorter of the old (%(default)s)")
    parser.add_argument("--iterations", type=int, default=200, help="of L-BFGS (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    options = parser.parse_args(arguments)
    try:
        pixels.check(options.output, options.device, force=options.force)
        texture = pixels.read(options.texture, options.size).to(options.device)
        x, losses = synthesise(texture, options.size, options.iterations, options.seed)
        pixels.write(x, options.output, force=options.force)
    except NeurocodecError as error:
        print(f"texture_synthesis: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: loss from {losses[0]:.4g} to {losses[-1]:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
