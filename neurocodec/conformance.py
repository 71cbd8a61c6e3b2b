"""Conformance vectors: pictures whose files, symbols and pixels are the same on every machine.

A folder of vectors holds NAME.nic files and their digests in expected.json; the source pictures are computed.
`neurocodec doctor` checks the vectors of the shipped model, in `VECTORS`; tests/golden/valid has those of a small one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neurocodec import codec, container, image
from neurocodec.errors import ModelNotFoundError
from neurocodec.integer.native import NativeNetwork, kernels
from neurocodec.integer.network import LayerwiseNetwork, Network
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.model import Model, find_generator, shipped_generator

VECTORS = Path(__file__).parent / "vectors"
PHOTOGRAPH = Path(__file__).parent / "data" / "astronaut.png"


@dataclass(frozen=True)
class Source:
    """A picture and its quality index, 0 to 960.

    kind: photograph, noise or drawing. box: (x, y, width, height), the crop of the bundled photograph. mode: Pillow's
    mode of that crop; RGBA adds a computed alpha plane. depth: bits per sample; with 16, the lower 8 are made up.
    """

    quality_index: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: str = "RGB"
    kind: str = "photograph"
    depth: int = 8
    lossless: bool = False

    def picture(self) -> image.Picture:
        """The picture."""
        if self.kind == "noise":
            return image.load(np.random.Generator(np.random.PCG64(0)).integers(0, 256, (40, 48, 3), dtype=np.uint8))
        if self.kind == "drawing":
            drawing = np.full((70, 130, 3), 255, np.uint8)
            drawing[20:50, 30:90] = (200, 30, 30)
            drawing[:, 64] = 0
            return image.load(drawing)
        x, y, width, height = self.box
        with Image.open(PHOTOGRAPH) as photograph:
            crop = photograph.convert("RGB").crop((x, y, x + width, y + height))
        if self.mode == "RGBA":
            crop.putalpha(Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)))
        if self.depth == 16:
            samples = np.asarray(crop, np.uint16)
            return image.load(samples * 256 + np.arange(samples.size, dtype=np.uint16).reshape(samples.shape) % 256)
        return image.load(crop.convert(self.mode))

    def encode(self, network: Model | Network) -> bytes:
        """The file of the picture."""
        return codec.encode_picture(self.picture(), network, self.quality_index, lossless=self.lossless)


SOURCES = {
    "photo-192x160-q39": Source(39, (180, 40, 192, 160)),
    "photo-131x97-q480": Source(480, (100, 300, 131, 97)),
    "photo-64x64-q960": Source(960, (200, 100, 64, 64)),
    "gray-90x50-q333": Source(333, (200, 60, 90, 50), "L"),
    "noise-48x40-q700": Source(700, kind="noise"),
    "drawing-130x70-q601": Source(601, kind="drawing"),
    "astronaut-q480": Source(480, (0, 0, 512, 512)),
    "lossless-61x43-q250": Source(250, (200, 100, 61, 43), lossless=True),
    "deep-50x40-q700": Source(700, (200, 100, 50, 40), depth=16),
}
"""Sources of the shipped model's vectors; astronaut is the whole bundled photograph."""


@dataclass(frozen=True)
class Digests:
    """SHA-256 of a one-tile file, of its symbols (z_hat, then y in coding order), of y_hat, and of its pixels.

    Arrays are hashed in (row, column, channel) order, little-endian: symbols and y_hat, in units of 1/64, as int32, the
    pixels as uint8 or uint16 RGB. realism_sha256: of the pixels at realism 1, with the generative decoder that has this
    fingerprint; both are empty for large pictures, for lossless ones, and without a generative decoder.
    """

    nic_sha256: str
    symbols_sha256: str
    y_hat_sha256: str
    rgb_sha256: str
    model_id: str
    realism_sha256: str = ""
    generator: str = ""


@dataclass(frozen=True)
class Vector:
    """One vector: a source picture, the file it must encode to, and the digests of what that must decode to."""

    name: str
    source: Source
    data: bytes
    expected: Digests


def load_vectors(folder: Path | None = None, sources: Mapping[str, Source] = SOURCES) -> list[Vector]:
    """The vectors in a folder, by default those of the shipped model."""
    folder = folder or VECTORS
    table = json.loads((folder / "expected.json").read_text())
    return [
        Vector(name, sources[name], (folder / f"{name}.nic").read_bytes(), Digests(**digests))
        for name, digests in table.items()
    ]


def write_vectors(folder: Path, network: Network, sources: Mapping[str, Source]) -> None:
    """Encodes the sources and writes their vectors to a folder; the command of tests/golden uses it."""
    table = {}
    for name, source in sources.items():
        data = source.encode(network)
        (folder / f"{name}.nic").write_bytes(data)
        generator = "" if source.lossless or not _is_small(data) else _generator_of(network)
        table[name] = dataclasses.asdict(digests_of(data, network, generator, source.depth))
    (folder / "expected.json").write_text(json.dumps(table, indent=1) + "\n")


def digests_of(data: bytes, network: Network, generator: str = "", depth: int = 8) -> Digests:
    """Digests of a one-tile file as a network decodes it to pixels of 8 or 16 bits per sample.

    generator: the fingerprint of its generative decoder, or empty for no digest of realism 1.
    Raises NicFormatError or a subclass if decoding fails.
    """
    nic = container.read(data)
    (latents,) = codec.decode_latents(nic, network)
    return Digests(
        hashlib.sha256(data).hexdigest(),
        _digest([latents.z_hat, *latents.symbols]),
        _digest([latents.y_hat]),
        _digest_of_pixels(nic, network, 0.0, depth),
        nic.header.model_id.hex(),
        _digest_of_pixels(nic, network, 1.0, depth) if generator else "",
        generator,
    )


def mismatches(vector: Vector, network: Network) -> list[str]:
    """What differs when a network encodes and decodes a vector: symbols, latents, pixels, encoded bytes, or nothing.

    Raises NicFormatError or a subclass if the file does not decode at all.
    """
    expected, depth = vector.expected, vector.source.depth
    parts = {"symbols": "symbols_sha256", "latents": "y_hat_sha256", "pixels": "rgb_sha256"}
    if expected.generator:
        parts |= {"generative decoder": "generator", "pixels of realism 1": "realism_sha256"}
    actual = digests_of(vector.data, network, _generator_of(network) if expected.generator else "", depth)
    differing = [part for part, name in parts.items() if getattr(actual, name) != getattr(expected, name)]
    if vector.source.encode(network) != vector.data:
        differing.append("encoded bytes")
    return differing


def networks(model: Model, device: str = "cpu") -> Iterator[tuple[str, Network]]:
    """Every way to run a model on a device, as (name, network), the default first.

    The generative decoder is the shipped one, whatever NEUROCODEC_WEIGHTS names.
    """
    model = dataclasses.replace(model, generator=shipped_generator(model) or model.generator)
    if device == "cpu":
        for kernel in kernels():
            yield f"C++ {kernel}", NativeNetwork(model, kernel)
    if importlib.util.find_spec("torch"):
        from neurocodec.integer.gpu import TorchArithmetic

        yield "torch", LayerwiseNetwork(model, TorchArithmetic(device))
    elif not kernels():
        yield "NumPy", LayerwiseNetwork(model, NumpyArithmetic())


def _is_small(data: bytes) -> bool:
    header = container.read(data).header
    return header.width * header.height < 1 << 15


def _generator_of(network: Network) -> str:
    """The fingerprint of a network's generative decoder, or empty without one."""
    try:
        return find_generator(network.model).fingerprint
    except ModelNotFoundError:
        return ""


def _digest_of_pixels(nic: container.NicFile, network: Network, realism: float, depth: int) -> str:
    rgb = codec.decode_picture(nic, network, realism=realism, depth=depth).rgb
    return hashlib.sha256(rgb.astype(rgb.dtype.newbyteorder("<")).tobytes()).hexdigest()


def _digest(arrays: Iterable[NDArray[np.int32]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<i4").tobytes())
    return digest.hexdigest()
