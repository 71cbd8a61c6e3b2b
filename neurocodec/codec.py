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

from neurocodec import arguments, container, image, tiling
from neurocodec import model as model_files
from neurocodec.alpha import decode_alpha, encode_alpha
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

    source: a path, a file open for reading, a PIL image, or an array (H, W[, C]) of uint8 or uint16.
    quality: 1 to 100, by default 50; more is larger and better. Or one target: target_bpp (file bits per pixel) or
    target_bytes gives the best quality that fits, target_psnr (dB, 8-bit RGB) the smallest file that reaches it.
    lossless: the file gives the exact picture, of 8 bits per sample; it starts with a lossy one, of quality 5 unless
        `quality` says otherwise. Excludes targets.
    effort: 1 to 10. Above 1 the encoder searches for better latents, which needs torch: smaller files at the same PSNR,
        for minutes of work on the CPU. For a target it searches up to four times.
    model: the name of an installed model, a model file, or a loaded model. device: auto, cpu or cuda; auto is cpu.
    layout: cpu, or gpu for files that a GPU decodes faster and that are 1 to 2 % larger. Every decoder reads both.
    max_pixels: larger pictures are refused before they are loaded; at most 2^30.
    progress: called during a search with the fraction completed, 0 to 1.

    Raises ImageError for input that is not a picture and for targets out of reach, ModelNotFoundError,
    MissingPackageError for a search without torch, ArgumentError for arguments of a wrong type, out of range or in
    conflict, OutOfMemoryError.
    """
    targets = {"target_bpp": target_bpp, "target_bytes": target_bytes, "target_psnr": target_psnr}
    given = [name for name, value in {"quality": quality, **targets}.items() if value is not None]
    if len(given) > 1:
        raise ArgumentValueError(f"give only one of {' and '.join(given)}.")
    if lossless and given not in ([], ["quality"]):
        raise ArgumentValueError(f"a lossless file has the size that it needs: {given[0]} cannot be given.")
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
    picture = image.load(source, max_pixels=arguments.integer("max_pixels", max_pixels, 1, container.MAX_PIXELS))
    network = network_of(model if isinstance(model, Model) else model_files.load(model), arguments.device(device))
    if lossless and picture.depth > 8:
        raise ImageError(f"lossless files have 8 bits per sample, and the picture has {picture.depth}.")
    encode_at = functools.partial(
        encode_picture, picture, network, layout=layout, lossless=bool(lossless), progress=progress
    )
    if target_psnr is not None:
        return _encode_to_psnr(picture, network, encode_at, target_psnr, effort)
    if target_bpp is not None:
        pixels = picture.rgb.shape[0] * picture.rgb.shape[1]
        target_bytes = int(min(target_bpp * pixels / 8, 2**63))
    if target_bytes is not None:
        return _encode_to_bytes(picture, network, encode_at, target_bytes, effort)
    return encode_at(quality_index(quality), effort)


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
) -> Image:
    """Decodes a .nic file to a PIL image of mode L, LA, RGB or RGBA; ICC profile, EXIF and XMP are in its info.

    data: the bytes of the file, its path, or a file open for reading.
    region: (x, y, width, height) in pixels, to decode only that part.
    realism: from 0, the reconstruction of least distortion, to 1, the most realistic one, which invents detail; above 0
        a generative decoder for the file's model must be installed.
    lossless: False gives the lossy picture that a lossless file starts with, and does not read further.
    model: the loaded model with the file's model id, to use instead of the installed one.
    max_pixels: larger pictures and regions are refused before memory is allocated; at most 2^30.

    Raises NicFormatError or a subclass for damaged data, ModelNotFoundError or ModelMismatchError for the model or the
    generative decoder, MissingPackageError for realism without torch, ArgumentError for a region outside the picture
    and other arguments of a wrong type or out of range, OutOfMemoryError.
    """
    nic = container.read(container.read_bytes(data), residuals=bool(lossless))
    if not isinstance(model, Model | None):
        raise ArgumentTypeError(f"model is a {type(model).__name__}; it must be a loaded model.")
    network = network_of(model or model_files.find(nic.header.model_id), arguments.device(device))
    return image.to_pil(decode_picture(nic, network, region=region, realism=realism, max_pixels=max_pixels))


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
    header = container.Header(width, height, index, network.model.model_id, picture.gray, edge)
    nic = container.NicFile(header, chunks_of(picture), tuple(tiles))
    if lossless:
        nic = replace(nic, header=replace(header, lossless=True), residuals=_residuals(nic, picture, network))
    return container.write(nic)


def _residuals(nic: container.NicFile, picture: image.Picture, network: Network) -> tuple[container.Tile, ...]:
    """What is left of each tile of a picture after the lossy file `nic`."""
    whole = Window(0, 0, -(-nic.header.height // LATENT), -(-nic.header.width // LATENT))
    tiles = {}
    for window, pixels in _decoded_windows(nic, network, whole, synthesis_of(network, nic.header.quality_index, 0)):
        exact = picture.rgb[window.within(whole, LATENT)]
        x_hat = pixels[: exact.shape[0], : exact.shape[1]]
        if picture.gray:
            exact, x_hat = exact[..., :1], _to_gray(x_hat)[..., :1]
        exact = np.ascontiguousarray(exact)
        tiles[window] = container.Tile(residual.encode(exact, x_hat), zlib.crc32(exact))
    return tuple(tiles[window] for window in _windows(nic.header))


def analyse(padded: NDArray[np.uint8], window: Window, network: Network, index: int) -> NDArray[np.int32]:
    """y of one tile, (h, w, M) in units of 1/64. padded: pixels of the whole picture, sides multiples of 16."""
    whole = Window(0, 0, padded.shape[0] // LATENT, padded.shape[1] // LATENT)
    seen = window.grow(network.model.config.analysis_halo, whole.bottom, whole.right)
    return network.analyse(padded[seen.within(whole, LATENT)], index)[window.within(seen)]


def _search_tile(
    first: tuple[bytes, Latents],
    picture: image.Picture,
    padded: NDArray[np.uint8],
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
        chunks[container.ALPHA] = encode_alpha(picture.alpha)
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
) -> image.Picture:
    """The picture of a parsed file, or of a region (x, y, width, height) of it, in pixels. realism: as in `decode`.

    Raises ArgumentError for a region outside the picture or a realism out of range, ModelMismatchError for another
    model than the file's, NicFormatError or a subclass for streams that are damaged, do not decode to the encoder's
    symbols, or ask for more memory than max_pixels and tiling.LARGEST allow.
    """
    header, network = nic.header, _network(coder)
    realism = arguments.number("realism", realism, 0, 1)
    x, y, width, height = region = arguments.region(region, header.width, header.height)
    if width * height > arguments.integer("max_pixels", max_pixels, 1, container.MAX_PIXELS):
        raise NicFormatError(
            f"the picture is {width} x {height} pixels, more than the limit of {max_pixels}: decode regions of it, or "
            "raise max_pixels if you trust it"
        )
    check_decodable(header, network.model)
    alpha = None
    if container.ALPHA in nic.chunks:
        alpha = decode_alpha(nic.chunks[container.ALPHA], header.width, header.height, region)

    synthesis = synthesis_of(network, header.quality_index, realism)
    rgb = np.empty((height, width, 3), np.uint8)
    shown = tiling.region_window(region)
    residuals = dict(zip(_windows(header), nic.residuals, strict=False))
    if nic.residuals:
        if realism > 0:
            raise ArgumentValueError("the file is lossless: realism above 0 needs lossless=False, the lossy picture.")
        tiles = [window for window in residuals if window.meet(shown)]
        shown = Window(tiles[0].top, tiles[0].left, tiles[-1].bottom, tiles[-1].right)
    for window, pixels in _decoded_windows(nic, network, shown, synthesis):
        if nic.residuals:
            pixels = _exact(pixels, window, residuals[window], header)
        top, left = window.top * LATENT, window.left * LATENT
        inside = pixels[max(0, y - top) : y + height - top, max(0, x - left) : x + width - left]
        top, left = max(0, top - y), max(0, left - x)
        rgb[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return picture_of(nic, rgb, alpha)


def _exact(
    pixels: NDArray[np.uint8], window: Window, tile: container.Tile, header: container.Header
) -> NDArray[np.uint8]:
    """The exact pixels of a tile, uint8 (h, w, 3) inside the picture. pixels: the lossy ones."""
    x_hat = pixels[: header.height - window.top * LATENT, : header.width - window.left * LATENT]
    if header.gray:
        x_hat = _to_gray(x_hat)[..., :1]
    exact = residual.decode(tile.stream, x_hat)
    if zlib.crc32(exact) != tile.symbols_crc:
        raise ChecksumError("the file decoded to other pixels than were encoded: it is damaged.")
    return np.broadcast_to(exact, (*exact.shape[:2], 3))


def _decoded_windows(
    nic: container.NicFile, network: Network, shown: Window, synthesis: Synthesis
) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """The part of each tile inside the window `shown`, and its pixels.

    In memory are the latents of about two rows of tiles, because the pixels of a tile depend on its neighbours.
    """
    header = nic.header
    needed = shown.grow(synthesis.halo, -(-header.height // LATENT), -(-header.width // LATENT))
    held = Window(needed.top, needed.left, needed.top, needed.right)
    y_hat = np.empty((*held.shape, network.model.config.latent_channels), np.int32)
    waiting: list[Window] = []  # for the row of tiles below them
    tiles = [(w, tile) for w, tile in zip(_windows(header), nic.tiles, strict=True) if w.meet(needed)]
    for _, group in itertools.groupby(tiles, key=lambda item: item[0].top):
        row = list(group)
        above = max(held.top, min((w.top for w in waiting), default=held.bottom) - synthesis.halo)
        grown = Window(above, needed.left, min(row[0][0].bottom, needed.bottom), needed.right)
        kept, y_hat = y_hat[above - held.top :], np.empty((*grown.shape, y_hat.shape[2]), np.int32)
        y_hat[: len(kept)], held = kept, grown
        for window, tile in row:
            latents = decode_tile(tile, window, network, header.quality_index)
            part = window.meet(needed) or window
            y_hat[part.within(held)] = latents.y_hat[part.within(window)]
            if visible := window.meet(shown):
                waiting.append(visible)
        ready = [w for w in waiting if min(w.bottom + synthesis.halo, needed.bottom) <= held.bottom]
        waiting = waiting[len(ready) :]
        for window in ready:
            yield window, synthesise(y_hat, held, window, synthesis)


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
    """y_hat, int32 (h, w, M) in units of 1/64, to pixels, uint8 (16 h, 16 w, 3).

    halo: how many latents beyond a window its pixels depend on.
    """

    run: Callable[[NDArray[np.int32]], NDArray[np.uint8]]
    halo: int


def synthesis_of(network: Network, index: int, realism: float) -> Synthesis:
    """g_s, or above realism 0 the generative decoder. Raises ModelNotFoundError without one, MissingPackageError."""
    if realism == 0:
        return Synthesis(lambda y_hat: network.synthesise(y_hat, index), network.model.config.synthesis_halo)
    try:
        from neurocodec.models import generators
    except ModuleNotFoundError as error:
        raise MissingPackageError("realism above 0 needs torch: pip install 'neurocodec[torch]'") from error
    generator = generators.of(network.model)
    return Synthesis(generators.synthesis(generator, index, realism), generator.halo)


def synthesise(y_hat: NDArray[np.int32], held: Window, window: Window, synthesis: Synthesis) -> NDArray[np.uint8]:
    """Pixels of one window, uint8 (16 h, 16 w, 3). y_hat: the latents of the window `held`, in units of 1/64."""
    seen = window.grow(synthesis.halo, held.bottom, held.right).meet(held) or window
    return synthesis.run(y_hat[seen.within(held)])[window.within(seen, LATENT)]


def picture_of(nic: container.NicFile, rgb: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> image.Picture:
    """Decoded pixels as a picture, with the metadata of the file.

    rgb: uint8 (H, W, 3), which may be changed. alpha: uint8 (H, W), or None.
    """
    return image.Picture(
        rgb=np.ascontiguousarray(_to_gray(rgb) if nic.header.gray else rgb),
        gray=nic.header.gray,
        alpha=alpha,
        metadata={name: nic.chunks[name] for name in container.METADATA if name in nic.chunks},
    )


def _to_gray(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Sets each channel to the rounded mean of the three, in place, and returns the array."""
    for row in rgb:
        row[:] = ((row.sum(axis=1, dtype=np.uint16) + 1) // 3)[:, None]
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


# ---------------------------------------------------------------------------------------------------- targets


SEARCHES = 4
"""Maximum number of searches for one target."""


def _encode_to_bytes(
    picture: image.Picture, network: Network, encode_at: Callable[..., bytes], limit: int, effort: int
) -> bytes:
    """The best file of at most `limit` bytes: at effort 1, that of the highest quality index."""
    smallest = encode_at(0)
    if len(smallest) > limit:
        raise ImageError(f"{limit} bytes cannot be reached: at the lowest quality the file has {len(smallest)} bytes.")
    candidates = _files_within(encode_at, lambda data: math.log(len(data)), math.log(limit), effort)
    return max(candidates, key=lambda data: _psnr(data, picture, network)) if effort > 1 else candidates[0]


def _encode_to_psnr(
    picture: image.Picture, network: Network, encode_at: Callable[..., bytes], target: float, effort: int
) -> bytes:
    """The smallest file whose picture has at least `target` dB: at effort 1, that of the lowest quality index."""
    most = container.QUALITY_INDEX_MAX
    if (highest := _psnr(encode_at(most), picture, network)) < target:
        raise ImageError(f"{target} dB cannot be reached: the highest quality gives {highest:.2f} dB.")
    candidates = _files_within(
        lambda step, effort=1: encode_at(most - step, effort),
        lambda data: -_psnr(data, picture, network),
        -target,
        effort,
    )
    return min(candidates, key=len)


def _psnr(data: bytes, picture: image.Picture, network: Network) -> float:
    return psnr(decode_picture(container.read(data), network).rgb, picture.rgb)


def _files_within(
    encode_at: Callable[..., bytes], measure: Callable[[bytes], float], limit: float, effort: int
) -> list[bytes]:
    """Files with measure(file) ≤ limit: that of effort 1 at the highest step that fits, then those of searches.

    encode_at: of a step, 0 to 960, and an effort. measure: rises with the step; step 0 fits. A search takes long, so it
    runs only at that step, and then at those where what it changed in the measure suggests that the next file fits.
    """
    plain = functools.cache(encode_at)
    measured = functools.cache(lambda step: measure(plain(step)))

    def last_step(change: float) -> int:
        """The highest step that fits if a search changes the measure by so much; 0 if none does.

        Regula falsi with Illinois steps: the measures, dB and logarithms of bytes, are nearly linear in the step.
        """
        low, high, moved = 0, container.QUALITY_INDEX_MAX, 0
        over_low, over_high = (measured(step) + change - limit for step in (low, high))
        if over_high <= 0 or over_low >= 0:
            return high if over_high <= 0 else low
        while high - low > 1:
            guess = round(low + (high - low) * over_low / (over_low - over_high))
            middle = min(max(guess, low + 1), high - 1)
            over = measured(middle) + change - limit
            if over <= 0:
                low, over_low, over_high, moved = middle, over, over_high / (2 if moved < 0 else 1), -1
            else:
                high, over_high, over_low, moved = middle, over, over_low / (2 if moved > 0 else 1), 1
        return low

    step = last_step(0)
    candidates, tried = [plain(step)], set[int]()
    while effort > 1 and step not in tried and len(tried) < SEARCHES:
        tried.add(step)
        data = encode_at(step, effort)
        if measure(data) <= limit:
            candidates.append(data)
        step = last_step(measure(data) - measured(step))
    return candidates
