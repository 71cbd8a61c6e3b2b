"""Pictures: files, PIL images and arrays <-> 8-bit or 16-bit RGB with alpha and metadata.

    file · PIL · array -> load -> Picture -> pad_to_multiple -> pixels for the encoder; alpha.py codes the alpha plane
    pixels from the decoder, alpha -> Picture -> to_pil -> save_pil -> file

Pixels are turned upright by the EXIF orientation. Every mode of Pillow becomes gray or RGB, with or without alpha, and
more than 8 bits per sample become 16 or 8, whichever the caller asks for. Colours do not change otherwise.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import zlib
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from neurocodec import files, metadata
from neurocodec.container import EXIF, ICC, MAX_SIDE, SIGNATURE
from neurocodec.errors import ArgumentTypeError, ImageError, NeurocodecError, OutputError, one_line, printable
from neurocodec.tiling import MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANNELS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {"compress_type": zlib.Z_RLE},  # up to 4 % larger for decoded pictures, in a third of the time
    "WEBP": {"lossless": True, "exact": True},  # exact: keeps the colour of transparent pixels
}
_ICONS = ("ICNS", "ICO")  # Pillow resizes them
_ALPHA_IS_LOST = ("BMP", "DIB", "PPM")  # Pillow writes RGBA, but readers drop the alpha
_BITS_PER_SAMPLE = 258  # TIFF tag
_ROWS = 256  # converted at a time
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


@dataclass
class Picture:
    """A picture as the codec sees it.

    rgb: uint8 (H, W, 3), or uint16 if loaded at full depth. gray: the three channels are equal, and the decoder returns
    L or LA. alpha: (H, W) of the same type, or None; 255 or 65535 is opaque. depth: bits per sample of the source, at
    least 8. metadata: see `metadata.attach`; the ICC profile matches the picture, gray or RGB, and the EXIF orientation
    is 1.
    """

    rgb: NDArray[Any]
    gray: bool = False
    alpha: NDArray[Any] | None = None
    depth: int = 8
    metadata: dict[str, bytes] = field(default_factory=dict)


def load(
    source: str | os.PathLike[str] | IO[bytes] | Image.Image | NDArray[Any],
    *,
    max_pixels: int = MAX_PIXELS,
    full_depth: bool = False,
) -> Picture:
    """The picture in a file that Pillow can open (its first frame), in a PIL image, or in an array.

    source: the path of a file, a file open for reading, a PIL image or an array. Arrays are uint8 or uint16, (H, W) or
    (H, W, C) with 1 to 4 channels: gray, gray and alpha, RGB, RGBA; 255 or 65535 is white or opaque. Images of modes I
    and I;16 hold 16 bits, those of mode F values from 0 to 255. CMYK is converted to sRGB through its profile. Pillow
    keeps only 8 bits per colour once it has loaded an image; after that, only TIFF images still record their original
    depth, and only 16-bit PNG images that they were gray. HEIC and JPEG XL are read, at 8 bits, if pillow-heif or
    pillow-jxl-plugin is installed.
    max_pixels: larger pictures are refused before their pixels are loaded.
    full_depth: return 16 bits if the source has more than 8. These can: PNG, TIFF, binary PPM and PGM, arrays, and
    images of modes I, I;16 and F.

    Raises ImageError if the file is missing or damaged, or the source has the wrong dtype, shape or range,
    ArgumentTypeError for a source of another type.
    """
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source), max_pixels, full_depth)  # asarray: no matrix or other subclass
    if isinstance(source, Image.Image):
        return _from_pil(source, f"the image of mode {source.mode}", max_pixels, full_depth)
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise ArgumentTypeError(
            f"the source is a {type(source).__name__}, expected a path, an open file, a PIL image or a NumPy array"
        )
    name = printable(os.fsdecode(source)) if isinstance(source, (str, os.PathLike)) else "the open file"
    try:
        with files.reading(source) as file:
            start = file.read(12)
            file.seek(0)
            _register_plugin(start)
            try:
                with Image.open(file) as im:
                    return _from_pil(im, name, max_pixels, full_depth)
            except UnidentifiedImageError:
                raise ImageError(_unidentified(name, start)) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {one_line(error)} Raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file") from None
    except NeurocodecError:
        raise
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror or one_line(error)}: give a picture that can be read") from error
    except Exception as error:  # Pillow's parsers raise nearly any class on damaged files
        raise ImageError(_undecodable(name, error)) from error


def to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """uint16 samples rounded to uint8; uint8 samples are returned unchanged."""
    return values if values.dtype == np.uint8 else _scaled(values, 65535, 255).astype(np.uint8)


def at_depth(values: NDArray[Any], depth: int) -> NDArray[Any]:
    """uint8 or uint16 samples converted to 8 or 16 bits."""
    if depth == 8:
        return to_8_bits(values)
    return values if values.dtype == np.uint16 else values.astype(np.uint16) * 257


def narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """uint16 samples as uint8 if that is lossless, otherwise unchanged."""
    return to_8_bits(values) if values.dtype == np.uint16 and not (values % 257).any() else values


def samples(picture: Picture) -> NDArray[Any]:
    """The picture as an array (H, W, C): gray, gray and alpha, RGB, or RGBA; it may share memory with the picture."""
    colour = picture.rgb[:, :, :1] if picture.gray else picture.rgb
    return colour if picture.alpha is None else np.dstack([colour, picture.alpha])


def to_pil(picture: Picture) -> Image.Image:
    """An 8-bit picture as a PIL image, L, LA, RGB or RGBA, with icc_profile, exif and xmp in its info."""
    pixels = picture.rgb[:, :, 0] if picture.gray else picture.rgb
    im = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.gray:
        im = im.copy()  # memory of its own, for callers that write to it; Pillow copies RGB anyway
    if picture.alpha is not None:
        im.putalpha(Image.fromarray(np.ascontiguousarray(picture.alpha)))
    metadata.attach(im, picture.metadata)
    return im


def save_pil(im: Image.Image, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Writes `im` in the format that the suffix of `path` names, with the ICC profile, EXIF and XMP of its info.

    PNG, TIFF, WebP, BMP, PPM, TGA and JPEG 2000 are lossless, JPEG has quality 95 without chroma subsampling, and other
    formats use Pillow's defaults. The file appears whole or not at all. Raises OutputError if it cannot be written (see
    `files.writing`) or the format cannot hold the picture.
    """
    name = os.fspath(path)
    check_format(name)
    with files.writing(name, force=force) as file:
        file.write(to_file_bytes(im, name))


def to_file_bytes(im: Image.Image, name: str) -> bytes:
    """The bytes of the file that `save_pil` writes. Raises OutputError if the format cannot hold the picture."""
    kind = check_format(name)
    no_alpha = f"{name}: {kind} cannot hold the alpha channel of this picture: use .png"
    if im.mode == "RGBA" and kind in _ALPHA_IS_LOST:
        raise OutputError(no_alpha)
    out = io.BytesIO()
    try:
        im.save(out, format=kind, **_SAVE_OPTIONS.get(kind, {}), **metadata.save_options(im, kind))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, SyntaxError, struct.error) as error:
        if im.mode in ("LA", "RGBA") and "cannot write mode" in str(error):
            raise OutputError(no_alpha) from error
        raise OutputError(f"{name}: {kind} cannot hold this picture ({one_line(error)}): use .png") from error
    return out.getvalue()


def check_format(path: str | os.PathLike[str]) -> str:
    """The format that the suffix of `path` names, as Pillow spells it. Raises OutputError if it cannot be used."""
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    Image.preinit()  # common formats; loading all the others takes a tenth of a second
    kind = Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE or suffix == ".nic":
        raise OutputError(f"{name} has the suffix {suffix!r}, expected a picture format that Pillow writes: use .png")
    if kind in _ICONS:
        raise OutputError(f"{name}: {kind} is an icon format and would change the size of this picture: use .png")
    return "JPEG" if kind == "MPO" else kind  # an MPO of one picture


def pad_to_multiple(rgb: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Extends (H, W, 3) to multiples of `multiple` by repeating the right and bottom edges; copies only if needed."""
    height, width = rgb.shape[:2]
    if height % multiple == width % multiple == 0:
        return rgb
    return np.pad(rgb, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels, expected at least one pixel")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name} is {width} x {height} pixels, more than {MAX_SIDE} on a side: scale or split it")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {width} x {height} pixels, more than the limit of {max_pixels}: raise max_pixels "
            "(--max-pixels) if you trust it"
        )


def _from_array(values: NDArray[Any], max_pixels: int, full_depth: bool) -> Picture:
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
            "reorder its axes or choose channels"
        )
    _check_size("the array", values.shape[1], values.shape[0], max_pixels)
    depth = 8 * values.dtype.itemsize
    values = values.astype(values.dtype.newbyteorder("=")) if full_depth or depth == 8 else to_8_bits(values)
    return Picture(*_split(values), depth=depth)


def _from_pil(im: Image.Image, name: str, max_pixels: int, full_depth: bool) -> Picture:
    """The picture in a PIL image, opened or in memory; `name` is for errors."""
    _check_size(name, *im.size, max_pixels)
    rawmode = _rawmode(im)
    try:
        tiff_exif = metadata.tiff_exif(im)
        fine = _fine_samples(im, rawmode) if full_depth else None
        im.load()
    except Exception as error:  # Pillow's parsers raise nearly any class on damaged files
        raise ImageError(_undecodable(name, error)) from error

    values, depth = _pixels(im, rawmode, name, full_depth, fine)
    items, orientation = metadata.exif_and_xmp(im)
    rgb, gray, alpha = _split(metadata.turn(values, orientation))
    if tiff_exif:
        items.setdefault(EXIF, tiff_exif)
    if im.mode != "CMYK" and (icc := metadata.icc_profile(im, b"GRAY" if gray else b"RGB ")):
        items[ICC] = icc
    return Picture(rgb, gray, alpha, depth, items)


def _fine_samples(im: Image.Image, rawmode: str) -> NDArray[Any] | None:
    """The 16-bit samples (H, W, C) of an opened file that Pillow can only load at 8 bits; None for other files.

    Pillow unpacks the high byte of each sample, for either byte order. Unpacking once more with the opposite byte order
    gives the low bytes. Gray with alpha, four bytes per pixel, is unpacked as one RGBA pixel.
    """
    if not isinstance(im, ImageFile.ImageFile) or not im.tile:
        return None
    if im.format == "PPM" and im.mode == "RGB" and im.tile[0][0] == "ppm":
        return _ppm_samples(im)
    kind, _, order = rawmode.partition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    if im.format not in ("PNG", "TIFF") or kind not in ("RGB", "RGBA", "LA") or order not in ("B", "L", "N"):
        return None
    others = {"B": "L", "L": "B", "N": "B" if native == "L" else "L"}
    high = None if kind == "LA" else _array_as(im, rawmode)
    low = _array_as(im, "RGBA" if kind == "LA" else f"{kind};16{others[order]}")
    if high is None:
        high, low = low[..., 0::2], low[..., 1::2]
    samples: NDArray[Any] = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples


def _array_as(im: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    """The pixels of an opened file, uint8 (H, W, C), unpacked with another raw mode. The image itself is unchanged."""
    assert im.fp is not None
    at = im.fp.tell()
    twin = Image.open(im.fp)  # this rewinds the file
    if im.tell():
        twin.seek(im.tell())
    for i, tile in enumerate(twin.tile):
        args = (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode
        make: Any = getattr(type(tile), "_make", tuple)  # a plain tuple before Pillow 11
        twin.tile[i] = make((*tile[:3], args))
    values = _array(twin)
    im.fp.seek(at)
    return values


def _ppm_samples(im: ImageFile.ImageFile) -> NDArray[np.uint16] | None:
    """The samples of an opened binary PPM file with more than 8 bits per sample, scaled to 65535."""
    assert im.fp is not None
    _, _, offset, args = im.tile[0]
    top = args[-1] if isinstance(args, tuple) else args
    if not isinstance(top, int) or top <= 255:
        return None
    at = im.fp.tell()
    im.fp.seek(offset)
    data = im.fp.read(6 * im.width * im.height)
    im.fp.seek(at)
    if len(data) < 6 * im.width * im.height:
        return None  # truncated: Pillow reports that better
    return _scaled(np.frombuffer(data, ">u2").reshape(im.height, im.width, 3).clip(0, top), top, 65535).astype(
        np.uint16
    )


def _pixels(
    im: Image.Image, rawmode: str, name: str, full_depth: bool, fine: NDArray[Any] | None
) -> tuple[NDArray[Any], int]:
    """Pixels, uint8 or with `full_depth` also uint16, (H, W, 1 to 4), and bits per sample of the source.

    fine: what `_fine_samples` returned.
    """
    transparent = im.info.get("transparency")
    bits = im.tag_v2.get(_BITS_PER_SAMPLE, ()) if hasattr(im, "tag_v2") else ()
    depth = 16 if ";16" in rawmode or bits[:1] == (16,) else 8

    if im.mode.startswith("I") or im.mode == "F":
        wide = np.asarray(im)
        top = 255 if im.mode == "F" else 4095 if bits == (12,) else 65535
        if not (np.isfinite(wide).all() and wide.min() >= 0 and wide.max() <= top):
            raise ImageError(
                f"{name} holds values from {wide.min()} to {wide.max()}, expected 0 to {top} in mode {im.mode}: "
                "scale it"
            )
        if im.mode == "F" and 0 < wide.max() <= 1:
            raise ImageError(f"{name} holds values from 0 to 1, expected 0 to 255 in mode F: multiply it by 255")
        white, kind = (65535, np.uint16) if full_depth else (255, np.uint8)
        if im.mode == "F":
            gray = np.floor(wide * (white // 255) + 0.5).astype(kind)
        else:
            gray = _scaled(wide, top, white).astype(kind)
        depth = {255: 32, 4095: 12, 65535: 16}[top]
        planes = [gray, _alpha_from_key(wide == transparent, kind)] if isinstance(transparent, int) else [gray]
        return np.stack(planes, axis=-1), depth

    if im.mode == "CMYK":
        return np.asarray(_cmyk_to_srgb(im)), depth

    try:
        if fine is not None:
            values, depth = fine, 16
        elif im.mode == "P":
            values = np.asarray(im.convert("RGBA" if im.has_transparency_data else "RGB"))
        else:
            mode = _CHANNELS.get(im.mode, "RGB")
            values = _array(im if im.mode == mode else im.convert(mode))
            if rawmode.startswith("LA;16"):  # Pillow has no mode for it and gives RGBA
                values = values[:, :, [0, 3]]
    except MemoryError as error:
        raise ImageError(_undecodable(name, error)) from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be converted to RGB ({one_line(error)}): convert it first") from error
    if values.ndim == 2:
        values = values[:, :, None]
    if im.mode in ("1", "L") and isinstance(transparent, int):
        levels = values[:, :, 0]
        loaded_png = im.format in ("PNG", None) and not rawmode
        if im.mode == "1":
            transparent = 255 if transparent else 0
        elif loaded_png and 0 < transparent < 16 and not (levels % 17).any():  # of 2, 4 or 8 bits?
            raise ImageError(_loaded_before(name, transparent))
        key = transparent * {"L;2": 85, "L;4": 17}.get(rawmode, 1)  # Pillow scales the pixels, not the key
        values = np.dstack([values, _alpha_from_key(levels == key)])
    elif im.mode == "RGB" and isinstance(transparent, (tuple, list)) and len(transparent) == 3:
        depth = 16 if max(transparent) > 255 else depth
        matches = (values == np.array(transparent) >> (8 if depth == 16 and fine is None else 0)).all(axis=-1)
        if im.format == "PNG" and not rawmode and any(transparent) and not matches.any():  # of 8 or 16 bits?
            raise ImageError(_loaded_before(name, transparent))
        values = np.dstack([values, _alpha_from_key(matches, values.dtype.type)])
    return values, depth


def _array(im: Image.Image) -> NDArray[np.uint8]:
    """np.array(im), converted in bands of rows to halve the memory."""
    bands = len(im.getbands())
    values = np.empty((im.height, im.width, bands) if bands > 1 else (im.height, im.width), np.uint8)
    for top in range(0, im.height, _ROWS):
        values[top : top + _ROWS] = np.asarray(im.crop((0, top, im.width, min(top + _ROWS, im.height))))
    return values


def _cmyk_to_srgb(im: Image.Image) -> Image.Image:
    """Converts with the image's own profile if that works, otherwise as Pillow does by default."""
    if (icc := metadata.icc_profile(im, b"CMYK")) is not None:
        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            out = ImageCms.profileToProfile(im, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if out is not None:
                return out
    return im.convert("RGB")


def _scaled(values: NDArray[Any], top: int, white: int) -> NDArray[np.uint32]:
    """Integers 0 to `top` scaled to 0 to `white` (at most 65535) and rounded."""
    return (values.astype(np.uint32) * white + top // 2) // top


def _alpha_from_key(transparent: NDArray[np.bool_], kind: type[np.unsignedinteger[Any]] = np.uint8) -> NDArray[Any]:
    return np.where(transparent, 0, np.iinfo(kind).max).astype(kind)


def _split(values: NDArray[Any]) -> tuple[NDArray[Any], bool, NDArray[Any] | None]:
    """(H, W, 1 to 4) -> rgb (H, W, 3), whether it is gray, and alpha (H, W) or None."""
    channels = values.shape[2]
    colour = values[:, :, :1].repeat(3, axis=2) if channels <= 2 else np.ascontiguousarray(values[:, :, :3])
    alpha = values[:, :, -1].copy() if channels in (2, 4) else None
    return colour, channels <= 2, alpha


def _rawmode(im: Image.Image) -> str:
    """Pillow's raw mode of an opened file, such as RGB;16B; empty once it is loaded, or if unknown."""
    tiles = getattr(im, "tile", None)
    args = tiles[0][3] if tiles else ""
    args = args[0] if isinstance(args, (tuple, list)) and args else args
    return args if isinstance(args, str) else ""


def _loaded_before(name: str, transparent: Any) -> str:
    return (
        f"{name} was loaded before, and Pillow does not say at which depth {transparent} is transparent: give its "
        'path, or remove "transparency" from its info'
    )


def _plugin_for(start: bytes) -> str:
    """The package that Pillow needs to read a file that starts with these bytes, or an empty string."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return "pillow-heif"
    return "pillow-jxl-plugin" if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")) else ""


def _register_plugin(start: bytes) -> None:
    """Registers Pillow's HEIC or JPEG XL plugin if the file needs it and it is installed."""
    with contextlib.suppress(ImportError):
        if (package := _plugin_for(start)) == "pillow-heif":
            import pillow_heif

            pillow_heif.register_heif_opener()
        elif package:
            import pillow_jxl  # noqa: F401 (registers itself)


def _unidentified(name: str, start: bytes) -> str:
    if start.startswith(SIGNATURE):
        return f"{name} is a .nic file already, expected a picture: decode it first, with `neurocodec decode`"
    if package := _plugin_for(start):
        return f"{name} needs {package}, or is damaged: pip install {package}, or convert it to PNG first"
    return f"{name} is not a picture that Pillow can read: convert it to PNG or JPEG first"


def _undecodable(name: str, error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"{name} needs more memory than is free: close other programs or use a smaller picture"
    return f"{name} cannot be decoded as a picture ({one_line(error)}): the file is damaged or incomplete"
