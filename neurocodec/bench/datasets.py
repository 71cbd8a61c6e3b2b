"""Pictures to measure on: Kodak and CLIC by name, with checksums, licence and download, or any folder.

Every picture of a named data set is compared with the SHA-256 of its 8-bit RGB pixels in datasets.json: a recompressed
PNG is the same picture, a resized one is not. The checksums are of Kodak's 24 PNG files as r0k.us serves them (`file`:
of the file itself), and of twelve pictures of CLIC 2025 validation.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurocodec import files, image
from neurocodec.collection import picture_suffixes
from neurocodec.errors import ConfigError, ImageError


@dataclass(frozen=True)
class Source:
    """A named data set. pictures: by name, in order, the SHA-256 `pixels` of the uint8 (H, W, 3) RGB, and, where there
    is a url, `file` of the file at url + name; advice: where to get the pictures otherwise."""

    title: str
    licence: str
    url: str
    advice: str
    pictures: dict[str, dict[str, str]]


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
    folder = Path(source)
    if source in SOURCES:
        folder, names = _folder_of(source), list(SOURCES[source].pictures)
    elif not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give one of {', '.join(SOURCES)}, or a folder of pictures")
    else:
        names = [path.name for path in _pictures_in(folder)]
    if not names:
        raise ConfigError(f"{folder} holds no pictures: give a folder of PNG or other picture files")
    if images is not None and not 1 <= images <= len(names):
        raise ConfigError(f"found {len(names)} pictures in {source}, expected --images from 1 to {len(names)}")
    names = names[:images]
    if source in SOURCES:
        return Dataset(source, _named(source, folder, names, download))
    name = folder.resolve().name
    if odd := [ascii(text) for text in (name, *names) if text.encode(errors="ignore").decode() != text]:
        raise ConfigError(f"the name {odd[0]} is not UTF-8: rename it")
    return Dataset(name, {name: folder / name for name in names})


def describe(dataset: Dataset) -> dict[str, Any]:
    """The data set as results hold it: its name, whether it is the user's own folder, and the name, width, height and
    file's SHA-256 of each picture.

    Raises ImageError for a picture that cannot be read, ConfigError for one that is none of the named data set's.
    """
    pictures = []
    known = SOURCES[dataset.name].pictures if dataset.name in SOURCES else None
    for name, path in dataset.pictures.items():
        try:
            with path.open("rb") as file:
                sha256 = files.sha256_of(file)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}: give a picture that can be read") from error
        rgb = image.load(path).rgb
        if known is not None and known.get(name, {}).get("pixels") != hashlib.sha256(rgb.tobytes()).hexdigest():
            raise ConfigError(
                f"{path} does not hold the pixels of {name} in {dataset.name}: replace it, or give the path of a "
                "folder with another name"
            )
        pictures.append({"name": name, "width": rgb.shape[1], "height": rgb.shape[0], "sha256": sha256})
    return {"name": dataset.name, "folder": known is None, "pictures": pictures}


def _folder_of(name: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocodec"
    return Path(os.environ.get("NEUROCODEC_DATA") or cache) / name


def _named(name: str, folder: Path, names: list[str], download: bool) -> dict[str, Path]:
    """The pictures of a named data set: under their names or longer ones, in any picture format."""
    source = SOURCES[name]
    present = _pictures_in(folder) if folder.is_dir() else []
    similar = {picture: [path for path in present if path.name.startswith(Path(picture).stem)] for picture in names}
    missing = [picture for picture in names if not similar[picture]]
    if missing and download and source.url:
        print(f"neurocodec: {len(missing)} files of {source.title} ({source.licence}) to {folder}", file=sys.stderr)
        for picture in missing:
            url = source.url + picture
            try:
                files.download(url, source.pictures[picture]["file"], folder / picture)
            except OSError as error:
                raise ConfigError(f"{url} cannot be downloaded: {error}; put {picture} into {folder}") from error
            similar[picture] = [folder / picture]
    elif missing:
        how = f"--download fetches them from {source.url}" if source.url else source.advice
        where = str(folder) if os.environ.get("NEUROCODEC_DATA") else f"{folder}, as NEUROCODEC_DATA is not set"
        count = f"{len(missing)} of {len(names)} pictures of {name}"
        raise ConfigError(f"{count}, such as {missing[0]}, are not in {where}: {how}")
    return {name: folder / name if folder / name in paths else paths[0] for name, paths in similar.items()}


def _pictures_in(folder: Path) -> list[Path]:
    suffixes = picture_suffixes()
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()
    )
