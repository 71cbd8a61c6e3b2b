"""CompressAI networks in the benchmarks. Needs compressai: skipped where it cannot be imported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paths import script

from neurocodec.bench.rivals import installed
from neurocodec.errors import ConfigError, MissingPackageError
from neurocodec.interop import compressai

try:
    zoo = compressai.package("zoo.image")
except MissingPackageError as error:
    pytest.skip(f"CompressAI is not tested here: {error}", allow_module_level=True)


def state(seed: int) -> dict[str, torch.Tensor]:
    """Of a network of few channels and random weights."""
    torch.manual_seed(seed)
    network = compressai.package("models").MeanScaleHyperprior(8, 12)
    network.update()
    values: dict[str, torch.Tensor] = network.state_dict()
    return values


@pytest.fixture
def rgb(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(photo[100:170, 150:251])


def test_published_weights(monkeypatch: pytest.MonkeyPatch, rgb: NDArray[np.uint8]) -> None:
    urls = []
    monkeypatch.setattr(zoo, "load_state_dict_from_url", lambda url, **_: (urls.append(url), state(0))[1])
    (codec,), _ = installed(["cai:mbt2018-mean"])
    assert codec.name == "cai:mbt2018-mean"
    assert codec.settings() == (1, 2, 3, 4, 5, 6, 7, 8)
    assert codec.describe().keys() == {"settings", "compressai", "torch"}
    assert codec.decode(codec.encode(rgb, 2)).shape == rgb.shape
    assert ["mbt2018-mean-1-" in urls[0], "mbt2018-mean-2-" in urls[1], len(urls)] == [True, True, 2]
    with pytest.raises(ConfigError, match="quality 9, expected one of 1, 2"):
        codec.encode(rgb, 9)


@pytest.mark.parametrize(("architecture", "bpp"), [("bmshj2018-factorized", 1.0), ("mbt2018-mean", 0.25)])
def test_untrained_networks_take_the_bits_asked_for(
    architecture: str, bpp: float, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(zoo.cfgs[architecture], 1, (16, 24))
    crop = photo[:128, :128]
    untrained = script("compressai_interop").untrained
    model = compressai.freeze(untrained(architecture, 1, crop, bpp=bpp), device="cpu")
    assert 8 * len(compressai.encode(crop, model)) / 128**2 == pytest.approx(bpp, rel=0.25)
