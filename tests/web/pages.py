"""Pictures that need a palette, and whose z is apart."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def text_page(width: int, height: int, written: int) -> Image.Image:
    """A smooth picture, whose first `written` columns are text on flat ground."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([200 * x // width, 200 * y // height, 100 * (x + y) // (width + height)], axis=2)
    pixels += np.random.default_rng(0).integers(0, 3, pixels.shape)  # no flat shapes
    pixels[:, :written] = 250, 250, 240
    im = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(im)
    for top in range(2, height, 16):
        draw.text((3, top), ("letters, lines, flat shapes " * 4)[: written // 7], fill=(20, top % 160, 60))
    return im
