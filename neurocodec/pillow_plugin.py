"""Pillow plugin: Image.open reads .nic files and Image.save writes them. `import neurocodec` registers it."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from neurocodec import container
from neurocodec.errors import ArgumentTypeError

if TYPE_CHECKING:
    from neurocodec.pillow_reader import NicImageFile

FORMAT = "NIC"
_ENCODE_OPTIONS = (
    *("quality", "target_bpp", "target_bytes", "target_psnr", "lossless", "effort"),
    *("model", "device", "max_pixels"),
)
_METADATA = ("icc_profile", "exif", "xmp")
_IGNORED = ("optimize", "progressive")  # options of other formats, safe to ignore


def register() -> None:
    """Registers the format with Pillow; calling it again does no harm."""
    Image.register_open(FORMAT, _open, _accept)  # type: ignore[arg-type]
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".nic")
    Image.register_mime(FORMAT, "image/x-nic")


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.SIGNATURE)


def _open(fp: IO[bytes], filename: str | bytes) -> NicImageFile:
    from neurocodec.pillow_reader import NicImageFile

    return NicImageFile(fp, filename)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes | os.PathLike[str]) -> None:
    """Image.save. Takes the options of `neurocodec.encode`, and icc_profile, exif and xmp, which replace im.info's.

    Raises what `neurocodec.encode` raises, and ArgumentTypeError for unknown options.
    """
    from neurocodec import codec

    arguments: dict[str, Any] = getattr(im, "encoderinfo", {})
    if unknown := set(arguments) - {*_ENCODE_OPTIONS, *_METADATA, *_IGNORED}:
        known = ", ".join((*_ENCODE_OPTIONS, *_METADATA))
        raise ArgumentTypeError(f"saving as .nic has no option {min(unknown)!r}; known are {known}.")
    options = {name: arguments[name] for name in _ENCODE_OPTIONS if name in arguments}
    if replaced := {name: arguments[name] for name in _METADATA if name in arguments}:
        im = im.copy()
        for name, value in replaced.items():
            im.info.pop(name, None)
            if isinstance(value, Image.Exif):
                value = value.tobytes()
            if value:
                im.info[name] = value
        if "xmp" in replaced:
            im.info.pop("XML:com.adobe.xmp", None)
    fp.write(codec.encode(im, **options))
