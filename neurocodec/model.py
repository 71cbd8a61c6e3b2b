"""Model files: arrays, configuration and id of a model, and where installed models are. No torch.

A generative decoder and a map for previews have files of their own, which name the model whose latents they read.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from neurocodec.container import QUALITY_INDEX_MAX
from neurocodec.entropy.grid import PASSES, QUALITY_STEPS, SCALE_LEVELS
from neurocodec.entropy.tables import Tables
from neurocodec.errors import ArgumentTypeError, ModelMismatchError, ModelNotFoundError, one_line
from neurocodec.files import write_bytes

FILE_FORMAT = "neurocodec-model-2"
GENERATOR_FORMAT = "neurocodec-generator-2"
PREVIEW_FORMAT = "neurocodec-preview-1"
PREVIEW_CELLS = 4
"""The map for previews gives this many rows and columns of colours for each latent."""
TABLE_ARRAYS = ("frequencies", "offsets", "lengths")
ENCODER_PARTS = ("g_a.", "h_a.", "scales.")
"""Prefixes of arrays that decoding does not need."""
DECODER_SHAPE = (
    *("channels", "latent_channels", "hyper_channels", "hidden_channels"),
    *("decoder_blocks", "latent_blocks", "quality_rows"),
)
"""The fields of a configuration that decoding depends on; they are part of the model id."""
EXP2_SIZE = 1 << 12
"""Entries of the table of 2^(k / 4096), from which gains are computed."""
QUALITY_ROWS = QUALITY_INDEX_MAX // QUALITY_STEPS + 1
"""Rows of gains that the quality index of a file spans: 16."""
MAX_CHANNELS, MAX_BLOCKS = 1024, 16
"""Limits on the channels of a layer and on consecutive blocks, checked before memory is allocated."""
PACKAGED = Path(__file__).parent / "weights"
"""Model files that ship with the package."""
_MAX_HEADER_BYTES, _MAX_ARRAYS = 2**20, 2**12
_KINDS = {
    FILE_FORMAT: "neurocodec model file",
    GENERATOR_FORMAT: "generative decoder",
    PREVIEW_FORMAT: "map for previews",
}
_NAMES = {
    FILE_FORMAT: re.compile(r"(g_a|h_a|g_s|entropy|tables|scales)\.[\w.]{1,80}|exp2_table", re.ASCII),
    GENERATOR_FORMAT: re.compile(r"(?!trunk\.)[\w.]{1,80}", re.ASCII),
    PREVIEW_FORMAT: re.compile("weight|scale|bias"),
}
_DTYPES = {FILE_FORMAT: {"I8", "I16", "I32", "U16"}, GENERATOR_FORMAT: {"I8", "I16", "I32"}, PREVIEW_FORMAT: {"F32"}}
_HINT = "put its file into a folder that NEUROCODEC_WEIGHTS names"


@dataclass(frozen=True)
class HyperpriorConfig:
    """Shape of a `Hyperprior`. `latent_channels` is a multiple of 4; the DCT initialisation needs `channels` ≥ 192.

    `quality_rows` is 16, because the quality index of a file spans 16 rows. Raises ValueError for an impossible shape,
    or for more than 1024 channels or 16 consecutive blocks, so that a damaged file cannot exhaust the memory.
    """

    channels: int = 192  # C, transforms at 1/8
    latent_channels: int = 256  # M, y at 1/16
    hyper_channels: int = 96  # N, z at 1/64
    hidden_channels: int = 192  # in the entropy networks
    encoder_blocks: int = 3  # at 1/8
    decoder_blocks: int = 2  # at 1/8
    latent_blocks: int = 3  # at 1/16, in both transforms
    quality_rows: int = 16
    lambda_min: float = 0.0003
    lambda_max: float = 0.5

    def __post_init__(self) -> None:
        _check_whole_numbers(self)
        for name in ("channels", "latent_channels", "hyper_channels", "hidden_channels"):
            if not 1 <= getattr(self, name) <= MAX_CHANNELS:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to {MAX_CHANNELS}.")
        for name in ("encoder_blocks", "decoder_blocks", "latent_blocks"):
            if not 0 <= getattr(self, name) <= MAX_BLOCKS:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to {MAX_BLOCKS}.")
        if self.latent_channels % PASSES:
            raise ValueError(f"latent_channels is {self.latent_channels}; it must be a multiple of {PASSES}.")
        if self.quality_rows != QUALITY_ROWS:
            raise ValueError(f"quality_rows is {self.quality_rows}; files count qualities on {QUALITY_ROWS} rows.")
        if not 0 < self.lambda_min <= self.lambda_max < math.inf:
            raise ValueError("lambda_min must be above 0, and lambda_max no less and finite.")

    @property
    def max_bytes(self) -> int:
        """Upper bound on the file size of this shape: 16-bit weights, a few matrices per block."""
        widest = max(self.channels, self.latent_channels, self.hyper_channels, self.hidden_channels)
        blocks = self.encoder_blocks + self.decoder_blocks + 2 * self.latent_blocks
        return 64 * (blocks + 8) * widest**2 + 2**23

    @property
    def analysis_halo(self) -> int:
        """How many latents beyond a window its latents depend on."""
        return self.latent_blocks + -(-self.encoder_blocks // 2)

    @property
    def synthesis_halo(self) -> int:
        """How many latents beyond a window its pixels depend on."""
        return self.latent_blocks + -(-self.decoder_blocks // 2)

    def lmbda(self, quality_index: Any) -> Any:
        """λ, log-spaced from lambda_min to lambda_max, of a fractional row, 0 to 15; a number or a tensor."""
        return self.lambda_min * (self.lambda_max / self.lambda_min) ** (quality_index / (self.quality_rows - 1))

    def step_size(self, quality_index: float) -> float:
        """Quantisation step, for pixels in [0, 1], from high-rate theory: Δ² = 18 / (λ · 255² · ln 2)."""
        return math.sqrt(18.0 / (self.lmbda(quality_index) * 255**2 * math.log(2.0)))


@dataclass(frozen=True)
class GeneratorConfig:
    """Shape of a `Generator`. `channels` is a multiple of 16. Raises ValueError for an impossible shape."""

    channels: int = 320  # at 1/8
    blocks: int = 6
    fine_blocks: int = 3  # at 1/2, on channels / 16 · fine_width channels
    fine_width: int = 2
    frequencies: int = 1  # Fourier features of β; with six, LPIPS oscillated along the slider

    def __post_init__(self) -> None:
        _check_whole_numbers(self)
        if not 16 <= self.channels <= MAX_CHANNELS or self.channels % 16:
            raise ValueError(f"channels is {self.channels}; it must be a multiple of 16 up to {MAX_CHANNELS}.")
        for name, least in {"blocks": 0, "fine_blocks": 0, "fine_width": 1, "frequencies": 0}.items():
            if not least <= getattr(self, name) <= MAX_BLOCKS:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from {least} to {MAX_BLOCKS}.")

    @property
    def fine_channels(self) -> int:
        """Channels at 1/2."""
        return self.channels // 16 * self.fine_width

    @property
    def halo(self) -> int:
        """How many latents further out its pixels depend on than those of g_s."""
        return -(-self.blocks // 2) + -(-self.fine_blocks // 8)

    @property
    def max_bytes(self) -> int:
        """Upper bound on the file size of this shape, for any model: 32-bit weights, a few matrices per block."""
        widest = max(self.channels, self.fine_channels)
        return 16 * (self.blocks + self.fine_blocks + 8) * widest**2 + 2**23


Config = TypeVar("Config", HyperpriorConfig, GeneratorConfig)


@dataclass(frozen=True, eq=False)
class GeneratorFile:
    """The contents of a generative decoder's file: all integers except its trunk's, which is the model's g_s."""

    config: GeneratorConfig
    arrays: Mapping[str, NDArray[Any]]
    model_id: bytes

    @functools.cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of SHA-256 over its arrays."""
        digest = hashlib.sha256()
        for name, value in sorted(self.arrays.items()):
            digest.update(name.encode() + value.tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Writes the file. Raises OutputError."""
        _write(path, self.arrays, GENERATOR_FORMAT, self.config, self.model_id)


@dataclass(frozen=True, eq=False)
class Model:
    """The contents of a frozen model's file. Models that decode alike have equal ids, whatever their encoders.

    arrays: integer arrays of g_a, h_a, g_s and the entropy path, exp2_table and the tables, by name; a decoder-only
    file lacks g_a and h_a. generator: the generative decoder for realism above 0, used instead of the installed one.
    Raises ModelMismatchError if the tables are missing or malformed.
    """

    config: HyperpriorConfig
    arrays: Mapping[str, NDArray[Any]]
    generator: GeneratorFile | None = None

    def __post_init__(self) -> None:
        if self.tables.rows != SCALE_LEVELS:
            raise ModelMismatchError(f"the model file has {self.tables.rows} table rows instead of {SCALE_LEVELS}.")

    @functools.cached_property
    def tables(self) -> Tables:
        """The probability tables."""
        arrays = self.part("tables.")
        missing = [name for name in TABLE_ARRAYS if name not in arrays]
        if missing:
            raise ModelMismatchError(f"the model file lacks tables.{missing[0]}.")
        return Tables(*(arrays[name] for name in TABLE_ARRAYS))

    @functools.cached_property
    def model_id(self) -> bytes:
        """First 8 bytes of SHA-256 over the decoder's shape and all arrays except the encoder's."""
        shape = {name: getattr(self.config, name) for name in DECODER_SHAPE}
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
        for name in sorted(self.arrays):
            if not name.startswith(ENCODER_PARTS):
                value = np.ascontiguousarray(self.arrays[name])
                little = value.astype(value.dtype.newbyteorder("<"), copy=False)
                digest.update(f"{name} {value.dtype.name} {value.shape}".encode())
                digest.update(little.data)
        return digest.digest()[:8]

    def part(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays whose names start with a prefix, by names without it."""
        return {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}

    @property
    def encodes(self) -> bool:
        """Whether the model includes its encoder."""
        return any(name.startswith("g_a.") for name in self.arrays)

    def decoder(self) -> Model:
        """The model without its encoder, for viewers; the id is the same."""
        arrays = {name: array for name, array in self.arrays.items() if not name.startswith(ENCODER_PARTS)}
        return Model(self.config, arrays)

    def with_decoder(self, other: Model) -> Model:
        """The model with this one's encoder and the other's decoder: it has the other's id."""
        ours = ("g_a.", "h_a.", "scales.g_a.")
        arrays = {name: array for name, array in other.arrays.items() if not name.startswith(ours)}
        return Model(self.config, arrays | {n: array for n, array in self.arrays.items() if n.startswith(ours)})

    def save(self, path: str | Path, *, force: bool = True) -> None:
        """Writes the model file; `force` overwrites an existing one. Raises OutputError."""
        _write(path, self.arrays, FILE_FORMAT, self.config, self.model_id, force=force)


def load(name: str | Path) -> Model:
    """Loads an installed model by name, or a model file by a path that ends in .safetensors; results are cached.

    Raises ModelNotFoundError, ModelMismatchError for a damaged file, ArgumentTypeError for neither a name nor a path.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ArgumentTypeError(f"the model is a {type(name).__name__}; it must be a name, a path or a loaded model.")
    path = Path(name)
    if path.suffix != ".safetensors":
        candidates = [folder / f"{name}.safetensors" for folder in _folders()]
        path = next((c for c in candidates if os.path.isfile(c)), candidates[0])
    if not os.path.isfile(path):  # pathlib's is_file raises for a name that is too long
        if Path(name).suffix == ".safetensors":
            raise ModelNotFoundError(f"there is no model file {str(name)!r}: check the name.")
        raise ModelNotFoundError(f"no model {str(name)!r} is installed; {_HINT}, or give a .safetensors file.")
    return _load(str(path.resolve()), path.stat().st_mtime_ns)


def find(model_id: bytes) -> Model:
    """The installed model with this id. Raises ModelNotFoundError if there is none."""
    for path in _installed(_folders(), FILE_FORMAT, model_id):
        return load(path)
    raise ModelNotFoundError(f"the file needs model {model_id.hex()}, which is not installed; {_HINT}.")


def load_generator(path: str | Path, model: Model) -> GeneratorFile:
    """The generative decoder in a file. Raises ModelMismatchError if it is damaged or belongs to another model."""
    mtime = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
    config, arrays, model_id = _read_generator(str(path), mtime)
    if model_id != model.model_id.hex():
        raise ModelMismatchError(f"{path} reads the latents of model {str(model_id)[:80]}, not of this one.")
    return GeneratorFile(config, arrays, model.model_id)


def find_generator(model: Model) -> GeneratorFile:
    """A model's own generative decoder, or the installed one; NEUROCODEC_WEIGHTS is searched before the package.

    Raises ModelNotFoundError if there is none, ModelMismatchError if its file is damaged.
    """
    if model.generator:
        return model.generator
    for path in _installed(reversed(_folders()), GENERATOR_FORMAT, model.model_id):
        return load_generator(path, model)
    raise ModelNotFoundError(
        f"realism above 0 needs a generative decoder for model {model.model_id.hex()}; none is installed; {_HINT}."
    )


def shipped_generator(model: Model) -> GeneratorFile | None:
    """The generative decoder that the package has for a model, or None; NEUROCODEC_WEIGHTS is not searched.

    Raises ModelMismatchError if its file is damaged.
    """
    for path in _installed([PACKAGED], GENERATOR_FORMAT, model.model_id):
        return load_generator(path, model)
    return None


def save_preview(path: str | Path, model: Model, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes a model's map for previews; `find_preview` lists its arrays. Raises OutputError."""
    _write(path, arrays, PREVIEW_FORMAT, model.config, model.model_id)


def find_preview(model: Model) -> Mapping[str, NDArray[np.float32]] | None:
    """A model's installed map for previews, or None: weight (M, 48), scale (16, M) and bias (16, 48), float32.

    For each quality row, y_hat · gain of g_s · scale · weight + bias gives the colours of 4×4 squares, minus mid-gray.
    NEUROCODEC_WEIGHTS is searched before the package. Raises ModelMismatchError if the file is damaged.
    """
    latent, colours = model.config.latent_channels, 3 * PREVIEW_CELLS**2
    shapes = {"weight": (latent, colours), "scale": (QUALITY_ROWS, latent), "bias": (QUALITY_ROWS, colours)}
    for path in _installed(reversed(_folders()), PREVIEW_FORMAT, model.model_id):
        _, arrays, _ = _read(str(path), PREVIEW_FORMAT, HyperpriorConfig)
        shaped = {name: array.shape for name, array in arrays.items()} == shapes
        if not shaped or not all(np.isfinite(array).all() for array in arrays.values()):
            raise ModelMismatchError(f"{path} is damaged: its arrays do not fit the model; install it again.")
        return arrays
    return None


def _folders() -> list[Path]:
    extra = os.environ.get("NEUROCODEC_WEIGHTS")
    return [PACKAGED, *([Path(extra)] if extra else [])]


def _installed(folders: Iterable[Path], kind: str, model_id: bytes) -> Iterator[Path]:
    """The installed files of this format that name this model id."""
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            metadata = _metadata(str(path), path.stat().st_mtime_ns) if path.is_file() else {}
            if metadata.get("format") == kind and metadata.get("model_id") == model_id.hex():
                yield path


@functools.lru_cache(maxsize=64)
def _metadata(path: str, mtime: int) -> dict[str, str]:
    try:
        return _header(path)[0]
    except (ModelMismatchError, OSError):
        return {}


def _header(path: str) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """The metadata of a safetensors file and the entry of each array, without reading any array."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        if len(entries) > _MAX_ARRAYS or not all(isinstance(entry["dtype"], str) for entry in entries.values()):
            raise ValueError
        return {name: str(value) for name, value in metadata.items()}, entries
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise ModelMismatchError(f"{path} is not a readable model file.") from None


def _read(path: str, kind: str, shape: Callable[..., Config]) -> tuple[Config, dict[str, NDArray[Any]], str | None]:
    """Configuration, arrays and model id from a file of this format. Names and types are checked before reading."""
    try:
        metadata, entries = _header(path)
        if metadata.get("format") != kind:
            raise ModelMismatchError(f"{path} is not a {_KINDS[kind]} of a kind this release reads.")
        config = shape(**json.loads(metadata["config"]))
        for name, entry in entries.items():
            if not _NAMES[kind].fullmatch(name) or entry["dtype"] not in _DTYPES[kind]:
                raise ModelMismatchError(f"{path} holds {name[:80]!r}, expected other names or types of arrays.")
        if os.stat(path).st_size > config.max_bytes:
            raise ModelMismatchError(f"{path} is larger than any file of its configuration: install it again.")
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        if "crc32" in metadata and metadata["crc32"] != _checksum(arrays):
            raise ModelMismatchError(f"{path} is damaged: its arrays do not match its checksum; install it again.")
    except ModelMismatchError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelMismatchError(f"{path} is not a readable model file ({one_line(error)[:200]}).") from error
    return config, arrays, metadata.get("model_id")


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """CRC-32 over the arrays in order of their names, in hexadecimal: the model id covers less, and no generator."""
    checksum = 0
    for _, array in sorted(arrays.items()):
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return f"{checksum:08x}"


def _check_whole_numbers(config: Any) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type == "int" and type(value) is not int:
            raise ValueError(f"{field.name} is {str(value)[:80]}; it must be a whole number.")


def _write(
    path: str | Path,
    arrays: Mapping[str, NDArray[Any]],
    kind: str,
    config: Any,
    model_id: bytes,
    *,
    force: bool = True,
) -> None:
    about = {"config": json.dumps(dataclasses.asdict(config)), "model_id": model_id.hex(), "crc32": _checksum(arrays)}
    metadata = {"format": kind, **about}
    write_bytes(
        path, save(dict(arrays), metadata=metadata), force=force
    )  # save_file would make it private to the owner


@functools.lru_cache(maxsize=4)
def _read_generator(path: str, mtime: int) -> tuple[GeneratorConfig, dict[str, NDArray[Any]], str | None]:
    return _read(path, GENERATOR_FORMAT, GeneratorConfig)


@functools.lru_cache(maxsize=4)
def _load(path: str, mtime: int) -> Model:
    config, arrays, model_id = _read(path, FILE_FORMAT, HyperpriorConfig)
    model = Model(config, arrays)
    if model.model_id.hex() != model_id:
        raise ModelMismatchError(f"{path} is damaged: its contents do not match its model id; install it again.")
    return model
