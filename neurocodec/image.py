"""Pictures: files, PIL images and arrays <-> 8-bit RGB with alpha and metadata, and RGB <-> x (1, 3, H, W) in [0, 1].

    file · PIL · array -> load -> Picture -> pad_to_multiple -> to_tensor -> x
    x_hat -> from_tensor -> Picture -> to_pil -> save_pil -> file

Pixels are turned upright by the EXIF orientation, 16 bits are reduced to 8, and every other mode of Pillow becomes
gray or RGB with or without alpha. Nothing else about the colours changes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from neurocodec.errors import ImageError, NicFormatError, OutputError, one_line
from neurocodec.files import writing

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_ORIENTATION = 0x0112
_EXIF_PREFIX = b"Exif\0\0"
_CHANNELS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_TIFF_DESCRIPTION = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # about the picture, not about the file
_TIFF_SUBFOLDERS = (0x8769, 0x8825)  # EXIF, GPS
_XMP_TAG = 700
_ICONS = ("ICNS", "ICO")  # Pillow writes them in sizes of its own
_ALPHA_IS_LOST = ("BMP", "DIB", "PPM")  # Pillow writes RGBA, and no reader gives the alpha back


@dataclass
class Picture:
    """A picture as the codec sees it.

    rgb: uint8 (H, W, 3). gray: the three channels mean one; the decoder returns L or LA. alpha: uint8 (H, W), 255 is
    opaque, or None. depth: bits per sample of the source if more than 8, else 8. icc: a profile that fits L or RGB,
    whichever applies. exif: a TIFF structure without "Exif\\0\\0", its orientation 1. xmp: an XMP packet.
    """

    rgb: NDArray[np.uint8]
    gray: bool = False
    alpha: NDArray[np.uint8] | None = None
    depth: int = 8
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


def load(source: str | os.PathLike[str] | Image.Image | NDArray[Any]) -> Picture:
    """The picture in a file that Pillow can open (its first frame), in a PIL image, or in an array.

    Arrays are uint8 or uint16, (H, W) or (H, W, C) with 1 to 4 channels: gray, gray and alpha, RGB, RGBA; 255 or 65535
    is white and opaque. Modes I and I;16 count as 16 bits, F as 0 to 255. A CMYK picture goes to sRGB through its
    profile. Raises ImageError if the file is missing or damaged, or if the type, shape or range does not fit.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, f"the image of mode {source.mode}")
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"found a {type(source).__name__}, expected a path, a PIL image or a NumPy array: convert it")
    path = os.fspath(source)
    try:
        with Image.open(path) as im:
            return _from_pil(im, path)
    except UnidentifiedImageError:
        raise ImageError(_unidentified(path)) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {one_line(error)} Raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file") from None
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or one_line(error)}: give a picture that can be read") from error
    except Exception as error:  # Pillow's parsers raise nearly any class on damaged files
        raise ImageError(_undecodable(path, error)) from error


def to_pil(picture: Picture) -> Image.Image:
    """A PIL image of mode L, LA, RGB or RGBA; info holds icc_profile, exif and xmp, which `save_pil` writes."""
    im = Image.fromarray(np.ascontiguousarray(picture.rgb))
    if picture.gray:
        im = im.convert("L")  # the same values if the channels are equal, as they are after load
    if picture.alpha is not None:
        im.putalpha(Image.fromarray(np.ascontiguousarray(picture.alpha)))
    if picture.icc:
        im.info["icc_profile"] = picture.icc
    if picture.exif:
        im.info["exif"] = _EXIF_PREFIX + picture.exif
    if picture.xmp:
        im.info["xmp"] = picture.xmp
    return im


def save_pil(im: Image.Image, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes `im` in the format that the suffix of `path` names, with the ICC profile, EXIF and XMP of its info.

    PNG, TIFF and WebP are written without loss, JPEG at quality 95 without chroma subsampling. The file appears whole
    or not at all. Raises OutputError if it exists and force is not set, if it cannot be written, or if the format
    cannot hold the picture.
    """
    name = os.fspath(path)
    kind = check_format(name)
    if im.mode == "RGBA" and kind in _ALPHA_IS_LOST:
        raise OutputError(_no_alpha(name, kind))
    with writing(name, force=force) as file:
        out = io.BytesIO()  # Pillow's JPEG 2000 writer never returns from a full disk
        try:
            im.save(out, format=kind, **_save_options(im, kind))
        except (OSError, ValueError, TypeError, AttributeError, KeyError, SyntaxError, struct.error) as error:
            if im.mode in ("LA", "RGBA") and "cannot write mode" in str(error):
                raise OutputError(_no_alpha(name, kind)) from error
            raise OutputError(f"{name}: {kind} cannot hold this picture ({one_line(error)}): use .png") from error
        file.write(out.getbuffer())


def check_format(path: str | os.PathLike[str]) -> str:
    """The format that the suffix of `path` names, as Pillow spells it. Raises OutputError if it cannot be used."""
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    kind = Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE or suffix == ".nic":
        raise OutputError(f"{name} has the suffix {suffix!r}, expected a picture format that Pillow writes: use .png")
    if kind in _ICONS:
        raise OutputError(f"{name}: {kind} is for icons, and would change the size of this picture: use .png")
    return kind


def encode_alpha(alpha: NDArray[np.uint8]) -> bytes:
    """Alpha plane, uint8 (H, W) -> PNG bytes, lossless."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(alpha)).save(out, format="PNG", compress_level=9)
    return out.getvalue()


def decode_alpha(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """PNG bytes -> alpha plane, uint8 (height, width).

    `data` may be hostile: its size and kind are checked before pixels are decoded. Raises NicFormatError.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[8:16] != b"\0\0\0\x0dIHDR" or len(data) < 29:
        raise NicFormatError("the alpha plane is no PNG: the file is damaged, encode the picture again")
    *size, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if (*size, depth, colour, interlace) != (width, height, 8, 0, 0):
        raise NicFormatError(
            f"the alpha plane is {size[0]} x {size[1]}, depth {depth}, colour type {colour}, interlace {interlace}, "
            f"expected {width} x {height}, depth 8, colour type 0, interlace 0: encode the picture again"
        )
    expected = (width + 1) * height
    if _inflated_bytes(data, expected) != expected:  # Pillow would fill in what is missing
        raise NicFormatError(f"the alpha plane does not hold {width} x {height} samples: encode the picture again")
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as im:
            im.load()
            alpha: NDArray[np.uint8] = np.array(im, dtype=np.uint8)
    except Exception as error:  # Pillow's parsers raise nearly any class on damaged files
        raise NicFormatError(f"the alpha plane is damaged ({one_line(error)}): encode the picture again") from error
    if alpha.shape != (height, width):
        raise NicFormatError(f"the alpha plane decoded to {alpha.shape}, expected {(height, width)}: encode it again")
    return alpha


def _inflated_bytes(png: bytes, most: int) -> int | None:
    """Bytes of scan lines in a PNG, counted without keeping them; None if they are damaged or more than `most`."""
    at, stream, count = 8, [], 0
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            stream.append(png[at + 8 : at + 8 + length])
        at += 12 + length
    engine, rest = zlib.decompressobj(), b"".join(stream)
    try:
        while rest and not engine.eof and count <= most:
            count += len(engine.decompress(rest, 2**20))
            rest = engine.unconsumed_tail
    except zlib.error:
        return None
    return count if engine.eof and not engine.unused_data else None


def to_tensor(rgb: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (H, W, 3) -> x, float32 (1, 3, H, W) in [0, 1]."""
    import torch

    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    return torch.from_numpy(planes).unsqueeze(0).to(torch.float32) / 255.0


def from_tensor(x: torch.Tensor) -> NDArray[np.uint8]:
    """x, float (1, 3, H, W) -> uint8 (H, W, 3): clamped to [0, 1], scaled to 255, halves rounded up.

    Raises ImageError if x holds NaN.
    """
    import torch

    levels = x.detach()[0].to(torch.float32)
    if bool(torch.isnan(levels).any()):
        raise ImageError("the picture holds NaN, expected numbers: the model file or the device is faulty")
    levels = levels.clamp(0.0, 1.0).mul(255.0).add_(0.5).floor_().to(torch.uint8)
    rgb: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().cpu().numpy()
    return rgb


def pad_to_multiple(rgb: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> the same with H and W rounded up to a multiple, right and bottom edges repeated."""
    height, width = rgb.shape[:2]
    return np.pad(rgb, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def _from_array(values: NDArray[Any]) -> Picture:
    if values.dtype.kind != "u" or values.dtype.itemsize > 2:
        raise ImageError(
            f"the array has dtype {values.dtype}, expected uint8 or uint16: "
            "scale it, as in (x * 255).round().clip(0, 255).astype(numpy.uint8)"
        )
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not 1 <= values.shape[2] <= 4:
        raise ImageError(
            f"the array has shape {values.shape}, expected (H, W) or (H, W, C) with 1 to 4 channels: "
            "reorder or select its axes"
        )
    if 0 in values.shape:
        raise ImageError(f"the array has shape {values.shape}, expected at least one pixel")
    depth = 8 * values.dtype.itemsize
    return Picture(*_split(_to_8_bits(values, 2**16 - 1) if depth == 16 else values), depth=depth)


def _from_pil(im: Image.Image, name: str) -> Picture:
    """The picture in a PIL image, opened or in memory; `name` is for errors."""
    rawmode = _rawmode(im)  # both are lost once pixels are loaded
    try:
        tiff_exif = _tiff_exif(im)
        im.load()
    except Exception as error:  # Pillow's parsers raise nearly any class on damaged files
        raise ImageError(_undecodable(name, error)) from error
    if 0 in im.size:
        raise ImageError(f"{name} is {im.width} x {im.height} pixels, expected at least one pixel")

    values, depth, icc = _pixels(im, rawmode, name)
    exif, exif_orientation = _upright_exif(_exif_bytes(im))
    xmp, xmp_orientation = _upright_xmp(_xmp_bytes(im))
    rgb, gray, alpha = _split(_turn(values, exif_orientation or xmp_orientation or 1))
    if icc is not None and icc[16:20] != (b"GRAY" if gray else b"RGB "):
        icc = None  # it describes another kind of pixels than those that are coded
    return Picture(rgb, gray, alpha, depth, icc, exif or tiff_exif, xmp)


def _pixels(im: Image.Image, rawmode: str, name: str) -> tuple[NDArray[np.uint8], int, bytes | None]:
    """Pixels as uint8 (H, W, 1 to 4), bits per sample of the source, and the ICC profile that may go with them."""
    icc = im.info.get("icc_profile")
    icc = icc if isinstance(icc, bytes) and icc else None
    transparent = im.info.get("transparency")
    depth = 16 if ";16" in rawmode else 8

    if im.mode.startswith("I") or im.mode == "F":
        wide = np.asarray(im)
        top = 255 if im.mode == "F" else 4095 if rawmode.startswith("I;12") else 65535
        if not (np.isfinite(wide).all() and wide.min() >= 0 and wide.max() <= top):
            raise ImageError(
                f"{name} holds values from {wide.min()} to {wide.max()}, expected 0 to {top} in mode {im.mode}: "
                "scale it"
            )
        if im.mode == "F":
            if wide.max() <= 1 and (wide != np.floor(wide)).any():
                raise ImageError(f"{name} holds fractions from 0 to 1, expected 0 to 255 in mode F: multiply it by 255")
            gray = np.floor(wide + 0.5).astype(np.uint8)
        else:
            gray = _to_8_bits(wide, top)
        depth = {255: 32, 4095: 12, 65535: 16}[top]
        planes = [gray, _alpha_from_key(wide == transparent)] if isinstance(transparent, int) else [gray]
        return np.stack(planes, axis=-1), depth, icc

    if im.mode == "CMYK":
        return np.asarray(_cmyk_to_srgb(im, icc)), depth, None

    try:
        if im.mode == "P":
            values = np.asarray(im.convert("RGBA" if im.has_transparency_data else "RGB"))
        else:
            values = np.asarray(im.convert(_CHANNELS.get(im.mode, "RGB")))
            if rawmode.startswith("LA;16"):  # Pillow has no mode for it and gives RGBA
                values = values[:, :, [0, 3]]
    except MemoryError as error:
        raise ImageError(_undecodable(name, error)) from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be converted to RGB ({one_line(error)}): convert it first") from error
    if values.ndim == 2:
        values = values[:, :, None]
    if im.mode in ("1", "L") and isinstance(transparent, int):
        key = transparent * {"L;2": 85, "L;4": 17}.get(rawmode, 1)  # Pillow scales the pixels, not the key
        values = np.dstack([values, _alpha_from_key(values[:, :, 0] == key)])
    elif im.mode == "RGB" and isinstance(transparent, (tuple, list)) and len(transparent) == 3:
        colour = np.array(transparent) >> (8 if depth == 16 else 0)
        values = np.dstack([values, _alpha_from_key((values == colour).all(axis=-1))])
    return values, depth, icc


def _cmyk_to_srgb(im: Image.Image, icc: bytes | None) -> Image.Image:
    """Through the profile where there is one that works, else as Pillow converts."""
    if icc is not None:
        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            out = ImageCms.profileToProfile(im, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if out is not None:
                return out
    return im.convert("RGB")


def _to_8_bits(values: NDArray[Any], top: int) -> NDArray[np.uint8]:
    """Integers 0 to top -> 0 to 255, to nearest."""
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _alpha_from_key(transparent: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(transparent, 0, 255).astype(np.uint8)


def _split(values: NDArray[Any]) -> tuple[NDArray[np.uint8], bool, NDArray[np.uint8] | None]:
    """uint8 (H, W, 1 to 4) -> rgb (H, W, 3), whether it is gray, alpha (H, W) or None; all copies."""
    channels = values.shape[2]
    colour = values[:, :, :1].repeat(3, axis=2) if channels <= 2 else values[:, :, :3].copy()
    alpha = values[:, :, -1].copy() if channels in (2, 4) else None
    return colour, channels <= 2, alpha


def _turn(values: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(H, W, C), or (W, H, C) turned upright by an EXIF orientation; 1 and unknown numbers change nothing."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _rawmode(im: Image.Image) -> str:
    """How an opened file stores its samples, such as RGB;16B; empty once loaded or if unknown."""
    tiles = getattr(im, "tile", None)
    if not tiles:
        return ""
    args = tiles[0][3]
    args = args[0] if isinstance(args, (tuple, list)) and args else args
    return args if isinstance(args, str) else ""


def _exif_bytes(im: Image.Image) -> bytes | None:
    """The EXIF block as a TIFF structure."""
    exif = im.info.get("exif")
    if exif is None and isinstance(text := im.info.get("Raw profile type exif"), str):  # as ImageMagick writes PNG
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    if not isinstance(exif, bytes):
        return None
    return exif.removeprefix(_EXIF_PREFIX) or None


def _tiff_exif(im: Image.Image) -> bytes | None:
    """What the tags of a TIFF file tell about the picture; those about strips and sizes stay behind."""
    if not hasattr(im, "tag_v2") or "exif" in im.info:
        return None
    kept = _description(im.getexif())
    try:
        return kept.tobytes().removeprefix(_EXIF_PREFIX) if len(kept) else None
    except (ValueError, TypeError, AttributeError, struct.error):
        return None  # a tag of another type than it should have is no reason to refuse the picture


def _description(found: Image.Exif) -> Image.Exif:
    """Those tags that tell about the picture, in a block of their own."""
    kept = Image.Exif()
    for tag in _TIFF_DESCRIPTION:
        if tag in found:
            kept[tag] = found[tag]
    for tag in _TIFF_SUBFOLDERS:
        if folder := dict(found.get_ifd(tag)):
            kept[tag] = folder
    return kept


def _upright_exif(exif: bytes | None) -> tuple[bytes | None, int | None]:
    """EXIF with its orientation set to 1 in place, every other byte as it was; and what the orientation was."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4]) if exif else None
    if exif is None or order is None:
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
        pass  # damaged EXIF is no reason to refuse the picture: it is kept as it is
    return exif, None


def _xmp_bytes(im: Image.Image) -> bytes | None:
    xmp = im.info.get("xmp") or im.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return xmp if isinstance(xmp, bytes) and xmp else None


def _upright_xmp(xmp: bytes | None) -> tuple[bytes | None, int | None]:
    """XMP with its orientation set to 1, and what that was."""
    pattern = rb"(tiff:Orientation(?:=[\"']|>))([1-8])(?=[\"'<])"
    match = re.search(pattern, xmp) if xmp else None
    if xmp is None or match is None:
        return xmp, None
    return re.sub(pattern, rb"\g<1>1", xmp), int(match[2])


def _save_options(im: Image.Image, kind: str) -> dict[str, Any]:
    """Keyword arguments for Image.save: quality, and the metadata that the format can hold."""
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"lossless": True}
    if kind not in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        return options
    if icc := im.info.get("icc_profile"):
        options["icc_profile"] = icc
    exif, xmp = im.info.get("exif"), _xmp_bytes(im)
    if kind == "TIFF":  # both are tags of the file's own folder, where tags about strips and sizes would do harm
        found = Image.Exif()
        if exif:
            found.load(exif)
        tags = _description(found)
        if xmp:
            tags[_XMP_TAG] = xmp
        return options | ({"exif": tags.tobytes()} if len(tags) else {})
    if exif:
        options["exif"] = exif
    if xmp and kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    elif xmp:
        options["xmp"] = xmp
    return options


def _unidentified(path: str) -> str:
    with open(path, "rb") as file:
        if file.read(4) == b"\x8fNIC":
            return f"{path} is a .nic file already, expected a picture: decode it first, with `neurocodec decode`"
    return f"{path} is no picture that Pillow can read: convert it to PNG or JPEG first"


def _no_alpha(name: str, kind: str) -> str:
    return f"{name}: {kind} cannot hold the alpha channel of this picture: use .png"


def _undecodable(name: str, error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"{name} needs more memory than there is: close other programs, or take a smaller picture"
    return f"{name} cannot be decoded as a picture ({one_line(error)}): it is damaged or incomplete, use another copy"
