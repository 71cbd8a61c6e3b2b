"""Crops of decoded pictures at about the same bits, for report.html.

The pictures are evenly spaced in the data set; the crop is where the original has most structure. No choice depends on
how well a codec does there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec import image
from neurocodec.bench.datasets import Dataset
from neurocodec.bench.results import Row
from neurocodec.bench.rivals import Codec, is_ours

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 288, 216
TARGETS = (0.15, 0.3)
"""bpp of the whole picture."""
RIVALS = 3


@dataclass(frozen=True)
class Crop:
    """webp: lossless, of the crop. row: of the whole picture in the results; None for the original."""

    codec: str
    webp: bytes
    row: Row | None = None


@dataclass(frozen=True)
class Panel:
    """The same crop of one picture, original first. x, y: its corner."""

    picture: str
    target: float
    x: int
    y: int
    crops: tuple[Crop, ...]


def panels(results: dict[str, Any], dataset: Dataset, codecs: Sequence[Codec], count: int = 3) -> list[Panel]:
    """A panel of `count` pictures at each of TARGETS: JPEG, every nic, and the first RIVALS others, at the measured
    setting nearest to the target. codecs: those of the run that are installed. Raises what a codec raises."""
    ours = [codec for codec in codecs if codec.name == "jpeg" or is_ours(codec.name)]
    shown = [*ours, *[codec for codec in codecs if codec not in ours][:RIVALS]]
    names = list(dataset.pictures)
    made = []
    for index in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int):
        name = names[index]
        rgb = image.load(dataset.pictures[name]).rgb
        x, y = most_structure(rgb)
        cut = np.s_[y : y + HEIGHT, x : x + WIDTH]
        for target in TARGETS:
            crops = [Crop("original", _webp(rgb[cut]))]
            for codec in shown:
                rows = [row for row in results["rows"] if (row["codec"], row["image"]) == (codec.name, name)]
                row = min(rows, key=lambda row: abs(math.log(row["bpp"] / target)))
                decoded = codec.decode(codec.encode(rgb, row["setting"]))
                crops.append(Crop(codec.name, _webp(decoded[cut]), row))
            made.append(Panel(name, target, x, y, tuple(crops)))
    return made


def most_structure(rgb: NDArray[np.uint8]) -> tuple[int, int]:
    """x and y of the WIDTH×HEIGHT window, or of less if the picture is smaller, in which the picture at a quarter of
    its size varies most: edges of things rather than fine texture. rgb: uint8 (H, W, 3)."""
    height, width = rgb.shape[0] // 4, rgb.shape[1] // 4
    if height < 2 or width < 2:
        return 0, 0
    small = rgb[: height * 4, : width * 4].reshape(height, 4, width, 4, 3).mean((1, 3, 4))
    energy = np.abs(np.diff(small, axis=0, prepend=small[:1])) + np.abs(np.diff(small, axis=1, prepend=small[:, :1]))
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = min(HEIGHT // 4, height), min(WIDTH // 4, width)
    windows = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    y, x = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(x) * 4, int(y) * 4


def _webp(rgb: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()
