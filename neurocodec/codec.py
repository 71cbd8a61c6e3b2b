"""Encode and decode: composes the stages. In integers, so one picture gives one file, and one file one picture.

picture ─g_a→ y ─h_a→ z_hat ─┬ coded with the factorised prior
                             └ h_s → four passes: means, rows → symbols, coded → container
container ─decode→ z_hat, symbols → y_hat ─g_s→ picture
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurocodec import container, image, tiling
from neurocodec import model as model_files
from neurocodec.entropy.native import extension
from neurocodec.errors import ChecksumError, ImageError, MissingPackageError, ModelMismatchError, NicFormatError
from neurocodec.integer.native import NativeNetwork
from neurocodec.integer.network import Latents, LayerwiseNetwork, Network
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.metrics.psnr import psnr
from neurocodec.model import Model
from neurocodec.tiling import LATENT, Window

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 1 << 28
"""Largest picture that is encoded, or decoded at once; a region of a larger one can be decoded."""


def encode(
    source: str | os.PathLike[str] | Image | NDArray[Any],
    *,
    quality: float = 50,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    target_psnr: float | None = None,
    model: str | Path | Model = "base",
    device: str = "auto",
    layout: str = "cpu",
) -> bytes:
    """Encodes a picture and returns the bytes of a .nic file.

    source: a path, a PIL image, or an array (H, W[, C]) of uint8 or uint16.
    quality: 1 to 100; more is larger and better. At most one target may replace it: target_bpp (file bits per pixel)
    or target_bytes gives the best quality that fits, target_psnr (dB, 8-bit RGB) the smallest file that reaches it.
    model: the name of an installed model, a model file, or a loaded model. device: auto, cpu or cuda; auto is cpu.
    layout: cpu, or gpu for files that a GPU decodes faster and that are 1 to 2 % larger. Every decoder reads both.

    Raises ImageError for input that is no picture and for targets out of reach, ModelNotFoundError, ValueError for a
    quality out of range or an unknown layout.
    """
    targets = [target for target in (target_bpp, target_bytes, target_psnr) if target is not None]
    if len(targets) > 1:
        raise ValueError("give only one of target_bpp, target_bytes and target_psnr.")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it must be a number from 1 to 100.")
    if targets and not (math.isfinite(targets[0]) and targets[0] > 0):
        raise ValueError(f"a target must be a positive number, not {targets[0]}.")
    picture = image.load(source)
    network = network_of(model if isinstance(model, Model) else model_files.load(model), device)
    if target_psnr is not None:
        return _encode_to_psnr(picture, network, layout, target_psnr)
    if targets:
        pixels = picture.rgb.shape[0] * picture.rgb.shape[1]
        limit = target_bytes if target_bytes is not None else int(min(targets[0] * pixels / 8, 2**63))
        return _encode_to_bytes(picture, network, layout, limit)
    return encode_picture(picture, network, quality_index(quality), layout)


def decode(
    data: bytes | str | os.PathLike[str],
    *,
    realism: float = 0.0,
    region: tuple[int, int, int, int] | None = None,
    model: Model | None = None,
    device: str = "auto",
) -> Image:
    """Decodes a .nic file to a PIL image of mode L, LA, RGB or RGBA; ICC profile, EXIF and XMP are in its info.

    data: the bytes of the file, or its path. region: (x, y, width, height) in pixels, to decode only that part.
    realism: from 0, the reconstruction of least distortion, to 1, the most realistic one, which invents detail; above 0
        a generative decoder for the file's model must be installed.
    model: the loaded model with the file's model id, to use instead of the installed one.

    Raises NicFormatError or a subclass for damaged data, ModelNotFoundError or ModelMismatchError for the model or the
    generative decoder, MissingPackageError for realism without torch, ValueError for a region outside the picture and a
    realism out of range.
    """
    if not 0 <= realism <= 1:
        raise ValueError(f"realism is {realism}; it must be a number from 0 to 1.")
    nic = container.read(container.read_bytes(data))
    network = network_of(model or model_files.find(nic.header.model_id), device)
    return image.to_pil(decode_picture(nic, network, region=region, realism=realism))


def quality_index(quality: float) -> int:
    """The user's quality, 1 to 100, as the file's quality index, 0 to 960."""
    return round((quality - 1) / 99 * container.QUALITY_INDEX_MAX)


@functools.lru_cache(maxsize=8)
def network_of(model: Model, device: str = "auto") -> Network:
    """What codes with a model on a device, built once: C++ on a CPU (NumPy where it was not built), torch on a GPU.

    device: auto, cpu, cuda or cuda:N; auto is cpu. All give the same bytes and pixels. Raises ValueError for a device
    that this machine lacks, ModelMismatchError if the model's arrays do not fit.
    """
    if device not in ("auto", "cpu"):
        try:
            from neurocodec.integer.gpu import TorchArithmetic, resolve_device

            return LayerwiseNetwork(model, TorchArithmetic(resolve_device(device)))
        except ModuleNotFoundError as error:
            raise MissingPackageError("coding on a GPU needs torch: pip install 'neurocodec[torch]'") from error
    return NativeNetwork(model) if extension() else LayerwiseNetwork(model, NumpyArithmetic())


# ---------------------------------------------------------------------------------------------------- picture → file


def encode_picture(picture: image.Picture, coder: Model | Network, index: int, layout: str = "cpu") -> bytes:
    """The bytes of a .nic file. index: quality index, 0 to 960, in 1/64 of a row of the model's gains.

    coder: a model, which codes on the CPU, or what `network_of` returns. layout: as in `encode`.

    Raises ImageError for a picture of more than MAX_PIXELS, ModelMismatchError for a model without its encoder,
    ValueError for an unknown layout.
    """
    height, width = picture.rgb.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"the picture has {height * width} pixels; at most {MAX_PIXELS} can be encoded.")
    network = _network(coder)
    edge = tiling.tile_edge(height, width)
    padded = image.pad_to_multiple(picture.rgb, LATENT)
    tiles = []
    for window in tiling.windows(padded.shape[0] // LATENT, padded.shape[1] // LATENT, edge):
        stream, latents = network.encode(analyse(padded, window, network, index), index, layout)
        tiles.append(container.Tile(stream, latents.checksum()))
    header = container.Header(width, height, index, network.model.model_id, picture.gray, edge)
    return container.write(container.NicFile(header, chunks_of(picture), tuple(tiles)))


def analyse(padded: NDArray[np.uint8], window: Window, network: Network, index: int) -> NDArray[np.int32]:
    """y of one tile, (h, w, M) in units of 1/64. padded: pixels of the whole picture, sides multiples of 16."""
    whole = Window(0, 0, padded.shape[0] // LATENT, padded.shape[1] // LATENT)
    seen = window.grow(network.model.config.analysis_halo, whole.bottom, whole.right)
    return network.analyse(padded[seen.within(whole, LATENT)], index)[window.within(seen)]


def chunks_of(picture: image.Picture) -> dict[str, bytes]:
    """What a file holds besides the pixels, by the names of its chunks."""
    chunks = {container.ICC: picture.icc, container.EXIF: picture.exif, container.XMP: picture.xmp}
    if picture.alpha is not None:
        chunks[container.ALPHA] = image.encode_alpha(picture.alpha)
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
) -> image.Picture:
    """The picture of a parsed file, or of a region (x, y, width, height) of it, in pixels. realism: as in `decode`.

    Raises ValueError for a region outside the picture, ModelMismatchError for another model than the file's,
    NicFormatError or a subclass for streams that are damaged, do not decode to the encoder's symbols, or ask for more
    memory than MAX_PIXELS and tiling.LARGEST allow.
    """
    header, network = nic.header, _network(coder)
    x, y, width, height = region = region or (0, 0, header.width, header.height)
    if not (x >= 0 and y >= 0 and 0 < width <= header.width - x and 0 < height <= header.height - y):
        raise ValueError(f"the region {region} is not inside the picture of {header.width}×{header.height} pixels.")
    if width * height > MAX_PIXELS:
        raise NicFormatError(f"the picture has {width * height} pixels; decode regions of at most {MAX_PIXELS} pixels.")
    check_decodable(header, network.model)
    alpha = None
    if container.ALPHA in nic.chunks:
        alpha = image.decode_alpha(nic.chunks[container.ALPHA], header.width, header.height)
        alpha = alpha[y : y + height, x : x + width]

    synthesis = synthesis_of(network, header.quality_index, realism)
    shown = tiling.region_window(region)
    needed = shown.grow(synthesis.halo, -(-header.height // LATENT), -(-header.width // LATENT))
    y_hat = np.zeros((*needed.shape, network.model.config.latent_channels), np.int32)
    tiles = [(w, tile) for w, tile in zip(_windows(header), nic.tiles, strict=True) if w.meet(needed)]
    for window, tile in tiles:
        latents = decode_tile(tile, window, network, header.quality_index)
        held = window.meet(needed) or window
        y_hat[held.within(needed)] = latents.y_hat[held.within(window)]

    rgb = np.empty((shown.shape[0] * LATENT, shown.shape[1] * LATENT, 3), np.uint8)
    for window, _ in tiles:
        if part := window.meet(shown):
            rgb[part.within(shown, LATENT)] = synthesise(y_hat, needed, part, synthesis)
    top, left = y - shown.top * LATENT, x - shown.left * LATENT
    return picture_of(nic, rgb[top : top + height, left : left + width], alpha)


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
    """The picture of decoded pixels, with what else the file holds. rgb: uint8 (H, W, 3); alpha: uint8 (H, W)."""
    if nic.header.gray:
        luma = (rgb.sum(axis=2, dtype=np.uint16) + 1) // 3
        rgb = np.repeat(luma.astype(np.uint8)[:, :, None], 3, axis=2)
    return image.Picture(
        rgb=np.ascontiguousarray(rgb),
        gray=nic.header.gray,
        alpha=alpha,
        icc=nic.chunks.get(container.ICC),
        exif=nic.chunks.get(container.EXIF),
        xmp=nic.chunks.get(container.XMP),
    )


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


def _encode_to_bytes(picture: image.Picture, network: Network, layout: str, limit: int) -> bytes:
    """The file of the highest quality index that has at most `limit` bytes."""
    smallest = encode_picture(picture, network, 0, layout)
    if len(smallest) > limit:
        raise ImageError(f"{limit} bytes cannot be reached: at the lowest quality the file has {len(smallest)} bytes.")
    return _search(
        lambda index: encode_picture(picture, network, index, layout), lambda data: len(data) <= limit, smallest
    )


def _encode_to_psnr(picture: image.Picture, network: Network, layout: str, target: float) -> bytes:
    """The file of the lowest quality index whose picture has at least `target` dB."""

    def psnr_of(data: bytes) -> float:
        return psnr(decode_picture(container.read(data), network).rgb, picture.rgb)

    index = container.QUALITY_INDEX_MAX
    best = encode_picture(picture, network, index, layout)
    if (highest := psnr_of(best)) < target:
        raise ImageError(f"{target} dB cannot be reached: the highest quality gives {highest:.2f} dB.")
    return _search(
        lambda step: encode_picture(picture, network, index - step, layout), lambda data: psnr_of(data) >= target, best
    )


def _search(encode_at: Callable[[int], bytes], good: Callable[[bytes], bool], first: bytes) -> bytes:
    """The result at the largest argument in 0..960 that is good, by bisection; `first`, that at 0, is good."""
    low, high, best = 0, container.QUALITY_INDEX_MAX + 1, first
    while high - low > 1:
        middle = (low + high) // 2
        data = encode_at(middle)
        if good(data):
            low, best = middle, data
        else:
            high = middle
    return best
