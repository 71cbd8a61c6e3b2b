"""Orientation, ICC profile, EXIF and XMP of PIL images."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin

from neurocodec.container import EXIF, ICC, XMP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ORIENTATION = 0x0112
_EXIF_PREFIX = b"Exif\0\0"
_PILLOW = {ICC: ("icc_profile", b""), EXIF: ("exif", _EXIF_PREFIX), XMP: ("xmp", b"")}
"""The key of `im.info` for each chunk, and the prefix that Pillow puts before its content."""
_TIFF_DESCRIPTION = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # describe the picture, not the file
_TIFF_SUBFOLDERS = (0x8769, 0x8825)  # EXIF, GPS
_TURNED_BY_BOXES = ("AVIF", "HEIF")  # oriented only by container boxes, which Pillow reports as EXIF
_XMP_TAG = 700
_XMP_ORIENTATION = rb"(tiff:Orientation(?:=[\"']|>))([1-8])(?=[\"'<])"


def icc_profile(im: Image.Image, space: bytes) -> bytes | None:
    """The ICC profile if it is for this colour space, otherwise None. space: b"RGB ", b"GRAY" or b"CMYK"."""
    icc = im.info.get("icc_profile")
    return icc if isinstance(icc, bytes) and icc[16:20] == space else None


def exif_and_xmp(im: Image.Image) -> tuple[dict[str, bytes], int]:
    """EXIF and XMP for the chunks, with their orientation set to 1, and the orientation (1 to 8) of the loaded pixels.

    The container's own tag takes precedence over XMP. TIFFs are upright, because Pillow turns them when it loads them.
    """
    exif, orientation = _upright_exif(_exif(im))
    xmp = _xmp(im)
    if hasattr(im, "tag_v2"):
        orientation = 1
    elif orientation is None:
        match = None if im.format in _TURNED_BY_BOXES else re.search(_XMP_ORIENTATION, xmp)
        orientation = int(match[2]) if match else 1
    items = {EXIF: exif, XMP: re.sub(_XMP_ORIENTATION, rb"\g<1>1", xmp)}
    return {name: value for name, value in items.items() if value}, orientation


def tiff_exif(im: Image.Image) -> bytes | None:
    """The tags of an opened TIFF file that describe the picture, as EXIF. Call it before `im.load`."""
    if not hasattr(im, "tag_v2") or "exif" in im.info:
        return None
    tags = _description(im.getexif())
    try:
        return tags.tobytes().removeprefix(_EXIF_PREFIX) if len(tags) else None
    except (ValueError, TypeError, AttributeError, struct.error):
        return None  # do not refuse a picture for a tag of the wrong type


def turn(values: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns an array (H, W, C) upright from an EXIF orientation; 1 and unknown values change nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def attach(im: Image.Image, chunks: Mapping[str, bytes]) -> None:
    """Puts metadata into `im.info`, where `save_options` looks for it.

    chunks: payloads by the names of `container.METADATA`; EXIF is a TIFF structure without "Exif\\0\\0", XMP a packet.
    Other chunks are ignored.
    """
    for chunk, (name, prefix) in _PILLOW.items():
        if chunk in chunks:
            im.info[name] = prefix + chunks[chunk]


def save_options(im: Image.Image, kind: str) -> dict[str, Any]:
    """The metadata of `im` that a file format can hold, as keyword arguments of `Image.save`."""
    if kind not in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        return {}
    exif, xmp = im.info.get("exif"), _xmp(im)
    options = {"icc_profile": im.info.get("icc_profile"), "exif": exif, "xmp": xmp}
    if kind == "TIFF":  # both become tags of the file itself, where foreign tags about strips and sizes would do harm
        source = Image.Exif()
        if exif:
            source.load(exif)
        tags = _description(source)
        if xmp:
            tags[_XMP_TAG] = xmp
        options |= {"exif": tags.tobytes() if len(tags) else None, "xmp": None}
    elif kind == "PNG" and xmp:
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        options |= {"pnginfo": text, "xmp": None}
    return {name: value for name, value in options.items() if value}


def _exif(im: Image.Image) -> bytes:
    exif = im.info.get("exif")
    if exif is None and isinstance(text := im.info.get("Raw profile type exif"), str):  # as ImageMagick writes PNG
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    return exif.removeprefix(_EXIF_PREFIX) if isinstance(exif, bytes) else b""


def _xmp(im: Image.Image) -> bytes:
    xmp = im.info.get("xmp") or im.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return xmp if isinstance(xmp, bytes) else b""


def _description(source: Image.Exif) -> Image.Exif:
    """A copy with only the tags that describe the picture."""
    tags = Image.Exif()
    tags.update({tag: source[tag] for tag in _TIFF_DESCRIPTION if tag in source})
    tags.update({tag: folder for tag in _TIFF_SUBFOLDERS if (folder := dict(source.get_ifd(tag)))})
    return tags


def _upright_exif(exif: bytes) -> tuple[bytes, int | None]:
    """EXIF with its orientation set to 1 and every other byte unchanged, and the orientation it had, if any."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return exif, None
    try:
        (folder,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, folder)
        for at in range(folder + 2, folder + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", exif, at)
            if tag == _ORIENTATION and number == 1 and kind in (1, 3, 4):
                code = order + {1: "B", 3: "H", 4: "I"}[kind]
                (orientation,) = struct.unpack_from(code, exif, at + 8)
                patched = bytearray(exif)
                struct.pack_into(code, patched, at + 8, 1)
                return bytes(patched), orientation
    except struct.error:
        pass  # keep damaged EXIF unchanged rather than refuse the picture
    return exif, None
