"""Pictures for training: a folder tree decoded once into a memory-mapped file, and random crops from it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from neurocodec.errors import ConfigError, ImageError
from neurocodec.image import load

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".avif"}


def find_images(folder: str | Path) -> list[Path]:
    """All picture files below a folder, sorted by path. Raises ConfigError if there are none."""
    root = Path(folder)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ConfigError(f"no pictures found below {str(folder)!r}; set data.folder to a folder of photographs.")
    return paths


class Photographs:
    """Decoded RGB pictures in one memory-mapped file, shared by all processes of a machine.

    The cache is keyed by the names, sizes and times of the files, so changed folders are decoded again.
    Pictures with a side under `min_side` are left out, as are files that cannot be decoded.
    """

    def __init__(self, paths: list[Path], cache: str | Path, *, min_side: int = 0) -> None:
        stamp = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
        key = hashlib.sha256(json.dumps([stamp, min_side]).encode()).hexdigest()[:16]
        pixels, index = Path(cache) / f"{key}.u8", Path(cache) / f"{key}.json"
        if not index.exists():
            Path(cache).mkdir(parents=True, exist_ok=True)
            _decode_all(paths, pixels, index, min_side)
        self.entries: list[tuple[int, int, int]] = [tuple(entry) for entry in json.loads(index.read_text())]
        if not self.entries:
            raise ConfigError(f"none of the {len(paths)} pictures has sides of at least {min_side} pixels.")
        self._pixels = np.asarray(np.memmap(pixels, dtype=np.uint8, mode="r"))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        """The i-th picture, (H, W, 3) uint8, a read-only view."""
        offset, height, width = self.entries[i]
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    def tensor(self, i: int, *, multiple: int = 64, largest: int = 1 << 30) -> Tensor:
        """The i-th picture, sides cut to multiples of `multiple` and to `largest`: (1, 3, H, W) in [0, 1]."""
        height, width = (min(side, largest) // multiple * multiple for side in self[i].shape[:2])
        return torch.from_numpy(self[i][:height, :width].copy()).permute(2, 0, 1)[None].float() / 255.0


def _decode_all(paths: list[Path], pixels: Path, index: Path, min_side: int) -> None:
    entries, offset = [], 0
    temporary = pixels.with_suffix(f".{os.getpid()}.part")
    Image.init()
    with open(temporary, "wb") as out:
        for path in paths:
            try:
                rgb = load(path).rgb
            except ImageError:
                continue
            if min(rgb.shape[:2]) < min_side:
                continue
            out.write(rgb.tobytes())
            entries.append([offset, rgb.shape[0], rgb.shape[1]])
            offset += rgb.size
    temporary.replace(pixels)
    part = index.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(entries))
    part.replace(index)


def random_crops(photographs: Photographs, rng: np.random.Generator, count: int, size: int) -> Tensor:
    """`count` random crops with random flips and transposition, (count, 3, size, size) in [0, 1], channels-last.

    Pictures are drawn in proportion to their area.
    """
    areas = np.array([height * width for _, height, width in photographs.entries], dtype=np.float64)
    batch = np.empty((count, size, size, 3), dtype=np.uint8)
    for k, i in enumerate(rng.choice(len(photographs), size=count, p=areas / areas.sum())):
        picture = photographs[int(i)]
        top = int(rng.integers(picture.shape[0] - size + 1))
        left = int(rng.integers(picture.shape[1] - size + 1))
        crop = picture[top : top + size, left : left + size]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        crop = crop.transpose(1, 0, 2) if rng.random() < 0.25 else crop
        batch[k] = crop
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255.0
