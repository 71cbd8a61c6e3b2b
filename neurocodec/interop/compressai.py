"""CompressAI models in .nic files, coded by this project's range coder. docs/interop.md describes the files.

    model = load("mbt2018-mean", 3)     # published weights, which CompressAI downloads once
    model = freeze(network)             # or your own network of one of its classes, after training
    data = encode("photo.png", model)
    im = decode(data, model)            # decode(data) loads published weights itself

x ─g_a→ y ─h_a→ z                          the symbols are round(z − median), then round(y − mean),
             z ─round→ z_hat ─h_s→ means, table rows       with CompressAI's own tables, frozen

Between z_hat and a table row there is floating-point arithmetic here, unlike in this project's own models: in double
precision, so that two machines seldom disagree on a row, but nothing promises it. The checksum of the symbols tells.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocodec import codec, container, image
from neurocodec.checkpoint import resolve_device
from neurocodec.entropy import coder
from neurocodec.entropy.tables import MAX_ROWS, Tables
from neurocodec.errors import (
    ChecksumError,
    ConfigError,
    ImageError,
    MissingPackageError,
    ModelMismatchError,
    ModelNotFoundError,
    NeurocodecError,
    NicFormatError,
    TruncatedError,
)
from neurocodec.interop.torchvision_shim import import_with_torchvision

if TYPE_CHECKING:
    from PIL.Image import Image

LIBRARY = "compressai"
ARCHITECTURES = {
    "bmshj2018-factorized": "FactorizedPrior",
    "bmshj2018-factorized-relu": "FactorizedPriorReLU",
    "bmshj2018-hyperprior": "ScaleHyperprior",
    "mbt2018-mean": "MeanScaleHyperprior",
    "mbt2018": "JointAutoregressiveHierarchicalPriors",
    "cheng2020-anchor": "Cheng2020Anchor",
    "cheng2020-attn": "Cheng2020Attention",
}
"""CompressAI's name of each architecture, and of its class. The last three decode one position after the other."""
MAX_PIXELS = 1 << 26
"""Largest picture that is encoded or decoded: these networks see it all at once."""
SYMBOL_LIMIT = 1 << 24
"""Larger symbols are clamped by the encoder."""


class WeightsNotFoundError(ModelNotFoundError, MissingPackageError):
    """Published weights are not on this machine and could not be downloaded."""


@dataclass(eq=False)
class Model:
    """A CompressAI network, ready to code: in evaluation mode, on one device, what decides on symbols in doubles.

    label: what chunk Arch says. model_id: 8 bytes, a hash over the architecture and all that decoding reads. factor:
    pictures are extended to multiples of so many pixels. medians: of the channels of z, or of y without a hyperprior.
    scales: of the Gaussian table rows, ascending; empty without a hyperprior. h_a, h_s: None without a hyperprior.
    context, parameters: None unless autoregressive. tables: rows of z (or of y without a hyperprior), one a channel,
    then one for each scale; at most 256 in each item.
    """

    architecture: str
    label: str
    model_id: bytes
    factor: int
    g_a: torch.nn.Module
    g_s: torch.nn.Module
    h_a: torch.nn.Module | None
    h_s: torch.nn.Module | None
    context: torch.nn.Module | None
    parameters: torch.nn.Module | None
    medians: NDArray[np.float64]
    scales: NDArray[np.float64]
    tables: tuple[Tables, ...]
    device: str


def load(
    architecture: str, quality: int, *, metric: str = "mse", pretrained: bool = True, device: str = "auto"
) -> Model:
    """A network of CompressAI's zoo, frozen; loaded once for each set of arguments.

    quality: 1 to 8, or to 6 for cheng2020. metric: what the weights were trained for, mse or ms-ssim. pretrained:
    False takes random weights, whose pictures look like nothing, for tests.

    Raises ConfigError for a network that the zoo has not, WeightsNotFoundError if the weights cannot be downloaded,
    MissingPackageError without CompressAI.
    """
    return _load(architecture, quality, metric, pretrained, resolve_device(device))


def load_file(architecture: str, path: str | os.PathLike[str], *, device: str = "auto") -> Model:
    """A network from a file of its state, as `torch.save(network.state_dict(), path)` writes; loaded once.

    Call `network.update()` before saving: tables that are made anew on another machine may differ in their last bit,
    and with them the model id. Raises ConfigError if the file is missing or of another network.
    """
    _check_architecture(architecture)
    path, device = os.path.realpath(path), resolve_device(device)
    try:
        return _load_file(architecture, path, os.stat(path).st_mtime_ns, device)
    except NeurocodecError:
        raise
    except Exception as error:  # torch's unpickler and CompressAI raise nearly any class on other files
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} holds no weights of {architecture} that can be read: {reason}") from error


def freeze(network: torch.nn.Module, *, label: str = "", device: str = "auto") -> Model:
    """A frozen copy of a network of one of ARCHITECTURES' classes. Its tables are made by `update()` if it has none.

    label: metric and quality of published weights, such as mse/3; without it files can be decoded by those only who
    have the network. Raises ConfigError for a network of another class or with weights that give no tables.
    """
    models = package("models")
    named = [name for name, kind in ARCHITECTURES.items() if type(network) is getattr(models, kind, None)]
    if not named:
        known = ", ".join(ARCHITECTURES.values())
        raise ConfigError(f"found a {type(network).__name__}, expected one of CompressAI's classes {known}")
    device = resolve_device(device)
    kept: Any = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    kept.update()
    bottleneck, conditional = kept.entropy_bottleneck, getattr(kept, "gaussian_conditional", None)
    rows = _rows(bottleneck) + (_rows(conditional) if conditional is not None else [])
    scales = np.zeros(0) if conditional is None else conditional.scale_table.double().numpy()
    medians = bottleneck.quantiles[:, 0, 1].double().numpy()
    if not np.isfinite(medians).all():
        raise ConfigError("the network's medians are not finite numbers, expected trained weights")

    def part(name: str, *, double: bool = False) -> Any:
        module = getattr(kept, name, None)
        return None if module is None else (module.double() if double else module).to(device)

    state = {name: value.numpy() for name, value in kept.state_dict().items()}
    return Model(
        architecture=named[0],
        label="/".join([LIBRARY, named[0], *([label] if label else [])]),
        model_id=_model_id(named[0], state, rows, medians, scales),
        factor=int(kept.downsampling_factor),
        g_a=part("g_a"),
        g_s=part("g_s"),
        h_a=part("h_a"),
        h_s=part("h_s", double=True),
        context=part("context_prediction", double=True),
        parameters=part("entropy_parameters", double=True),
        medians=medians,
        scales=scales,
        tables=tuple(_pack(rows[first : first + MAX_ROWS]) for first in range(0, len(rows), MAX_ROWS)),
        device=device,
    )


def encode(source: str | os.PathLike[str] | Image | NDArray[Any], model: Model) -> bytes:
    """Encodes a picture and returns the bytes of a .nic file. source: as for `neurocodec.encode`.

    Raises ImageError for input that is no picture or too large a one.
    """
    picture = image.load(source)
    height, width = picture.rgb.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"the picture has {height * width} pixels; these networks code at most {MAX_PIXELS}.")
    writer = _Writer(model.tables)
    with _own_precision():
        x = image.to_tensor(image.pad_to_multiple(picture.rgb, model.factor)).to(model.device)
        y = model.g_a(x)
        latents = {"y": _array(y)}
        if model.h_a is not None:
            # Ballé et al. 2018 give h_a the magnitudes; Minnen et al. 2018 and later the latents themselves.
            z = model.h_a(y.abs() if model.architecture == "bmshj2018-hyperprior" else y)
            latents["z"] = _array(z)

        def quantise(part: str, rows: NDArray[np.int64], means: NDArray[np.float64], at: _At) -> NDArray[np.int32]:
            residual = np.nan_to_num(latents[part][at] - means, nan=0.0)
            symbols = np.clip(np.rint(residual), -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)
            writer.put(symbols, rows)
            return symbols

        _walk(model, quantise, *latents["y"].shape[1:])
    header = container.Header(width, height, 0, model.model_id, picture.gray)
    chunks = {container.ARCHITECTURE: model.label.encode("ascii")} | codec.chunks_of(picture)
    return container.write(container.NicFile(header, chunks, (container.Tile(writer.stream(), writer.crc),)))


def decode(data: bytes | str | os.PathLike[str], model: Model | None = None, *, device: str = "auto") -> Image:
    """Decodes a .nic file that names a CompressAI network, to a PIL image as `neurocodec.decode` gives.

    data: the bytes of the file, or its path. model: without it, the published weights that the file names, on `device`.

    Raises NicFormatError or a subclass for damaged data and for files of other networks, ChecksumError also if this
    machine computes other table rows than the encoder's; ModelMismatchError if `model` has not the file's weights;
    ModelNotFoundError if the file's weights are not published, and what `load` raises.
    """
    nic = container.read(container.read_bytes(data), max_pixels=MAX_PIXELS, any_architecture=True)
    header = nic.header
    label = nic.chunks.get(container.ARCHITECTURE, b"").decode("ascii")
    if not label.startswith(LIBRARY + "/"):
        raise NicFormatError("the file names no CompressAI network: decode it with neurocodec.decode.")
    if header.tile_edge is not None:
        raise NicFormatError("the file has several tiles, expected one: encode the picture again.")
    if model is None:
        model = _published(label, device)
    if header.model_id != model.model_id:
        raise ModelMismatchError(
            f"the file needs {label} with the weights {header.model_id.hex()}, found {model.label} with "
            f"{model.model_id.hex()}: give the network that encoded it."
        )
    height, width = (-(-side // model.factor) * model.factor for side in (header.height, header.width))
    reader = _Reader(nic.tiles[0].stream, model.tables)

    def read(part: str, rows: NDArray[np.int64], means: NDArray[np.float64], at: _At) -> NDArray[np.int32]:
        return reader.get(rows)

    with _own_precision():
        try:
            y_hat = _walk(model, read, height // 16, width // 16)
            reader.finish()
        except NicFormatError as error:
            raise type(error)(f"{error} {_INEXACT}") from error
        if reader.crc != nic.tiles[0].symbols_crc:
            raise ChecksumError(f"The file decoded to other symbols than were encoded. {_INEXACT}")
        x_hat = model.g_s(_tensor(y_hat, model.device).float())
        rgb = image.from_tensor(x_hat)[: header.height, : header.width]
    alpha = nic.chunks.get(container.ALPHA)
    plane = None if alpha is None else image.decode_alpha(alpha, header.width, header.height)
    return image.to_pil(codec.picture_of(nic, rgb, plane))


def untrained(architecture: str, quality: int, rgb: NDArray[np.uint8], *, bpp: float) -> Any:
    """CompressAI's network with random weights, its latents scaled until this picture takes about `bpp` bits per pixel.

    Its pictures look like nothing, but the coder has about as much to do as with trained weights: for measuring speed.
    rgb: uint8 (H, W, 3). Raises what `load` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = zoo_network(architecture, quality, "mse", pretrained=False)
    set_spread = _spread_of_latents(network, rgb)
    low, high = 0.02, 50.0  # standard deviation of y
    for _ in range(9):
        middle = (low * high) ** 0.5
        set_spread(middle)
        bits = 8 * len(encode(rgb, freeze(network, device="cpu")))
        low, high = (middle, high) if bits < bpp * rgb.shape[0] * rgb.shape[1] else (low, middle)
    return network


def zoo_network(architecture: str, quality: int, metric: str, *, pretrained: bool) -> Any:
    """A network of CompressAI's zoo, as CompressAI makes it. Raises what `load` raises."""
    if quality not in (known := qualities(architecture)):
        raise ConfigError(f"found {architecture} quality {quality}, expected {known[0]} to {known[-1]}")
    if metric not in ("mse", "ms-ssim"):
        raise ConfigError(f"found the metric {metric!r}, expected mse or ms-ssim")
    try:
        network = package("zoo").image_models[architecture](
            quality, metric=metric, pretrained=pretrained, progress=False
        )
    except (OSError, RuntimeError) as error:  # not downloaded, not published, or a file of another version
        reason = " ".join(str(error).split())
        raise WeightsNotFoundError(
            f"the weights of {architecture} {metric} {quality} are not here and could not be downloaded ({reason}): "
            f"put CompressAI's file into {os.path.join(torch.hub.get_dir(), 'checkpoints')}"
        ) from error
    if type(network).__name__ != ARCHITECTURES[architecture]:  # as for bmshj2018-factorized-relu in 1.2.8
        raise ConfigError(
            f"CompressAI's zoo gives a {type(network).__name__} for {architecture}: freeze your own network"
        )
    return network


def package(part: str = "") -> ModuleType:
    """CompressAI, or a module of it. Raises MissingPackageError."""
    try:
        return import_with_torchvision(f"{LIBRARY}.{part}" if part else LIBRARY)
    except ImportError as error:
        raise MissingPackageError(
            f"CompressAI cannot be imported ({error}): pip install 'compressai>=1.2.6', which needs numpy below 2"
        ) from error


_At = tuple[Any, ...]
_Code = Callable[[str, NDArray[np.int64], NDArray[np.float64], _At], NDArray[np.int32]]
"""(part, rows, means, where in the part) -> symbols, all of one shape: quantises and codes, or decodes."""
_ALL: _At = (slice(None),)
_INEXACT = (
    "It is damaged, or this machine computes the network otherwise than the one that encoded it: "
    "exact decoding is not promised for CompressAI networks."
)


def _walk(model: Model, code: _Code, height: int, width: int) -> NDArray[np.float64]:
    """y_hat, (M, height, width), symbol by symbol: the same arithmetic in the encoder and in the decoder."""
    channels = model.medians.size
    medians, first = model.medians[:, None, None], np.arange(channels)[:, None, None]
    if model.h_s is None:
        shape = (channels, height, width)
        return code("y", np.broadcast_to(first, shape), np.broadcast_to(medians, shape), _ALL) + medians

    shape = (channels, height // 4, width // 4)
    z_hat = code("z", np.broadcast_to(first, shape), np.broadcast_to(medians, shape), _ALL) + medians
    psi = model.h_s(_tensor(z_hat, model.device))  # (1, C, height, width)
    if model.context is not None and model.parameters is not None:
        return _walk_positions(model, code, psi)
    predicted = _array(psi)
    if model.architecture == "bmshj2018-hyperprior":
        scales, means = predicted, np.zeros_like(predicted)
    else:
        scales, means = np.split(predicted, 2)
    return code("y", _scale_rows(model, scales), means, _ALL) + means


def _walk_positions(model: Model, code: _Code, psi: Tensor) -> NDArray[np.float64]:
    """y_hat of an autoregressive model: each position's means and scales see those before it.

    Minnen et al. 2018, arXiv:1809.02736, section 3.1: a masked 5×5 convolution beside the hyperprior's output.
    """
    assert model.context is not None
    assert model.parameters is not None
    context: Any = model.context
    weight, reach = context.weight * context.mask, context.kernel_size[0] // 2
    height, width = psi.shape[2:]
    channels = weight.shape[1]
    known = psi.new_zeros(1, channels, height + 2 * reach, width + 2 * reach)
    for i in range(height):
        for j in range(width):
            seen = known[:, :, i : i + 2 * reach + 1, j : j + 2 * reach + 1]
            phi = torch.nn.functional.conv2d(seen, weight, context.bias)  # (1, 2 M, 1, 1)
            predicted = _array(model.parameters(torch.cat((psi[:, :, i : i + 1, j : j + 1], phi), 1)))
            scales, means = np.split(predicted.reshape(-1), 2)
            symbols = code("y", _scale_rows(model, scales), means, (slice(None), i, j))
            known[0, :, i + reach, j + reach] = torch.from_numpy(symbols + means).to(known)
    return _array(known[:, :, reach : reach + height, reach : reach + width])


def _scale_rows(model: Model, scales: NDArray[np.float64]) -> NDArray[np.int64]:
    """Table rows: the smallest scale of the table that is not below the predicted one, else the largest."""
    rows: NDArray[np.int64] = model.medians.size + np.searchsorted(model.scales[:-1], np.nan_to_num(scales))
    return rows


class _Writer:
    """Collects symbols and rows, and codes them: one stream for each 256 table rows."""

    def __init__(self, tables: tuple[Tables, ...]) -> None:
        self._tables = tables
        self._symbols: list[NDArray[np.int32]] = []
        self._rows: list[NDArray[np.int64]] = []
        self.crc = 0

    def put(self, symbols: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        self._symbols.append(symbols.reshape(-1))
        self._rows.append(rows.reshape(-1))
        self.crc = zlib.crc32(np.ascontiguousarray(symbols, "<i4").tobytes(), self.crc)

    def stream(self) -> bytes:
        streams = []
        for ordinal, tables in enumerate(self._tables):
            mine = [rows // MAX_ROWS == ordinal for rows in self._rows]
            symbols = np.concatenate([s[m] for s, m in zip(self._symbols, mine, strict=True)])
            rows = np.concatenate([r[m] for r, m in zip(self._rows, mine, strict=True)])
            calls = [int(m.sum()) for m in mine]
            streams.append(coder.encode(symbols, (rows % MAX_ROWS).astype(np.uint8), tables, calls=calls))
        return b"".join(struct.pack("<I", len(s)) + s for s in streams[:-1]) + streams[-1]


class _Reader:
    """Decodes what `_Writer` made. Raises NicFormatError or a subclass for streams that it did not make."""

    def __init__(self, stream: bytes, tables: tuple[Tables, ...]) -> None:
        self._decoders: list[coder.Decoder] = []
        for _ in tables[:-1]:
            length = struct.unpack_from("<I", stream)[0] if len(stream) >= 4 else len(stream)
            if length > len(stream) - 4:
                raise TruncatedError("The coded stream ends before its symbols do.")
            self._decoders.append(coder.Decoder(stream[4 : 4 + length], tables[len(self._decoders)]))
            stream = stream[4 + length :]
        self._decoders.append(coder.Decoder(stream, tables[-1]))
        self.crc = 0

    def get(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        symbols = np.zeros(rows.shape, np.int32)
        for ordinal, decoder in enumerate(self._decoders):
            mine = rows // MAX_ROWS == ordinal
            symbols[mine] = decoder.decode((rows[mine] % MAX_ROWS).astype(np.uint8))
        self.crc = zlib.crc32(np.ascontiguousarray(symbols, "<i4").tobytes(), self.crc)
        return symbols

    def finish(self) -> None:
        for decoder in self._decoders:
            decoder.finish()


class _EntropyModel(Protocol):
    """What `update()` leaves in an entropy model of CompressAI."""

    quantized_cdf: Tensor  # (rows, longest), cumulative, of 2**16; the last step of a row is the escape's
    cdf_length: Tensor
    offset: Tensor


def _rows(model: _EntropyModel) -> list[tuple[int, NDArray[np.int64]]]:
    """Offset and frequencies of each row: CompressAI's tables have the same form as this project's."""
    cdfs, lengths = model.quantized_cdf.cpu().numpy(), model.cdf_length.reshape(-1).tolist()
    offsets = model.offset.reshape(-1).tolist()
    return [
        (offset, np.diff(cdf[:length].astype(np.int64)))
        for cdf, length, offset in zip(cdfs, lengths, offsets, strict=True)
    ]


def _pack(rows: list[tuple[int, NDArray[np.int64]]]) -> Tables:
    try:
        return Tables(
            frequencies=np.concatenate([frequencies for _, frequencies in rows]).astype(np.uint16),
            offsets=np.array([offset for offset, _ in rows], np.int32),
            lengths=np.array([frequencies.size for _, frequencies in rows], np.int32),
        )
    except ModelMismatchError as error:
        raise ConfigError(f"the network's tables cannot be used, expected those of trained weights: {error}") from error


def _model_id(architecture: str, state: Mapping[str, NDArray[Any]], rows: list[Any], *arrays: NDArray[Any]) -> bytes:
    """First 8 bytes of SHA-256 over the architecture's name and everything that decoding reads."""
    digest = hashlib.sha256(architecture.encode())
    read = {n: v for n, v in state.items() if n.startswith(("g_s.", "h_s.", "context_prediction.", "entropy_par"))}
    read |= {f"row {i} of {row[0]}": row[1] for i, row in enumerate(rows)}
    read |= {f"array {i}": array for i, array in enumerate(arrays)}
    for name in sorted(read):
        value = np.asarray(read[name], order="C")
        digest.update(f"{name} {value.dtype.name} {value.shape}".encode())
        digest.update(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.digest()[:8]


def qualities(architecture: str) -> list[int]:
    """Those of CompressAI's zoo. Raises ConfigError for an unknown architecture, MissingPackageError."""
    _check_architecture(architecture)
    return sorted(package("zoo.image").cfgs[architecture])


def _check_architecture(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"found the architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")


@functools.lru_cache(maxsize=8)
def _load(architecture: str, quality: int, metric: str, pretrained: bool, device: str) -> Model:
    network = zoo_network(architecture, quality, metric, pretrained=pretrained)
    return freeze(network, label=f"{metric}/{quality}" if pretrained else "", device=device)


@functools.lru_cache(maxsize=8)
def _load_file(architecture: str, path: str, mtime: int, device: str) -> Model:
    state = torch.load(path, map_location="cpu", weights_only=True)
    return freeze(getattr(package("models"), ARCHITECTURES[architecture]).from_state_dict(state), device=device)


def _published(label: str, device: str) -> Model:
    """The network that a file names."""
    parts = label.split("/")[1:]
    if len(parts) != 3 or not parts[2].isdecimal():
        raise ModelNotFoundError(f"the file needs weights of {label} that are not published: give the network.")
    return load(parts[0], int(parts[2]), metric=parts[1], device=device)


def _spread_of_latents(network: Any, rgb: NDArray[np.uint8]) -> Callable[[float], None]:
    """A function that gives y of this picture a standard deviation, and tells the network's entropy model so."""
    with torch.no_grad():
        x = image.to_tensor(image.pad_to_multiple(rgb, network.downsampling_factor))
        last, bottleneck = _last_convolution(network.eval().g_a), network.entropy_bottleneck
        y = network.g_a(x)
        unit = last.weight / (y - y.mean((2, 3), keepdim=True)).std()
        density = torch.nn.functional.softplus(bottleneck.matrices[0])

    @torch.no_grad()
    def set_spread(spread: float) -> None:
        last.weight.copy_(unit * spread)
        last.bias.zero_()
        last.bias.copy_(-network.g_a(x).mean((0, 2, 3)))
        if has_hyperprior := hasattr(network, "gaussian_conditional"):
            head = _last_convolution(getattr(network, "entropy_parameters", network.h_s))
            head.weight.zero_()
            head.bias.zero_()
            head.bias[: y.shape[1]] = spread
        # New weights have a density about 3 wide; z hardly costs anything in trained models.
        stretched = density * 3.0 / (0.2 if has_hyperprior else spread)
        bottleneck.matrices[0].copy_(stretched + torch.log(-torch.expm1(-stretched)))  # softplus, inverted
        network.update(force=True, update_quantiles=True)

    return set_spread


def _last_convolution(module: torch.nn.Module) -> Any:
    return [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))][-1]


@contextmanager
def _own_precision() -> Iterator[None]:
    """No gradients, and none of the caller's autocast."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def _array(values: Tensor) -> NDArray[np.float64]:
    """(1, C, H, W) -> (C, H, W)."""
    array: NDArray[np.float64] = values[0].double().cpu().numpy()
    return array


def _tensor(values: NDArray[np.float64], device: str) -> Tensor:
    """(C, H, W) -> (1, C, H, W), doubles."""
    return torch.from_numpy(np.ascontiguousarray(values))[None].to(device)
