"""Probability tables measured on pictures, to freeze a trained model with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from neurocodec import image, tiles, tiling
from neurocodec.entropy.tables import Tables, tables_from_histogram
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.model import Model
from neurocodec.tiling import LATENT

QUALITY_INDEXES = (90, 280, 480, 670, 870)
PRIOR = 200.0
"""Symbols of the model's present tables that are mixed into the counts of each row."""


def measured_tables(
    model: Model, pictures: Iterable[NDArray[np.uint8]], indexes: Sequence[int] = QUALITY_INDEXES
) -> Tables:
    """Tables of the symbols that a model really produces: about 0.7 % smaller files than with Gaussian ones.

    pictures: uint8 (H, W, 3), not those that results will be measured on. indexes: quality indexes to code them at.
    Counts are made symmetric.
    """
    tables, network = model.tables, LayerwiseNetwork(model, TorchArithmetic())
    reach = int(max(-tables.offsets.min(), (tables.offsets + tables.lengths - 2).max()))
    counts = np.zeros((tables.rows, 2 * reach + 1))
    for row in range(tables.rows):
        first = reach + int(tables.offsets[row])
        frequencies = tables.row(row)[:-1]
        counts[row, first : first + frequencies.size] = frequencies * (PRIOR / frequencies.sum())
    for rgb in pictures:
        padded = image.pad_to_multiple(rgb, LATENT)
        window = tiling.picture_window(*padded.shape[:2])
        for index in indexes:
            stages, _ = network.walk(tiles.analyse(padded, window, network, index), index)
            for stage in stages:
                position = stage.symbols.ravel() + reach
                inside = (position >= 0) & (position <= 2 * reach)
                np.add.at(counts, (stage.rows.ravel()[inside], position[inside]), 1.0)
    return tables_from_histogram(counts + counts[:, ::-1], -reach)
