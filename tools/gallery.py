"""docs/gallery.md: crops of openly licensed photographs as they are, as HEIC, and from one .nic at realism 0 and 1.

    python tools/gallery.py astronaut:130,0 chelsea.png:110,60 coffee.png:190,90 [--qualities 20,38]

Each photograph is a file, or "astronaut", which is bundled, with the corner of its crop. HEIC has BPG's coding (HEVC
intra) but a container of some 500 bytes; it is at the setting whose picture data are nearest in size to the whole .nic.
Needs pillow-heif and the weights of LPIPS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import neurocodec
from neurocodec import image
from neurocodec.bench.quality import lpips
from neurocodec.bench.rivals import RIVALS, Codec, nearest
from neurocodec.errors import NeurocodecError
from neurocodec.metrics import psnr

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "neurocodec" / "data" / "astronaut.png"
SIDE = 232
"""Pixels a side of a crop: four of them fill a page's width."""


def picture_data(heic: bytes) -> int:
    """Bytes of the media data boxes of a HEIC file: the file without its container."""
    position = total = 0
    while position < len(heic):
        size = int.from_bytes(heic[position : position + 4], "big")
        if heic[position + 4 : position + 8] == b"mdat":
            total += size - 8
        position += max(size, 8)
    return total


def nearest_heic(codec: Codec, rgb: NDArray[np.uint8], size: int) -> bytes:
    """The file of a whole quality whose picture data are nearest to `size` bytes, as a ratio."""
    return codec.encode(rgb, nearest(range(101), lambda q: max(1, picture_data(codec.encode(rgb, q))), size))


def save_strip(
    pictures: Sequence[NDArray[np.uint8]], crop: tuple[int, int, int, int], path: Path, *, quality: int
) -> None:
    """Writes the same crop (x, y, width, height) of each picture, side by side, as WebP."""
    x, y, width, height = crop
    strip = np.concatenate([picture[y : y + height, x : x + width] for picture in pictures], axis=1)
    Image.fromarray(strip).save(path, quality=quality, method=6)


def rows(source: str, qualities: list[float], folder: Path) -> list[str]:
    """Writes a strip of crops for each quality, and returns this photograph's lines of the page."""
    name, _, place = source.rpartition(":")
    x, y = (int(value) for value in place.split(","))
    path = BUNDLED if name == "astronaut" else Path(name)
    rgb = image.load(path).rgb
    heic = RIVALS["heic"]
    lines = [f"## {path.stem}, {rgb.shape[1]}×{rgb.shape[0]}", ""]
    for quality in qualities:
        data = neurocodec.encode(rgb, quality=quality)
        rival = nearest_heic(heic, rgb, len(data))
        shown = {"HEIC": (picture_data(rival), heic.decode(rival))}
        for realism in (0, 1):
            shown[f"realism {realism}"] = (len(data), np.asarray(neurocodec.decode(data, realism=realism)))
        file = folder / f"{path.stem}-{quality:g}.webp"
        save_strip([rgb, *(decoded for _, decoded in shown.values())], (x, y, SIDE, SIDE), file, quality=95)
        captions = [
            f"{title}: {size:,} bytes, {psnr(rgb, decoded):.1f} dB, LPIPS {lpips(rgb, decoded):.3f}"
            for title, (size, decoded) in shown.items()
        ]
        bpp = 8 * len(data) / (rgb.shape[0] * rgb.shape[1])
        alt = f"{path.stem} at {bpp:.2f} bpp: original, HEIC, realism 0, realism 1"
        lines += [f"![{alt}]({folder.name}/{file.name})", "", f"Quality {quality:g}, {bpp:.2f} bpp. Original; "]
        lines[-1] += "; ".join(captions) + "."
        lines.append("")
    return lines


def main() -> int:
    """Writes the page and its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photographs", nargs="+", metavar="PHOTO:X,Y")
    parser.add_argument("--qualities", type=lambda text: [float(q) for q in text.split(",")], default=[20.0, 38.0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "gallery.md")
    args = parser.parse_args()
    folder = args.output.with_suffix("")
    folder.mkdir(exist_ok=True)
    command = " ".join(source.rpartition("/")[2] for source in args.photographs)
    lines = [
        "# Gallery",
        "",
        f"Made by `python tools/gallery.py {command}`.",
        "From left to right: the original, HEIC (HEVC intra by x265, BPG's coding) at the setting nearest in bytes,",
        "its container not counted, and one `.nic` file decoded with realism 0 and 1. Bytes, PSNR and LPIPS (AlexNet,",
        "smaller is better) are of the whole picture. The photographs come with scikit-image and are free to use: the",
        "astronaut is NASA's, chelsea (CC0) by Stéfan van der Walt, coffee (CC0) by Rachel Michetti. What to look for,",
        "and what was seen, is in the [model card](model-card.md#looked-at).",
        "",
    ]
    try:
        for source in args.photographs:
            lines += rows(source, args.qualities, folder)
    except NeurocodecError as error:
        raise SystemExit(f"gallery: {error}") from error
    args.output.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"{args.output.name} and {len(args.photographs) * len(args.qualities)} strips in {folder.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
