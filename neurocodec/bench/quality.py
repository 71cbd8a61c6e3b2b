"""The quality metrics of decoded pictures besides PSNR: MS-SSIM, LPIPS, DISTS, and Fréchet distances of patches.

Networks are loaded once a process, where their weights are installed; results name each metric that is not available.
M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017 (FID);
patches as in F. Mentzer et al., "High-fidelity generative image compression", 2020, appendix A.7 (FID/256).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec import files
from neurocodec.errors import MissingPackageError, MissingWeightsError
from neurocodec.metrics import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_db
from neurocodec.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32 | np.float64]

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

    def finite(self, points: Iterable[Sequence[float]]) -> list[tuple[float, float]]:
        """Points (bpp, value) as figures show them, MS-SSIM in dB, without those that have no place on the scale."""
        shown = [(bpp, ms_ssim_db(value) if self.key == "ms_ssim" else value) for bpp, value in points]
        return [(bpp, value) for bpp, value in shown if value < math.inf and (value > 0 or not self.falls)]

    def rising(self, points: Iterable[Sequence[float]]) -> list[tuple[float, float]]:
        """The finite points on a scale that rises with quality, for BD-rates."""
        return [(bpp, -10 * math.log10(value) if self.falls else value) for bpp, value in self.finite(points)]


METRICS = {
    metric.key: metric
    for metric in (
        Metric("psnr", "PSNR", "PSNR, 8-bit RGB (dB)"),
        Metric("ms_ssim", "MS-SSIM", "MS-SSIM (dB)", MS_SSIM_MIN_SIDE),
        Metric("lpips", "LPIPS", "LPIPS, AlexNet (less is better)", 31, falls=True),  # AlexNet's least
        Metric("dists", "DISTS", "DISTS (less is better)", 16, falls=True),  # VGG16's least
    )
}

PATCH_NETWORKS: dict[str, dict[str, Any]] = {
    "inception": {
        "network": "Inception v3 of 2015, 2048 features, through torch-fidelity",
        "names": ["FID/256"],
        "note": "FID on patches of 256 pixels and a second grid shifted by 128, as HiFiC measures it",
    },
    "alexnet": {
        "network": "AlexNet, its last layer averaged over the patch, 256 features",
        "names": ["Fréchet distance, AlexNet features"],
        "note": "not comparable to published FID; patches of 256 pixels and a second grid shifted by 128",
    },
}
"""The networks whose features distances between sets of patches are based on, as results describe them."""


@dataclass(frozen=True)
class Metrics:
    """Which metrics to compute, besides PSNR. patches: a key of PATCH_NETWORKS, or empty."""

    ms_ssim: bool = False
    lpips: bool = False
    dists: bool = False
    patches: str = ""

    def of(self, rgb: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> dict[str, float | None]:
        """ms_ssim, lpips and dists of a pair; None if not asked for, or if the picture is too small."""
        keys = self.defined({"height": rgb.shape[0], "width": rgb.shape[1]})
        functions = {"ms_ssim": ms_ssim, "lpips": lpips, "dists": dists}
        return {key: function(rgb, decoded) if key in keys else None for key, function in functions.items()}

    def defined(self, picture: dict[str, Any]) -> list[str]:
        """The metrics that are asked for and defined for a picture of this height and width."""
        side = min(picture["height"], picture["width"])
        return [key for key in self._asked() if side >= METRICS[key].least_side]

    def _asked(self) -> list[str]:
        return [key for key in METRICS if getattr(self, key, False)]

    def too_small(self, pictures: Collection[dict[str, Any]]) -> dict[str, str]:
        """The metrics that have no average because of small pictures, by title, and why. pictures: as results hold
        them."""
        reasons: dict[str, str] = {}
        for picture in pictures:
            for metric in (METRICS[key] for key in self._asked() if key not in self.defined(picture)):
                why = f"no averages, as pictures such as {picture['name']} are below {metric.least_side} pixels"
                reasons.setdefault(metric.title, why)
        return reasons


def available(*, dists: bool = False, fid: bool = False, download: bool = False) -> tuple[Metrics, dict[str, str]]:
    """The metrics that can be computed here, and why others cannot, by title.

    dists, fid: whether DISTS and distances between sets of patches are asked for; download: whether weights may be
    downloaded (LPIPS 244 MB, DISTS 553 MB, Inception 96 MB).
    """
    missing: dict[str, str] = {}
    home = os.path.expanduser("~")  # the reasons go into results, which may be published

    def usable(title: str, load: Callable[[], object]) -> bool:
        try:
            load()
        except (MissingPackageError, MissingWeightsError) as error:
            missing[title] = str(error) if home == "/" else str(error).replace(home, "~")
        return title not in missing

    has_ms_ssim = usable("MS-SSIM", lambda: require("pytorch_msssim", "pytorch-msssim", "MS-SSIM"))
    has_lpips = usable("LPIPS", lambda: network("lpips", download))
    has_dists = dists and usable("DISTS", lambda: network("dists", download))
    key = ""
    if fid and usable("FID/256", lambda: network("inception", download)):
        key = "inception"
    elif fid and usable(PATCH_NETWORKS["alexnet"]["names"][0], lambda: network("alexnet")):
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


def patches(rgb: NDArray[np.uint8], side: int = 256) -> NDArray[np.uint8]:
    """All whole patches of two grids, the second one shifted by half a patch in both directions.

    rgb: uint8 (H, W, 3). Returns uint8 (n, side, side, 3), n = hw + (h - 1)(w - 1) with h = H // side and
    w = W // side; n is 0 for a picture smaller than a patch.
    """
    height, width = rgb.shape[:2]
    squares = [
        rgb[y : y + side, x : x + side]
        for start in (0, side // 2)
        for y in range(start, height - side - start + 1, side)
        for x in range(start, width - side - start + 1, side)
    ]
    return np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of vectors, which is FID for Inception features:

        |mean_a - mean_b|² + trace(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

    a, b: (n, d) and (m, d), n and m of at least 2; covariances are unbiased. The last trace is that of
    (S cov_b S)^(1/2), S = cov_a^(1/2), whose matrices are symmetric. With few vectors the distance is biased upwards:
    compare only sets of equal size. Raises ValueError for shapes that do not fit.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}, expected (n, d) and (m, d), both above one")
    x, y = a.astype(np.float64), b.astype(np.float64)
    x_cov, y_cov = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    values, vectors = np.linalg.eigh(x_cov)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ y_cov @ root), 0)).sum()
    distance = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(x_cov) + np.trace(y_cov) - 2 * cross
    return max(0.0, float(distance))


def patch_features(rgb: NDArray[np.uint8], key: str) -> NDArray[np.float32]:
    """Features of all `patches`, (n, d). key: of PATCH_NETWORKS.

    Raises MissingWeightsError, MissingPackageError.
    """
    import torch

    cut, run = patches(rgb), network(key)
    with torch.inference_mode():
        parts = [run(_tensor(cut[at : at + 16])).float().cpu().numpy() for at in range(0, len(cut), 16)]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


@functools.lru_cache
def network(key: str, download: bool = False) -> Any:
    """The network lpips, dists, alexnet or inception, loaded once a process.

    lpips and dists take two batches of pictures in [0, 1], (B, 3, H, W); alexnet and inception take one of uint8 and
    return its features, (B, d). Raises MissingWeightsError, and MissingPackageError for Inception.
    """
    from neurocodec.perceptual import dists, features, lpips

    device = _device()
    if key == "lpips":
        return lpips.load_lpips("alex", device, download=download)
    if key == "dists":
        return dists.load_dists(device, download=download)
    if key == "alexnet":
        alexnet = features.load_alexnet(("relu5",), device=device, download=download)
        return lambda x: alexnet(x.float() / 255)["relu5"].mean((2, 3))
    package: Any = require("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity", "FID", "fid")
    path = str(inception_weights(download))
    extractor = package.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
    )
    extractor = extractor.to(device).eval()
    return lambda x: extractor(x)[0]


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
