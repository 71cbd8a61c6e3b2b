"""Make more of a texture, from noise (Gatys, Ecker and Bethge, "Texture synthesis using CNNs", NeurIPS 2015).

    python examples/texture_synthesis.py texture.jpg -o out.png

Minimises the style loss over the pixels, from noise: the result has the texture's Gram matrices, and so its small
shapes and colours in other places. The loss is relative to the texture's Gram matrices: 1 without any features.
"""

from __future__ import annotations

import sys

import pixels
import torch
from torch import Tensor

from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import gram_matrix, style_loss

LAYERS = ("relu1_1", "pool1", "pool2", "pool3", "pool4")


def synthesise(texture: Tensor, size: int, iterations: int, seed: int) -> tuple[Tensor, list[float]]:
    """texture: (1, 3, H, W) in [0, 1]. Returns a picture (1, 3, size, size) and the losses."""
    network = load_vgg16(LAYERS, pooling="average", device=texture.device)
    with torch.no_grad():
        grams = {layer: gram_matrix(features) for layer, features in network(texture).items()}
    weights = pixels.relative_weights(grams)
    # white noise around the texture's mean colour
    start = texture.mean((2, 3), keepdim=True) + 0.1 * pixels.noise((1, 3, size, size), seed).to(texture.device)
    return pixels.minimise(lambda x: style_loss(network(x), grams, weights).sum(), start, iterations)


def main(arguments: list[str] | None = None) -> int:
    parser = pixels.parser("texture_synthesis", __doc__, iterations=200)
    parser.add_argument("texture", help="a picture of the texture")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (%(default)s)")
    return pixels.run(
        parser,
        arguments,
        lambda o: synthesise(pixels.read(o.texture, o.size, o.device), o.size, o.iterations, o.seed),
    )


if __name__ == "__main__":
    sys.exit(main())
