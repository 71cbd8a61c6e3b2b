"""Pictures for training: folders decoded once into memory-mapped files, and batches of random crops from them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from neurocodec import files
from neurocodec.errors import ConfigError, ImageError
from neurocodec.image import load
from neurocodec.training import synthetic
from neurocodec.training.config import Config, DataConfig
from neurocodec.training.distributed import Processes
from neurocodec.training.schedule import Stage, in_last, seed_of, stages

MAGNIFICATION = 4.0
"""Maximum factor of magnified crops."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".avif"}


def find_images(folder: str | Path, setting: str = "data.folder") -> list[Path]:
    """All picture files below a folder, sorted by path. Raises ConfigError, about that setting, if there are none."""
    root = Path(folder)
    if not str(folder) or not root.is_dir():
        raise ConfigError(f"{setting} is {str(folder)!r}, which is not a folder: name a folder of photographs.")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ConfigError(f"{setting} is {str(folder)!r}, which holds no pictures: name a folder of photographs.")
    return paths


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run: those of `data.folder`, those of each folder of `data.mix`, and the held-out ones.

    counts: of the pictures to train on, by folder.
    """

    photographs: Photographs
    mix: tuple[Photographs, ...]
    held_out: Photographs
    counts: dict[str, int] = field(default_factory=dict)


def open_pictures(data: DataConfig, run: Path) -> Pictures:
    """Decodes the pictures of a run, unless they are in the cache. Raises ConfigError, OutputError.

    The folders of `data.mix` contribute to the held-out pictures in proportion to their share of the crops.
    """
    cache, every = data.cache or run / "cache", data.validation_every
    held_out: list[Path] = []
    training: list[Photographs] = []
    folders = [(data.folder, "data.folder", 1.0), *((name, "data.mix", share) for name, share in data.mix.items())]
    for folder, setting, share in folders:
        paths = find_images(folder, setting)
        if len(paths) < 2:
            raise ConfigError(f"{setting} is {folder!r}, which holds one picture, and training needs two.")
        held_out += paths[::every][: math.ceil(share * data.validation_images)]
        training.append(Photographs([p for i, p in enumerate(paths) if i % every], cache, min_side=data.crop))
    counts = {folder: len(photographs) for (folder, _, _), photographs in zip(folders, training, strict=True)}
    return Pictures(training[0], tuple(training[1:]), Photographs(held_out, cache, min_side=data.crop), counts)


class Photographs:
    """Decoded RGB pictures in one memory-mapped file, shared by all processes of a machine.

    The cache is keyed by the names, sizes and times of the files, so changed folders are decoded again. Pictures with a
    side under `min_side` and files that cannot be decoded are left out. Raises ConfigError if none remains, OutputError
    if the cache cannot be written.
    """

    def __init__(self, paths: list[Path], cache: str | Path, *, min_side: int = 0) -> None:
        stamp = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
        key = hashlib.sha256(json.dumps([stamp, min_side]).encode()).hexdigest()[:16]
        pixels, index = Path(cache) / f"{key}.u8", Path(cache) / f"{key}.json"
        if not (index.exists() and pixels.exists()):
            files.make_folder(cache)
            _decode_all(paths, pixels, index, min_side)
        self.entries: list[tuple[int, int, int]] = [tuple(entry) for entry in json.loads(index.read_text())]
        if not self.entries:
            raise ConfigError(
                f"none of the {len(paths)} pictures from {paths[0]} on can be decoded and has sides of at least "
                f"{min_side} pixels, the size of a crop."
            )
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
    Image.init()
    with files.writing(pixels, force=True) as file:
        for path in paths:
            try:
                rgb = load(path).rgb
            except ImageError:
                continue
            if min(rgb.shape[:2]) < min_side:
                continue
            file.write(rgb.tobytes())
            entries.append([offset, rgb.shape[0], rgb.shape[1]])
            offset += rgb.size
    files.write_bytes(index, json.dumps(entries).encode(), force=True)


class Crops:
    """Random crops of one size, from the pictures that are large enough, in proportion to their area.

    magnified: the share of the crops that is, because large pictures are smoother than small ones; drawn: the share of
    drawings, see `training.synthetic`; recoloured: the share of all but the drawings that is.
    """

    def __init__(
        self,
        photographs: Photographs,
        size: int,
        *,
        magnified: float = 0.0,
        drawn: float = 0.0,
        recoloured: float = 0.0,
    ) -> None:
        sides = np.array([(height, width) for _, height, width in photographs.entries], dtype=np.int64)
        self._photographs, self._size = photographs, size
        self._magnified, self._drawn, self._recoloured = magnified, drawn, recoloured
        self._fitting = np.flatnonzero(sides.min(1) >= size)
        self._areas = sides.prod(1)[self._fitting].cumsum()
        if not self._fitting.size:
            raise ConfigError(
                f"none of the {len(photographs)} training pictures has sides of at least {size} pixels, as a crop."
            )

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A crop, (size, size, 3), flipped and transposed at random."""
        picture = self._photographs[
            int(self._fitting[self._areas.searchsorted(rng.integers(self._areas[-1]), "right")])
        ]
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


def recolour(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photograph in stronger or weaker colours, one in four also with its channels in another order; (H, W, 3) uint8.

    Pure, strong colours are rare in collections, and cost a codec that has not seen them half as much again.
    """
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = np.float32(np.exp(rng.uniform(np.log(0.5), np.log(3.0))))
    values = luma[:, :, None] + saturation * (rgb - luma[:, :, None])
    if rng.random() < 0.25:
        values = values[:, :, rng.permutation(3)]
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class MixedCrops:
    """Crops of one size: varied ones from `data.folder`, and unchanged ones from the folders of `data.mix`."""

    def __init__(self, pictures: Pictures, data: DataConfig, size: int) -> None:
        self._crops = Crops(
            pictures.photographs,
            size,
            magnified=data.magnified_share,
            drawn=data.drawn_share,
            recoloured=data.recoloured_share,
        )
        self._mix = [Crops(photographs, size) for photographs in pictures.mix]
        self._shares = np.cumsum(list(data.mix.values()))

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A crop, (size, size, 3) uint8."""
        i = int(self._shares.searchsorted(rng.random(), "right")) if self._mix else 0
        return (self._mix[i] if i < len(self._mix) else self._crops).draw(rng)


class Batches:
    """This process's part of the batches of step, step + 1, ..., prepared by `data.workers` threads.

    A batch is a function of seed, step and stage, whatever the number of threads and processes.
    """

    def __init__(self, pictures: Pictures, config: Config, processes: Processes, step: int = 0) -> None:
        self._config, self._processes, self._step = config, processes, step
        self._stages = [
            (stage, MixedCrops(pictures, config.data, stage.crop)) for stage in stages(config, processes.world)
        ]
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

    def _make(self, step: int, stage: Stage, crops: MixedCrops) -> tuple[Tensor, Tensor]:
        seed, processes = self._config.training.seed, self._processes
        members = range(processes.rank, stage.images, processes.world)
        x = np.stack([crops.draw(np.random.default_rng(seed_of(seed, step, k, "crop"))) for k in members])
        # Stratified, so that every batch and every process's part of it span the qualities.
        shift = np.random.default_rng(seed_of(seed, step, 0, "quality")).random()
        quality_index = (np.array(members) + shift) / stage.images * (self._config.model.quality_rows - 1)
        batch = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(quality_index.astype(np.float32))
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self._cuda else batch
