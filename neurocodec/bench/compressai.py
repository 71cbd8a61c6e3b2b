"""CompressAI networks with random weights, for measuring their speed without the published ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import image
from neurocodec.interop import compressai
from neurocodec.models.pixels import to_tensor


def untrained(architecture: str, quality: int, rgb: NDArray[np.uint8], *, bpp: float) -> Any:
    """A CompressAI network with random weights, its latents scaled so that a picture takes about `bpp` bits per pixel.

    For measuring speed: the coder does about as much work as with trained weights. rgb: the picture, uint8 (H, W, 3).
    Raises what `interop.compressai.load` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = compressai.zoo_network(architecture, quality, "mse", pretrained=False)
    set_spread = _spread_of_latents(network, rgb)
    low, high = 0.02, 50.0  # standard deviation of y
    for _ in range(9):
        middle = (low * high) ** 0.5
        set_spread(middle)
        bits = 8 * len(compressai.encode(rgb, compressai.freeze(network, device="cpu")))
        low, high = (middle, high) if bits < bpp * rgb.shape[0] * rgb.shape[1] else (low, middle)
    return network


def _spread_of_latents(network: Any, rgb: NDArray[np.uint8]) -> Callable[[float], None]:
    """A function that sets the standard deviation of the picture's y, in g_a and in the entropy model."""
    with torch.no_grad():
        x = to_tensor(image.pad_to_multiple(rgb, network.downsampling_factor))
        last, bottleneck = _last_convolution(network.eval().g_a), network.entropy_bottleneck
        y = network.g_a(x)
        unit = last.weight / (y - y.mean((2, 3), keepdim=True)).std()
        density = torch.nn.functional.softplus(bottleneck.matrices[0])

    @torch.no_grad()
    def set_spread(spread: float) -> None:
        last.weight.copy_(unit * spread)
        last.bias.zero_()
        last.bias.copy_(-network.g_a(x).mean((0, 2, 3)))
        if has_hyperprior := hasattr(network, "gaussian_conditional"):
            head = _last_convolution(getattr(network, "entropy_parameters", network.h_s))
            head.weight.zero_()
            head.bias.zero_()
            head.bias[: y.shape[1]] = spread
        # The density of new weights is about 3 wide; z costs hardly anything in trained models.
        stretched = density * 3.0 / (0.2 if has_hyperprior else spread)
        bottleneck.matrices[0].copy_(stretched + torch.log(-torch.expm1(-stretched)))  # the inverse of softplus
        network.update(force=True, update_quantiles=True)

    return set_spread


def _last_convolution(module: torch.nn.Module) -> Any:
    return [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))][-1]
