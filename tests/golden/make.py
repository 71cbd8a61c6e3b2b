"""Makes the conformance vectors: `python tests/golden/make.py small`, or `base` for those that ship.

Run `small` only for a new format version, and `base` only for new weights: the committed files are a promise.
small.safetensors is a tiny model with random weights, so that the vectors outlive the weights of `base`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from neurocodec import codec, model
from neurocodec.conformance import SOURCES, VECTORS, Source, write_vectors
from neurocodec.model import HyperpriorConfig, Model
from neurocodec.models.freeze import freeze
from neurocodec.models.hyperprior import Hyperprior

HERE = Path(__file__).parent
CASES = {
    "photo-64x48-q100": Source(100, (200, 100, 64, 48)),
    "photo-37x23-q500": Source(500, (220, 60, 37, 23)),
    "photo-70x65-q960": Source(960, (150, 150, 70, 65)),
    "pixel-1x1-q480": Source(480, (10, 10, 1, 1)),
    "gray-33x17-q480": Source(480, (200, 100, 33, 17), "L"),
    "alpha-20x20-q480": Source(480, (200, 100, 20, 20), "RGBA"),
    "lossless-37x23-q480": Source(480, (220, 60, 37, 23), lossless=True),
    "deep-30x20-q700": Source(700, (200, 100, 30, 20), depth=16),
}


def small_model() -> Model:
    """A model of 8 to 16 channels whose latents have a spread of scales. Its pictures look like nothing."""
    torch.manual_seed(1)
    network = Hyperprior(
        HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8, latent_blocks=1)
    )
    with torch.no_grad():
        gains = torch.linspace(0.0, 5.0, 16)[:, None] + torch.linspace(-2.0, 2.0, 16)[None]
        network.g_a.log_y_gain.weight.copy_(gains)
        network.g_s.log_y_gain.weight.copy_(-gains)
        network.prediction.bias.weight[:, 16:] = (gains / 0.112 + 20.0).clamp(0, 60) / 8.0
        network.prediction.head.weight.normal_(0.0, 0.1)
        for context in network.contexts:
            context.head.weight.normal_(0.0, 0.1)
            context.phase_bias.normal_(0.0, 0.1)
        network.h_a.down2.weight.mul_(10.0)
        network.g_s.head.weight.mul_(0.3)
    return freeze(network)


def main() -> None:
    """The small model and its vectors with the argument `small`; the vectors of the shipped model with `base`."""
    if sys.argv[1:] == ["small"]:
        path = HERE / "model" / "small.safetensors"
        small_model().save(path)
        write_vectors(HERE / "valid", codec.network_of(model.load(path)), CASES)
    elif sys.argv[1:] == ["base"]:
        write_vectors(VECTORS, codec.network_of(model.load("base")), SOURCES)
    else:
        sys.exit("usage: make.py small|base")


if __name__ == "__main__":
    main()
