"""Pictures and random feature networks for the systems."""

from __future__ import annotations

import functools

import pytest
import torch
from paths import PHOTO
from PIL import Image
from torch import Tensor

from neurocodec.perceptual import features, lpips
from neurocodec.perceptual.weights import SHAPES


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
    """A folder of eight pictures of 80 × 72 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    with Image.open(PHOTO) as photo:
        for i in range(8):
            photo.convert("RGB").crop((i * 50, i * 40, i * 50 + 160, i * 40 + 144)).resize((80, 72)).save(
                folder / f"{i}.png"
            )
    return folder
