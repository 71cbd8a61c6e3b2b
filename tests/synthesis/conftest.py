"""Pictures and random feature networks for the systems."""

from __future__ import annotations

import functools

import pytest
import torch
from paths import PHOTO
from PIL import Image, ImageOps
from torch import Tensor

from neurocodec.perceptual import features, lpips
from neurocodec.perceptual.weights import SHAPES
from neurocodec.synthesis import dcgan
from neurocodec.synthesis.system import save_model


@functools.cache
def random_weights(part: str, *, download: bool = True) -> dict[str, Tensor]:
    """Random, of a size that keeps the features' variance from layer to layer."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(shape, generator=generator).abs_()
        if part.startswith("lpips")
        else torch.randn(shape, generator=generator) * (2 / max(1, shape[1:].numel())) ** 0.5
        if len(shape) > 1
        else torch.zeros(shape)
        for name, shape in SHAPES[part].items()
    }


@pytest.fixture(autouse=True)
def no_weights_needed(monkeypatch):
    monkeypatch.setattr(features, "load_weights", random_weights)
    monkeypatch.setattr(lpips, "load_weights", random_weights)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of eight pictures of 80 × 72 pixels, and "other" beside it, with their negatives."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    other = folder.parent / "other"
    folder.mkdir()
    other.mkdir()
    with Image.open(PHOTO) as photo:
        for i in range(8):
            picture = photo.convert("RGB").crop((i * 50, i * 40, i * 50 + 160, i * 40 + 144)).resize((80, 72))
            picture.save(folder / f"{i}.png")
            ImageOps.invert(picture).save(other / f"{i}.png")
    settings = dcgan.Settings(size=32, latent=8, channels=4)
    save_model(folder.parent / "dcgan", "dcgan", settings, dcgan.Generator(settings))
    return folder
