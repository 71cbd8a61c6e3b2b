"""Scales channels of g_a and g_s by powers of two: the network computes the same, and rounding costs less.

Integer activations of the transforms have 9 fractional bits and lie within ±64. As trained, most channels use a small
part of that range, and a few exceed it. Everything between two layers is homogeneous in each channel (leaky ReLU,
depthwise products, the gated value, residual addition, gains), so `freeze` may scale a channel by a power of two: the
layer that produces it takes the factor, the layer that reads it the inverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurocodec.entropy.grid import LIMIT
from neurocodec.integer.transforms import TRANSFORM_BITS
from neurocodec.model import HyperpriorConfig
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.layers import Block

Scales = Mapping[str, NDArray[np.int8]]
"""Exponents of two for the channels of each activation, by the activation's name in `flow`."""
HEADROOM = 2.0
"""An activation may become this many times as large as on the pictures that scales were measured on."""
LARGEST_EXPONENT = 4
ROWS = (0.0, 7.5, 15.0)
"""Quality indexes at which activations are measured."""


def flow(config: HyperpriorConfig) -> Iterator[tuple[str, str | None, str | None]]:
    """Layers and gains of g_a and g_s, each with the names of its input and output activations.

    All blocks of a stack add to the same activations, which bear the stack's name. None stands for pixels or latents.
    """
    yield "g_a.stem", None, "g_a.blocks"
    yield from _blocks("g_a.blocks", config.encoder_blocks)
    yield "g_a.log_gain", "g_a.blocks", "g_a.log_gain"
    yield "g_a.down", "g_a.log_gain", "g_a.latent_blocks"
    yield from _blocks("g_a.latent_blocks", config.latent_blocks)
    yield "g_a.log_y_gain", "g_a.latent_blocks", None
    yield "g_s.log_y_gain", None, "g_s.latent_blocks"
    yield from _blocks("g_s.latent_blocks", config.latent_blocks)
    yield "g_s.up", "g_s.latent_blocks", "g_s.up"
    yield "g_s.log_gain", "g_s.up", "g_s.blocks"
    yield from _blocks("g_s.blocks", config.decoder_blocks)
    yield "g_s.head", "g_s.blocks", None


def _blocks(stack: str, count: int) -> Iterator[tuple[str, str, str]]:
    for block in (f"{stack}.{i}" for i in range(count)):
        yield f"{block}.conv_in", stack, f"{block}.conv_in"
        yield f"{block}.conv_dw", f"{block}.conv_in", f"{block}.conv_dw"
        yield f"{block}.conv_out", f"{block}.conv_dw", stack
        yield f"{block}.gate_in", stack, f"{block}.value"
        yield f"{block}.gate_out", f"{block}.value", stack


def scaled(weights: Mapping[str, NDArray[Any]], config: HyperpriorConfig, scales: Scales) -> dict[str, NDArray[Any]]:
    """Float64 weights of a network that computes the same, with its activations times 2^scales.

    weights: the state dictionary of a `Hyperprior`.
    """
    result = dict(weights)
    for name, source, target in flow(config):
        weight = weights[f"{name}.weight"].astype(np.float64)
        inputs, outputs = (scales.get(a or "", np.zeros(1)).astype(np.float64) for a in (source, target))
        if name.rpartition(".")[2].startswith("log_"):
            result[f"{name}.weight"] = weight + math.log(2.0) * (outputs - inputs)
            continue
        if name.endswith("gate_in"):
            outputs = np.concatenate([outputs, np.zeros_like(outputs)])  # the gate itself is not homogeneous
        outputs = np.repeat(outputs, len(weight) // len(outputs))  # PixelShuffle(2): four channels become one
        if name.endswith("conv_dw"):
            factor = (outputs - np.repeat(inputs, len(weight) // len(inputs)))[:, None, None]
        else:
            factor = outputs[:, None] - np.repeat(inputs, weight.shape[1] // len(inputs))
        result[f"{name}.weight"] = weight * 2.0**factor
        result[f"{name}.bias"] = weights[f"{name}.bias"].astype(np.float64) * 2.0**outputs
    return result


@torch.no_grad()
def measure_scales(network: Hyperprior, pictures: Iterable[Tensor]) -> dict[str, NDArray[np.int8]]:
    """Scales that make the activations of these pictures, of noise and of pure colours fill the range up to `HEADROOM`.

    pictures: (1, 3, H, W) in [0, 1], H and W multiples of 16. Returns int8 exponents, -4 to 4, by activation.
    """
    largest: dict[str, Tensor] = {}

    def see(activation: str, x: Tensor) -> None:
        highest = x.detach().abs().amax((0, 2, 3))
        largest[activation] = torch.maximum(largest.get(activation, highest), highest)

    random = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 64, 64, generator=random)
    colours = [  # squares of black, red, green, ...
        torch.rand(1, 3, 16, 16, generator=random).round().repeat_interleave(side, 2).repeat_interleave(side, 3)
        for side in (16, 32)
    ]
    extremes = [x.to(next(network.parameters())) for x in (noise, noise.round(), *colours)]
    handles = list(_watch(network, see))
    try:
        for x in (*pictures, *extremes):
            for row in ROWS:
                quality_index = torch.tensor([row], device=x.device)
                network.g_s(network.g_a(x, quality_index).round(), quality_index)
    finally:
        for handle in handles:
            handle.remove()
    reach = LIMIT / 2.0**TRANSFORM_BITS / HEADROOM
    exponents = {name: torch.log2(reach / value.clamp_min(1e-9)).floor() for name, value in largest.items()}
    limit = LARGEST_EXPONENT
    return {name: value.clamp(-limit, limit).to(torch.int8).cpu().numpy() for name, value in exponents.items()}


def _watch(network: Hyperprior, see: Callable[[str, Tensor], None]) -> Iterator[Any]:
    """Registers hooks that report each activation in `flow`."""

    def inputs(module: nn.Module, activation: str, each: int = 1) -> Any:
        return module.register_forward_pre_hook(lambda _, x: see(activation, _grouped(x[0], each)))

    def outputs(module: nn.Module, activation: str, each: int = 1, parts: int = 1) -> Any:
        return module.register_forward_hook(lambda _, __, x: see(activation, _grouped(x.chunk(parts, 1)[0], each)))

    yield inputs(network.g_a.down, "g_a.log_gain", each=4)
    yield outputs(network.g_s.up, "g_s.up", each=4)
    for stack in ("g_a.blocks", "g_a.latent_blocks", "g_s.latent_blocks", "g_s.blocks"):
        module = network.get_submodule(stack)
        yield inputs(module, stack)
        for i, block in enumerate(module.children()):
            assert isinstance(block, Block)
            yield inputs(block.gate_in, stack)
            yield outputs(block, stack)
            yield outputs(block.conv_in, f"{stack}.{i}.conv_in")
            yield outputs(block.conv_dw, f"{stack}.{i}.conv_dw")
            yield outputs(block.gate_in, f"{stack}.{i}.value", parts=2)


def _grouped(x: Tensor, each: int) -> Tensor:
    """(B, each · C, H, W) -> (B, C, each · H, W): channels that share a scale, side by side."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels // each, each * height, width)
