"""The quality metrics of decoded pictures besides PSNR: MS-SSIM, LPIPS, DISTS, and features of patches for FID and KID.

Networks are loaded once a process, where their weights are installed; results name each metric that is not available.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec import files
from neurocodec.bench.fid import patches
from neurocodec.errors import MissingPackageError, MissingWeightsError
from neurocodec.metrics import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_db
from neurocodec.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

DISTS_SIDE = 256
"""Pixels: DISTS's authors scale the shorter side of larger pictures to it."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True)
class Metric:
    """axis: its title on an axis; least_side: in pixels, the smallest picture it is defined for; falls: whether less is
    better, which is drawn on a logarithmic scale."""

    key: str
    title: str
    axis: str
    least_side: int = 1
    falls: bool = False

    def shown(self, value: float) -> float:
        """The value as figures show it: MS-SSIM in dB."""
        return ms_ssim_db(value) if self.key == "ms_ssim" else value

    def rising(self, value: float) -> float:
        """The value on a scale that rises with quality, for BD-rates."""
        return -10 * math.log10(value) if self.falls else self.shown(value)


METRICS = {
    metric.key: metric
    for metric in (
        Metric("psnr", "PSNR", "PSNR, 8-bit RGB (dB)"),
        Metric("ms_ssim", "MS-SSIM", "MS-SSIM (dB)", MS_SSIM_MIN_SIDE),
        Metric("lpips", "LPIPS", "LPIPS, AlexNet (less is better)", 31, falls=True),  # AlexNet's least
        Metric("dists", "DISTS", "DISTS (less is better)", 16, falls=True),  # VGG16's least
    )
}


@dataclass(frozen=True)
class PatchNetwork:
    """The network whose features distances between sets of patches are based on. names: of the two distances."""

    title: str
    names: tuple[str, str]
    note: str


PATCH_NETWORKS = {
    "inception": PatchNetwork(
        "Inception v3 of 2015, 2048 features, through torch-fidelity",
        ("FID/256", "KID/256"),
        "FID and KID on patches of 256 pixels and a second grid shifted by 128, as HiFiC measures them",
    ),
    "alexnet": PatchNetwork(
        "AlexNet, its last layer averaged over the patch, 256 features",
        ("Fréchet distance, AlexNet features", "kernel distance, AlexNet features"),
        "not comparable to published FID or KID; patches of 256 pixels and a second grid shifted by 128",
    ),
}


@dataclass(frozen=True)
class Metrics:
    """Which metrics to compute, besides PSNR. patches: a key of PATCH_NETWORKS, or empty."""

    ms_ssim: bool = False
    lpips: bool = False
    dists: bool = False
    patches: str = ""

    def of(self, rgb: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> dict[str, float | None]:
        """ms_ssim, lpips and dists of a pair; None if not asked for, or if the picture is too small."""
        keys = self._defined(*rgb.shape[:2])
        functions = {"ms_ssim": ms_ssim, "lpips": lpips, "dists": dists}
        return {key: function(rgb, decoded) if key in keys else None for key, function in functions.items()}

    def lacking(self, row: dict[str, Any], height: int, width: int) -> bool:
        """Whether a row of results lacks a metric that would be computed now."""
        return any(row.get(key) is None for key in self._defined(height, width))

    def too_small(self, pictures: Collection[dict[str, Any]]) -> dict[str, str]:
        """The metrics that have no average because pictures are too small, by title, and why. pictures: as results
        hold them."""
        reasons = {}
        for key in self._defined(math.inf, math.inf):
            title, side = METRICS[key].title, METRICS[key].least_side
            small = [picture["name"] for picture in pictures if min(picture["height"], picture["width"]) < side]
            if small:
                count = f"{len(small)} of {len(pictures)} pictures"
                reasons[title] = f"no averages, as {count}, such as {small[0]}, are below {side} pixels"
        return reasons

    def _defined(self, height: float, width: float) -> list[str]:
        """The metrics that are asked for and defined for a picture of this size."""
        keys = [key for key in METRICS if getattr(self, key, False)]
        return [key for key in keys if min(height, width) >= METRICS[key].least_side]


def available(*, dists: bool = False, patches: bool = False, download: bool = False) -> tuple[Metrics, dict[str, str]]:
    """The metrics that can be computed here, and why others cannot, by title.

    dists, patches: whether DISTS and distances between sets of patches are asked for; download: whether weights may be
    downloaded (LPIPS 244 MB, DISTS 553 MB, Inception 96 MB).
    """
    from neurocodec.perceptual.weights import load_weights

    missing: dict[str, str] = {}
    home = os.path.expanduser("~")  # the reasons go into results, which may be published

    def usable(title: str, load: Callable[[], object], *parts: str) -> bool:
        try:
            for part in parts if download else ():
                load_weights(part)  # into PyTorch's cache, where the networks and other processes find them
            load()
        except (MissingPackageError, MissingWeightsError) as error:
            missing[title] = str(error) if home == "/" else str(error).replace(home, "~")
        return title not in missing

    def inception() -> None:
        _inception_package()
        inception_weights(download)
        network("inception")

    has_ms_ssim = usable("MS-SSIM", lambda: require("pytorch_msssim", "pytorch-msssim", "MS-SSIM"))
    has_lpips = usable("LPIPS", lambda: network("lpips"), "alexnet", "lpips_alex")
    has_dists = dists and usable("DISTS", lambda: network("dists"), "vgg16", "dists")
    key = ""
    if patches:
        if usable("FID/256 and KID/256", inception):
            key = "inception"
        elif usable(PATCH_NETWORKS["alexnet"].names[0], lambda: network("alexnet")):
            key = "alexnet"
    return Metrics(has_ms_ssim, has_lpips, has_dists, key), missing


def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """LPIPS v0.1 on AlexNet, 0 for equal pictures. a, b: uint8 (H, W, 3). Raises MissingWeightsError."""
    return _distance("lpips", a, b)


def dists(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """DISTS, 0 for equal pictures; larger ones are first scaled to 256 pixels on the shorter side, as its authors do.

    a, b: uint8 (H, W, 3). Raises MissingWeightsError.
    """

    def scaled(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        short = min(rgb.shape[:2])
        if short <= DISTS_SIDE:
            return rgb
        height, width = (int(DISTS_SIDE * side / short) for side in rgb.shape[:2])
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))

    return _distance("dists", scaled(a), scaled(b))


def patch_features(rgb: NDArray[np.uint8], key: str) -> NDArray[np.float32]:
    """Features of all patches of `fid.patches`, (n, d). key: of PATCH_NETWORKS.

    Raises MissingWeightsError, MissingPackageError.
    """
    import torch

    cut, run = patches(rgb), network(key)
    with torch.inference_mode():
        parts = [run(_tensor(cut[at : at + 16])).float().cpu().numpy() for at in range(0, len(cut), 16)]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


@functools.lru_cache
def network(key: str) -> Any:
    """The network lpips, dists, alexnet or inception, loaded once a process.

    lpips and dists take two batches of pictures in [0, 1], (B, 3, H, W); alexnet and inception take one of uint8 and
    return its features, (B, d). Raises MissingWeightsError, and MissingPackageError for Inception.
    """
    from neurocodec.perceptual import dists, features, lpips

    device = _device()
    if key == "lpips":
        return lpips.load_lpips("alex", device, download=False)
    if key == "dists":
        return dists.load_dists(device, download=False)
    if key == "alexnet":
        alexnet = features.load_alexnet(("relu5",), device=device, download=False)
        return lambda x: alexnet(x.float() / 255)["relu5"].mean((2, 3))
    build, path = _inception_package().FeatureExtractorInceptionV3, str(inception_weights())
    extractor = build("inception-v3-compat", ["2048"], feature_extractor_weights_path=path).to(device).eval()
    return lambda x: extractor(x)[0]


def _inception_package() -> Any:
    return require("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity", "FID", "fid")


def inception_weights(download: bool = False) -> Path:
    """The weights file in NEUROCODEC_WEIGHTS or PyTorch's cache, its SHA-256 checked. Raises MissingWeightsError."""
    from neurocodec.perceptual.weights import cache_folder, check_sha256

    folder = os.environ.get("NEUROCODEC_WEIGHTS")
    cached = cache_folder() / INCEPTION_FILE
    for path in (*([Path(folder) / INCEPTION_FILE] if folder else []), cached):
        if path.is_file():
            with path.open("rb") as file:
                check_sha256(file, INCEPTION_SHA256, path)
            return path
    if not download:
        raise MissingWeightsError(
            f"no Inception weights on this machine: put {INCEPTION_FILE} into the folder NEUROCODEC_WEIGHTS, "
            f"or --download it from {INCEPTION_URL}"
        )
    try:
        files.download(INCEPTION_URL, INCEPTION_SHA256, cached)
    except OSError as error:
        raise MissingWeightsError(f"{INCEPTION_URL} cannot be downloaded: {error}") from error
    return cached


def _distance(key: str, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    import torch

    with torch.inference_mode():
        return float(network(key)(*(_tensor(rgb[None]).float() / 255 for rgb in (a, b)))[0])


def _tensor(pictures: NDArray[np.uint8]) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(_device())


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
