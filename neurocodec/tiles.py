"""Tiles between pixels and streams: g_a and the search on the way in, latents and g_s on the way out.

The transforms read a margin of latents around a tile, the halo, so pixels and latents do not depend on where tiles end.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec import container, image, screen, tiling
from neurocodec.entropy.grid import QUALITY_STEPS
from neurocodec.errors import ChecksumError, MissingPackageError
from neurocodec.integer import hyper
from neurocodec.integer import lossless as residual
from neurocodec.integer.entropy import z_rows
from neurocodec.integer.generator import realism_step
from neurocodec.integer.network import Latents, Network
from neurocodec.integer.pixel_filter import HALO as FILTER_HALO
from neurocodec.integer.pixel_filter import PixelFilter, Statistics
from neurocodec.model import Model, find_generator
from neurocodec.tiling import LATENT, Window

MEASURED = 8
"""A filter is fitted to at most this many tiles of a picture."""


def windows_of(header: container.Header) -> Iterator[Window]:
    """The tiles of a file, row by row."""
    return tiling.windows(*tiling.picture_window(header.height, header.width).shape, header.tile_edge)


@dataclass(frozen=True)
class CodedTile:
    """A tile of a file. z_stream: that of its z_hat, empty if `record.stream` holds it."""

    record: container.Tile
    z_stream: bytes = b""


def tiles_of(nic: container.NicFile) -> Iterator[tuple[Window, CodedTile]]:
    """The tiles of a file, row by row, with their windows."""
    z_streams = container.tile_records(nic, container.Z_STREAMS)
    for window, record, z_stream in zip(windows_of(nic.header), nic.tiles, z_streams, strict=True):
        yield window, CodedTile(record, z_stream)


# ---------------------------------------------------------------------------------------------------- pixels → stream


def analyse(padded: NDArray[Any], window: Window, network: Network, index: int) -> NDArray[np.int32]:
    """y of one tile, (h, w, M) in units of 1/64.

    padded: the whole picture, uint8 or uint16 (H, W, 3) with H and W multiples of 16. index: quality index, 0 to 960.
    """
    whole = tiling.picture_window(*padded.shape[:2])
    support = window.grow(network.model.config.analysis_halo, *whole.shape)
    return network.analyse(padded[support.within(whole, LATENT)], index)[window.within(support)]


def search(
    start: tuple[bytes, Latents],
    picture: image.Picture,
    padded: NDArray[Any],
    window: Window,
    network: Network,
    index: int,
    effort: int,
    layout: str,
    progress: Callable[[float], None] | None,
) -> tuple[bytes, Latents]:
    """The stream and latents of one tile after a search, or `start` if bits + λ · squared error is no lower.

    Raises MissingPackageError without torch.
    """
    try:
        from neurocodec.models.search import STEPS
        from neurocodec.models.search import search as search_latents
    except ModuleNotFoundError as error:
        raise MissingPackageError("effort above 1 needs torch: pip install 'neurocodec[torch]'") from error

    config = network.model.config
    whole = tiling.picture_window(*padded.shape[:2])
    support = window.grow(config.synthesis_halo, *whole.shape)
    pixels = picture.rgb[support.within(whole, LATENT)]
    if pixels.dtype == np.uint16:
        pixels = pixels / np.float32(257)
    y_support = analyse(padded, support, network, index)
    z_hat = start[1].z_hat
    y = search_latents(
        *(pixels, y_support, z_hat, window, support, network.model, index, STEPS[effort]),
        gray=picture.gray,
        progress=progress,
    )
    synthesis, weight = synthesis_of(network, index, 0), float(config.lmbda(index / QUALITY_STEPS)) / 3

    def cost(stream: bytes, latents: Latents) -> float:
        y_hat = y_support.copy()  # neighbouring tiles contribute their latents before rounding
        y_hat[window.within(support)] = latents.y_hat
        rgb = synthesise(y_hat, support, support, synthesis)[: pixels.shape[0], : pixels.shape[1]]
        error = (to_gray(rgb) if picture.gray else rgb).astype(np.float64) - pixels
        return 8 * len(stream) + weight * float(np.square(error).sum())

    return min(start, network.encode(y, index, z_hat, layout), key=lambda candidate: cost(*candidate))


def error_weight(model: Model, index: int) -> float:
    """λ as the bits that a squared level of error in one sample is worth. index: quality index, 0 to 960."""
    return float(model.config.lmbda(index / QUALITY_STEPS)) / 3


def is_measured(part: int, parts: int) -> bool:
    """Whether a filter is fitted to this tile of a picture: to at most MEASURED, spread over it."""
    return part % -(-parts // MEASURED) == 0


def measure(
    statistics: Statistics,
    y_hat: NDArray[np.int32],
    picture: image.Picture,
    window: Window,
    network: Network,
    index: int,
) -> None:
    """Adds one tile of a picture to the statistics for its filter. y_hat: (h, w, M) in units of 1/64.

    The tile is decoded without its neighbours: pixels along its border differ a little from those of the file.
    """
    whole = tiling.picture_window(*picture.rgb.shape[:2])
    x = np.ascontiguousarray(image.at_depth(picture.rgb[window.within(whole, LATENT)], 16))
    x_hat = network.synthesise(y_hat, index, 16)[: x.shape[0], : x.shape[1]]
    statistics.add(np.ascontiguousarray(x_hat), x)


def filter_chunk(statistics: Statistics, model: Model, index: int) -> dict[str, bytes]:
    """The chunk of the filter fitted to a picture, or none if it costs more bits than λ times the error it removes."""
    found, gain = statistics.fit()
    cost = 8 * (container.FILTER_BYTES + 2 * container.RECORD_BYTES)  # the chunk, and the end of the list
    return {container.FILTER: found.payload} if error_weight(model, index) * gain > cost else {}


def palette_layer(
    nic: container.NicFile, rgb: NDArray[np.uint8], blocks: NDArray[np.bool_], network: Network
) -> screen.Layer | None:
    """The palettes of a picture, (H, W, 3), or None where they are worth nothing.

    nic: the picture as the networks code it. blocks: those that may have a palette, (h, w).
    """
    padded, index = image.pad_to_multiple(rgb, LATENT), nic.header.quality_index
    weight = error_weight(network.model, index)
    whole, coded = tiling.picture_window(*rgb.shape[:2]), dict(tiles_of(nic))
    chosen, records = np.zeros_like(blocks), dict[Window, bytes]()
    for row in decoded_rows(nic, network, whole, synthesis_of(network, index, 0, pixel_filter=filter_of(nic))):
        for window, pixels in row:
            part, inside = padded[window.within(whole, LATENT)], window.within(whole)
            latents, error = decode_tile(coded[window], window, network, index), screen.block_error(part, pixels)
            bits = screen.network_bits(latents.y_hat, len(coded[window].record.stream))
            if found := screen.find(part, blocks[inside], bits + weight * error, weight):
                palette, chosen[inside] = found
                records[window] = palette.record
    if not records:
        return None
    payload = container.join_records([records.get(window, b"") for window in coded])
    return screen.Layer({container.PALETTE: payload}, screen.filled(rgb, chosen))


def with_z_apart(
    nic: container.NicFile, z_hats: list[NDArray[np.int32]], network: Network, layout: str
) -> container.NicFile:
    """The file with z_hat in streams of its own if that makes it smaller: in large smooth pictures z repeats itself.

    nic: without such streams. z_hats: of its tiles.
    """
    index, model = nic.header.quality_index, network.model
    if max(int(np.abs(z_hat).max()) for z_hat in z_hats) > hyper.LARGEST:
        return nic
    streams = [hyper.encode(z_hat) for z_hat in z_hats]
    payload = container.join_records(streams)
    added = len(payload) + 2 * container.RECORD_BYTES  # with its chunk, and the end of the list
    rows = z_rows(model.arrays["entropy.z_index"], index)
    saved = sum(model.tables.bits(z_hat, np.broadcast_to(rows, z_hat.shape)) for z_hat in z_hats)
    if saved <= 8 * added:
        return nic
    records = []
    for (window, tile), z_hat in zip(tiles_of(nic), z_hats, strict=True):
        latents = decode_tile(tile, window, network, index)
        stream, _ = network.encode(latents.y_hat, index, z_hat, layout, apart=True)
        records.append(container.Tile(stream, tile.record.symbols_crc))
    return dataclasses.replace(nic, chunks=nic.chunks | {container.Z_STREAMS: payload}, tiles=tuple(records))


def residuals_of(nic: container.NicFile, rgb: NDArray[np.uint8], network: Network) -> tuple[container.Tile, ...]:
    """The residual records of a picture, uint8 (H, W, 3), after the lossy file `nic`."""
    whole = tiling.picture_window(nic.header.height, nic.header.width)
    records = {}
    rows = decoded_rows(nic, network, whole, synthesis_of(network, nic.header.quality_index, 0))
    for window, pixels in itertools.chain.from_iterable(rows):
        x_hat = _lossy_samples(pixels, window, nic.header)
        exact = np.ascontiguousarray(rgb[window.within(whole, LATENT)][..., : x_hat.shape[2]])
        records[window] = container.Tile(residual.encode(exact, x_hat), zlib.crc32(exact.data))
    return tuple(records[window] for window in windows_of(nic.header))


# ---------------------------------------------------------------------------------------------------- stream → pixels


def decode_tile(tile: CodedTile, window: Window, network: Network, index: int) -> Latents:
    """The latents of one tile.

    Raises NicFormatError or a subclass for a damaged stream, ChecksumError if the latents are not the encoder's.
    """
    latents = network.decode(tile.record.stream, *window.shape, index, tile.z_stream)
    if latents.checksum() != tile.record.symbols_crc:
        raise ChecksumError(
            "the decoded symbols do not match the file's checksum: the file is damaged, or decoding is not exact."
        )
    return latents


@dataclass(frozen=True)
class Synthesis:
    """A decoder network: y_hat, int32 (h, w, M) in units of 1/64, to pixels, uint8 or uint16 (16 h, 16 w, 3).

    halo: how many latents beyond a window its pixels depend on.
    """

    run: Callable[[NDArray[np.int32]], NDArray[Any]]
    halo: int


def synthesis_of(
    network: Network, index: int, realism: float, depth: int = 8, pixel_filter: PixelFilter | None = None
) -> Synthesis:
    """g_s, or for a realism above 0 the generative decoder. depth: bits per sample, 8 or 16.

    pixel_filter: that of the file, which applies to the pixels of g_s alone. Raises ModelNotFoundError if the model has
    no generative decoder.
    """
    step, halo = realism_step(realism), network.model.config.synthesis_halo
    if step:
        halo += find_generator(network.model).config.halo
    elif pixel_filter:
        return Synthesis(lambda y_hat: pixel_filter(network.synthesise(y_hat, index, 16), depth), halo + FILTER_HALO)
    return Synthesis(lambda y_hat: network.synthesise(y_hat, index, depth, step), halo)


def filter_of(nic: container.NicFile) -> PixelFilter | None:
    """The filter of a file, or None."""
    payload = nic.chunks.get(container.FILTER)
    return PixelFilter.of(payload) if payload else None


def synthesise(y_hat: NDArray[np.int32], buffer: Window, window: Window, synthesis: Synthesis) -> NDArray[Any]:
    """Pixels of one window, (16 h, 16 w, 3). y_hat: the latents of the window `buffer`, in units of 1/64."""
    support = window.grow(synthesis.halo, buffer.bottom, buffer.right).intersect(buffer) or window
    return synthesis.run(y_hat[support.within(buffer)])[window.within(support, LATENT)]


def visible_rows(
    nic: container.NicFile,
    network: Network,
    region: tuple[int, int, int, int],
    synthesis: Synthesis,
    progress: Callable[[float], None] | None,
) -> Iterator[Iterator[tuple[Window, NDArray[Any]]]]:
    """For each row of tiles, windows that cover a region (x, y, width, height), with their pixels.

    Pixels are exact if the file has residuals, whose tiles are decoded whole.
    """
    view = tiling.region_window(region)
    if not nic.residuals:
        palettes, step = screen.palettes_of(nic), (nic.header.tile_edge or 2**24) // LATENT
        for row in decoded_rows(nic, network, view, synthesis, progress):
            yield ((window, _with_palette(pixels, window, palettes, step)) for window, pixels in row)
        return
    residuals = dict(zip(windows_of(nic.header), nic.residuals, strict=True))
    tiles = [window for window in residuals if window.intersect(view)]
    view = Window(tiles[0].top, tiles[0].left, tiles[-1].bottom, tiles[-1].right)
    for row in decoded_rows(nic, network, view, synthesis, progress):
        yield ((window, _exact(pixels, window, residuals[window], nic.header)) for window, pixels in row)


def decoded_rows(
    nic: container.NicFile,
    network: Network,
    view: Window,
    synthesis: Synthesis,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Iterator[tuple[Window, NDArray[Any]]]]:
    """For each row of tiles, the part of each tile inside the window `view`, with its pixels. progress: as in `decode`.

    The latents of about two rows of tiles are in memory at a time, because pixels depend on neighbouring tiles.
    """
    header = nic.header
    support = view.grow(synthesis.halo, *tiling.picture_window(header.height, header.width).shape)
    buffer = Window(support.top, support.left, support.top, support.right)
    y_hat = np.empty((*buffer.shape, network.model.config.latent_channels), np.int32)
    waiting: list[Window] = []  # for the row of tiles below them
    completed = 0

    def with_progress(parts: Iterator[tuple[Window, NDArray[Any]]]) -> Iterator[tuple[Window, NDArray[Any]]]:
        nonlocal completed
        for window, pixels in parts:
            yield window, pixels
            completed += math.prod(window.shape)
            if progress:
                progress(completed / math.prod(view.shape))

    tiles = [(window, tile) for window, tile in tiles_of(nic) if window.intersect(support)]
    for _, group in itertools.groupby(tiles, key=lambda item: item[0].top):
        row = list(group)
        top = max(buffer.top, min((w.top for w in waiting), default=buffer.bottom) - synthesis.halo)
        grown = Window(top, support.left, min(row[0][0].bottom, support.bottom), support.right)
        kept, y_hat = y_hat[top - buffer.top :], np.empty((*grown.shape, y_hat.shape[2]), np.int32)
        y_hat[: len(kept)], buffer = kept, grown
        del kept  # and with it the latents of the rows above
        for window, tile in row:
            latents = decode_tile(tile, window, network, header.quality_index)
            part = window.intersect(support) or window
            y_hat[part.within(buffer)] = latents.y_hat[part.within(window)]
            if visible := window.intersect(view):
                waiting.append(visible)
        ready = [w for w in waiting if min(w.bottom + synthesis.halo, support.bottom) <= buffer.bottom]
        waiting = waiting[len(ready) :]
        for _, windows in itertools.groupby(ready, key=lambda window: window.top):
            yield with_progress((window, synthesise(y_hat, buffer, window, synthesis)) for window in windows)


def _with_palette(pixels: NDArray[Any], window: Window, palettes: screen.Palettes, step: int) -> NDArray[Any]:
    """Draws the palette of the tile that a window lies in, if it has one, over its pixels. step: latents of a tile."""
    corner = window.top // step * step, window.left // step * step
    if corner in palettes:
        tile, palette = palettes[corner]
        pixels = np.ascontiguousarray(pixels)
        palette.draw(pixels, window, tile)
    return pixels


def _exact(
    pixels: NDArray[np.uint8], window: Window, record: container.Tile, header: container.Header
) -> NDArray[np.uint8]:
    """The exact pixels of a tile, uint8 (h, w, 3) inside the picture, from the lossy ones."""
    exact = residual.decode(record.stream, _lossy_samples(pixels, window, header))
    if zlib.crc32(exact.data) != record.symbols_crc:
        raise ChecksumError("the file decoded to other pixels than were encoded: it is damaged.")
    return np.broadcast_to(exact, (*exact.shape[:2], 3))


def _lossy_samples(pixels: NDArray[np.uint8], window: Window, header: container.Header) -> NDArray[np.uint8]:
    """What the residual of a tile is relative to: its lossy pixels inside the picture, uint8 (h, w, 3 or 1)."""
    x_hat = pixels[: header.height - window.top * LATENT, : header.width - window.left * LATENT]
    return to_gray(x_hat)[..., :1] if header.gray else x_hat


def to_gray(rgb: NDArray[Any]) -> NDArray[Any]:
    """Sets each channel of (H, W, 3) to the rounded mean of the three, in place, and returns the array."""
    for row in rgb:
        row[:] = ((row.sum(axis=1, dtype=np.uint32) + 1) // 3)[:, None]
    return rgb
