"""Encodes and decodes pictures by composing the stages. Everything is integer arithmetic, so results are exact.

picture ─g_a→ y ─h_a→ z_hat ─┬ coded with the factorised prior
                             └ h_s → four passes: means, rows → symbols, coded → container
container ─decode→ z_hat, symbols → y_hat ─g_s→ pixels ─the file's filter─ the file's palettes→ picture
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocodec import arguments, container, image, screen, targets, tiles, tiling
from neurocodec import model as model_files
from neurocodec.alpha import alpha_bands, decode_alpha, encode_alpha
from neurocodec.entropy.native import extension
from neurocodec.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ImageError,
    MissingPackageError,
    ModelMismatchError,
    NicFormatError,
    memory_errors,
)
from neurocodec.integer.native import NativeNetwork
from neurocodec.integer.network import Latents, LayerwiseNetwork, Network
from neurocodec.integer.pixel_filter import Statistics
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.metrics.psnr import psnr
from neurocodec.model import Model
from neurocodec.tiling import LATENT, MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 50.0
LOSSLESS_QUALITY = 5.0
"""Default quality of the lossy picture in a lossless file."""
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

    source: a path, a file open for reading, a PIL image, or an array (H, W[, C]) of uint8 or uint16. Sources with more
        than 8 bits per sample are coded at up to 16; see `image.load`.
    quality: 1 to 100, default 50; a higher quality makes a larger file. Or give one of the following targets instead,
        which take two to six times as long.
    target_bpp, target_bytes: maximum file size, as bits per pixel or bytes. The result is the best file that fits, or
        one at most 1 % smaller than the limit.
    target_psnr: minimum PSNR, dB on 8-bit RGB. The result is the smallest file that reaches it, or one at most 0.05 dB
        better.
    lossless: stores the exact picture, with 8 bits per sample, after a lossy one of quality 5, or of `quality`. Cannot
        be combined with a target.
    effort: 1 to 10. Above 1 the encoder searches for better latents: files are smaller at the same PSNR, but take
        minutes on the CPU. Needs torch. With a target it searches up to four times and returns the best file that fits.
    model: the name of an installed model, the path of a model file, or a loaded model.
    device: auto, cpu or cuda; auto is cpu.
    layout: cpu, or gpu for files that a GPU decodes faster but that are 1 to 2 % larger. Every decoder reads both.
    max_pixels: larger pictures are refused before they are loaded; at most 2^30.
    progress: called after each tile, and during a search, with the fraction completed, 0 to 1. With a target it starts
        again each time the whole picture is encoded.

    Raises ImageError if the source is not a picture or a target is out of reach, ModelNotFoundError,
    ModelMismatchError for a model without its encoder, MissingPackageError for a search without torch, ArgumentError
    for arguments of the wrong type, out of range or in conflict, and OutOfMemoryError.
    """
    choices = {"quality": quality, "target_bpp": target_bpp, "target_bytes": target_bytes, "target_psnr": target_psnr}
    names = [name for name, value in choices.items() if value is not None]
    if len(names) > 1:
        raise ArgumentValueError(f"give only one of {' and '.join(names)}.")
    lossless = arguments.boolean("lossless", lossless)
    if lossless and names not in ([], ["quality"]):
        raise ArgumentValueError(f"a lossless file is as large as its picture makes it: leave out {names[0]}.")
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
        network = _CachingNetwork(network)

    palettes = True

    def encode_at(part: image.Picture, index: int, effort: int) -> bytes:
        """Encodes the picture or a part of it; progress counts only the former."""
        report = progress if part is picture else None
        return encode_picture(
            part, network, index, effort, layout, lossless=lossless, palettes=palettes, progress=report
        )

    def psnr_of(data: bytes, part: image.Picture) -> float:
        decoded = decode_picture(container.read(data), network, max_pixels=container.MAX_PIXELS)
        return psnr(decoded.rgb, image.to_8_bits(part.rgb))

    if target_psnr is not None:
        return targets.to_psnr(picture, encode_at, psnr_of, target_psnr, effort)
    if target_bpp is not None:
        pixels = picture.rgb.shape[0] * picture.rgb.shape[1]
        target_bytes = int(min(target_bpp * pixels / 8, 2**63))
    if target_bytes is not None:
        try:
            return targets.to_bytes(picture, encode_at, psnr_of, target_bytes, effort)
        except ImageError:  # palettes may have made even the smallest file too large
            palettes = False
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
    """Decodes a .nic file to a PIL image of mode L, LA, RGB or RGBA, with ICC profile, EXIF and XMP in its info.

    The image has 8 bits per sample, whatever the source had; `decode_array` returns up to 16.

    data: the bytes of the file, its path, or a file open for reading.
    realism: 0 to 1. 0 is the picture closest to the original; 1 looks most realistic but invents detail. Above 0,
        a generative decoder for the file's model must be installed; the package has one for its own.
    region: (x, y, width, height) in pixels; only this part is decoded.
    lossless: False decodes only the lossy picture at the start of a lossless file.
    model: a loaded model with the file's model id, used instead of the installed one.
    device: auto, cpu or cuda; auto is cpu.
    max_pixels: larger pictures and regions are refused before memory is allocated; at most 2^30.
    progress: called after each tile with the fraction completed, 0 to 1.

    Raises NicFormatError or a subclass for damaged data, ModelNotFoundError or ModelMismatchError for the model or the
    generative decoder, ArgumentError for arguments of the wrong type or out of range, such as a region outside the
    picture, and OutOfMemoryError.
    """
    nic, network = parse(data, model, device, lossless=lossless)
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

    The array is uint8 if the source had 8 bits per sample, and uint16 if it had more; 65535 is then white or opaque.
    Arguments and errors are those of `decode`.
    """
    nic, network = parse(data, model, device, lossless=lossless)
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


def parse(
    data: bytes | str | os.PathLike[str] | IO[bytes], model: Model | None, device: str, *, lossless: bool = True
) -> tuple[container.NicFile, Network]:
    """Reads a file and loads the network that decodes it. Arguments and errors are those of `decode`."""
    nic = container.read(container.read_bytes(data), residuals=arguments.boolean("lossless", lossless))
    if not isinstance(model, Model | None):
        raise ArgumentTypeError(f"model is a {type(model).__name__}; it must be a loaded model.")
    return nic, network_of(model or model_files.find(nic.header.model_id), arguments.device(device))


def depth_of(nic: container.NicFile) -> int:
    """Bits per sample of the decoded picture, 8 or 16: 16 if the source had more than 8."""
    return 16 if container.DEPTH in nic.chunks or container.ALPHA16 in nic.chunks else 8


def quality_index(quality: float) -> int:
    """The file's quality index, 0 to 960, for a user's quality, 1 to 100."""
    return round((quality - 1) / 99 * container.QUALITY_INDEX_MAX)


@functools.lru_cache(maxsize=8)
def network_of(model: Model, device: str = "auto") -> Network:
    """The network that runs a model on a device, built once: C++ on the CPU (else NumPy), torch on a GPU.

    device: auto, cpu, cuda or cuda:N; auto is cpu. All give the same bytes and pixels. Raises ArgumentValueError for a
    device that this machine lacks, MissingPackageError for a GPU without torch, ModelMismatchError if the model's
    arrays do not fit its configuration.
    """
    if device not in ("auto", "cpu"):
        try:
            from neurocodec.integer.gpu import TorchArithmetic, resolve_device

            return LayerwiseNetwork(model, TorchArithmetic(resolve_device(device)))
        except ModuleNotFoundError as error:
            raise MissingPackageError("coding on a GPU needs torch: pip install 'neurocodec[torch]'") from error
    return NativeNetwork(model) if extension() else LayerwiseNetwork(model, NumpyArithmetic())


class _CachingNetwork:
    """A network that keeps the latents of each stream it wrote, so that decoding it once more costs nothing."""

    def __init__(self, network: Network) -> None:
        self.model, self.analyse, self.synthesise = network.model, network.analyse, network.synthesise
        self._network, self._cache = network, dict[bytes, Latents]()

    def encode(self, *arguments: Any, **options: Any) -> tuple[bytes, Latents]:
        stream, latents = self._network.encode(*arguments, **options)
        if not options.get("apart"):  # else the stream does not tell z
            self._cache[stream] = Latents(latents.z_hat, (), latents.y_hat)
        return stream, latents

    def decode(self, stream: bytes, *arguments: Any) -> Latents:
        latents = self._cache.pop(stream, None)
        return latents or self._network.decode(stream, *arguments)


# ---------------------------------------------------------------------------------------------------- picture → file


def encode_picture(
    picture: image.Picture,
    coder: Model | Network,
    index: int,
    effort: int = 1,
    layout: str = "cpu",
    *,
    lossless: bool = False,
    palettes: bool = True,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """The bytes of a .nic file.

    coder: a model, which runs on the CPU, or a network from `network_of`. index: quality index, 0 to 960, in 1/64 of a
    row of the model's gains. palettes: whether screen content may get some. The other arguments are those of `encode`.

    Raises ModelMismatchError for a model without its encoder, MissingPackageError for a search without torch,
    ArgumentError for an index or layout out of range.
    """
    index = arguments.integer("the quality index", index, 0, container.QUALITY_INDEX_MAX)
    network = _network(coder)
    code = functools.partial(code_picture, network=network, index=index, layout=layout)
    rgb = image.narrowed(picture.rgb)
    blocks = screen.blocks_of_few_colours(rgb) if palettes and not lossless else None
    if blocks is None:
        return container.write(code(picture, effort=effort, lossless=lossless, progress=progress))

    def cost(data: bytes) -> float:
        """Bits + λ · squared error."""
        decoded = decode_picture(container.read(data), network, max_pixels=container.MAX_PIXELS).rgb
        return 8 * len(data) + tiles.error_weight(network.model, index) * float(
            np.square(rgb - decoded.astype(int)).sum()
        )

    passes = 2 if effort == 1 else 3
    nic = code(picture, progress=_part_of(progress, 0, passes))
    best, layer = container.write(nic), tiles.palette_layer(nic, rgb, blocks, network)
    if layer:
        nic = code(replace(picture, rgb=layer.rest), effort=effort, progress=_part_of(progress, 1, passes))
        plain, best = best, min(best, container.write(replace(nic, chunks=nic.chunks | layer.chunk)), key=cost)
        layer = layer if best != plain else None
    if layer is None and effort > 1:
        return container.write(code(picture, effort=effort, progress=_part_of(progress, 2, passes)))
    if progress and (layer is None or effort > 1):
        progress(1)
    return best


def code_picture(
    picture: image.Picture,
    *,
    network: Network,
    index: int,
    effort: int = 1,
    layout: str = "cpu",
    lossless: bool = False,
    bare: bool = False,
    progress: Callable[[float], None] | None = None,
) -> container.NicFile:
    """A picture as the networks code it, without a palette.

    bare: without a filter and with z in the tiles' own streams. The other arguments are those of `encode_picture`.
    """
    height, width = picture.rgb.shape[:2]
    edge = tiling.tile_edge(height, width)
    padded = image.pad_to_multiple(picture.rgb, LATENT)
    windows = list(tiling.windows(*tiling.picture_window(height, width).shape, edge))
    records, z_hats, statistics = [], [], Statistics.none()
    for part, window in enumerate(windows):
        stream, latents = network.encode(tiles.analyse(padded, window, network, index), index, layout=layout)
        report = _part_of(progress, part, len(windows))
        if effort > 1:
            stream, latents = tiles.search(
                (stream, latents), picture, padded, window, network, index, effort, layout, report
            )
        records.append(container.Tile(stream, latents.checksum()))
        z_hats.append(latents.z_hat)
        if tiles.is_measured(part, len(windows)) and not (lossless or bare):
            tiles.measure(statistics, latents.y_hat, picture, window, network, index)
        if report and effort == 1:
            report(1)
    header = container.Header(width, height, index, network.model.model_id, picture.gray, edge)
    chunks = chunks_of(picture) | tiles.filter_chunk(statistics, network.model, index)
    nic = container.NicFile(header, chunks, tuple(records))
    if not bare:
        nic = tiles.with_z_apart(nic, z_hats, network, layout)
    if lossless:
        residuals = tiles.residuals_of(nic, picture.rgb, network)
        nic = replace(nic, header=replace(header, lossless=True), residuals=residuals)
    return nic


def _part_of(progress: Callable[[float], None] | None, part: int, parts: int) -> Callable[[float], None] | None:
    """Reports the progress of one of several equal parts as that of the whole."""
    return (lambda share: progress((part + share) / parts)) if progress else None


def chunks_of(picture: image.Picture) -> dict[str, bytes]:
    """The chunks of a picture's file, by name: metadata, alpha plane and depth."""
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
    """The picture in a parsed file, or a region of it.

    coder: a model, which runs on the CPU, or a network from `network_of`. depth: bits per sample of pixels and alpha, 8
    or 16. The other arguments are those of `decode`.

    Raises ArgumentError for a region outside the picture or a realism out of range, ModelMismatchError if the model is
    not the file's, NicFormatError or a subclass for streams that are damaged, do not decode to the encoder's symbols,
    or ask for more memory than max_pixels and tiling.LARGEST allow.
    """
    region, synthesis, network = _prepare(nic, coder, region, realism, max_pixels, depth)
    alpha = alpha_of(nic, region, depth)
    rgb = np.empty((region[3], region[2], 3), _TYPES[depth])
    for row in tiles.visible_rows(nic, network, region, synthesis, progress):
        for window, pixels in row:
            _paste(pixels, window, region, rgb)
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
    """The picture that `decode_picture` returns, as bands (rows, W, C) from top to bottom, one for each row of tiles.

    C is as in `decode_array`. About two rows of tiles are in memory at a time. Arguments and errors are those of
    `decode_picture`; all errors come before the first band, except that of a damaged stream, which comes with its band.
    """
    region, synthesis, network = _prepare(nic, coder, region, realism, max_pixels, depth)
    x, y, width, height = region
    for _ in _alpha_bands(nic, region, depth):
        pass  # reports a malformed plane before any stream is decoded
    alpha = _RowReader(_alpha_bands(nic, region, depth))
    bottom = y
    for row in tiles.visible_rows(nic, network, region, synthesis, progress):
        band = np.empty((0, width, 3), _TYPES[depth])
        for window, pixels in row:
            if not len(band):
                top, bottom = bottom, min(window.bottom * LATENT, y + height)
                band = np.empty((bottom - top, width, 3), _TYPES[depth])
            _paste(pixels, window, (x, top, width, bottom - top), band)
        yield image.samples(picture_of(nic, band, alpha.take(len(band))))


def _prepare(
    nic: container.NicFile,
    coder: Model | Network,
    region: tuple[int, int, int, int] | None,
    realism: float,
    max_pixels: int,
    depth: int,
) -> tuple[tuple[int, int, int, int], tiles.Synthesis, Network]:
    """The region, synthesis and network to decode with, after all checks that need no decoding."""
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
    return region, tiles.synthesis_of(network, header.quality_index, realism, depth, tiles.filter_of(nic)), network


def _paste(pixels: NDArray[Any], window: tiling.Window, region: tuple[int, int, int, int], rgb: NDArray[Any]) -> None:
    """Copies the part of a window's pixels that lies in a region to its place in `rgb`, the region's pixels."""
    x, y, width, height = region
    top, left = window.top * LATENT, window.left * LATENT
    inside = pixels[max(0, y - top) : y + height - top, max(0, x - left) : x + width - left]
    top, left = max(0, top - y), max(0, left - x)
    rgb[top : top + inside.shape[0], left : left + inside.shape[1]] = inside


def alpha_of(
    nic: container.NicFile, region: tuple[int, int, int, int] | None = None, depth: int = 8
) -> NDArray[Any] | None:
    """The alpha plane of a file, or a region (x, y, width, height) of it; None if the file has no alpha.

    depth: 8 for uint8, 16 for uint16 (height, width). Raises NicFormatError for a malformed plane.
    """
    for chunk, stored in _ALPHA_DEPTHS.items():
        if chunk in nic.chunks:
            plane = decode_alpha(nic.chunks[chunk], nic.header.width, nic.header.height, region, stored)
            return image.at_depth(plane, depth)
    return None


def _alpha_bands(nic: container.NicFile, region: tuple[int, int, int, int], depth: int) -> Iterator[NDArray[Any]]:
    """The alpha plane in bands of a few rows, from top to bottom; no bands if the file has no alpha."""
    for chunk, stored in _ALPHA_DEPTHS.items():
        if chunk in nic.chunks:
            bands = alpha_bands(nic.chunks[chunk], nic.header.width, nic.header.height, region, stored)
            yield from (image.at_depth(band, depth) for band in bands)


class _RowReader:
    """Reads any number of rows at a time from an array that comes in bands."""

    def __init__(self, bands: Iterator[NDArray[Any]]) -> None:
        self._bands, self._left = bands, next(bands, None)

    def take(self, count: int) -> NDArray[Any] | None:
        """The next `count` rows, or None if no rows are left."""
        parts = []
        while count and self._left is not None:
            parts.append(self._left[:count])
            count -= len(parts[-1])
            self._left = self._left[len(parts[-1]) :] if len(parts[-1]) < len(self._left) else next(self._bands, None)
        return np.concatenate(parts) if parts else None


def decode_latents(nic: container.NicFile, coder: Model | Network) -> list[Latents]:
    """The exact latents of each tile of a file, without its pixels. Raises what `decode_picture` raises."""
    network = _network(coder)
    check_decodable(nic.header, network.model)
    index = nic.header.quality_index
    return [tiles.decode_tile(tile, window, network, index) for window, tile in tiles.tiles_of(nic)]


def picture_of(nic: container.NicFile, rgb: NDArray[Any], alpha: NDArray[Any] | None) -> image.Picture:
    """Decoded pixels as a picture, with the metadata of the file.

    rgb: uint8 or uint16 (H, W, 3), modified in place if the picture is gray. alpha: (H, W) of the same type, or None.
    """
    return image.Picture(
        rgb=np.ascontiguousarray(tiles.to_gray(rgb) if nic.header.gray else rgb),
        gray=nic.header.gray,
        alpha=alpha,
        metadata={name: nic.chunks[name] for name in container.METADATA if name in nic.chunks},
    )


def check_decodable(header: container.Header, model: Model) -> None:
    """Raises ModelMismatchError if the model is not the file's, NicFormatError if its tiles are too large."""
    model_id = model.model_id
    if header.model_id != model_id:
        raise ModelMismatchError(
            f"the file needs model {header.model_id.hex()}, and the model given is {model_id.hex()}."
        )
    longest = max(header.height, header.width)
    if min(longest, header.tile_edge or longest) > tiling.LARGEST:
        raise NicFormatError(
            f"the file has tiles with sides above {tiling.LARGEST} pixels, which this release does not read."
        )


def _network(coder: Model | Network) -> Network:
    return network_of(coder) if isinstance(coder, Model) else coder
