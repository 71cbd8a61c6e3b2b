"""Crops of decoded pictures at about the same bits, for report.html.

The pictures are those of which the first codec's files are smallest, middle and largest; the crop is where the original
has most structure. No choice depends on how well a codec does there.
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
from neurocodec.bench.curves import run_label
from neurocodec.bench.datasets import Dataset
from neurocodec.bench.quality import Metrics
from neurocodec.bench.rate_distortion import measure
from neurocodec.bench.rivals import Codec, bits_per_pixel, is_ours, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 288, 216
TARGETS = (0.15, 0.3)
"""bpp of the whole picture."""
RIVALS = 3
MAX_BYTES = 3_300_000
"""Of all crops together; a page grows by a third more."""


@dataclass(frozen=True)
class Crop:
    """webp: lossless, of the crop. setting, bpp, psnr, lpips: of the whole picture; None for the original."""

    codec: str
    webp: bytes
    setting: float | None = None
    bpp: float | None = None
    psnr: float | None = None
    lpips: float | None = None


@dataclass(frozen=True)
class Panel:
    """The same crop of one picture, original first. x, y: its corner."""

    picture: str
    target: float
    x: int
    y: int
    crops: tuple[Crop, ...]


def panels(
    results: dict[str, Any],
    dataset: Dataset,
    codecs: Sequence[Codec],
    *,
    pictures: int = 3,
    targets: Sequence[float] = TARGETS,
    metrics: Metrics | None = None,
) -> list[Panel]:
    """Panels of a run, as many as MAX_BYTES holds; none for no pictures. codecs: those of the run that are installed.

    They show JPEG, every nic, and the RIVALS others with the best BD-rates. Raises what a codec raises.
    """
    chosen = _shown(results, codecs)
    made: list[Panel] = []
    total = 0
    for name in _pictures(results, dataset, pictures):
        rgb = image.load(dataset.pictures[name]).rgb
        x, y = most_structure(rgb)
        cut = np.s_[y : y + HEIGHT, x : x + WIDTH]
        original = Crop("original", _webp(rgb[cut]))
        for target in targets:
            crops = [original]
            for codec in chosen:
                rows = [row for row in results["rows"] if (row["codec"], row["image"]) == (codec.name, name)]
                setting = setting_near(codec, rgb, target, {float(row["setting"]): row["bpp"] for row in rows})
                row, decoded = measure(codec, rgb, setting, metrics or Metrics())
                crops.append(Crop(codec.name, _webp(decoded[cut]), setting, row["bpp"], row["psnr"], row["lpips"]))
            total += sum(len(crop.webp) for crop in crops)
            if total > MAX_BYTES:
                return made
            made.append(Panel(name, target, x, y, tuple(crops)))
    return made


def most_structure(rgb: NDArray[np.uint8]) -> tuple[int, int]:
    """x and y of the WIDTH×HEIGHT window, or of less if the picture is smaller, in which the picture at a quarter of
    its size varies most: edges of things rather than fine texture. rgb: uint8 (H, W, 3)."""
    height, width = rgb.shape[0] // 4, rgb.shape[1] // 4
    if height < 2 or width < 2:
        return 0, 0
    small = rgb[: height * 4, : width * 4].reshape(height, 4, width, 4, 3).mean((1, 3, 4))
    energy = np.zeros_like(small)
    energy[1:] += np.abs(np.diff(small, axis=0))
    energy[:, 1:] += np.abs(np.diff(small, axis=1))
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = min(HEIGHT // 4, height), min(WIDTH // 4, width)
    windows = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    y, x = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(x) * 4, int(y) * 4


def setting_near(codec: Codec, rgb: NDArray[np.uint8], bpp: float, known: dict[float, float]) -> float:
    """The setting, between the ends of the codec's own, whose file is nearest to `bpp`; whole if its own settings are.

    known: bpp of settings measured already, which narrow the search.
    """
    settings = codec.settings()
    first, last = settings[0], settings[-1]
    low = max((s for s in known if known[s] < bpp), key=known.__getitem__, default=first)
    high = min((s for s in known if known[s] >= bpp), key=known.__getitem__, default=last)
    if (high - low) * (last - first) < 0:  # all known ones lie beyond an end
        low = high = low if low in known else high
    if all(setting == int(setting) for setting in (*settings, low, high)):
        step = 1 if high >= low else -1
        between: Sequence[float] = range(int(low), int(high) + step, step)
    else:
        between = np.geomspace(low, high, 33).tolist()
    return float(nearest(between, lambda s: known.get(s) or bits_per_pixel(codec.encode(rgb, s), rgb), bpp))


def _shown(results: dict[str, Any], codecs: Sequence[Codec]) -> list[Codec]:
    first = [codec for codec in codecs if codec.name == "jpeg"]
    ours = [codec for codec in codecs if is_ours(codec.name)]
    all_rates = results.get("bd_rates", ())
    rates = {
        rate["curve"]: rate["whole"]["value"]
        for rate in all_rates
        if rate["reference"] == all_rates[0]["reference"] and rate["whole"] is not None
    }
    others = [codec for codec in codecs if codec not in [*first, *ours]]
    others.sort(key=lambda codec: rates.get(run_label(codec.name), math.inf))
    return [*first, *ours, *others[:RIVALS]]


def _pictures(results: dict[str, Any], dataset: Dataset, count: int) -> list[str]:
    """From the picture with the smallest files to that with the largest, evenly spaced."""
    codec = next(iter(results["codecs"]))
    sizes: dict[str, list[float]] = {name: [] for name in dataset.pictures}
    for row in results["rows"]:
        if row["codec"] == codec and row["image"] in sizes:
            sizes[row["image"]].append(row["bpp"])
    order = sorted(sizes, key=lambda name: float(np.mean(sizes[name] or 0.0)))
    picked = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [order[index] for index in picked]


def _webp(rgb: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()
