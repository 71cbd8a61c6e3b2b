"""Makes the conformance vectors: `python tests/golden/make.py small`, or `base` for those that ship.

Run `small` only for a new format version, and `base` only for new weights: the committed files are a promise.
small.safetensors is a tiny model with random weights, so that the vectors outlive the weights of `base`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neurocodec import image
from neurocodec.conformance import VECTORS, write_vectors
from neurocodec.model import HyperpriorConfig, Model
from neurocodec.models import networks
from neurocodec.models.freeze import freeze
from neurocodec.models.hyperprior import Hyperprior

HERE = Path(__file__).parent
PHOTO = HERE.parents[1] / "neurocodec" / "data" / "astronaut.png"
CASES = {
    "photo-64x48-q100": ((200, 100, 64, 48), 100, "RGB"),
    "photo-37x23-q500": ((220, 60, 37, 23), 500, "RGB"),
    "photo-70x65-q960": ((150, 150, 70, 65), 960, "RGB"),
    "pixel-1x1-q480": ((10, 10, 1, 1), 480, "RGB"),
    "gray-33x17-q480": ((200, 100, 33, 17), 480, "L"),
    "alpha-20x20-q480": ((200, 100, 20, 20), 480, "RGBA"),
}


def small_model() -> Model:
    """A model of 8 to 16 channels whose latents have a spread of scales. Its pictures look like nothing."""
    torch.manual_seed(1)
    model = Hyperprior(
        HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8, latent_blocks=1)
    )
    with torch.no_grad():
        gains = torch.linspace(0.0, 5.0, 16)[:, None] + torch.linspace(-2.0, 2.0, 16)[None]
        model.g_a.log_y_gain.weight.copy_(gains)
        model.g_s.log_y_gain.weight.copy_(-gains)
        model.prediction.bias.weight[:, 16:] = (gains / 0.112 + 20.0).clamp(0, 60) / 8.0
        model.prediction.head.weight.normal_(0.0, 0.1)
        for context in model.contexts:
            context.head.weight.normal_(0.0, 0.1)
            context.phase_bias.normal_(0.0, 0.1)
        model.h_a.down2.weight.mul_(10.0)
        model.g_s.head.weight.mul_(0.3)
    return freeze(model)


def picture(case: str) -> image.Picture:
    """The source picture of a case, cut from the photograph that ships with the package."""
    (x, y, width, height), _, mode = CASES[case]
    photo = Image.open(PHOTO).convert("RGB")
    crop = photo.crop((x, y, x + width, y + height))
    if mode == "RGBA":
        crop.putalpha(Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)))
    return image.load(crop.convert(mode))


def base_sources() -> dict[str, tuple[image.Picture, int]]:
    """What the vectors of the shipped model are made of: photograph, gray, noise, drawing, at low and high rates."""
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))
    rng = np.random.default_rng(0)
    drawing = np.full((70, 130, 3), 255, np.uint8)
    drawing[20:50, 30:90] = (200, 30, 30)
    drawing[:, 64] = 0
    return {
        "photo-192x160-q39": (image.load(photo[40:200, 180:372]), 39),
        "photo-131x97-q480": (image.load(photo[300:397, 100:231]), 480),
        "photo-64x64-q960": (image.load(photo[100:164, 200:264]), 960),
        "gray-90x50-q333": (image.load(Image.fromarray(photo[60:110, 200:290]).convert("L")), 333),
        "noise-48x40-q700": (image.load(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)), 700),
        "drawing-130x70-q601": (image.load(drawing), 601),
    }


def main() -> None:
    """The small model and its vectors with the argument `small`; the vectors of the shipped model with `base`."""
    if sys.argv[1:] == ["small"]:
        path = HERE / "model" / "small.safetensors"
        small_model().save(path)
        sources = {case: (picture(case), index) for case, (_, index, _) in CASES.items()}
        write_vectors(HERE / "valid", networks.load(path, device="cpu"), sources)
    elif sys.argv[1:] == ["base"]:
        write_vectors(VECTORS, networks.load("base", device="cpu"), base_sources())
    else:
        sys.exit("usage: make.py small|base")


if __name__ == "__main__":
    main()
