"""Pictures for the systems: reading and writing files, crops of held-out pictures, sheets of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from neurocodec import image
from neurocodec.errors import ImageError
from neurocodec.files import check_output
from neurocodec.models.pixels import from_tensor, to_tensor
from neurocodec.training.data import Rgb

MIN_SIDE = 32
LABEL = 14
"""Pixels: the height of the line above the columns of a sheet."""


def check(output: str, device: str, *, force: bool) -> None:
    """Raises a NeurocodecError, before minutes of work, if `write` would refuse the output or there is no GPU."""
    check_output(output, force=force)
    image.check_format(output)
    if device == "cuda" and not torch.cuda.is_available():
        raise ImageError("the device is cuda, but PyTorch finds no GPU: use cpu")


def read(path: str, size: int = 0, device: str = "cpu") -> Tensor:
    """The picture in a file, (1, 3, H, W) in [0, 1]; its shorter side is scaled to `size` pixels, unless that is 0.

    Raises ImageError.
    """
    rgb = image.load(path).rgb
    if size:
        if size < MIN_SIDE:
            raise ImageError(f"a size of {size} pixels, expected at least {MIN_SIDE}")
        picture = Image.fromarray(rgb)
        width, height = (max(size, round(side * size / min(picture.size))) for side in picture.size)
        rgb = image.load(picture.resize((width, height), Image.Resampling.LANCZOS)).rgb
    return to_tensor(rgb).to(device)


def write(x: Tensor, path: str, *, force: bool = False) -> None:
    """Writes x, (1, 3, H, W), in the format of the suffix. Raises ImageError, and OutputError if the file exists."""
    image.save_pil(Image.fromarray(from_tensor(x)), path, force=force)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """White noise of standard deviation 1, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def padded(network: Callable[[Tensor], Tensor], x: Tensor, multiple: int) -> Tensor:
    """network(x), (1, 3, H, W), for a network whose sides have to be multiples of `multiple`: the last row and column
    are repeated, and the output is cut to (H, W)."""
    height, width = x.shape[2:]
    y = network(F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate"))
    return y[:, :, :height, :width]


def centre_crops(pictures: Sequence[Rgb], side: int) -> Tensor:
    """The middle of each picture that is large enough, (N, 3, side, side) in [0, 1]."""
    crops = []
    for rgb in pictures:
        top, left = ((length - side) // 2 for length in rgb.shape[:2])
        if min(top, left) >= 0:
            crops.append(to_tensor(rgb[top : top + side, left : left + side]))
    return torch.cat(crops)


def sheet(columns: Mapping[str, Tensor]) -> Rgb:
    """Pictures beside each other under their names: a row for each picture, a column for each way to make it.

    columns: (N, 3, H, W) in [0, 1], of equal N; smaller pictures are enlarged to the largest, pixel by pixel.
    """
    side = max(x.shape[2] for x in columns.values())
    rows = [F.interpolate(x, scale_factor=side // x.shape[2]) for x in columns.values()]
    together = torch.cat(rows, 3)  # (N, 3, H, columns · W)
    picture = from_tensor(torch.cat(list(together), 1)[None])
    head = Image.new("RGB", (picture.shape[1], LABEL), "white")
    for i, name in enumerate(columns):
        ImageDraw.Draw(head).text((i * picture.shape[1] // len(columns) + 2, 1), name, fill="black")
    return np.concatenate([np.asarray(head), picture])


def grid(x: Tensor, columns: int) -> Tensor:
    """(N, 3, H, W) -> (1, 3, rows · H, columns · W), row by row; pictures beyond the last full row are left out."""
    rows = len(x) // columns
    tiles = x[: rows * columns].reshape(rows, columns, *x.shape[1:])  # (rows, columns, 3, H, W)
    return tiles.permute(2, 0, 3, 1, 4).reshape(1, 3, rows * x.shape[2], columns * x.shape[3])
