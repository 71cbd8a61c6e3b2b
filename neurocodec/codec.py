"""Encode and decode: composes the stages. All in integers: the same picture always gives the same file, and back.

picture ─g_a→ y ─h_a→ z_hat ─┬ coded with the factorised prior
                             └ h_s → four passes: means, rows → symbols, coded → container
container ─decode→ z_hat, symbols → y_hat ─g_s→ picture
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocodec import arguments, container, image, targets, tiling
from neurocodec import model as model_files
from neurocodec.alpha import alpha_bands, decode_alpha, encode_alpha
from neurocodec.entropy.grid import QUALITY_STEPS
from neurocodec.entropy.native import extension
from neurocodec.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ChecksumError,
    ImageError,
    MissingPackageError,
    ModelMismatchError,
    NicFormatError,
    memory_errors,
)
from neurocodec.integer import lossless as residual
from neurocodec.integer.generator import realism_step
from neurocodec.integer.native import NativeNetwork
from neurocodec.integer.network import Latents, LayerwiseNetwork, Network
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.metrics.psnr import psnr
from neurocodec.model import Model
from neurocodec.tiling import LATENT, MAX_PIXELS, Window

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 50.0
LOSSLESS_QUALITY = 5.0
"""Of the lossy picture in a lossless file."""
_TYPES = {8: np.uint8, 16: np.uint16}
_ALPHA_DEPTHS = {container.ALPHA: 8, container.ALPHA16: 16}


@memory_errors()
def encode(
    source: str | os.PathLike[str] | IO[bytes] | Image | NDArray[Any],
    *,
    quality: float | None = None,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    target_psnr: float | None = None,
    lossless: bool = False,
    effort: int = 1,
    model: str | Path | Model = "base",
    device: str = "auto",
    layout: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """Encodes a picture and returns the bytes of a .nic file.

    source: a path, a file open for reading, a PIL image, or an array (H, W[, C]) of uint8 or uint16. Sources of more
        than 8 bits a sample are coded at up to 16; `image.load` says which.
    quality: 1 to 100, by default 50; more is larger and better. Or one target: target_bpp (file bits per pixel) or
        target_bytes gives a file that fits, of the best quality or at most 1 % smaller than the limit; target_psnr (dB,
        8-bit RGB) one that reaches it, the smallest or with at most 0.05 dB more. They take two to six times as long.
    lossless: the file gives the exact picture, of 8 bits per sample; it starts with a lossy one, of quality 5 unless
        `quality` says otherwise. Excludes targets.
    effort: 1 to 10. Above 1 the encoder searches for better latents, which needs torch: smaller files at the same PSNR,
        for minutes of work on the CPU. For a target it searches up to four times, and of what fits gives the best file.
    model: the name of an installed model, a model file, or a loaded model. device: auto, cpu or cuda; auto is cpu.
    layout: cpu, or gpu for files that a GPU decodes faster and that are 1 to 2 % larger. Every decoder reads both.
    max_pixels: larger pictures are refused before they are loaded; at most 2^30.
    progress: called after each tile, and during a search, with the fraction completed, 0 to 1; for a target, again for
        each time that the whole picture is encoded.

    Raises ImageError for input that is not a picture and for targets out of reach, ModelNotFoundError,
    MissingPackageError for a search without torch, ArgumentError for arguments of a wrong type, out of range or in
    conflict, OutOfMemoryError.
    """
    choices = {"quality": quality, "target_bpp": target_bpp, "target_bytes": target_bytes, "target_psnr": target_psnr}
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise ArgumentValueError(f"give only one of {' and '.join(given)}.")
    lossless = arguments.boolean("lossless", lossless)
    if lossless and given not in ([], ["quality"]):
        raise ArgumentValueError(f"a lossless file is as large as its picture makes it: leave out {given[0]}.")
    if quality is None:
        quality = LOSSLESS_QUALITY if lossless else QUALITY
    quality = arguments.number("quality", quality, 1, 100)
    if target_bytes is not None:
        target_bytes = arguments.integer("target_bytes", target_bytes, 1)
    if target_bpp is not None:
        target_bpp = arguments.number("target_bpp", target_bpp, 0, above=True)
    if target_psnr is not None:
        target_psnr = arguments.number("target_psnr", target_psnr, 0, above=True)
    effort = arguments.integer("effort", effort, 1, 10)
    max_pixels = arguments.integer("max_pixels", max_pixels, 1, container.MAX_PIXELS)
    picture = image.load(source, max_pixels=max_pixels, full_depth=True)
    network = network_of(model if isinstance(model, Model) else model_files.load(model), arguments.device(device))
    if lossless and picture.depth > 8:
        raise ImageError(f"lossless files have 8 bits per sample, and the picture has {picture.depth}.")
    if target_psnr is not None and effort == 1:
        network = _Rereading(network)

    def encode_at(of: image.Picture, index: int, effort: int) -> bytes:
        """The file of the picture, or of a part of it."""
        report = progress if of is picture else None
        return encode_picture(of, network, index, effort, layout, lossless=lossless, progress=report)

    def psnr_of(data: bytes, of: image.Picture) -> float:
        decoded = decode_picture(container.read(data), network, max_pixels=container.MAX_PIXELS)
        return psnr(decoded.rgb, image.to_8_bits(of.rgb))

    if target_psnr is not None:
        return targets.to_psnr(picture, encode_at, psnr_of, target_psnr, effort)
    if target_bpp is not None:
        pixels = picture.rgb.shape[0] * picture.rgb.shape[1]
        target_bytes = int(min(target_bpp * pixels / 8, 2**63))
    if target_bytes is not None:
        return targets.to_bytes(picture, encode_at, psnr_of, target_bytes, effort)
    return encode_at(picture, quality_index(quality), effort)


@memory_errors()
def decode(
    data: bytes | str | os.PathLike[str] | IO[bytes],
    *,
    realism: float = 0.0,
    region: tuple[int, int, int, int] | None = None,
    lossless: bool = True,
    model: Model | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[float], None] | None = None,
) -> Image:
    """Decodes a .nic file to a PIL image of mode L, LA, RGB or RGBA; ICC profile, EXIF and XMP are in its info.

    It has 8 bits a sample, whatever the source had: see `decode_array`.

    data: the bytes of the file, its path, or a file open for reading.
    region: (x, y, width, height) in pixels, to decode only that part.
    realism: from 0, the reconstruction of least distortion, to 1, the most realistic one, which invents detail; above 0
        a generative decoder for the file's model must be installed.
    lossless: False gives the lossy picture that a lossless file starts with, and does not read further.
    model: the loaded model with the file's model id, to use instead of the installed one.
    max_pixels: larger pictures and regions are refused before memory is allocated; at most 2^30.
    progress: called after each tile with the fraction completed, 0 to 1.

    Raises NicFormatError or a subclass for damaged data, ModelNotFoundError or ModelMismatchError for the model or the
    generative decoder, ArgumentError for a region outside the picture
    and other arguments of a wrong type or out of range, OutOfMemoryError.
    """
    nic, network = parsed(data, model, device, lossless=lossless)
    picture = decode_picture(nic, network, region=region, realism=realism, max_pixels=max_pixels, progress=progress)
    return image.to_pil(picture)


@memory_errors()
def decode_array(
    data: bytes | str | os.PathLike[str] | IO[bytes],
    *,
    realism: float = 0.0,
    region: tuple[int, int, int, int] | None = None,
    lossless: bool = True,
    model: Model | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decodes a .nic file to an array (H, W, C) at the depth of its source: gray, gray and alpha, RGB, or RGBA.

    uint8 if the source had 8 bits a sample; uint16 if it had more, where 65535 is white and opaque. Arguments and
    errors are those of `decode`.
    """
    nic, network = parsed(data, model, device, lossless=lossless)
    picture = decode_picture(
        nic,
        network,
        region=region,
        realism=realism,
        max_pixels=max_pixels,
        progress=progress,
        depth=depth_of(nic),
    )
    return image.samples(picture)


def parsed(
    data: bytes | str | os.PathLike[str] | IO[bytes], model: Model | None, device: str, *, lossless: bool = True
) -> tuple[container.NicFile, Network]:
    """The parsed file, and what decodes it. Arguments and errors are those of `decode`."""
    nic = container.read(container.read_bytes(data), residuals=arguments.boolean("lossless", lossless))
    if not isinstance(model, Model | None):
        raise ArgumentTypeError(f"model is a {type(model).__name__}; it must be a loaded model.")
    return nic, network_of(model or model_files.find(nic.header.model_id), arguments.device(device))


def depth_of(nic: container.NicFile) -> int:
    """Bits per sample of the decoded picture, 8 or 16: 16 if the source had more than 8."""
    return 16 if container.DEPTH in nic.chunks or container.ALPHA16 in nic.chunks else 8


def quality_index(quality: float) -> int:
    """The user's quality, 1 to 100, as the file's quality index, 0 to 960."""
    return round((quality - 1) / 99 * container.QUALITY_INDEX_MAX)


@functools.lru_cache(maxsize=8)
def network_of(model: Model, device: str = "auto") -> Network:
    """What codes with a model on a device, built once: C++ on a CPU (NumPy where it was not built), torch on a GPU.

    device: auto, cpu, cuda or cuda:N; auto is cpu. All give the same bytes and pixels. Raises ArgumentValueError for a
    device that this machine lacks, ModelMismatchError if the model's arrays do not fit.
    """
    if device not in ("auto", "cpu"):
        try:
            from neurocodec.integer.gpu import TorchArithmetic, resolve_device

            return LayerwiseNetwork(model, TorchArithmetic(resolve_device(device)))
        except ModuleNotFoundError as error:
            raise MissingPackageError("coding on a GPU needs torch: pip install 'neurocodec[torch]'") from error
    return NativeNetwork(model) if extension() else LayerwiseNetwork(model, NumpyArithmetic())


class _Rereading:
    """A network that remembers the latents of each stream that it wrote, until that is decoded."""

    def __init__(self, network: Network) -> None:
        self.model, self.analyse, self.synthesise = network.model, network.analyse, network.synthesise
        self._network, self._written = network, dict[bytes, Latents]()

    def encode(self, *arguments: Any, **options: Any) -> tuple[bytes, Latents]:
        stream, latents = self._network.encode(*arguments, **options)
        self._written[stream] = Latents(latents.z_hat, (), latents.y_hat)
        return stream, latents

    def decode(self, stream: bytes, height: int, width: int, quality_index: int) -> Latents:
        written = self._written.pop(stream, None)
        return written or self._network.decode(stream, height, width, quality_index)


# ---------------------------------------------------------------------------------------------------- picture → file


def encode_picture(
    picture: image.Picture,
    coder: Model | Network,
    index: int,
    effort: int = 1,
    layout: str = "cpu",
    *,
    lossless: bool = False,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """The bytes of a .nic file. index: quality index, 0 to 960, in 1/64 of a row of the model's gains.

    coder: a model, which codes on the CPU, or what `network_of` returns. The other arguments: as in `encode`.

    Raises ModelMismatchError for a model without its encoder, MissingPackageError for a search without torch,
    ArgumentError for a wrong index or layout.
    """
    index = arguments.integer("the quality index", index, 0, container.QUALITY_INDEX_MAX)
    height, width = picture.rgb.shape[:2]
    network = _network(coder)
    edge = tiling.tile_edge(height, width)
    padded = image.pad_to_multiple(picture.rgb, LATENT)
    windows = list(tiling.windows(padded.shape[0] // LATENT, padded.shape[1] // LATENT, edge))
    tiles = []
    for part, window in enumerate(windows):
        stream, latents = network.encode(analyse(padded, window, network, index), index, layout=layout)
        if effort > 1:
            report = functools.partial(_report_part, progress, part, len(windows)) if progress else None
            stream, latents = _search_tile(
                (stream, latents), picture, padded, window, network, index, effort, layout, report
            )
        tiles.append(container.Tile(stream, latents.checksum()))
        if progress and effort == 1:
            _report_part(progress, part, len(windows), 1)
    header = container.Header(width, height, index, network.model.model_id, picture.gray, edge)
    nic = container.NicFile(header, chunks_of(picture), tuple(tiles))
    if lossless:
        nic = replace(nic, header=replace(header, lossless=True), residuals=_residuals(nic, picture, network))
    return container.write(nic)


def _residuals(nic: container.NicFile, picture: image.Picture, network: Network) -> tuple[container.Tile, ...]:
    """What is left of each tile of a picture after the lossy file `nic`."""
    whole = Window(0, 0, -(-nic.header.height // LATENT), -(-nic.header.width // LATENT))
    tiles = {}
    rows = _decoded_rows(nic, network, whole, synthesis_of(network, nic.header.quality_index, 0))
    for window, pixels in itertools.chain.from_iterable(rows):
        x_hat = _lossy_samples(pixels, window, nic.header)
        exact = np.ascontiguousarray(picture.rgb[window.within(whole, LATENT)][..., : x_hat.shape[2]])
        tiles[window] = container.Tile(residual.encode(exact, x_hat), zlib.crc32(exact.data))
    return tuple(tiles[window] for window in _windows(nic.header))


def analyse(padded: NDArray[Any], window: Window, network: Network, index: int) -> NDArray[np.int32]:
    """y of one tile, (h, w, M) in units of 1/64. padded: pixels of the whole picture, sides multiples of 16."""
    whole = Window(0, 0, padded.shape[0] // LATENT, padded.shape[1] // LATENT)
    seen = window.grow(network.model.config.analysis_halo, whole.bottom, whole.right)
    return network.analyse(padded[seen.within(whole, LATENT)], index)[window.within(seen)]


def _search_tile(
    first: tuple[bytes, Latents],
    picture: image.Picture,
    padded: NDArray[Any],
    window: Window,
    network: Network,
    index: int,
    effort: int,
    layout: str,
    progress: Callable[[float], None] | None,
) -> tuple[bytes, Latents]:
    """The stream and latents of one tile after a search; `first` if bits + λ · squared error would not be less."""
    try:
        from neurocodec.models.search import STEPS, search
    except ModuleNotFoundError as error:
        raise MissingPackageError("effort above 1 needs torch: pip install 'neurocodec[torch]'") from error

    config = network.model.config
    whole = Window(0, 0, padded.shape[0] // LATENT, padded.shape[1] // LATENT)
    seen = window.grow(config.synthesis_halo, whole.bottom, whole.right)
    pixels = picture.rgb[seen.within(whole, LATENT)]
    if pixels.dtype == np.uint16:
        pixels = pixels / np.float32(257)
    around = analyse(padded, seen, network, index)
    z_hat = first[1].z_hat
    y = search(
        pixels, around, z_hat, window, seen, network.model, index, STEPS[effort], gray=picture.gray, progress=progress
    )
    synthesis, weight = synthesis_of(network, index, 0), float(config.lmbda(index / QUALITY_STEPS)) / 3

    def cost(stream: bytes, latents: Latents) -> float:
        y_hat = around.copy()  # of other tiles, the latents before they are coded
        y_hat[window.within(seen)] = latents.y_hat
        rgb = synthesise(y_hat, seen, seen, synthesis)[: pixels.shape[0], : pixels.shape[1]]
        error = (_to_gray(rgb) if picture.gray else rgb).astype(np.float64) - pixels
        return 8 * len(stream) + weight * float(np.square(error).sum())

    return min(first, network.encode(y, index, z_hat, layout), key=lambda candidate: cost(*candidate))


def _report_part(progress: Callable[[float], None], part: int, parts: int, share: float) -> None:
    """Reports progress in one of several equal parts as progress in all of them."""
    progress((part + share) / parts)


def chunks_of(picture: image.Picture) -> dict[str, bytes]:
    """What a file holds besides the pixels, by the names of its chunks."""
    chunks = dict(picture.metadata)
    if picture.alpha is not None:
        alpha = image.narrowed(picture.alpha)
        chunks[container.ALPHA if alpha.dtype == np.uint8 else container.ALPHA16] = encode_alpha(alpha)
    if picture.depth > 8:
        chunks[container.DEPTH] = bytes([picture.depth])
    return {name: payload for name, payload in chunks.items() if payload}


# ---------------------------------------------------------------------------------------------------- file → picture


def decode_picture(
    nic: container.NicFile,
    coder: Model | Network,
    *,
    region: tuple[int, int, int, int] | None = None,
    realism: float = 0.0,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[float], None] | None = None,
    depth: int = 8,
) -> image.Picture:
    """The picture of a parsed file, or of a region (x, y, width, height) of it, in pixels. Others: as in `decode`.

    depth: bits per sample of pixels and alpha, 8 or 16.

    Raises ArgumentError for a region outside the picture or a realism out of range, ModelMismatchError for another
    model than the file's, NicFormatError or a subclass for streams that are damaged, do not decode to the encoder's
    symbols, or ask for more memory than max_pixels and tiling.LARGEST allow.
    """
    region, synthesis, network = _checked(nic, coder, region, realism, max_pixels, depth)
    alpha = alpha_of(nic, region, depth)
    rgb = np.empty((region[3], region[2], 3), _TYPES[depth])
    for row in _shown_rows(nic, network, region, synthesis, progress):
        for window, pixels in row:
            _put(pixels, window, region, rgb)
    return picture_of(nic, rgb, alpha)


def decode_bands(
    nic: container.NicFile,
    coder: Model | Network,
    *,
    region: tuple[int, int, int, int] | None = None,
    realism: float = 0.0,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[float], None] | None = None,
    depth: int = 8,
) -> Iterator[NDArray[Any]]:
    """The picture that `decode_picture` returns, from top to bottom, as arrays (rows, W, C): one for each row of tiles.

    C: as in `decode_array`. In memory are about two rows of tiles. Errors are raised when the first band is asked for,
    except that a stream is decoded, and its damage found, when its band is.
    """
    region, synthesis, network = _checked(nic, coder, region, realism, max_pixels, depth)
    x, y, width, height = region
    for _ in _alpha_bands(nic, region, depth):
        pass  # a malformed plane is found before a stream is decoded
    alpha = _Rows(_alpha_bands(nic, region, depth))
    bottom = y
    for row in _shown_rows(nic, network, region, synthesis, progress):
        band = np.empty((0, width, 3), _TYPES[depth])
        for window, pixels in row:
            if not len(band):
                top, bottom = bottom, min(window.bottom * LATENT, y + height)
                band = np.empty((bottom - top, width, 3), _TYPES[depth])
            _put(pixels, window, (x, top, width, bottom - top), band)
        yield image.samples(picture_of(nic, band, alpha.take(len(band))))


def _checked(
    nic: container.NicFile,
    coder: Model | Network,
    region: tuple[int, int, int, int] | None,
    realism: float,
    max_pixels: int,
    depth: int,
) -> tuple[tuple[int, int, int, int], Synthesis, Network]:
    """The region, and what decodes it, after all checks that need no decoding."""
    header, network = nic.header, _network(coder)
    realism = arguments.number("realism", realism, 0, 1)
    if nic.residuals and realism > 0:
        raise ArgumentValueError("the file is lossless: realism above 0 needs lossless=False, the lossy picture.")
    _, _, width, height = region = arguments.region(region, header.width, header.height)
    if width * height > arguments.integer("max_pixels", max_pixels, 1, container.MAX_PIXELS):
        raise NicFormatError(
            f"the picture is {width} x {height} pixels, more than the limit of {max_pixels}: decode regions of it, or "
            "raise max_pixels if you trust it"
        )
    check_decodable(header, network.model)
    return region, synthesis_of(network, header.quality_index, realism, depth), network


def _put(pixels: NDArray[Any], window: Window, region: tuple[int, int, int, int], rgb: NDArray[Any]) -> None:
    """Copies the pixels of a window to where they belong in those of a region."""
    x, y, width, height = region
    top, left = window.top * LATENT, window.left * LATENT
    inside = pixels[max(0, y - top) : y + height - top, max(0, x - left) : x + width - left]
    top, left = max(0, top - y), max(0, left - x)
    rgb[top : top + inside.shape[0], left : left + inside.shape[1]] = inside


def alpha_of(
    nic: container.NicFile, region: tuple[int, int, int, int] | None = None, depth: int = 8
) -> NDArray[Any] | None:
    """The alpha plane of a file or a region of it, uint8 or uint16 (height, width) as depth is 8 or 16; None without.

    Raises NicFormatError for a malformed plane.
    """
    for chunk, stored in _ALPHA_DEPTHS.items():
        if chunk in nic.chunks:
            plane = decode_alpha(nic.chunks[chunk], nic.header.width, nic.header.height, region, stored)
            return image.at_depth(plane, depth)
    return None


def _alpha_bands(nic: container.NicFile, region: tuple[int, int, int, int], depth: int) -> Iterator[NDArray[Any]]:
    """The same from top to bottom, in bands of some rows each; nothing without an alpha plane."""
    for chunk, stored in _ALPHA_DEPTHS.items():
        if chunk in nic.chunks:
            bands = alpha_bands(nic.chunks[chunk], nic.header.width, nic.header.height, region, stored)
            yield from (image.at_depth(band, depth) for band in bands)


class _Rows:
    """Rows that come in bands, to be taken in other numbers."""

    def __init__(self, bands: Iterator[NDArray[Any]]) -> None:
        self._bands, self._left = bands, next(bands, None)

    def take(self, count: int) -> NDArray[Any] | None:
        """The next rows; None if there were never any."""
        parts = []
        while count and self._left is not None:
            parts.append(self._left[:count])
            count -= len(parts[-1])
            self._left = self._left[len(parts[-1]) :] if len(parts[-1]) < len(self._left) else next(self._bands, None)
        return np.concatenate(parts) if parts else None


def _shown_rows(
    nic: container.NicFile,
    network: Network,
    region: tuple[int, int, int, int],
    synthesis: Synthesis,
    progress: Callable[[float], None] | None,
) -> Iterator[Iterator[tuple[Window, NDArray[Any]]]]:
    """For each row of tiles, windows that cover the region, and their pixels: exact ones if the file has residuals."""
    shown = tiling.region_window(region)
    if not nic.residuals:
        yield from _decoded_rows(nic, network, shown, synthesis, progress)
        return
    residuals = dict(zip(_windows(nic.header), nic.residuals, strict=True))
    tiles = [window for window in residuals if window.meet(shown)]
    shown = Window(tiles[0].top, tiles[0].left, tiles[-1].bottom, tiles[-1].right)
    for row in _decoded_rows(nic, network, shown, synthesis, progress):
        yield ((window, _exact(pixels, window, residuals[window], nic.header)) for window, pixels in row)


def _exact(
    pixels: NDArray[np.uint8], window: Window, tile: container.Tile, header: container.Header
) -> NDArray[np.uint8]:
    """The exact pixels of a tile, uint8 (h, w, 3) inside the picture. pixels: the lossy ones."""
    exact = residual.decode(tile.stream, _lossy_samples(pixels, window, header))
    if zlib.crc32(exact.data) != tile.symbols_crc:
        raise ChecksumError("the file decoded to other pixels than were encoded: it is damaged.")
    return np.broadcast_to(exact, (*exact.shape[:2], 3))


def _lossy_samples(pixels: NDArray[np.uint8], window: Window, header: container.Header) -> NDArray[np.uint8]:
    """What the residual of a tile starts from: its lossy pixels inside the picture, uint8 (h, w, 3), gray (h, w, 1)."""
    x_hat = pixels[: header.height - window.top * LATENT, : header.width - window.left * LATENT]
    return _to_gray(x_hat)[..., :1] if header.gray else x_hat


def _decoded_rows(
    nic: container.NicFile,
    network: Network,
    shown: Window,
    synthesis: Synthesis,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Iterator[tuple[Window, NDArray[Any]]]]:
    """For each row of tiles, the part of each of them inside the window `shown`, and its pixels.

    progress: as in `decode`.

    In memory are the latents of about two rows of tiles, because the pixels of a tile depend on its neighbours.
    """
    header = nic.header
    needed = shown.grow(synthesis.halo, -(-header.height // LATENT), -(-header.width // LATENT))
    held = Window(needed.top, needed.left, needed.top, needed.right)
    y_hat = np.empty((*held.shape, network.model.config.latent_channels), np.int32)
    waiting: list[Window] = []  # for the row of tiles below them
    completed = 0

    def reported(parts: Iterator[tuple[Window, NDArray[Any]]]) -> Iterator[tuple[Window, NDArray[Any]]]:
        nonlocal completed
        for window, pixels in parts:
            yield window, pixels
            completed += math.prod(window.shape)
            if progress:
                progress(completed / math.prod(shown.shape))

    tiles = [(w, tile) for w, tile in zip(_windows(header), nic.tiles, strict=True) if w.meet(needed)]
    for _, group in itertools.groupby(tiles, key=lambda item: item[0].top):
        row = list(group)
        above = max(held.top, min((w.top for w in waiting), default=held.bottom) - synthesis.halo)
        grown = Window(above, needed.left, min(row[0][0].bottom, needed.bottom), needed.right)
        kept, y_hat = y_hat[above - held.top :], np.empty((*grown.shape, y_hat.shape[2]), np.int32)
        y_hat[: len(kept)], held = kept, grown
        del kept  # and with it the latents of the rows above
        for window, tile in row:
            latents = decode_tile(tile, window, network, header.quality_index)
            part = window.meet(needed) or window
            y_hat[part.within(held)] = latents.y_hat[part.within(window)]
            if visible := window.meet(shown):
                waiting.append(visible)
        ready = [w for w in waiting if min(w.bottom + synthesis.halo, needed.bottom) <= held.bottom]
        waiting = waiting[len(ready) :]
        for _, windows in itertools.groupby(ready, key=lambda window: window.top):
            yield reported((window, synthesise(y_hat, held, window, synthesis)) for window in windows)


def decode_latents(nic: container.NicFile, coder: Model | Network) -> list[Latents]:
    """The latents of each tile of a file, exactly; pixels are not computed. Raises what `decode_picture` raises."""
    network = _network(coder)
    check_decodable(nic.header, network.model)
    index = nic.header.quality_index
    return [decode_tile(t, w, network, index) for w, t in zip(_windows(nic.header), nic.tiles, strict=True)]


def decode_tile(tile: container.Tile, window: Window, network: Network, index: int) -> Latents:
    """The latents of one tile. Raises ChecksumError if they are not the encoder's."""
    latents = network.decode(tile.stream, *window.shape, index)
    if latents.checksum() != tile.symbols_crc:
        raise ChecksumError(
            "the file decoded to other symbols than were encoded: it is damaged, or decoding is not exact."
        )
    return latents


@dataclass(frozen=True)
class Synthesis:
    """y_hat, int32 (h, w, M) in units of 1/64, to pixels, uint8 or uint16 (16 h, 16 w, 3).

    halo: how many latents beyond a window its pixels depend on.
    """

    run: Callable[[NDArray[np.int32]], NDArray[Any]]
    halo: int


def synthesis_of(network: Network, index: int, realism: float, depth: int = 8) -> Synthesis:
    """g_s, or above realism 0 the generative decoder. Raises ModelNotFoundError without one."""
    step, halo = realism_step(realism), network.model.config.synthesis_halo
    if step:
        halo += model_files.find_generator(network.model).config.halo
    return Synthesis(lambda y_hat: network.synthesise(y_hat, index, depth, step), halo)


def synthesise(y_hat: NDArray[np.int32], held: Window, window: Window, synthesis: Synthesis) -> NDArray[Any]:
    """Pixels of one window, (16 h, 16 w, 3). y_hat: the latents of the window `held`, in units of 1/64."""
    seen = window.grow(synthesis.halo, held.bottom, held.right).meet(held) or window
    return synthesis.run(y_hat[seen.within(held)])[window.within(seen, LATENT)]


def picture_of(nic: container.NicFile, rgb: NDArray[Any], alpha: NDArray[Any] | None) -> image.Picture:
    """Decoded pixels as a picture, with the metadata of the file.

    rgb: uint8 or uint16 (H, W, 3), which may be changed. alpha: of the same type (H, W), or None.
    """
    return image.Picture(
        rgb=np.ascontiguousarray(_to_gray(rgb) if nic.header.gray else rgb),
        gray=nic.header.gray,
        alpha=alpha,
        metadata={name: nic.chunks[name] for name in container.METADATA if name in nic.chunks},
    )


def _to_gray(rgb: NDArray[Any]) -> NDArray[Any]:
    """Sets each channel to the rounded mean of the three, in place, and returns the array."""
    for row in rgb:
        row[:] = ((row.sum(axis=1, dtype=np.uint32) + 1) // 3)[:, None]
    return rgb


def check_decodable(header: container.Header, model: Model) -> None:
    """Raises ModelMismatchError for another model than the file's, NicFormatError for tiles that are too large."""
    model_id = model.model_id
    if header.model_id != model_id:
        raise ModelMismatchError(
            f"the file needs model {header.model_id.hex()}, and the model given is {model_id.hex()}."
        )
    longest = max(header.height, header.width)
    if min(longest, header.tile_edge or longest) > tiling.LARGEST:
        raise NicFormatError(f"the file has tiles of more than {tiling.LARGEST} pixels; this release refuses them.")


def _network(coder: Model | Network) -> Network:
    return network_of(coder) if isinstance(coder, Model) else coder


def _windows(header: container.Header) -> Iterator[Window]:
    return tiling.windows(-(-header.height // LATENT), -(-header.width // LATENT), header.tile_edge)
