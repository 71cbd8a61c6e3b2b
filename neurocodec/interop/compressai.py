"""CompressAI networks in .nic files, coded by this project's range coder. docs/interop.md describes the files.

    model = load("mbt2018-mean", 3)     # published weights, which CompressAI downloads once
    model = freeze(network)             # or a network of your own, of one of its classes, after training
    data = encode("photo.png", model)
    im = decode(data, model)            # decode(data) loads published weights itself

x ─g_a→ y ─h_a→ z                          the symbols are round(z − median), then round(y − mean),
             z ─round→ z_hat ─h_s→ means, table rows       coded with CompressAI's own tables, frozen

Unlike this project's own models, these compute table rows from z_hat in floating point: in double precision, so that
two machines rarely disagree on a row, but without a guarantee. A checksum over the symbols detects a disagreement.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from neurocodec import arguments, codec, container, image
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
    one_line,
)
from neurocodec.integer.gpu import resolve_device
from neurocodec.models.pixels import from_tensor, to_tensor
from neurocodec.packages import import_with_torchvision

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
"""CompressAI's name and class of each architecture. The last three decode one position after the other."""
MAX_PIXELS = 1 << 26
"""Largest picture that can be encoded or decoded: these networks process it in one piece."""
SYMBOL_LIMIT = 1 << 24
"""Largest magnitude of a symbol; the encoder clamps to it."""
_INEXACT = (
    "It is damaged, or this machine computes the network differently from the one that encoded it: "
    "exact decoding is not promised for CompressAI networks."
)


class WeightsNotFoundError(ModelNotFoundError, MissingPackageError):
    """Published weights are not on this machine and could not be downloaded."""


@dataclass(eq=False)
class Model:
    """A CompressAI network, ready to code: in evaluation mode, on one device. What computes means and table rows is in
    double precision.

    label: content of the file's Arch chunk. model_id: 8 bytes, a hash over the architecture and everything that
    decoding reads. factor: pictures are extended to multiples of this many pixels. channels: of y. medians: of each
    channel of z, or of y without a hyperprior. scales: of the Gaussian table rows, ascending; empty without a
    hyperprior. h_a, h_s: None without a hyperprior. context, parameters: None unless autoregressive. tables: the rows
    of z (or of y without a hyperprior), one a channel, then one row a scale, in sets of 256 rows.
    """

    architecture: str
    label: str
    model_id: bytes
    factor: int
    channels: int
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

    quality: 1 to 8, or 1 to 6 for cheng2020. metric: what the weights were trained for, mse or ms-ssim. pretrained:
    False gives random weights, for tests.

    Raises ConfigError for a network that is not in the zoo, WeightsNotFoundError if the weights cannot be downloaded,
    MissingPackageError without CompressAI.
    """
    return _load(architecture, quality, metric, pretrained, resolve_device(arguments.device(device)))


def load_file(architecture: str, path: str | os.PathLike[str], *, device: str = "auto") -> Model:
    """A network from a file that `safetensors.torch.save_file(network.state_dict(), path)` wrote; loaded once.

    Files of torch.save are refused: they are pickles, which may take any amount of memory. Call `network.update()`
    before saving: tables computed on another machine may differ in their last bit, which changes the model id. Raises
    ConfigError if the file is missing or holds another network.
    """
    _check_architecture(architecture)
    path, device = os.path.realpath(path), resolve_device(arguments.device(device))
    try:
        return _load_file(architecture, path, os.stat(path).st_mtime_ns, device)
    except NeurocodecError:
        raise
    except SafetensorError as error:
        raise ConfigError(
            f"{path} is not a safetensors file: write one with safetensors.torch.save_file(network.state_dict(), path)"
        ) from error
    except Exception as error:  # CompressAI raises nearly any class on other files
        raise ConfigError(f"{path} cannot be read as weights of {architecture}: {one_line(error)[:200]}") from error


def freeze(network: torch.nn.Module, *, label: str = "", device: str = "auto") -> Model:
    """A frozen copy of a network of one of the classes in ARCHITECTURES. If it has no tables, `update()` makes them.

    label: metric and quality of published weights, such as mse/3; without it, decoding needs this network.
    Raises ConfigError for a network of another class, or with weights that give no tables.
    """
    models = package("models")
    names = [name for name, kind in ARCHITECTURES.items() if type(network) is getattr(models, kind, None)]
    if not names:
        known = ", ".join(ARCHITECTURES.values())
        raise ConfigError(f"found a {type(network).__name__}, expected one of CompressAI's classes {known}")
    architecture, device = names[0], resolve_device(arguments.device(device))
    frozen: Any = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    frozen.update()
    bottleneck, conditional = frozen.entropy_bottleneck, getattr(frozen, "gaussian_conditional", None)
    rows = _rows(bottleneck) + (_rows(conditional) if conditional is not None else [])
    scales = np.zeros(0) if conditional is None else conditional.scale_table.double().numpy()
    medians = bottleneck.quantiles[:, 0, 1].double().numpy()
    if not np.isfinite(medians).all():
        raise ConfigError("the network's medians are not finite numbers, expected trained weights")

    def part(name: str, *, double: bool = False) -> Any:
        module = getattr(frozen, name, None)
        return None if module is None else (module.double() if double else module).to(device)

    state = {name: value.numpy() for name, value in frozen.state_dict().items()}
    return Model(
        architecture=architecture,
        label="/".join([LIBRARY, architecture, *([label] if label else [])]),
        model_id=_model_id(architecture, state, rows, medians, scales),
        factor=int(frozen.downsampling_factor),
        channels=int(frozen.M),
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

    Raises ImageError for input that is not a picture, and for pictures of more than MAX_PIXELS.
    """
    picture = image.load(source)
    height, width = picture.rgb.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"the picture has {height * width} pixels; these networks code at most {MAX_PIXELS}.")
    with _own_precision():
        x = to_tensor(image.pad_to_multiple(picture.rgb, model.factor)).to(model.device)
        walked = _quantise(model.g_a(x), model)
    tile = container.Tile(_code(walked, model.tables), _checksum(walked))
    header = container.Header(width, height, 0, model.model_id, picture.gray)
    chunks = {container.ARCHITECTURE: model.label.encode("ascii")} | codec.chunks_of(picture)
    return container.write(container.NicFile(header, chunks, (tile,)))


def decode(data: bytes | str | os.PathLike[str], model: Model | None = None, *, device: str = "auto") -> Image:
    """Decodes a .nic file that names a CompressAI network to a PIL image, as `neurocodec.decode` does.

    data: the bytes of the file, or its path. model: by default the published weights that the file names, on `device`.

    Raises NicFormatError or a subclass for damaged data and for files of other networks, ChecksumError also if this
    machine computes other table rows than the encoder's; ModelMismatchError if `model` has other weights than the file;
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
    with _own_precision():
        x_hat = model.g_s(_tensor(_decode_tile(nic.tiles[0], header, model), model.device).float())
        rgb = from_tensor(x_hat)[: header.height, : header.width]
    return image.to_pil(codec.picture_of(nic, rgb, codec.alpha_of(nic)))


@dataclass
class Stage:
    """One call of the range coder: z, y, or one position of y.

    part: "z" or "y". rows: table rows, int64. means: float64. symbols: int32, to be set before the next stage is asked
    for. position: where in the part, as an index of (channel, row, column). All have one shape: (C, h, w), or (C,).
    """

    part: str
    rows: NDArray[np.int64]
    means: NDArray[np.float64]
    position: tuple[Any, ...] = (slice(None),)
    symbols: NDArray[np.int32] = field(init=False, repr=False)

    def decoded(self) -> NDArray[np.float64]:
        """z_hat or y_hat."""
        latents: NDArray[np.float64] = self.symbols + self.means
        return latents


def stages(model: Model, y_hat: NDArray[np.float64]) -> Iterator[Stage]:
    """The walk over a picture, for the encoder and the decoder: z if there is a hyperprior, then y, in coding order.

    Each stage says what is known of its symbols before they are coded; the caller sets the symbols, and then asks for
    the next stage:

        for stage in stages(model, y_hat):
            stage.symbols = decode(stage.rows)

    y_hat: float64 (M, h, w), whose values are set as the stages pass.
    """
    height, width = y_hat.shape[1:]
    if model.h_s is None:
        yield (y := _factorised("y", height, width, model))
        y_hat[:] = y.decoded()
        return
    yield (z := _factorised("z", height // 4, width // 4, model))
    psi = model.h_s(_tensor(z.decoded(), model.device))  # (1, C, h, w)
    if model.context is not None:
        yield from _positions(model, psi, y_hat)
        return
    predicted = _array(psi)
    if model.architecture == "bmshj2018-hyperprior":
        scales, means = predicted, np.zeros_like(predicted)
    else:
        scales, means = np.split(predicted, 2)
    yield (y := Stage("y", _scale_rows(model, scales), means))
    y_hat[:] = y.decoded()


def _factorised(part: str, height: int, width: int, model: Model) -> Stage:
    """A stage with a table row and a median for each channel."""
    shape = (model.medians.size, height, width)
    rows = np.broadcast_to(np.arange(model.medians.size)[:, None, None], shape)
    return Stage(part, rows, np.broadcast_to(model.medians[:, None, None], shape))


def _positions(model: Model, psi: Tensor, y_hat: NDArray[np.float64]) -> Iterator[Stage]:
    """y of an autoregressive model: the means and scales of each position depend on the positions before it.

    Minnen et al. 2018, arXiv:1809.02736, section 3.1: a masked 5×5 convolution beside the hyperprior's output.
    """
    assert model.context is not None
    assert model.parameters is not None
    context: Any = model.context
    weight, reach = context.weight * context.mask, context.kernel_size[0] // 2
    channels, height, width = y_hat.shape
    padded = psi.new_zeros(1, channels, height + 2 * reach, width + 2 * reach)
    for i in range(height):
        for j in range(width):
            neighbours = padded[:, :, i : i + 2 * reach + 1, j : j + 2 * reach + 1]
            phi = torch.nn.functional.conv2d(neighbours, weight, context.bias)  # (1, 2 M, 1, 1)
            predicted = _array(model.parameters(torch.cat((psi[:, :, i : i + 1, j : j + 1], phi), 1)))
            scales, means = np.split(predicted.reshape(-1), 2)
            yield (stage := Stage("y", _scale_rows(model, scales), means, (slice(None), i, j)))
            y_hat[:, i, j] = stage.decoded()
            padded[0, :, i + reach, j + reach] = torch.from_numpy(stage.decoded()).to(padded)


def _scale_rows(model: Model, scales: NDArray[np.float64]) -> NDArray[np.int64]:
    """Table rows: the smallest scale of the table that is not below the predicted one, else the largest."""
    rows: NDArray[np.int64] = model.medians.size + np.searchsorted(model.scales[:-1], np.nan_to_num(scales))
    return rows


def _quantise(y: Tensor, model: Model) -> list[Stage]:
    """The stages of a picture with their symbols. y: (1, M, h, w)."""
    latents = {"y": _array(y)}
    if model.h_a is not None:
        # Ballé et al. 2018 give h_a the magnitudes; Minnen et al. 2018 and later the latents themselves.
        latents["z"] = _array(model.h_a(y.abs() if model.architecture == "bmshj2018-hyperprior" else y))
    walked = []
    for stage in stages(model, np.zeros(latents["y"].shape)):
        residual = np.nan_to_num(latents[stage.part][stage.position] - stage.means, nan=0.0)
        stage.symbols = np.clip(np.rint(residual), -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)
        walked.append(stage)
    return walked


def _code(walked: list[Stage], tables: tuple[Tables, ...]) -> bytes:
    """One stream for each set of 256 table rows, each but the last after its length."""
    streams = []
    for ordinal, rows_of_set in enumerate(tables):
        coded = [stage.rows // MAX_ROWS == ordinal for stage in walked]
        symbols = np.concatenate([stage.symbols[mask] for stage, mask in zip(walked, coded, strict=True)])
        rows = np.concatenate([stage.rows[mask] % MAX_ROWS for stage, mask in zip(walked, coded, strict=True)])
        calls = [int(mask.sum()) for mask in coded]
        streams.append(coder.encode(symbols, rows.astype(np.uint8), rows_of_set, calls=calls))
    return b"".join(struct.pack("<I", len(stream)) + stream for stream in streams[:-1]) + streams[-1]


def _decode_tile(tile: container.Tile, header: container.Header, model: Model) -> NDArray[np.float64]:
    """y_hat, (M, h, w). Raises NicFormatError or a subclass for a stream that the encoder did not write."""
    height, width = (-(-side // model.factor) * model.factor // 16 for side in (header.height, header.width))
    y_hat, walked = np.zeros((model.channels, height, width)), []
    try:
        decoders = _decoders(tile.stream, model.tables)
        for stage in stages(model, y_hat):
            stage.symbols = np.zeros(stage.rows.shape, np.int32)
            for ordinal, decoder in enumerate(decoders):
                mask = stage.rows // MAX_ROWS == ordinal
                stage.symbols[mask] = decoder.decode((stage.rows[mask] % MAX_ROWS).astype(np.uint8))
            walked.append(stage)
        for decoder in decoders:
            decoder.finish()
    except NicFormatError as error:
        raise type(error)(f"{error} {_INEXACT}") from error
    if _checksum(walked) != tile.symbols_crc:
        raise ChecksumError(f"The decoded symbols do not match the file's checksum. {_INEXACT}")
    return y_hat


def _decoders(stream: bytes, tables: tuple[Tables, ...]) -> list[coder.Decoder]:
    """A decoder for each stream that `_code` joined."""
    streams = []
    for _ in tables[:-1]:
        length = int.from_bytes(stream[:4], "little")
        if length > len(stream) - 4:
            raise TruncatedError("The coded stream ends before its symbols do.")
        streams.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return [coder.Decoder(part, rows) for part, rows in zip([*streams, stream], tables, strict=True)]


def _checksum(walked: list[Stage]) -> int:
    """CRC-32 over the symbols as little-endian int32, in coding order."""
    crc = 0
    for stage in walked:
        crc = zlib.crc32(np.ascontiguousarray(stage.symbols, "<i4").tobytes(), crc)
    return crc


def qualities(architecture: str) -> list[int]:
    """The qualities of the zoo's networks of an architecture. Raises ConfigError, MissingPackageError."""
    _check_architecture(architecture)
    return sorted(package("zoo.image").cfgs[architecture])


def zoo_network(architecture: str, quality: int, metric: str, *, pretrained: bool) -> Any:
    """A network of CompressAI's zoo, as CompressAI gives it. Raises what `load` raises."""
    if quality not in (known := qualities(architecture)):
        raise ConfigError(f"found {architecture} quality {quality}, expected {known[0]} to {known[-1]}")
    if metric not in ("mse", "ms-ssim"):
        raise ConfigError(f"found the metric {metric!r}, expected mse or ms-ssim")
    try:
        network = package("zoo").image_models[architecture](
            quality, metric=metric, pretrained=pretrained, progress=False
        )
    except (OSError, RuntimeError) as error:  # not downloaded, not published, or a file of another version
        raise WeightsNotFoundError(
            f"the weights of {architecture} {metric} {quality} are not on this machine and could not be downloaded "
            f"({one_line(error)}): put CompressAI's file into {os.path.join(torch.hub.get_dir(), 'checkpoints')}"
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


def _rows(model: Any) -> list[tuple[int, NDArray[np.int64]]]:
    """Offset and frequencies of each row of an entropy model of CompressAI, after `update()`.

    Its tables have the form of this project's: cumulative, of 2^16, the last step of a row for escapes.
    """
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


def _check_architecture(architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"found the architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")


@functools.lru_cache(maxsize=8)
def _load(architecture: str, quality: int, metric: str, pretrained: bool, device: str) -> Model:
    network = zoo_network(architecture, quality, metric, pretrained=pretrained)
    return freeze(network, label=f"{metric}/{quality}" if pretrained else "", device=device)


@functools.lru_cache(maxsize=8)
def _load_file(architecture: str, path: str, mtime: int, device: str) -> Model:
    network = getattr(package("models"), ARCHITECTURES[architecture]).from_state_dict(safetensors.torch.load_file(path))
    return freeze(network, device=device)


def _published(label: str, device: str) -> Model:
    """The network that a file names."""
    parts = label.split("/")[1:]
    if len(parts) != 3 or not parts[2].isdecimal():
        raise ModelNotFoundError(f"the file needs weights of {label} that are not published: give the network.")
    return load(parts[0], int(parts[2]), metric=parts[1], device=device)


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
