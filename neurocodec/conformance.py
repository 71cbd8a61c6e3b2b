"""Conformance vectors: files whose symbols and latents every machine must decode identically.

A folder of vectors holds NAME.nic, NAME.png (the picture that one machine decoded) and expected.json with digests.
`neurocodec doctor` runs those of the shipped model, in `VECTORS`; tests/golden/valid has those of a small one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neurocodec import codec, container, image
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import NativeArithmetic, kernels
from neurocodec.integer.reference import Arithmetic
from neurocodec.models.networks import Networks

VECTORS = Path(__file__).parent / "vectors"


@dataclass(frozen=True)
class Digests:
    """Of a file of one tile: SHA-256 of its bytes, of z_hat and the symbols of y in coding order, and of y_hat.

    Arrays are hashed as little-endian int32 in (row, column, channel) order; y_hat in units of 1/64.
    """

    nic_sha256: str
    symbols_sha256: str
    y_hat_sha256: str
    model_id: str


@dataclass(frozen=True)
class Vector:
    """One vector. picture: uint8 (H, W, 3)."""

    name: str
    data: bytes
    expected: Digests
    picture: NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """The result of decoding a vector. levels: the largest difference of a pixel from the stored picture."""

    exact: bool
    levels: int


def load_vectors(folder: Path | None = None) -> list[Vector]:
    """The vectors of a folder; by default those of the shipped model."""
    folder = folder or VECTORS
    table = json.loads((folder / "expected.json").read_text())
    return [
        Vector(
            name,
            (folder / f"{name}.nic").read_bytes(),
            Digests(**digests),
            np.asarray(Image.open(folder / f"{name}.png").convert("RGB")),
        )
        for name, digests in table.items()
    ]


def write_vectors(folder: Path, model: Networks, sources: Mapping[str, tuple[image.Picture, int]]) -> None:
    """Writes vectors to a folder: each picture, encoded at a quality index."""
    table = {}
    for name, (picture, index) in sources.items():
        data = codec.encode_picture(picture, model, index)
        (folder / f"{name}.nic").write_bytes(data)
        Image.fromarray(codec.decode_picture(container.read(data), model).rgb).save(
            folder / f"{name}.png", optimize=True
        )
        table[name] = dataclasses.asdict(digests_of(data, model))
    (folder / "expected.json").write_text(json.dumps(table, indent=1) + "\n")


def digests_of(data: bytes, model: Networks) -> Digests:
    """Digests of a file of one tile, as this machine decodes it."""
    nic = container.read(data)
    (latents,) = codec.decode_latents(nic, model)
    return Digests(
        hashlib.sha256(data).hexdigest(),
        _digest([latents.z_hat, *latents.symbols]),
        _digest([latents.y_hat]),
        nic.header.model_id.hex(),
    )


def check(vector: Vector, model: Networks) -> Outcome:
    """Decodes a vector. Raises NicFormatError or a subclass if it does not decode at all."""
    exact = digests_of(vector.data, model) == vector.expected
    rgb = codec.decode_picture(container.read(vector.data), model).rgb
    return Outcome(exact, int(np.abs(rgb.astype(np.int16) - vector.picture).max()))


def arithmetics(device: str) -> Iterator[tuple[str, Arithmetic]]:
    """Every way to run the integer layers on a device, by name, the default first."""
    if device == "cpu":
        for kernel in kernels():
            yield f"C++ {kernel}", NativeArithmetic(kernel)
    yield "torch", TorchArithmetic(device)


def _digest(arrays: Iterable[NDArray[np.int32]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<i4").tobytes())
    return digest.hexdigest()
