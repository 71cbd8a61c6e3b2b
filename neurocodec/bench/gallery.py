"""Crops of decoded pictures at about the same bits: what the numbers look like.

Pictures are those of which the first codec's files are smallest, middle and largest; the crop is where the picture has
most structure. Both are chosen by the original alone or by sizes, not by how any codec fares there.
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
from neurocodec.bench.codecs import Codec, is_ours
from neurocodec.bench.curves import run_label
from neurocodec.bench.datasets import Dataset
from neurocodec.bench.measures import Measures
from neurocodec.bench.rate_distortion import measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 288, 216
TARGETS = (0.15, 0.3)
"""bpp of the whole picture."""
RIVALS = 3
MAX_BYTES = 3_300_000
"""Of all crops together; a page grows by a third of it more."""

_CLOSE_ENOUGH = 0.02
_TRIES = 8


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
    """The same crop of one picture, original first. x, y: where it lies."""

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
    measures: Measures | None = None,
) -> list[Panel]:
    """Panels of a run, as many as MAX_BYTES holds; none for no pictures. codecs: those of the run that are installed.

    Shown are JPEG, every nic, and of the others the RIVALS with the best BD-rates. Raises what a codec raises.
    """
    chosen = _shown(results, codecs)
    found: list[Panel] = []
    total = 0
    for name in _pictures(results, dataset, pictures):
        rgb = image.load(dataset.pictures[name]).rgb
        x, y = most_structure(rgb)
        cut = np.s_[y : y + HEIGHT, x : x + WIDTH]
        original = Crop("original", _webp(rgb[cut]))
        for target in targets:
            crops = [original]
            for codec in chosen:
                row, decoded = _near(codec, rgb, target, _known(results, codec.name, name), measures or Measures())
                crops.append(
                    Crop(codec.name, _webp(decoded[cut]), row["setting"], row["bpp"], row["psnr"], row["lpips"])
                )
            total += sum(len(crop.webp) for crop in crops)
            if total > MAX_BYTES:
                return found
            found.append(Panel(name, target, x, y, tuple(crops)))
    return found


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


def _shown(results: dict[str, Any], codecs: Sequence[Codec]) -> list[Codec]:
    first = [codec for codec in codecs if codec.name == "jpeg"]
    ours = [codec for codec in codecs if is_ours(codec.name)]
    reference = next((rate["reference"] for rate in results.get("bd_rates", ())), None)
    rates = {
        rate["curve"]: rate["whole"]["value"]
        for rate in results.get("bd_rates", ())
        if rate["reference"] == reference and rate["whole"] is not None
    }
    others = [codec for codec in codecs if codec not in [*first, *ours]]
    others.sort(key=lambda codec: rates.get(run_label(codec.name), math.inf))
    return [*first, *ours, *others[:RIVALS]]


def _pictures(results: dict[str, Any], dataset: Dataset, count: int) -> list[str]:
    """From the picture with the smallest files to that with the largest, evenly."""
    codec = next(iter(results["codecs"]))
    sizes: dict[str, list[float]] = {}
    for row in results["rows"]:
        if row["codec"] == codec and row["image"] in dataset.pictures:
            sizes.setdefault(row["image"], []).append(row["bpp"])
    order = sorted(dataset.pictures, key=lambda name: float(np.mean(sizes.get(name, [0.0]))))
    picked = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [order[index] for index in picked]


def _known(results: dict[str, Any], codec: str, picture: str) -> dict[float, float]:
    """bpp by setting, as measured already."""
    return {
        float(row["setting"]): row["bpp"] for row in results["rows"] if (row["codec"], row["image"]) == (codec, picture)
    }


def _near(
    codec: Codec, rgb: NDArray[np.uint8], target: float, known: dict[float, float], measures: Measures
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """A row and the decoded picture at the setting whose file comes near `target` bpp, from what is known and a few
    more files at settings between."""
    bpps = dict(known)
    for _ in range(_TRIES):
        best = min(bpps, key=lambda setting: abs(math.log(bpps[setting] / target)), default=None)
        if best is not None and abs(math.log(bpps[best] / target)) <= _CLOSE_ENOUGH:
            break
        setting = _next_setting(codec, bpps, target)
        if setting is None:
            break
        bpps[setting] = 8.0 * len(codec.encode(rgb, setting)) / (rgb.shape[0] * rgb.shape[1])
    setting = min(bpps, key=lambda setting: abs(math.log(bpps[setting] / target)))
    return measure(codec, rgb, setting, measures)


def _next_setting(codec: Codec, bpps: dict[float, float], target: float) -> float | None:
    """A setting not tried yet, where ln(bpp) would reach the target if it were linear in ln(setting) between the
    neighbours: a whole number if the codec's own settings are; an end of its settings if all that was tried lies on one
    side; or None."""
    settings = codec.settings()
    below = [setting for setting in bpps if bpps[setting] < target]
    above = [setting for setting in bpps if bpps[setting] >= target]
    if not below or not above:
        return next((setting for setting in (settings[0], settings[-1]) if setting not in bpps), None)
    low, high = max(below, key=bpps.__getitem__), min(above, key=bpps.__getitem__)
    share = math.log(target / bpps[low]) / math.log(bpps[high] / bpps[low])
    guess = low * (high / low) ** share if low * high > 0 else low + share * (high - low)
    if all(setting == int(setting) for setting in settings):
        between = range(int(min(low, high)) + 1, math.ceil(max(low, high)))
        return min((float(setting) for setting in between), key=lambda setting: abs(setting - guess), default=None)
    return guess if guess not in bpps else None


def _webp(rgb: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()
