"""What is measured on a decoded picture besides PSNR, in one pass: MS-SSIM, LPIPS, DISTS, features of its patches.

Networks are loaded once a process, and only where their weights are found; what is not available is said, not left out.
SSIMULACRA2 is not among the measures: the package that computes it in Python is young and reads files only.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec import files
from neurocodec.bench.fid import patches
from neurocodec.errors import MissingPackageError, MissingWeightsError
from neurocodec.metrics import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_available
from neurocodec.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

LPIPS_MIN_SIDE = 31
"""Pixels: below it AlexNet has no output."""
DISTS_MIN_SIDE, DISTS_SIDE = 16, 256
"""Pixels: the least that VGG16 takes, and that to which DISTS's authors scale the shorter side of larger pictures."""
_LIMITS = {
    "ms_ssim": ("MS-SSIM", MS_SSIM_MIN_SIDE),
    "lpips": ("LPIPS", LPIPS_MIN_SIDE),
    "dists": ("DISTS", DISTS_MIN_SIDE),
}
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_INCEPTION_MODULE = "torch_fidelity.feature_extractor_inceptionv3"
_BATCH = 16


@dataclass(frozen=True)
class PatchNetwork:
    """Whose features the distances between sets of patches are taken from. names: of the two distances."""

    key: str
    title: str
    names: tuple[str, str]
    note: str


INCEPTION = PatchNetwork(
    "inception",
    "Inception v3 of 2015, 2048 features, through torch-fidelity",
    ("FID/256", "KID/256"),
    "FID and KID on patches of 256 pixels and a second grid shifted by 128, as HiFiC measures them",
)
ALEXNET = PatchNetwork(
    "alexnet",
    "AlexNet, its last layer averaged over the patch, 256 features",
    ("Fréchet distance, AlexNet features", "kernel distance, AlexNet features"),
    "not comparable to published FID or KID; patches of 256 pixels and a second grid shifted by 128",
)
PATCH_NETWORKS = {network.key: network for network in (INCEPTION, ALEXNET)}


@dataclass(frozen=True)
class Measures:
    """Which measures to take, besides bits and PSNR. patches: the key of a PatchNetwork, or nothing."""

    ms_ssim: bool = False
    lpips: bool = False
    dists: bool = False
    patches: str = ""

    def of(self, rgb: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> dict[str, float | None]:
        """ms_ssim, lpips and dists of a pair; None if not asked for, or if the picture is too small."""
        taken = self._taken(*rgb.shape[:2])
        return {
            key: function(rgb, decoded) if key in taken else None
            for key, function in (("ms_ssim", ms_ssim), ("lpips", lpips), ("dists", dists))
        }

    def lacking(self, row: dict[str, Any], height: int, width: int) -> bool:
        """Whether a row of results lacks a measure that it would have if it were measured now."""
        return any(row.get(key) is None for key in self._taken(height, width))

    def too_small(self, pictures: Collection[dict[str, Any]]) -> dict[str, str]:
        """The measures whose averages are lost to small pictures, by title, and why. pictures: as results hold them."""
        found = {}
        for key, (title, side) in _LIMITS.items():
            small = [picture["name"] for picture in pictures if min(picture["height"], picture["width"]) < side]
            if getattr(self, key) and small:
                count = f"{len(small)} of {len(pictures)} pictures"
                found[title] = f"no averages, as {count}, such as {small[0]}, are below {side} pixels"
        return found

    def _taken(self, height: int, width: int) -> set[str]:
        """The measures that are asked for and that a picture of this size is large enough for."""
        return {key for key, (_, side) in _LIMITS.items() if getattr(self, key) and min(height, width) >= side}


def available(*, dists: bool = False, patches: bool = False, download: bool = False) -> tuple[Measures, dict[str, str]]:
    """The measures that can be taken here, and why others cannot, by name. dists, patches: whether DISTS and distances
    between sets of patches are wanted; download: whether weights may be fetched (LPIPS 244 MB, DISTS 553 MB, Inception
    96 MB)."""
    from neurocodec.perceptual.weights import load_weights

    missing: dict[str, str] = {}
    if not ms_ssim_available():
        missing["MS-SSIM"] = "MS-SSIM needs pytorch-msssim, which is not installed: pip install 'neurocodec[bench]'"
    try:
        for part in ("alexnet", "lpips_alex") if download else ():
            load_weights(part)  # into PyTorch's cache, where the networks and other processes find them
        _lpips()
    except MissingWeightsError as error:
        missing["LPIPS"] = str(error)
    if dists:
        try:
            for part in ("vgg16", "dists") if download else ():
                load_weights(part)
            _dists()
        except MissingWeightsError as error:
            missing["DISTS"] = str(error)
    key = ""
    if patches:
        try:
            require(_INCEPTION_MODULE, "torch-fidelity", "FID", "fid")
            _inception_weights(download)
            _inception()
            key = INCEPTION.key
        except (MissingPackageError, MissingWeightsError) as error:
            missing["FID/256 and KID/256"] = str(error)
            try:
                _alexnet()
                key = ALEXNET.key
            except MissingWeightsError as without:
                missing[ALEXNET.names[0]] = str(without)
    home = os.path.expanduser("~")  # the reasons go into results, which may be published
    public = {name: why if home == "/" else why.replace(home, "~") for name, why in missing.items()}
    taken = Measures("MS-SSIM" not in missing, "LPIPS" not in missing, dists and "DISTS" not in missing, key)
    return taken, public


def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """LPIPS v0.1 on AlexNet, 0 for equal pictures. a, b: uint8 (H, W, 3). Raises MissingWeightsError."""
    import torch

    network = _lpips()
    with torch.inference_mode():
        return float(network(*(_tensor(v[None]).float() / 255 for v in (a, b)))[0])


def dists(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """DISTS, 0 for equal pictures; larger ones are first scaled to 256 pixels on the shorter side, as its authors do.

    a, b: uint8 (H, W, 3). Raises MissingWeightsError.
    """
    import torch

    def scaled(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        short = min(rgb.shape[:2])
        if short <= DISTS_SIDE:
            return rgb
        height, width = (int(DISTS_SIDE * side / short) for side in rgb.shape[:2])
        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))

    network = _dists()
    with torch.inference_mode():
        return float(network(*(_tensor(scaled(v)[None]).float() / 255 for v in (a, b)))[0])


def patch_features(rgb: NDArray[np.uint8], key: str) -> NDArray[np.float32]:
    """Features of all patches of `metrics.fid.patches`: (n, d), d of the network with this key.

    Raises MissingWeightsError, MissingPackageError.
    """
    import torch

    cut = patches(rgb)
    found = []
    with torch.inference_mode():
        for at in range(0, len(cut), _BATCH):
            x = _tensor(cut[at : at + _BATCH])
            if key == INCEPTION.key:
                features = _inception()(x)[0]
            else:
                features = _alexnet()(x.float() / 255)["relu5"].mean((2, 3))
            found.append(features.float().cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def _tensor(pictures: NDArray[np.uint8]) -> Any:
    import torch

    x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    return x.to(_device())


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.lru_cache
def _lpips() -> Any:
    from neurocodec.perceptual.lpips import load_lpips

    return load_lpips("alex", _device(), download=False)


@functools.lru_cache
def _dists() -> Any:
    from neurocodec.perceptual.dists import load_dists

    return load_dists(_device(), download=False)


@functools.lru_cache
def _alexnet() -> Any:
    from neurocodec.perceptual.features import load_alexnet

    return load_alexnet(("relu5",), device=_device(), download=False)


@functools.lru_cache
def _inception() -> Any:
    """torch-fidelity's Inception: uint8 (B, 3, H, W) -> ((B, 2048),)."""
    package = require(_INCEPTION_MODULE, "torch-fidelity", "FID", "fid")
    path = str(_inception_weights(False))
    network = package.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    return network.to(_device()).eval()


def _inception_weights(download: bool) -> Path:
    """The file, whose SHA-256 is checked before anything reads it: in NEUROCODEC_WEIGHTS or PyTorch's cache."""
    import torch

    named = os.environ.get("NEUROCODEC_WEIGHTS")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    for path in (*([Path(named) / INCEPTION_FILE] if named else []), cached):
        if not path.is_file():
            continue
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != INCEPTION_SHA256:
            raise MissingWeightsError(
                f"{path} has the SHA-256 {found[:8]}..., not {INCEPTION_SHA256[:8]}...: replace it"
            )
        return path
    if not download:
        raise MissingWeightsError(
            f"no Inception weights on this machine: put {INCEPTION_FILE} into the folder NEUROCODEC_WEIGHTS, "
            f"or --download it from {INCEPTION_URL}"
        )
    try:
        files.download(INCEPTION_URL, INCEPTION_SHA256, cached)
    except OSError as error:
        raise MissingWeightsError(f"{INCEPTION_URL} cannot be had: {error}") from error
    return cached
