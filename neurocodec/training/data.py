"""Pictures for training: folders decoded once into memory-mapped files, and batches of random crops from them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from neurocodec import files
from neurocodec.collection import picture_suffixes
from neurocodec.errors import ConfigError, ImageError
from neurocodec.image import load
from neurocodec.training import synthetic
from neurocodec.training.config import DataConfig, RunConfig
from neurocodec.training.distributed import Processes
from neurocodec.training.schedule import Stage, in_last, seed_of, stages

Rgb = NDArray[np.uint8]
"""A picture, (H, W, 3); read-only."""
MAGNIFICATION = 4.0
"""Maximum factor of magnified crops."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run. training: those of `data.folder`, then those of each folder of `data.mix`."""

    training: dict[str, list[Rgb]]
    held_out: list[Rgb]

    @property
    def photographs(self) -> list[Rgb]:
        """Those of `data.folder` to train on."""
        return next(iter(self.training.values()))


def open_pictures(data: DataConfig, cache: Path) -> Pictures:
    """Decodes the pictures of a run, unless they are in the cache. Raises ConfigError, OutputError.

    Every `validation_every`-th picture of those that can be used is held out. The folders of `data.mix` contribute to
    them in proportion to their share of the crops, and may not overlap: a held-out picture is in no other folder.
    """
    training: dict[str, list[Rgb]] = {}
    held_out: list[Rgb] = []
    for folder, share in {data.folder: 1.0, **data.mix}.items():
        setting = f"data.{'mix' if training else 'folder'} is {folder!r}"
        root = Path(folder)
        if not folder or not root.is_dir():
            raise ConfigError(f"{setting}, which is not a folder: name a folder of photographs.")
        for other in training:
            one, two = root.resolve(), Path(other).resolve()
            if one == two or one in two.parents or two in one.parents:
                raise ConfigError(f"{setting}, which shares pictures with {other!r}: name folders that do not overlap.")
        pictures = decoded(find_images(root), cache, min_side=data.crop, source=setting, shorter_side=data.shorter_side)
        held_out += pictures[:: data.validation_every][: math.ceil(share * data.validation_images)]
        training[folder] = [picture for i, picture in enumerate(pictures) if i % data.validation_every]
    return Pictures(training, held_out)


def find_images(folder: Path) -> list[Path]:
    """All picture files below a folder, sorted by path."""
    suffixes = picture_suffixes()
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def decoded(paths: list[Path], cache: Path, *, min_side: int, source: str, shorter_side: int = 0) -> list[Rgb]:
    """The pictures in one memory-mapped file of the cache, shared by all processes of a machine.

    The file is named after the names, sizes and times of the pictures, so changed folders are decoded again. Pictures
    with a side under `min_side` and files that cannot be decoded are left out. Larger ones are scaled down to
    `shorter_side`, unless that is 0. Raises ConfigError, about the source, if fewer than two remain; OutputError.
    """
    stamp = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    sides = [min_side, shorter_side] if shorter_side else [min_side]
    key = hashlib.sha256(json.dumps([stamp, *sides]).encode()).hexdigest()[:16]
    pixels, index = cache / f"{key}.u8", cache / f"{key}.json"
    if not (index.exists() and pixels.exists()):
        files.make_folder(cache)
        with files.writing(pixels, force=True) as file:
            entries = [entry for path in paths if (entry := _append(path, file, min_side, shorter_side))]
            if len(entries) < 2:
                raise ConfigError(
                    f"{source}: of its {len(paths)} pictures, {len(entries)} can be decoded and have sides of at least "
                    f"{min_side} pixels, the size of a crop, and training needs two."
                )
        files.write_bytes(index, json.dumps(entries).encode(), force=True)
    values = np.asarray(np.memmap(pixels, dtype=np.uint8, mode="r"))
    return [
        values[offset : offset + height * width * 3].reshape(height, width, 3)
        for offset, height, width in json.loads(files.read_text(index))
    ]


def _append(path: Path, file: BinaryIO, min_side: int, shorter_side: int) -> tuple[int, int, int] | None:
    """Appends the pixels of a picture, if it can be used; returns where they begin, its height and its width."""
    try:
        rgb = load(path).rgb
    except ImageError:
        return None
    if min(rgb.shape[:2]) < min_side:
        return None
    if 0 < shorter_side < min(rgb.shape[:2]):
        height, width = (round(side * shorter_side / min(rgb.shape[:2])) for side in rgb.shape[:2])
        rgb = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))
    offset = file.tell()
    file.write(rgb.tobytes())
    return offset, rgb.shape[0], rgb.shape[1]


def as_tensor(rgb: Rgb, *, largest: int) -> Tensor:
    """A picture, its sides cut to `largest` and to multiples of 64: (1, 3, H, W) in [0, 1]."""
    height, width = (min(side, largest) // 64 * 64 for side in rgb.shape[:2])
    return torch.from_numpy(rgb[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255.0


class Crops:
    """Random crops of one size, from the pictures that are large enough, in proportion to their area.

    magnified: the share of the crops that is, because large pictures are smoother than small ones; drawn: the share of
    drawings, see `training.synthetic`; recoloured: the share of all but the drawings that is. Raises ConfigError if no
    picture is large enough.
    """

    def __init__(
        self, pictures: list[Rgb], size: int, *, magnified: float = 0.0, drawn: float = 0.0, recoloured: float = 0.0
    ) -> None:
        self._pictures = [picture for picture in pictures if min(picture.shape[:2]) >= size]
        self._areas = np.cumsum([picture.shape[0] * picture.shape[1] for picture in self._pictures])
        self._size, self._magnified, self._drawn, self._recoloured = size, magnified, drawn, recoloured
        if not self._pictures:
            raise ConfigError(
                f"none of the {len(pictures)} training pictures has sides of at least {size} pixels, as a crop."
            )

    def draw(self, rng: np.random.Generator) -> Rgb:
        """A crop, (size, size, 3), flipped and transposed at random."""
        picture = self._pictures[int(self._areas.searchsorted(rng.integers(self._areas[-1]), "right"))]
        kind = rng.random()
        magnify = kind < self._magnified
        side = round(self._size / MAGNIFICATION ** rng.random()) if magnify else self._size
        top, left = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
        crop = picture[top : top + side, left : left + side]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        crop = crop.transpose(1, 0, 2) if rng.random() < 0.25 else crop
        if magnify:
            size = (self._size, self._size)
            crop = np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize(size, Image.Resampling.BICUBIC))
        elif kind < self._magnified + self._drawn:
            return synthetic.draw(rng, self._size, crop)
        return recolour(rng, crop) if rng.random() < self._recoloured else crop


def recolour(rng: np.random.Generator, rgb: Rgb) -> Rgb:
    """A photograph in stronger or weaker colours, one in four also with its channels in another order; (H, W, 3) uint8.

    Pure, strong colours are rare in collections, and cost a codec that has not seen them half as much again.
    """
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = np.float32(np.exp(rng.uniform(np.log(0.5), np.log(3.0))))
    values = luma[:, :, None] + saturation * (rgb - luma[:, :, None])
    if rng.random() < 0.25:
        values = values[:, :, rng.permutation(3)]
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class Batches:
    """This process's part of the batches of step, step + 1, ..., prepared by `data.workers` threads.

    A batch is a function of seed, step and stage, whatever the number of threads and processes.
    """

    def __init__(self, pictures: Pictures, config: RunConfig, processes: Processes, step: int = 0) -> None:
        self._config, self._processes, self._step = config, processes, step
        self._stages = [(stage, self._crops(pictures, stage.crop)) for stage in stages(config, processes.world)]
        self._thresholds = np.cumsum(list(config.data.mix.values()))
        self._cuda = processes.device.type == "cuda"
        self._pool = ThreadPoolExecutor(config.data.workers, initializer=self._start_thread)
        self._ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()

    def next(self, fraction: float) -> tuple[Tensor, Tensor]:
        """x, uint8 (B, 3, size, size), channels-last, and quality_index, (B,), of the next step; pinned for a GPU.

        fraction: the share of the run done before this step. A run that ends by the clock enters its last stage a few
        steps late, because batches are prepared ahead.
        """
        while len(self._ahead) < 2 * self._config.data.workers:
            at = max(fraction, self._step / self._config.training.steps)
            stage, crops = self._stages[in_last(self._config.data.final_crop_share, at)]
            self._ahead.append(self._pool.submit(self._make, self._step, stage, crops))
            self._step += 1
        return self._ahead.popleft().result()

    def _start_thread(self) -> None:
        if self._cuda:
            torch.cuda.set_device(self._processes.device)  # memory is pinned for the current device

    def _crops(self, pictures: Pictures, size: int) -> list[Crops]:
        """Varied crops from `data.folder`, and unchanged ones from each folder of `data.mix`."""
        data, (photographs, *mix) = self._config.data, pictures.training.values()
        varied = {"magnified": data.magnified_share, "drawn": data.drawn_share, "recoloured": data.recoloured_share}
        return [*(Crops(folder, size) for folder in mix), Crops(photographs, size, **varied)]

    def _draw(self, crops: list[Crops], rng: np.random.Generator) -> Rgb:
        return crops[int(self._thresholds.searchsorted(rng.random(), "right")) if crops[1:] else 0].draw(rng)

    def _make(self, step: int, stage: Stage, crops: list[Crops]) -> tuple[Tensor, Tensor]:
        seed, processes = self._config.training.seed, self._processes
        members = range(processes.rank, stage.images, processes.world)
        draws = [np.random.default_rng(seed_of(seed, step, k, "crop")) for k in members]
        if self._config.data.in_turn:
            x = np.stack([crops[i % len(crops)].draw(rng) for i, rng in enumerate(draws)])
        else:
            x = np.stack([self._draw(crops, rng) for rng in draws])
        # Stratified, so that every batch and every process's part of it span the qualities.
        shift = np.random.default_rng(seed_of(seed, step, 0, "quality")).random()
        quality_index = (np.array(members) + shift) / stage.images * (self._config.quality_rows - 1)
        batch = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(quality_index.astype(np.float32))
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self._cuda else batch
