"""Encode and decode: composes the stages.

picture ─g_a→ y ─h_a→ z ─round→ z_hat ─┬ coded with the factorised prior
                                       └ h_s → four passes: means, rows → symbols, coded → container
container ─decode→ z_hat, symbols → y_hat ─g_s→ picture
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import container, image, tiling
from neurocodec.entropy import coder
from neurocodec.entropy.grid import MAX_LATENT, QUALITY_STEPS, UNIT, gather
from neurocodec.errors import ChecksumError, ImageError, ModelMismatchError, NicFormatError
from neurocodec.integer.network import Stage
from neurocodec.metrics.psnr import psnr
from neurocodec.models import networks as model_networks
from neurocodec.models.networks import Networks
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
    model: str | Path | Networks = "base",
    device: str = "auto",
) -> bytes:
    """Encodes a picture and returns the bytes of a .nic file.

    source: a path, a PIL image, or an array (H, W[, C]) of uint8 or uint16.
    quality: 1 to 100; more is larger and better. At most one target may replace it: target_bpp (file bits per pixel)
    or target_bytes gives the best quality that fits, target_psnr (dB, 8-bit RGB) the smallest file that reaches it.
    model: the name of an installed model, a model file, or loaded networks. device: auto, cpu or cuda.

    Raises ImageError for input that is no picture and for targets out of reach, ModelNotFoundError, ValueError for a
    quality out of range.
    """
    targets = [target for target in (target_bpp, target_bytes, target_psnr) if target is not None]
    if len(targets) > 1:
        raise ValueError("give only one of target_bpp, target_bytes and target_psnr.")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it must be a number from 1 to 100.")
    if targets and not (math.isfinite(targets[0]) and targets[0] > 0):
        raise ValueError(f"a target must be a positive number, not {targets[0]}.")
    picture = image.load(source)
    networks = model if isinstance(model, Networks) else model_networks.load(model, device=device)
    if target_psnr is not None:
        return _encode_to_psnr(picture, networks, target_psnr)
    if targets:
        pixels = picture.rgb.shape[0] * picture.rgb.shape[1]
        limit = target_bytes if target_bytes is not None else int(min(targets[0] * pixels / 8, 2**63))
        return _encode_to_bytes(picture, networks, limit)
    return encode_picture(picture, networks, quality_index(quality))


def decode(
    data: bytes | str | os.PathLike[str],
    *,
    realism: float = 0.0,
    region: tuple[int, int, int, int] | None = None,
    model: Networks | None = None,
    device: str = "auto",
) -> Image:
    """Decodes a .nic file to a PIL image of mode L, LA, RGB or RGBA; ICC profile, EXIF and XMP are in its info.

    data: the bytes of the file, or its path. region: (x, y, width, height) in pixels, to decode only that part.
    realism: from 0, the reconstruction of least distortion, to 1, the most realistic one, which invents detail; above 0
        a generative decoder for the file's model must be installed.
    model: loaded networks with the file's model id, to use instead of the installed model.

    Raises NicFormatError or a subclass for damaged data, ModelNotFoundError or ModelMismatchError for the model or the
    generative decoder, ValueError for a region outside the picture and a realism out of range.
    """
    if not 0 <= realism <= 1:
        raise ValueError(f"realism is {realism}; it must be a number from 0 to 1.")
    nic = container.read(container.read_bytes(data))
    networks = model or model_networks.find(nic.header.model_id, device=device)
    return image.to_pil(decode_picture(nic, networks, region=region, realism=realism))


def quality_index(quality: float) -> int:
    """The user's quality, 1 to 100, as the file's quality index, 0 to 960."""
    return round((quality - 1) / 99 * container.QUALITY_INDEX_MAX)


@contextmanager
def _own_precision() -> Iterator[None]:
    """No gradients, and none of the caller's autocast."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


# ---------------------------------------------------------------------------------------------------- picture → file


@_own_precision()
def encode_picture(picture: image.Picture, networks: Networks, index: int) -> bytes:
    """The bytes of a .nic file. index: quality index, 0 to 960, in 1/64 of a row of the model's gains.

    Raises ImageError for a picture of more than MAX_PIXELS.
    """
    height, width = picture.rgb.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"the picture has {height * width} pixels; at most {MAX_PIXELS} can be encoded.")
    edge = tiling.tile_edge(height, width)
    padded = image.pad_to_multiple(picture.rgb, LATENT)
    tiles = []
    for window in tiling.windows(padded.shape[0] // LATENT, padded.shape[1] // LATENT, edge):
        y = analyse(padded, window, networks, index)
        stages, latents = quantise(y, networks, index)
        tiles.append(container.Tile(code(stages, networks), latents.checksum()))
    header = container.Header(width, height, index, networks.model_id, picture.gray, edge)
    return container.write(container.NicFile(header, chunks_of(picture), tuple(tiles)))


def analyse(padded: NDArray[np.uint8], window: Window, networks: Networks, index: int) -> torch.Tensor:
    """Latents y of one tile, (1, M, h, w). padded: pixels of the whole picture, sides multiples of 16."""
    whole = Window(0, 0, padded.shape[0] // LATENT, padded.shape[1] // LATENT)
    seen = window.grow(networks.g_a.halo, whole.bottom, whole.right)
    pixels = padded[seen.within(whole, LATENT)]
    x = image.to_tensor(pixels).to(device=networks.device, memory_format=torch.channels_last)
    y: torch.Tensor = networks.g_a(x, _row(index, networks))
    rows, columns = window.within(seen)
    return y[:, :, rows, columns]


def quantise(y: torch.Tensor, networks: Networks, index: int) -> tuple[list[Stage], Latents]:
    """The symbols of one tile, stage by stage in coding order, and the latents that they decode to."""
    z = _channels_last(networks.h_a(y, _row(index, networks)))
    values = _channels_last(y)
    y_hat = np.zeros(values.shape, np.int32)
    stages = []
    for stage in networks.entropy.stages(index, y_hat):
        if stage.step is None:
            stage.symbols = _nearest(z, 127)
        else:
            residual = gather(values, stage.step).astype(np.float64) - stage.means / UNIT
            stage.symbols = _nearest(residual, MAX_LATENT // UNIT)
        stages.append(stage)
    return stages, Latents.of(stages, y_hat)


def code(stages: list[Stage], networks: Networks) -> bytes:
    """The stream of one tile."""
    symbols = np.concatenate([stage.symbols.ravel() for stage in stages])
    rows = np.concatenate([stage.rows.ravel() for stage in stages])
    calls = [stage.symbols.size for stage in stages]
    return coder.encode(symbols, rows, networks.model.tables, calls=calls, threads=torch.get_num_threads())


def chunks_of(picture: image.Picture) -> dict[str, bytes]:
    """What a file holds besides the pixels, by the names of its chunks."""
    chunks = {container.ICC: picture.icc, container.EXIF: picture.exif, container.XMP: picture.xmp}
    if picture.alpha is not None:
        chunks[container.ALPHA] = image.encode_alpha(picture.alpha)
    if picture.depth > 8:
        chunks[container.DEPTH] = bytes([picture.depth])
    return {name: payload for name, payload in chunks.items() if payload}


# ---------------------------------------------------------------------------------------------------- file → picture


@_own_precision()
def decode_picture(
    nic: container.NicFile,
    networks: Networks,
    *,
    region: tuple[int, int, int, int] | None = None,
    realism: float = 0.0,
) -> image.Picture:
    """The picture of a parsed file, or of a region (x, y, width, height) of it, in pixels. realism: as in `decode`.

    Raises ValueError for a region outside the picture, ModelMismatchError for another model than the file's,
    NicFormatError or a subclass for streams that are damaged, do not decode to the encoder's symbols, or ask for more
    memory than MAX_PIXELS and tiling.LARGEST allow.
    """
    header = nic.header
    x, y, width, height = region = region or (0, 0, header.width, header.height)
    if not (x >= 0 and y >= 0 and 0 < width <= header.width - x and 0 < height <= header.height - y):
        raise ValueError(f"the region {region} is not inside the picture of {header.width}×{header.height} pixels.")
    if width * height > MAX_PIXELS:
        raise NicFormatError(f"the picture has {width * height} pixels; decode regions of at most {MAX_PIXELS} pixels.")
    _check_decodable(header, networks)
    alpha = None
    if container.ALPHA in nic.chunks:
        alpha = image.decode_alpha(nic.chunks[container.ALPHA], header.width, header.height)
        alpha = alpha[y : y + height, x : x + width]

    synthesis = synthesis_of(networks, header.quality_index, realism)
    shown = tiling.region_window(region)
    needed = shown.grow(synthesis.halo, -(-header.height // LATENT), -(-header.width // LATENT))
    y_hat = np.zeros((*needed.shape, networks.config.latent_channels), np.int32)
    tiles = [(w, tile) for w, tile in zip(_windows(header), nic.tiles, strict=True) if w.meet(needed)]
    for window, tile in tiles:
        latents = decode_tile(tile, window, networks, header.quality_index)
        held = window.meet(needed) or window
        y_hat[held.within(needed)] = latents.y_hat[held.within(window)]

    rgb = np.empty((shown.shape[0] * LATENT, shown.shape[1] * LATENT, 3), np.uint8)
    for window, _ in tiles:
        if part := window.meet(shown):
            rgb[part.within(shown, LATENT)] = synthesise(y_hat, needed, part, synthesis)
    top, left = y - shown.top * LATENT, x - shown.left * LATENT
    return picture_of(nic, rgb[top : top + height, left : left + width], alpha)


def decode_latents(nic: container.NicFile, networks: Networks) -> list[Latents]:
    """The latents of each tile of a file, exactly; pixels are not computed. Raises what `decode_picture` raises."""
    _check_decodable(nic.header, networks)
    index = nic.header.quality_index
    return [decode_tile(t, w, networks, index) for w, t in zip(_windows(nic.header), nic.tiles, strict=True)]


def decode_tile(tile: container.Tile, window: Window, networks: Networks, index: int) -> Latents:
    """The latents of one tile. Raises ChecksumError if they are not the encoder's."""
    decoder = coder.Decoder(tile.stream, networks.model.tables, threads=torch.get_num_threads())
    y_hat = np.zeros((*window.shape, networks.config.latent_channels), np.int32)
    stages = []
    for stage in networks.entropy.stages(index, y_hat):
        stage.symbols = decoder.decode(stage.rows)
        stages.append(stage)
    decoder.finish()
    latents = Latents.of(stages, y_hat)
    if latents.checksum() != tile.symbols_crc:
        raise ChecksumError(
            "the file decoded to other symbols than were encoded: it is damaged, or decoding is not exact."
        )
    return latents


@dataclass(frozen=True)
class Synthesis:
    """y_hat, float (1, M, h, w) in quantisation steps, to x_hat; halo: how many latents around a tile it reads."""

    network: Callable[[torch.Tensor], torch.Tensor]
    halo: int
    device: str


def synthesis_of(networks: Networks, index: int, realism: float) -> Synthesis:
    """The synthesis transform, or above realism 0 the generative decoder. Raises ModelNotFoundError without one."""
    row = _row(index, networks)
    if realism == 0:
        return Synthesis(lambda y_hat: networks.g_s(y_hat, row), networks.g_s.halo, networks.device)
    generator = model_networks.generator_of(networks)
    beta = torch.tensor([realism], dtype=torch.float32, device=networks.device)
    return Synthesis(lambda y_hat: generator(y_hat, row, beta), generator.halo, networks.device)


def synthesise(y_hat: NDArray[np.int32], held: Window, window: Window, synthesis: Synthesis) -> NDArray[np.uint8]:
    """Pixels of one window, uint8 (16 h, 16 w, 3). y_hat: the latents of the window `held`, in units of 1/64."""
    seen = window.grow(synthesis.halo, held.bottom, held.right).meet(held) or window
    latents = torch.from_numpy(y_hat[seen.within(held)]).to(synthesis.device).permute(2, 0, 1)[None]
    return image.from_tensor(synthesis.network(latents.float() / UNIT))[window.within(seen, LATENT)]


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


def _check_decodable(header: container.Header, networks: Networks) -> None:
    """Whether these are the networks of the file's model, and its tiles of a size that memory is allocated for."""
    if header.model_id != networks.model_id:
        raise ModelMismatchError(
            f"the file needs model {header.model_id.hex()}, and the model given is {networks.model_id.hex()}."
        )
    longest = max(header.height, header.width)
    if min(longest, header.tile_edge or longest) > tiling.LARGEST:
        raise NicFormatError(f"the file has tiles of more than {tiling.LARGEST} pixels; this release refuses them.")


def _windows(header: container.Header) -> Iterator[Window]:
    return tiling.windows(-(-header.height // LATENT), -(-header.width // LATENT), header.tile_edge)


# ---------------------------------------------------------------------------------------------------- latents


@dataclass(frozen=True)
class Latents:
    """What the stream of a tile holds, int32: z_hat (ceil(h / 4), ceil(w / 4), N), the symbols of the four passes, each
    (h, w, M / 4), and y_hat (h, w, M) in units of 1/64."""

    z_hat: NDArray[np.int32]
    symbols: tuple[NDArray[np.int32], ...]
    y_hat: NDArray[np.int32]

    @classmethod
    def of(cls, stages: list[Stage], y_hat: NDArray[np.int32]) -> Latents:
        """From the stages of a walk over a tile."""
        z, *passes = stages
        return cls(z.symbols, tuple(stage.symbols for stage in passes), y_hat)

    def checksum(self) -> int:
        """CRC-32 over z_hat, then y_hat in units of 1/64, as little-endian int32 in (row, column, channel) order."""
        crc = zlib.crc32(np.ascontiguousarray(self.z_hat, "<i4").tobytes())
        return zlib.crc32(np.ascontiguousarray(self.y_hat, "<i4").tobytes(), crc)


def _channels_last(x: torch.Tensor) -> NDArray[np.float32]:
    """(1, C, h, w) -> (h, w, C)."""
    values: NDArray[np.float32] = x[0].permute(1, 2, 0).cpu().numpy()
    return values


def _nearest(values: NDArray[Any], limit: int) -> NDArray[np.int32]:
    """Nearest integers, clamped so that any float gives a symbol."""
    nearest: NDArray[np.int32] = np.clip(np.rint(np.nan_to_num(values, nan=0.0)), -limit, limit).astype(np.int32)
    return nearest


def _row(index: int, networks: Networks) -> torch.Tensor:
    return torch.tensor([index / QUALITY_STEPS], device=networks.device)


# ---------------------------------------------------------------------------------------------------- targets


def _encode_to_bytes(picture: image.Picture, networks: Networks, limit: int) -> bytes:
    """The file of the highest quality index that has at most `limit` bytes."""
    smallest = encode_picture(picture, networks, 0)
    if len(smallest) > limit:
        raise ImageError(f"{limit} bytes cannot be reached: at the lowest quality the file has {len(smallest)} bytes.")
    return _search(lambda index: encode_picture(picture, networks, index), lambda data: len(data) <= limit, smallest)


def _encode_to_psnr(picture: image.Picture, networks: Networks, target: float) -> bytes:
    """The file of the lowest quality index whose picture has at least `target` dB."""

    def psnr_of(data: bytes) -> float:
        return psnr(decode_picture(container.read(data), networks).rgb, picture.rgb)

    index = container.QUALITY_INDEX_MAX
    best = encode_picture(picture, networks, index)
    if (highest := psnr_of(best)) < target:
        raise ImageError(f"{target} dB cannot be reached: the highest quality gives {highest:.2f} dB.")
    return _search(
        lambda step: encode_picture(picture, networks, index - step), lambda data: psnr_of(data) >= target, best
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
