"""Previews of .nic files: the latents are decoded, but a linear map replaces g_s.

The map gives the mean colours of the 4×4 squares within a latent's 16×16 pixels. `tools/fit_preview.py` fits it to the
output of g_s on photographs. It has a file of its own, because `decode` does not depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling

from neurocodec import arguments, codec, container, image, tiles, tiling
from neurocodec import model as model_files
from neurocodec.entropy.grid import QUALITY_STEPS, UNIT
from neurocodec.errors import NicFormatError, memory_errors
from neurocodec.integer.network import Network
from neurocodec.integer.transforms import LOG_GAIN_BITS
from neurocodec.model import PREVIEW_CELLS, Model
from neurocodec.tiling import LATENT, MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

GRAY = 128.0
"""Mid-gray, to which the map's output is added."""
_FRACTION_BITS = 24  # of the map's coefficients, so that products with latents are exact in float64 in any order
_ALPHA_BAND = 2**24  # pixels of the alpha plane in memory at once


@memory_errors()
def preview(
    data: bytes | str | os.PathLike[str] | IO[bytes],
    size: int,
    *,
    model: Model | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image:
    """A small version of the picture, in less than a third of the time of `neurocodec.decode` and with less memory.

    data: the bytes of the file, its path, or a file open for reading. size: the longest side of the result, in pixels;
    the picture is never enlarged. model, max_pixels: as in `decode`.

    Returns a PIL image of the same mode as `decode`, with the ICC profile but without EXIF and XMP. Up to a quarter of
    the picture's size it is an approximation, within a few levels of the reduced picture; `decode` makes larger ones,
    and those of files with palettes or of models without a map, in its own time and memory. Otherwise one tile is in
    memory at a time. Unlike `decode`, the pixels may change between releases and between versions of Pillow.

    Raises what `decode` raises.
    """
    size = arguments.integer("size", size, 1)
    nic, network = codec.parse(data, model, "auto")
    width, height = nic.header.width, nic.header.height
    if width * height > arguments.integer("max_pixels", max_pixels, 1, container.MAX_PIXELS):
        raise NicFormatError(
            f"the picture is {width} x {height} pixels, more than the limit of {max_pixels}: raise max_pixels if you "
            "trust it"
        )
    cells = next((n for n in (1, 2, 4) if max(width, height) * n >= size * LATENT), 0)
    arrays = model_files.find_preview(network.model) if cells else None
    if arrays is None or container.PALETTE in nic.chunks:
        picture, scale = codec.decode_picture(nic, network, max_pixels=max_pixels), 1.0
    else:
        scale = cells / LATENT
        picture = codec.picture_of(nic, *_reduced(nic, network, arrays, cells))
    picture.metadata = {name: value for name, value in picture.metadata.items() if name == container.ICC}
    im = image.to_pil(picture)
    shrink = min(1.0, size / max(width, height))
    sides = max(1, round(width * shrink)), max(1, round(height * shrink))
    return im.resize(sides, Resampling.LANCZOS, box=(0, 0, width * scale, height * scale))


def _reduced(
    nic: container.NicFile, network: Network, arrays: Mapping[str, NDArray[np.float32]], cells: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Pixels, uint8 (h · cells, w · cells, 3) for (h, w) latents, and alpha of the same size if the file has it."""
    header = nic.header
    codec.check_decodable(header, network.model)
    whole = tiling.picture_window(header.height, header.width)
    matrix, offset = linear_map(network.model, arrays, header.quality_index, cells)
    rgb = np.empty((whole.bottom * cells, whole.right * cells, 3), np.uint8)
    for window, tile in tiles.tiles_of(nic):
        y_hat = tiles.decode_tile(tile, window, network, header.quality_index).y_hat
        colours = np.rint(y_hat.reshape(-1, y_hat.shape[2]).astype(np.float64) @ matrix + offset).clip(0, 255)
        squares = colours.astype(np.uint8).reshape(*window.shape, cells, cells, 3).swapaxes(1, 2)
        part = rgb[window.within(whole, cells)]
        part[:] = squares.reshape(part.shape)
    return rgb, _reduced_alpha(nic, rgb.shape[0], rgb.shape[1], LATENT // cells)


def _reduced_alpha(nic: container.NicFile, rows: int, columns: int, side: int) -> NDArray[np.uint8] | None:
    """The alpha plane averaged over squares of `side` pixels, uint8 (rows, columns); None if the file has none."""
    if container.ALPHA not in nic.chunks and container.ALPHA16 not in nic.chunks:
        return None
    width, height = nic.header.width, nic.header.height
    alpha = np.empty((rows, columns), np.uint8)
    step = max(1, _ALPHA_BAND // width // side)
    for first in range(0, rows, step):
        top, bottom = min(first * side, height - 1), min((first + step) * side, height)
        band = codec.alpha_of(nic, (0, top, width, bottom - top))
        assert band is not None
        missing = min(step, rows - first) * side - len(band), columns * side - width
        band = np.pad(band, ((0, missing[0]), (0, missing[1])), mode="edge")
        alpha[first : first + step] = np.rint(band.reshape(-1, side, columns, side).mean((1, 3)))
    return alpha


def linear_map(
    model: Model, arrays: Mapping[str, NDArray[np.float32]], index: int, cells: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (M, 3 · cells²) for y_hat in units of 1/64, and offsets (3 · cells²,), at a quality index."""
    log_gains = model.arrays["g_s.log_y_gain"].astype(np.float64) / 2**LOG_GAIN_BITS
    scale = np.exp2(_row_of(log_gains, index)) * _row_of(arrays["scale"], index) / UNIT
    return (
        _on_grid(_mean_cells(scale[:, None] * arrays["weight"], cells)),
        _on_grid(_mean_cells(_row_of(arrays["bias"], index), cells)) + GRAY,
    )


def _row_of(rows: NDArray[Any], index: int) -> NDArray[np.float64]:
    """A per-quality parameter interpolated between its rows."""
    low = min(index // QUALITY_STEPS, len(rows) - 2)
    share = index / QUALITY_STEPS - low
    row: NDArray[np.float64] = rows[low].astype(np.float64) * (1 - share) + rows[low + 1].astype(np.float64) * share
    return row


def _mean_cells(colours: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Averages the colours of 4×4 cells, (..., 3 · 4²) -> (..., 3 · cells²)."""
    start, side = colours.shape[:-1], PREVIEW_CELLS // cells
    means: NDArray[np.float64] = colours.reshape(*start, cells, side, cells, side, 3).mean((-4, -2))
    return means.reshape(*start, -1)


def _on_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    grid: NDArray[np.float64] = np.rint(values * 2**_FRACTION_BITS) / 2**_FRACTION_BITS
    return grid
