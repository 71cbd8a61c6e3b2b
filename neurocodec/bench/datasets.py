"""Pictures to measure on: Kodak and CLIC by name, with checksums, licence and download, or any folder.

Every picture of a named data set is compared with the SHA-256 of its 8-bit RGB pixels in datasets.json: a recompressed
PNG is the same picture, a resized one is not. The checksums are of Kodak's 24 PNG files as r0k.us serves them (`files`:
of the files themselves), and of twelve pictures of CLIC 2025 validation.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurocodec import files, image
from neurocodec.collection import picture_suffixes
from neurocodec.errors import ConfigError, ImageError


@dataclass(frozen=True)
class Source:
    """A named data set. pixels: by picture, in order, the SHA-256 of its uint8 (H, W, 3) RGB; files: of the file at
    url + name, where there is one; advice: where to get the pictures otherwise."""

    title: str
    licence: str
    pixels: dict[str, str]
    url: str = ""
    files: dict[str, str] = field(default_factory=dict)
    advice: str = ""


_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SOURCES = {name: Source(**entry) for name, entry in _TABLE.items()}
"""The named data sets. Each has a folder of its name."""


@dataclass(frozen=True)
class Dataset:
    """Pictures to measure on, by their names in results, in order."""

    name: str
    pictures: dict[str, Path]


def load_dataset(source: str, images: int | None = None, *, download: bool = False) -> Dataset:
    """A data set by name, or all pictures of any folder; the first `images` of them.

    A named one is in NEUROCODEC_DATA/name, or without that variable in the user's cache; `download` fetches missing
    files. Raises ConfigError if there is no such folder, or a picture is missing. `describe` checks the pixels.
    """
    if source in SOURCES:
        return _named(source, images, download)
    folder = Path(source)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give one of {', '.join(SOURCES)}, or a folder of pictures")
    paths = _pictures_in(folder)
    if not paths:
        raise ConfigError(f"{folder} holds no pictures: give a folder of PNG or other picture files")
    if images is not None and not 1 <= images <= len(paths):
        raise ConfigError(f"found {len(paths)} pictures in {folder}, expected --images from 1 to {len(paths)}")
    return Dataset(folder.resolve().name, {path.name: path for path in paths[:images]})


def describe(dataset: Dataset) -> list[dict[str, Any]]:
    """The name, width, height and file's SHA-256 of each picture, as results hold them.

    Raises ImageError for a picture that cannot be read, ConfigError for one that differs from the named data set's.
    """
    pictures = []
    known = SOURCES[dataset.name].pixels if dataset.name in SOURCES else {}
    for name, path in dataset.pictures.items():
        try:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}: give a picture that can be read") from error
        rgb = image.load(path).rgb
        if name in known and hashlib.sha256(rgb.tobytes()).hexdigest() != known[name]:
            raise ConfigError(
                f"{path} does not hold the pixels of {name} in {dataset.name}: replace it, or give the path of a "
                "folder with another name"
            )
        pictures.append({"name": name, "width": rgb.shape[1], "height": rgb.shape[0], "sha256": sha256})
    return pictures


def _named(name: str, images: int | None, download: bool) -> Dataset:
    source = SOURCES[name]
    names = list(source.pixels)
    if images is not None and not 1 <= images <= len(names):
        raise ConfigError(f"found --images {images}, expected a number from 1 to {len(names)}, the pictures of {name}")
    names = names[:images]
    given = os.environ.get("NEUROCODEC_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocodec"
    folder = (Path(given) if given else cache) / name
    pictures = _present(folder, names)
    missing = [picture for picture in names if picture not in pictures]
    if missing and download and source.url:
        print(f"neurocodec: {len(missing)} files of {source.title} ({source.licence}) to {folder}", file=sys.stderr)
        for picture in missing:
            url, pictures[picture] = source.url + picture, folder / picture
            try:
                files.download(url, source.files[picture], pictures[picture])
            except OSError as error:
                raise ConfigError(f"{url} cannot be downloaded: {error}; put {picture} into {folder}") from error
    elif missing:
        how = f"--download fetches them from {source.url}" if source.url else source.advice
        raise ConfigError(
            f"{len(missing)} of {len(names)} pictures of {name}, such as {missing[0]}, are not in {folder}"
            f"{'' if given else ', as NEUROCODEC_DATA is not set'}: {how}"
        )
    return Dataset(name, {picture: pictures[picture] for picture in names})


def _pictures_in(folder: Path) -> list[Path]:
    suffixes = picture_suffixes()
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()
    )


def _present(folder: Path, names: list[str]) -> dict[str, Path]:
    """The pictures that the folder has, under their name or a longer one, in any picture format."""
    paths = _pictures_in(folder) if folder.is_dir() else []
    matches = {name: [path for path in paths if path.name.startswith(Path(name).stem)] for name in names}
    return {
        name: folder / name if folder / name in similar else similar[0] for name, similar in matches.items() if similar
    }
