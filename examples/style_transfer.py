"""Paint a photograph in the style of a painting (Gatys, Ecker and Bethge, CVPR 2016).

    python examples/style_transfer.py photo.png painting.jpg -o out.png

Minimises over the pixels, from the photograph: style loss + content weight · content loss + TV weight · total
variation. The losses are relative to the painting's Gram matrices and the photograph's features, so that the weights
suit other pictures too.
"""

from __future__ import annotations

import argparse
import sys

import pixels
import torch
from torch import Tensor

from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import content_loss, gram_matrix, style_loss, total_variation_isotropic

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"


def transfer(
    content: Tensor, style: Tensor, content_weight: float, tv_weight: float, iterations: int
) -> tuple[Tensor, list[float]]:
    """content, style: (1, 3, H, W) in [0, 1], each of its own size. Returns the picture and the losses."""
    network = load_vgg16((*STYLE_LAYERS, CONTENT_LAYER), pooling="average", device=content.device)
    with torch.no_grad():
        target = network(content)[CONTENT_LAYER]
        features = network(style)
        grams = {layer: gram_matrix(features[layer]) for layer in STYLE_LAYERS}
        style_weights = pixels.relative_weights(grams)
        content_scale = 1 / content_loss(torch.zeros_like(target), target).sum()  # 1 without any features

    def loss_of(x: Tensor) -> Tensor:
        features = network(x)
        loss = style_loss(features, grams, style_weights)
        loss = loss + content_weight * content_scale * content_loss(features[CONTENT_LAYER], target)
        return (loss + tv_weight * total_variation_isotropic(x)).sum()

    return pixels.minimise(loss_of, content, iterations)


def main(arguments: list[str] | None = None) -> int:
    parser = pixels.parser("style_transfer", __doc__, iterations=100)
    parser.add_argument("content", help="the photograph")
    parser.add_argument("style", help="the painting")
    parser.add_argument("--content-weight", type=float, default=0.1, help="more: closer to the photo (%(default)s)")
    parser.add_argument("--tv-weight", type=float, default=0.3, help="more: smoother (%(default)s)")

    def make(options: argparse.Namespace) -> tuple[Tensor, list[float]]:
        content, style = (pixels.read(p, options.size, options.device) for p in (options.content, options.style))
        return transfer(content, style, options.content_weight, options.tv_weight, options.iterations)

    return pixels.run(parser, arguments, make)


if __name__ == "__main__":
    sys.exit(main())
