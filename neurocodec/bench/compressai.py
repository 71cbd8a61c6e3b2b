"""CompressAI networks as codecs of the benchmarks, in .nic files: with published weights, or random ones for speed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import container, image
from neurocodec.errors import ConfigError
from neurocodec.interop import compressai
from neurocodec.models.pixels import to_tensor


@dataclass(frozen=True)
class ZooCodec:
    """A CompressAI architecture in .nic files, with published weights; the setting is the zoo's quality.

    files: other weights instead, (setting, file as for `interop.compressai.load_file`).
    """

    architecture: str
    name: str
    files: tuple[tuple[float, str], ...] = ()
    device: str = "auto"

    def settings(self) -> tuple[float, ...]:
        """The zoo's qualities."""
        return tuple(setting for setting, _ in self.files) or tuple(compressai.qualities(self.architecture))

    def describe(self) -> dict[str, str]:
        """Settings and versions, without model ids, which would need every file of weights."""
        weights = ", ".join(os.path.basename(file) for _, file in self.files) or "mse"
        return {
            "settings": f"CompressAI {self.architecture} ({weights}), quality=q, in .nic files by neurocodec's coder",
            "compressai": str(compressai.package().__version__),
            "torch": torch.__version__,
        }

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        """A whole .nic file."""
        return compressai.encode(rgb, self.model(setting))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """uint8 (H, W, 3)."""
        model_id = container.read_header(data).model_id
        model = next((m for setting, _ in self.files if (m := self.model(setting)).model_id == model_id), None)
        return np.asarray(compressai.decode(data, model, device=self.device).convert("RGB"))

    def model(self, setting: float) -> compressai.Model:
        """The network of a setting. Raises ConfigError for an unknown setting, and what `load` raises."""
        if setting not in self.settings():
            known = ", ".join(f"{known:g}" for known in self.settings())
            raise ConfigError(f"found {self.name} quality {setting:g}, expected one of {known}")
        if self.files:
            return compressai.load_file(self.architecture, dict(self.files)[setting], device=self.device)
        return compressai.load(self.architecture, int(setting), device=self.device)


def benchmark_codec(name: str) -> ZooCodec:
    """The codec `cai:ARCHITECTURE`, such as cai:mbt2018-mean, for `neurocodec bench`.

    Raises ConfigError for an unknown architecture, MissingPackageError without CompressAI, WeightsNotFoundError (a
    MissingPackageError too) if the published weights cannot be downloaded.
    """
    architecture = name.removeprefix("cai:")
    codec = ZooCodec(architecture, name)
    codec.model(codec.settings()[0])
    return codec


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
