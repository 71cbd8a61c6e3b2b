"""Model files: float transforms, the frozen integer entropy path, probability tables, configuration and model id.

A generative decoder has a file of its own, which names the model whose latents it reads.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from neurocodec.entropy.arithmetic import arithmetic
from neurocodec.entropy.integer import EntropyNetwork, freeze_entropy, thaw_entropy
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ModelMismatchError, ModelNotFoundError
from neurocodec.files import write_bytes
from neurocodec.models.hific import Generator, GeneratorConfig
from neurocodec.models.hyperprior import Analysis, HyperAnalysis, Hyperprior, HyperpriorConfig, Synthesis
from neurocodec.models.rate import SCALE_LEVELS, SCALE_MAX, SCALE_MIN

FILE_FORMAT = "neurocodec-model-1"
GENERATOR_FORMAT = "neurocodec-generator-1"
_HINT = "put its file into a folder that NEUROCODEC_WEIGHTS names"
_TABLES = ("frequencies", "offsets", "lengths")


@dataclass(eq=False)
class Model:
    """A frozen model, ready to code. All networks are in evaluation mode and on one device.

    arrays: everything the file stores, by name. model_id: 8 bytes, a hash over all that matters to decoding.
    generator: the decoder for realism above 0; None for the installed one, if any.
    """

    config: HyperpriorConfig
    arrays: Mapping[str, NDArray[Any]]
    model_id: bytes
    g_a: Analysis
    h_a: HyperAnalysis
    g_s: Synthesis
    tables: Tables
    entropy: EntropyNetwork
    device: str
    generator: Generator | None = None

    def save(self, path: str | Path) -> None:
        """Writes the model file, atomically."""
        _write(path, self.arrays, FILE_FORMAT, self.config, self.model_id)


def freeze(model: Hyperprior, *, tables: Tables | None = None, device: str = "cpu") -> Model:
    """Makes a frozen model of a trained one. This is the only place where floats become tables and integer weights.

    tables: one row for each scale of `models.rate`; Gaussian ones by default.
    """
    weights = {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}
    arrays: dict[str, NDArray[Any]] = {n: v for n, v in weights.items() if n.startswith(("g_a.", "h_a.", "g_s."))}
    arrays |= {"entropy." + name: value for name, value in freeze_entropy(weights).items()}
    if tables is None:
        scales = np.exp(np.linspace(np.log(SCALE_MIN), np.log(SCALE_MAX), SCALE_LEVELS))
        tables = gaussian_tables(scales.tolist())
    arrays |= {"tables." + name: getattr(tables, name) for name in _TABLES}
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    return _assemble(model.config, arrays, device, _model_id(model.config, arrays))


def thaw(model: Model) -> Hyperprior:
    """A float model to train on from: the inverse of `freeze`, up to the rounding of the entropy path's weights."""
    prefix = "entropy."
    entropy = thaw_entropy({n[len(prefix) :]: v for n, v in model.arrays.items() if n.startswith(prefix)})
    transforms = {n: v for n, v in model.arrays.items() if n.startswith(("g_a.", "h_a.", "g_s."))}
    thawed = Hyperprior(model.config)
    thawed.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in (transforms | entropy).items()})
    return thawed


def new_generator(config: GeneratorConfig, model: Model) -> Generator:
    """A generator on top of a model's g_s, with random weights."""
    generator = Generator(config, model.config)
    generator.trunk.load_state_dict(model.g_s.state_dict())
    generator.to(device=model.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator


def save_generator(generator: Generator, model: Model, path: str | Path) -> None:
    """Writes the file of a generator for this model, atomically: all weights but the trunk's, which the model has."""
    state = {n: v.detach().cpu().numpy() for n, v in generator.state_dict().items() if not n.startswith("trunk.")}
    arrays = {name: np.ascontiguousarray(value) for name, value in state.items()}
    _write(path, arrays, GENERATOR_FORMAT, generator.config, model.model_id)


def load_generator(path: str | Path, model: Model) -> Generator:
    """The generator in a file, on the model's device. Raises ModelMismatchError if damaged or of another model."""
    metadata, arrays = _read(str(path))
    if metadata.get("format") != GENERATOR_FORMAT:
        raise ModelMismatchError(f"{path} is not a generative decoder of a kind this release reads.")
    if metadata.get("model_id") != model.model_id.hex():
        raise ModelMismatchError(f"{path} reads the latents of model {metadata.get('model_id')}, not of this one.")
    try:
        generator = new_generator(GeneratorConfig(**json.loads(metadata["config"])), model)
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        missing, unexpected = generator.load_state_dict(state, strict=False)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelMismatchError(f"{path} does not fit its configuration; install it again.") from error
    if unexpected or any(not name.startswith("trunk.") for name in missing):
        raise ModelMismatchError(f"{path} does not fit its configuration; install it again.")
    return generator.eval().requires_grad_(False)


def generator_of(model: Model) -> Generator:
    """The model's generator, or the installed one for it, one in NEUROCODEC_WEIGHTS rather than the package's own.

    Raises ModelNotFoundError if there is none.
    """
    if model.generator is None:
        for path in _installed(reversed(_folders())):
            metadata = _metadata(str(path), path.stat().st_mtime_ns)
            if metadata.get("format") == GENERATOR_FORMAT and metadata.get("model_id") == model.model_id.hex():
                model.generator = load_generator(path, model)
                return model.generator
        raise ModelNotFoundError(
            f"realism above 0 needs a generative decoder for model {model.model_id.hex()}; none is installed; {_HINT}."
        )
    return model.generator


def load(name: str | Path, *, device: str = "auto") -> Model:
    """The model of that name among those installed, or of that path (ending in .safetensors).

    Raises ModelNotFoundError, or ModelMismatchError for a damaged file. Models are loaded once per device.
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        candidates = [folder / f"{name}.safetensors" for folder in _folders()]
        path = next((c for c in candidates if c.is_file()), candidates[0])
    if not path.is_file():
        raise ModelNotFoundError(f"no model {str(name)!r} is installed; {_HINT}.")
    return _load(str(path.resolve()), path.stat().st_mtime_ns, resolve_device(device))


def find(model_id: bytes, *, device: str = "auto") -> Model:
    """The installed model with this id. Raises ModelNotFoundError if there is none."""
    for path in _installed(_folders()):
        metadata = _metadata(str(path), path.stat().st_mtime_ns)
        if metadata.get("format") == FILE_FORMAT and metadata.get("model_id") == model_id.hex():
            return load(path, device=device)
    raise ModelNotFoundError(f"the file needs model {model_id.hex()}, which is not installed; {_HINT}.")


def resolve_device(device: str) -> str:
    """'auto' -> 'cuda' where there is one, else 'cpu'. Raises ValueError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (colon and not (number.isascii() and number.isdecimal()))):
        raise ValueError(f"device is {device!r}; known are auto, cpu and cuda.")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, and PyTorch finds no GPU here; use cpu or auto.")
    last = torch.cuda.device_count() - 1
    if number and int(number) > last:
        raise ValueError(f"device is {device!r}, and the last GPU that PyTorch finds here is cuda:{last}.")
    return device


def _folders() -> list[Path]:
    extra = os.environ.get("NEUROCODEC_WEIGHTS")
    return [Path(__file__).parent / "weights", *([Path(extra)] if extra else [])]


def _installed(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.glob("*.safetensors") if path.is_file())


@functools.lru_cache(maxsize=64)
def _metadata(path: str, mtime: int) -> dict[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _read(path: str) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            return dict(file.metadata() or {}), arrays
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ModelMismatchError(f"{path} is not a readable model file ({error}).") from error


def _write(path: str | Path, arrays: Mapping[str, NDArray[Any]], kind: str, config: Any, model_id: bytes) -> None:
    metadata = {"format": kind, "config": json.dumps(dataclasses.asdict(config)), "model_id": model_id.hex()}
    write_bytes(path, save(dict(arrays), metadata=metadata), force=True)  # save_file's are for the owner alone


@functools.lru_cache(maxsize=4)
def _load(path: str, mtime: int, device: str) -> Model:
    metadata, arrays = _read(path)
    if metadata.get("format") != FILE_FORMAT:
        raise ModelMismatchError(f"{path} is not a neurocodec model file of a kind this release reads.")
    try:
        config = HyperpriorConfig(**json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelMismatchError(f"{path} is not a readable model file ({error}).") from error
    model_id = _model_id(config, arrays)
    if model_id.hex() != metadata.get("model_id"):
        raise ModelMismatchError(f"{path} is damaged: its contents do not match its model id; install it again.")
    return _assemble(config, arrays, device, model_id)


def _assemble(config: HyperpriorConfig, arrays: Mapping[str, NDArray[Any]], device: str, model_id: bytes) -> Model:
    def network(kind: Any, prefix: str) -> Any:
        state = {n[len(prefix) :]: torch.from_numpy(v) for n, v in arrays.items() if n.startswith(prefix)}
        try:
            module = kind(config)
            module.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise ModelMismatchError(f"the model file does not fit its configuration at {prefix[:-1]}.") from error
        return module.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)

    missing = [name for name in _TABLES if "tables." + name not in arrays]
    if missing:
        raise ModelMismatchError(f"the model file lacks tables.{missing[0]}.")
    tables = Tables(*(arrays["tables." + name] for name in _TABLES))
    if tables.rows != SCALE_LEVELS:
        raise ModelMismatchError(f"the model file has {tables.rows} table rows instead of {SCALE_LEVELS}.")
    prefix = "entropy."
    integers = {name[len(prefix) :]: value for name, value in arrays.items() if name.startswith(prefix)}
    return Model(
        config=config,
        arrays=arrays,
        model_id=model_id,
        g_a=network(Analysis, "g_a."),
        h_a=network(HyperAnalysis, "h_a."),
        g_s=network(Synthesis, "g_s."),
        tables=tables,
        entropy=EntropyNetwork(config, integers, arithmetic(device)),
        device=device,
    )


def _model_id(config: HyperpriorConfig, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """First 8 bytes of SHA-256 over the configuration and every array that decoding reads (not g_a, not h_a)."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
    for name in sorted(arrays):
        if not name.startswith(("g_a.", "h_a.")):
            value = np.ascontiguousarray(arrays[name])
            little = value.astype(value.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{name} {value.dtype.name} {value.shape}".encode())
            digest.update(little.tobytes())
    return digest.digest()[:8]
