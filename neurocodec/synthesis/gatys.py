"""Pictures whose VGG16 features fit a target, by optimising pixels: texture, style and inversion.

Texture: Gatys, Ecker and Bethge, "Texture synthesis using CNNs", NeurIPS 2015. Style: Gatys, Ecker and Bethge, CVPR
2016. Inversion: Mahendran and Vedaldi, CVPR 2015. Losses are relative to the target's: weights suit all pictures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from neurocodec.errors import ArgumentValueError
from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import (
    content_loss,
    feature_loss,
    gram_matrix,
    style_loss,
    total_variation_isotropic,
)
from neurocodec.synthesis import pictures
from neurocodec.synthesis.system import Options, SeededOptions, System
from neurocodec.training.config import Count, NotNegative, Range

TEXTURE_LAYERS = ("relu1_1", "pool1", "pool2", "pool3", "pool4")
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"

Size = Annotated[int, Range(f"at least {pictures.MIN_SIDE}", lambda value: value >= pictures.MIN_SIDE)]


def synthesise(texture: Tensor, size: int, iterations: int = 200, seed: int = 1) -> tuple[Tensor, list[float]]:
    """More of a texture, from noise: minimises the style loss. The loss is 1 without any features.

    texture: (1, 3, H, W) in [0, 1]. Returns a picture (1, 3, size, size) and the losses.
    """
    network = load_vgg16(TEXTURE_LAYERS, pooling="average", device=texture.device)
    with torch.no_grad():
        grams = {layer: gram_matrix(features) for layer, features in network(texture).items()}
    weights = relative_weights(grams)
    # white noise around the texture's mean colour
    start = texture.mean((2, 3), keepdim=True) + 0.1 * pictures.noise((1, 3, size, size), seed).to(texture.device)
    return minimise(lambda x: style_loss(network(x), grams, weights).sum(), start, iterations)


def transfer(
    content: Tensor, style: Tensor, content_weight: float = 0.1, tv_weight: float = 0.3, iterations: int = 100
) -> tuple[Tensor, list[float]]:
    """A photograph in the style of a painting: minimises, from the photograph, style loss + content weight · content
    loss + TV weight · total variation.

    content, style: (1, 3, H, W) in [0, 1], each of its own size. Returns the picture and the losses.
    """
    network = load_vgg16((*STYLE_LAYERS, CONTENT_LAYER), pooling="average", device=content.device)
    with torch.no_grad():
        target = network(content)[CONTENT_LAYER]
        features = network(style)
        grams = {layer: gram_matrix(features[layer]) for layer in STYLE_LAYERS}
        style_weights = relative_weights(grams)
        content_scale = 1 / content_loss(torch.zeros_like(target), target).sum()  # 1 without any features

    def loss_of(x: Tensor) -> Tensor:
        features = network(x)
        loss = style_loss(features, grams, style_weights)
        loss = loss + content_weight * content_scale * content_loss(features[CONTENT_LAYER], target)
        return (loss + tv_weight * total_variation_isotropic(x)).sum()

    return minimise(loss_of, content, iterations)


def invert(
    x: Tensor, layer: str = CONTENT_LAYER, tv_weight: float = 0.3, iterations: int = 100, seed: int = 1
) -> tuple[Tensor, list[float]]:
    """A picture from the features of one layer: minimises, from noise, the squared distance of the features, relative
    to their squared length, + TV weight · total variation.

    x: (1, 3, H, W) in [0, 1], of which only the features are used. Returns a picture and the losses. Raises ValueError
    for an unknown layer.
    """
    network = load_vgg16((layer,), device=x.device)
    with torch.no_grad():
        target = network(x)[layer]
        scale = 1 / feature_loss(torch.zeros_like(target), target)

    def loss_of(x: Tensor) -> Tensor:
        return (scale * feature_loss(network(x)[layer], target) + tv_weight * total_variation_isotropic(x)).sum()

    return minimise(loss_of, 0.5 + 0.05 * pictures.noise(tuple(x.shape), seed).to(x.device), iterations)


def relative_weights(grams: Mapping[str, Tensor]) -> dict[str, float]:
    """Weights of the layers for `style_loss`, with which a picture without any features has a loss of 1."""
    return {layer: float(4 * gram.shape[1] ** 2 / gram.square().sum()) / len(grams) for layer, gram in grams.items()}


def minimise(loss_of: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> tuple[Tensor, list[float]]:
    """Minimises a loss over the pixels with L-BFGS: the picture, and the loss before each iteration and after the last.

    loss_of: from a picture (1, 3, H, W) in [0, 1] to a scalar. Logits are optimised, so pixels stay in that range.
    """
    logits = torch.logit(start.clamp(0.02, 0.98)).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=1,
        max_eval=25,  # for the line search
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(logits.sigmoid())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    begin, losses = time.monotonic(), []
    for i in range(iterations):
        losses.append(float(optimiser.step(closure)))  # type: ignore[no-untyped-call]
        if i % 10 == 0:
            print(f"iteration {i:4d}  loss {losses[-1]:.5g}  {time.monotonic() - begin:.0f} s", file=sys.stderr)
    with torch.no_grad():
        x = logits.sigmoid()
        losses.append(float(loss_of(x)))
    print(f"iteration {iterations:4d}  loss {losses[-1]:.5g}  {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return x, losses


@dataclass(frozen=True)
class TextureOptions(SeededOptions):
    """size: pixels, the shorter side of the texture and both sides of the output; iterations: of L-BFGS."""

    size: Size = 256
    iterations: Count = 200


@dataclass(frozen=True)
class StyleOptions(Options):
    """size: the shorter side of both pictures in pixels; iterations: of L-BFGS; content_weight: with more, the output
    stays closer to the photograph; tv_weight: with more, it is smoother."""

    size: Size = 256
    iterations: Count = 100
    content_weight: NotNegative = 0.1
    tv_weight: NotNegative = 0.3


@dataclass(frozen=True)
class InversionOptions(SeededOptions):
    """size: the shorter side of the picture in pixels; iterations: of L-BFGS; layer: of VGG16, conv1_1, relu1_1 to
    relu5_3, pool1 to pool4; tv_weight: with more, the output is smoother."""

    size: Size = 256
    iterations: Count = 100
    layer: str = CONTENT_LAYER
    tv_weight: NotNegative = 0.3


def _written(result: tuple[Tensor, list[float]], output: str, *, force: bool) -> str:
    x, losses = result
    pictures.write(x, output, force=force)
    return f"{output}: loss from {losses[0]:.4g} to {losses[-1]:.4g}"


class Texture(System[None, TextureOptions]):
    """`synthesise` on files."""

    name = "texture"
    options = TextureOptions

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: TextureOptions, *, force: bool) -> str:
        pictures.check(output, options.device, force=force)
        texture = pictures.read(sources[0], options.size, options.device)
        return _written(synthesise(texture, options.size, options.iterations, options.seed), output, force=force)


class Style(System[None, StyleOptions]):
    """`transfer` on files."""

    name = "style"
    options = StyleOptions

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: StyleOptions, *, force: bool) -> str:
        pictures.check(output, options.device, force=force)
        content, style = (pictures.read(path, options.size, options.device) for path in sources)
        result = transfer(content, style, options.content_weight, options.tv_weight, options.iterations)
        return _written(result, output, force=force)


class Inversion(System[None, InversionOptions]):
    """`invert` on files."""

    name = "inversion"
    options = InversionOptions

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: InversionOptions, *, force: bool) -> str:
        pictures.check(output, options.device, force=force)
        x = pictures.read(sources[0], options.size, options.device)
        try:
            result = invert(x, options.layer, options.tv_weight, options.iterations, options.seed)
        except ValueError as error:
            raise ArgumentValueError(str(error)) from error
        return _written(result, output, force=force)
