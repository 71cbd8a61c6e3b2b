"""Crops of decoded pictures at about the same bits, for report.html.

The pictures are evenly spaced in the data set; the crop is where the original has most structure. No choice depends on
how well a codec does there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from neurocodec import image
from neurocodec.bench.datasets import Dataset
from neurocodec.bench.pages import Html, data_url, fill, join
from neurocodec.bench.results import Row
from neurocodec.bench.rivals import Codec, is_ours

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 288, 216
TARGETS = (0.15, 0.3)
"""bpp of the whole picture."""
RIVALS = 3


_HEADING = (
    '<h2>Crops at about the same bits</h2><p class="note">Lossless crops of decoded pictures, where the original has '
    "most structure, each codec at its measured setting nearest to the rate. Numbers are of the whole picture.</p>"
)
_SECTION = '<h3>$picture at about $target bits per pixel</h3><div class="crops">$figures</div>'
_FIGURE = (
    '<figure><img src="$url" alt="$alt" data-name="$codec$numbers" width="$width" height="$height">'
    "<figcaption><b>$codec</b>$caption</figcaption></figure>"
)


def html(results: dict[str, Any], dataset: Dataset, codecs: Sequence[Codec], count: int = 3) -> Html:
    """A section for each of `count` pictures and TARGETS: the original, JPEG, every nic, and the first RIVALS others,
    at the measured setting nearest to the target. codecs: those of the run that are installed. Raises what they raise.
    """
    ours = [codec for codec in codecs if codec.name == "jpeg" or is_ours(codec.name)]
    shown = [*ours, *[codec for codec in codecs if codec not in ours][:RIVALS]]
    names = list(dataset.pictures)
    sections = [Html(_HEADING)] if count else []
    for index in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int):
        name = names[index]
        rgb = image.load(dataset.pictures[name]).rgb
        x, y = most_structure(rgb)
        cut = np.s_[y : y + HEIGHT, x : x + WIDTH]
        for target in TARGETS:
            figures = [_figure(name, "original", rgb[cut])]
            for codec in shown:
                rows = [row for row in results["rows"] if (row["codec"], row["image"]) == (codec.name, name)]
                row = min(rows, key=lambda row: abs(math.log(row["bpp"] / target)))
                decoded = codec.decode(codec.encode(rgb, row["setting"]))
                figures.append(_figure(name, codec.name, decoded[cut], row))
            sections.append(fill(_SECTION, picture=name, target=f"{target:g}", figures=join(figures)))
    return join(sections)


def _figure(picture: str, codec: str, rgb: NDArray[np.uint8], row: Row | None = None) -> Html:
    """row: of the results, with the numbers of the caption; None for the original."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(out, "WEBP", lossless=True, method=4)
    values = {"codec": codec, "caption": "", "numbers": ""}
    if row is not None:
        numbers = [f"{row['bpp']:.3f} bpp", "lossless" if row["psnr"] is None else f"{row['psnr']:.2f} dB"]
        numbers += [] if row["lpips"] is None else [f"LPIPS {row['lpips']:.3f}"]
        values["caption"] = f", setting {row['setting']:.4g}: {', '.join(numbers)}"
        values["numbers"] = f", {', '.join(numbers[:2])}"
    values["alt"] = f"Crop of {picture}, {codec}{values['caption']}"
    height, width = rgb.shape[:2]
    return fill(_FIGURE, url=data_url("webp", out.getvalue()), width=width, height=height, **values)


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
