"""The checkpoint of a run: one safetensors file, whose header holds everything but the tensors, as JSON.

A tree of dictionaries and lists is written with {"tensor": name, "stride": [...]} in the place of each tensor. Reading
runs nothing, and takes no more memory than the file has bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from neurocodec import files
from neurocodec.errors import ConfigError

NAME = "checkpoint.safetensors"
FORMAT = "neurocodec-checkpoint-1"


def write(run: Path, tree: dict[str, Any]) -> None:
    """Writes the checkpoint, whole or not at all; tensors that share memory are stored once. Raises OutputError."""
    tensors: dict[str, Tensor] = {}
    names: dict[Any, str] = {}

    def packed(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {str(key): packed(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [packed(item, f"{path}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, Tensor):
            return value
        name = names.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), path[1:])
        if name not in tensors:
            tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name, "stride": value.stride()}

    text = json.dumps(packed(tree, ""))
    files.write_bytes(run / NAME, save(tensors, {"format": FORMAT, "tree": text}), force=True)


def read(run: str | Path) -> dict[str, Any]:
    """The tree that `write` wrote, with its tensors on the CPU; keys are strings. Raises ConfigError."""
    path = Path(run) / NAME
    if not path.is_file():
        raise ConfigError(f"the folder {run} holds no {NAME} of a run.")
    try:
        with safe_open(path, framework="pt") as file:
            tree = _unpacked(json.loads(file.metadata()["tree"]), file.get_tensor)
            return {**tree, "config": dict(tree["config"])}
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{path} is not a checkpoint that neurocodec train wrote, or is damaged.") from error


def _unpacked(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"tensor", "stride"}:
        return {key: _unpacked(item, tensor) for key, item in value.items()}
    stored, stride = tensor(value["tensor"]), value["stride"]
    reach = sum((side - 1) * step for side, step in zip(stored.shape, stride, strict=True)) + 1
    if stored.numel() and reach != stored.numel():
        raise ValueError("a tensor with gaps in its memory")
    return torch.empty_strided(stored.shape, stride, dtype=stored.dtype).copy_(stored)
