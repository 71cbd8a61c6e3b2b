"""Encode and decode: composes the stages.

picture ─g_a→ y ─h_a→ z ─round→ z_hat ─┬ coded with the factorised prior
                                       └ h_s → four passes: means, rows → symbols, coded → container
container ─decode→ z_hat, symbols → y_hat ─g_s→ picture
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import checkpoint, container, image, tiling
from neurocodec.entropy import coder
from neurocodec.entropy.integer import MAX_LATENT, MEAN_BITS, PASSES, QUALITY_STEPS, gather
from neurocodec.entropy.tables import Tables, tables_from_histogram
from neurocodec.errors import ChecksumError, ImageError, ModelMismatchError, NicFormatError
from neurocodec.metrics.psnr import psnr
from neurocodec.models.pixels import from_tensor, to_tensor
from neurocodec.tiling import LATENT, Window

if TYPE_CHECKING:
    from PIL.Image import Image

UNIT = 1 << MEAN_BITS
MAX_PIXELS = 1 << 28
"""Largest picture that is encoded, or decoded at once; a region of a larger one can be decoded."""


@contextmanager
def _own_precision() -> Iterator[None]:
    """No gradients, and none of the caller's autocast."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def encode(
    source: str | os.PathLike[str] | Image | NDArray[Any],
    *,
    quality: float = 50,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    target_psnr: float | None = None,
    model: str | Path | checkpoint.Model = "base",
    device: str = "auto",
) -> bytes:
    """Encodes a picture and returns the bytes of a .nic file.

    source: a path, a PIL image, or an array (H, W[, C]) of uint8 or uint16.
    quality: 1 to 100; more is larger and better. Instead of it at most one target: target_bpp (file bits per pixel)
    or target_bytes take the best quality that fits, target_psnr (dB, 8-bit RGB) the smallest file that reaches it.
    model: the name of an installed model, a model file, or a loaded model. device: auto, cpu or cuda.

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
    if not isinstance(model, checkpoint.Model):
        model = checkpoint.load(model, device=device)
    if target_psnr is not None:
        return _encode_to_psnr(picture, model, target_psnr)
    if targets:
        pixels = picture.rgb.shape[0] * picture.rgb.shape[1]
        limit = target_bytes if target_bytes is not None else int(min(targets[0] * pixels / 8, 2**63))
        return _encode_to_bytes(picture, model, limit)
    return encode_picture(picture, model, quality_index(quality))


def decode(
    data: bytes | str | os.PathLike[str],
    *,
    realism: float = 0.0,
    region: tuple[int, int, int, int] | None = None,
    model: checkpoint.Model | None = None,
    device: str = "auto",
) -> Image:
    """Decodes a .nic file to a PIL image of mode L, LA, RGB or RGBA; ICC profile, EXIF and XMP are in its info.

    data: the bytes of the file, or its path. region: (x, y, width, height) in pixels, to decode only that part.
    realism: from 0, the reconstruction of least distortion, to 1, the most realistic one, which invents detail; above 0
        a generative decoder for the file's model must be installed.
    model: the loaded model with the file's id, to use instead of the installed one.

    Raises NicFormatError or a subclass for damaged data, ModelNotFoundError or ModelMismatchError for the model or the
    generative decoder, ValueError for a region outside the picture and a realism out of range.
    """
    if not 0 <= realism <= 1:
        raise ValueError(f"realism is {realism}; it must be a number from 0 to 1.")
    nic = container.read(container.read_bytes(data))
    if model is None:
        model = checkpoint.find(nic.header.model_id, device=device)
    return image.to_pil(decode_picture(nic, model, region=region, realism=realism))


def quality_index(quality: float) -> int:
    """The user's quality, 1 to 100, as the file's quality index, 0 to 960."""
    return round((quality - 1) / 99 * container.QUALITY_INDEX_MAX)


@_own_precision()
def encode_picture(picture: image.Picture, model: checkpoint.Model, index: int) -> bytes:
    """The bytes of a .nic file. index: quality index, 0 to 960, in 1/64 of a row of the model's gains.

    Raises ImageError for a picture of more than MAX_PIXELS.
    """
    height, width = picture.rgb.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"the picture has {height * width} pixels; at most {MAX_PIXELS} can be encoded.")
    edge = tiling.tile_edge(height, width)
    padded = image.pad_to_multiple(picture.rgb, LATENT)
    rows, columns = padded.shape[0] // LATENT, padded.shape[1] // LATENT

    tiles = []
    for window in tiling.windows(rows, columns, edge):
        y = _analyse(padded, window, model, index)
        tiles.append(_encode_latents(y, model, index))

    header = container.Header(width, height, index, model.model_id, picture.gray, edge)
    return container.write(container.NicFile(header, chunks_of(picture), tuple(tiles)))


def chunks_of(picture: image.Picture) -> dict[str, bytes]:
    """What a file holds besides the pixels, by the names of its chunks."""
    chunks = {container.ICC: picture.icc, container.EXIF: picture.exif, container.XMP: picture.xmp}
    if picture.alpha is not None:
        chunks[container.ALPHA] = image.encode_alpha(picture.alpha)
    if picture.depth > 8:
        chunks[container.DEPTH] = bytes([picture.depth])
    return {name: payload for name, payload in chunks.items() if payload}


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


@_own_precision()
def decode_picture(
    nic: container.NicFile,
    model: checkpoint.Model,
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
    _check_decodable(header, model)
    alpha = None
    if container.ALPHA in nic.chunks:
        alpha = image.decode_alpha(nic.chunks[container.ALPHA], header.width, header.height)
        alpha = alpha[y : y + height, x : x + width]
    rows, columns = -(-header.height // LATENT), -(-header.width // LATENT)
    wanted = tiling.region_window(region)
    synthesis = _synthesis(model, header.quality_index, realism)
    needed = wanted.grow(synthesis.halo, rows, columns)

    windows = list(tiling.windows(rows, columns, header.tile_edge))
    y_hat = np.zeros((needed.bottom - needed.top, needed.right - needed.left, model.config.latent_channels), np.int32)
    for window, tile in zip(windows, nic.tiles, strict=True):
        part = window.meet(needed)
        if part:
            latents = _decode_tile(tile, window, model, header.quality_index)
            y_hat[_slices(part, needed)] = latents.y_hat[_slices(part, window)]

    rgb = np.empty(((wanted.bottom - wanted.top) * LATENT, (wanted.right - wanted.left) * LATENT, 3), np.uint8)
    for window in windows:
        part = window.meet(wanted)
        if part:
            rgb[_slices(part, wanted, LATENT)] = _synthesise(y_hat, part, needed, synthesis)
    top, left = y - wanted.top * LATENT, x - wanted.left * LATENT
    return picture_of(nic, rgb[top : top + height, left : left + width], alpha)


@_own_precision()
def measured_tables(
    model: checkpoint.Model, pictures: Iterable[NDArray[np.uint8]], indexes: Sequence[int] = (90, 280, 480, 670, 870)
) -> Tables:
    """Tables of the symbols that a model really makes, to freeze it with: about 0.7 % smaller files than Gaussian ones.

    pictures: uint8 (H, W, 3), not those that results will be measured on. indexes: quality indexes to code them at.
    Counts are made symmetric and mixed with 200 symbols of the model's present tables in each row.
    """
    tables = model.tables
    reach = int(max(-tables.offsets.min(), (tables.offsets + tables.lengths - 2).max()))
    counts = np.zeros((tables.rows, 2 * reach + 1))
    for row in range(tables.rows):
        first = reach + int(tables.offsets[row])
        frequencies = tables.row(row)[:-1]
        counts[row, first : first + frequencies.size] = frequencies * (200.0 / frequencies.sum())
    for rgb in pictures:
        padded = image.pad_to_multiple(rgb, LATENT)
        window = Window(0, 0, padded.shape[0] // LATENT, padded.shape[1] // LATENT)
        for index in indexes:
            symbols, rows, _ = _quantise_latents(_analyse(padded, window, model, index), model, index)
            position = np.concatenate(symbols) + reach
            inside = (position >= 0) & (position <= 2 * reach)
            np.add.at(counts, (np.concatenate(rows)[inside], position[inside]), 1.0)
    return tables_from_histogram(counts + counts[:, ::-1], -reach)


@dataclass(frozen=True)
class Latents:
    """What the stream of a tile holds, int32: z_hat (ceil(h / 4), ceil(w / 4), N), the symbols of the four passes, each
    (h, w, M / 4), and y_hat (h, w, M) in units of 1/64."""

    z_hat: NDArray[np.int32]
    symbols: tuple[NDArray[np.int32], ...]
    y_hat: NDArray[np.int32]


def decode_latents(nic: container.NicFile, model: checkpoint.Model) -> list[Latents]:
    """The latents of each tile of a file, exactly; pixels are not computed. Raises what `decode_picture` raises."""
    header = nic.header
    _check_decodable(header, model)
    rows, columns = -(-header.height // LATENT), -(-header.width // LATENT)
    windows = tiling.windows(rows, columns, header.tile_edge)
    return [_decode_tile(t, w, model, header.quality_index) for w, t in zip(windows, nic.tiles, strict=True)]


def _check_decodable(header: container.Header, model: checkpoint.Model) -> None:
    """Whether this is the file's model, and its tiles are of a size that memory is taken for."""
    if header.model_id != model.model_id:
        raise ModelMismatchError(
            f"the file needs model {header.model_id.hex()}, and the model given is {model.model_id.hex()}."
        )
    longest = max(header.height, header.width)
    if min(longest, header.tile_edge or longest) > tiling.LARGEST:
        raise NicFormatError(f"the file has tiles of more than {tiling.LARGEST} pixels; this release refuses them.")


def analysis_halo(model: checkpoint.Model) -> int:
    """Latents beyond a tile that its analysis sees."""
    config = model.config
    return config.latent_blocks + -(-config.encoder_blocks // 2)


def synthesis_halo(model: checkpoint.Model) -> int:
    """Latents beyond a tile that its synthesis sees."""
    config = model.config
    return config.latent_blocks + -(-config.decoder_blocks // 2)


def _analyse(padded: NDArray[np.uint8], window: Window, model: checkpoint.Model, index: int) -> torch.Tensor:
    """Latents of one window, (1, M, h, w), from pixels with a halo around them."""
    rows, columns = padded.shape[0] // LATENT, padded.shape[1] // LATENT
    seen = window.grow(analysis_halo(model), rows, columns)
    pixels = padded[_slices(seen, Window(0, 0, rows, columns), LATENT)]
    x = to_tensor(pixels).to(device=model.device, memory_format=torch.channels_last)
    y: torch.Tensor = model.g_a(x, _row(index, model))
    inside = _slices(window, seen)
    return y[:, :, inside[0], inside[1]]


@dataclass(frozen=True)
class _Synthesis:
    """y_hat, float (1, M, h, w) in quantisation steps, to x_hat; and how many latents around a tile it sees."""

    network: Callable[[torch.Tensor], torch.Tensor]
    halo: int
    device: str


def _synthesis(model: checkpoint.Model, index: int, realism: float) -> _Synthesis:
    row = _row(index, model)
    if realism == 0:
        return _Synthesis(lambda y_hat: model.g_s(y_hat, row), synthesis_halo(model), model.device)
    generator = checkpoint.generator_of(model)
    beta = torch.tensor([realism], dtype=torch.float32, device=model.device)
    halo = synthesis_halo(model) + generator.halo()
    return _Synthesis(lambda y_hat: generator(y_hat, row, beta), halo, model.device)


def _synthesise(y_hat: NDArray[np.int32], window: Window, held: Window, synthesis: _Synthesis) -> NDArray[np.uint8]:
    """Pixels of one window, from latents (those of the window `held`) with a halo around them."""
    seen = window.grow(synthesis.halo, held.bottom, held.right)
    seen = seen.meet(held) or seen
    latents = torch.from_numpy(y_hat[_slices(seen, held)]).to(synthesis.device).permute(2, 0, 1)[None]
    return from_tensor(synthesis.network(latents.float() / UNIT))[_slices(window, seen, LATENT)]


def _encode_latents(y: torch.Tensor, model: checkpoint.Model, index: int) -> container.Tile:
    """Codes the latents of one tile."""
    symbols, rows, crc = _quantise_latents(y, model, index)
    calls = [part.size for part in symbols]
    stream = coder.encode(np.concatenate(symbols), np.concatenate(rows), model.tables, calls=calls, threads=_threads())
    return container.Tile(stream, crc)


def _quantise_latents(
    y: torch.Tensor, model: checkpoint.Model, index: int
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.uint8]], int]:
    """Symbols and table rows of one tile in coding order, z then y in four passes, and the checksum of the latents."""
    z = model.h_a(y, _row(index, model))
    values = y[0].permute(1, 2, 0).cpu().numpy()  # (h, w, M)
    height, width, _ = values.shape
    network = model.entropy

    z_rows = network.z_rows(index, height, width)
    z_hat = z[0].permute(1, 2, 0).round().clamp(-127, 127).cpu().numpy().astype(np.int32)
    coded, rows = [z_hat.ravel()], [z_rows.ravel()]

    passes = network.start(z_hat, index, height, width)
    for step in range(PASSES):
        means, table_rows = passes.predict()
        symbols = _quantise(gather(values, step).astype(np.float64) - means / UNIT)
        passes.put(_latents(symbols, means))
        coded.append(symbols.ravel())
        rows.append(table_rows.ravel())
    return coded, rows, _checksum(z_hat, passes.y_hat)


def _decode_tile(tile: container.Tile, window: Window, model: checkpoint.Model, index: int) -> Latents:
    """The latents of one tile. Raises ChecksumError if they are not the encoder's."""
    height, width = window.bottom - window.top, window.right - window.left
    network = model.entropy
    decoder = coder.Decoder(tile.stream, model.tables, threads=_threads())

    z_hat = decoder.decode(network.z_rows(index, height, width))
    passes = network.start(z_hat, index, height, width)
    symbols = []
    for _ in range(PASSES):
        means, rows = passes.predict()
        symbols.append(decoder.decode(rows))
        passes.put(_latents(symbols[-1], means))
    decoder.finish()
    if _checksum(z_hat, passes.y_hat) != tile.symbols_crc:
        raise ChecksumError(
            "the file decoded to other symbols than were encoded: it is damaged, or decoding is not exact."
        )
    return Latents(z_hat, tuple(symbols), passes.y_hat)


def _quantise(residual: NDArray[np.float64]) -> NDArray[np.int32]:
    """Nearest integers, clamped so that any float gives a symbol."""
    limit = MAX_LATENT // UNIT
    return np.clip(np.rint(np.nan_to_num(residual, nan=0.0)), -limit, limit).astype(np.int32)


def _latents(symbols: NDArray[np.int32], means: NDArray[np.int32]) -> NDArray[np.int32]:
    """y_hat in units of 1/64: symbol · 64 + mean, clamped. Symbols are clamped first: a forged stream may hold any."""
    limit = 1 << 20
    latents: NDArray[np.int32] = np.clip(np.clip(symbols, -limit, limit) * UNIT + means, -MAX_LATENT, MAX_LATENT)
    return latents


def _checksum(z_hat: NDArray[np.int32], y_hat: NDArray[np.int32]) -> int:
    """CRC-32 over z_hat, then y_hat in units of 1/64, as little-endian int32 in (row, column, channel) order."""
    crc = zlib.crc32(np.ascontiguousarray(z_hat, "<i4").tobytes())
    return zlib.crc32(np.ascontiguousarray(y_hat, "<i4").tobytes(), crc)


def _slices(inner: Window, outer: Window, scale: int = 1) -> tuple[slice, slice]:
    """Where `inner` lies in an array that holds `outer`, with `scale` elements a latent."""
    return (
        slice((inner.top - outer.top) * scale, (inner.bottom - outer.top) * scale),
        slice((inner.left - outer.left) * scale, (inner.right - outer.left) * scale),
    )


def _row(index: int, model: checkpoint.Model) -> torch.Tensor:
    return torch.tensor([index / QUALITY_STEPS], device=model.device)


def _threads() -> int:
    return torch.get_num_threads()


def _encode_to_bytes(picture: image.Picture, model: checkpoint.Model, limit: int) -> bytes:
    """The file of the highest quality index that has at most `limit` bytes."""
    smallest = encode_picture(picture, model, 0)
    if len(smallest) > limit:
        raise ImageError(f"{limit} bytes cannot be reached: at the lowest quality the file has {len(smallest)} bytes.")
    return _search(lambda index: encode_picture(picture, model, index), lambda data: len(data) <= limit, smallest)


def _encode_to_psnr(picture: image.Picture, model: checkpoint.Model, target: float) -> bytes:
    """The file of the lowest quality index whose picture has at least `target` dB."""

    def found(data: bytes) -> float:
        return psnr(decode_picture(container.read(data), model).rgb, picture.rgb)

    best = encode_picture(picture, model, container.QUALITY_INDEX_MAX)
    if (most := found(best)) < target:
        raise ImageError(f"{target} dB cannot be reached: the highest quality gives {most:.2f} dB.")
    index = container.QUALITY_INDEX_MAX
    return _search(lambda step: encode_picture(picture, model, index - step), lambda data: found(data) >= target, best)


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
