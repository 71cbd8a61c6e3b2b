"""Pillow plugin: Image.open reads .nic files, and Image.save writes them. Registered by `import neurocodec`.

Opening checks the file and runs no network; pixels are decoded when they are first used.
"""

from __future__ import annotations

import os
from typing import IO, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from neurocodec import container
from neurocodec.errors import NicFormatError

FORMAT = "NIC"
_EXIF_PREFIX = b"Exif\0\0"
_ENCODE_OPTIONS = ("quality", "target_bpp", "target_bytes", "target_psnr", "model", "device")


class UnreadableNicError(NicFormatError, UnidentifiedImageError):
    """A .nic file that is damaged: a NicFormatError, and an OSError as Pillow's users expect."""


class NicImageFile(ImageFile.ImageFile):
    """A .nic file as Pillow sees it.

    info: model_id (16 hex digits), quality (1 to 100), and icc_profile, exif and xmp where the file has them.
    Raises UnreadableNicError when opened or loaded if the file is damaged, ModelNotFoundError when loaded without the
    model that it needs.
    """

    format = FORMAT
    format_description = "neurocodec image"
    _data: bytes | None = None  # the file, until its pixels are decoded; of the class for pictures made by pickle

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        try:
            about = container.describe(data)
            chunks = container.read(data).chunks
        except NicFormatError as error:
            raise UnreadableNicError(str(error)) from error
        self._data = data
        self._size = (about.width, about.height)
        self._mode = about.mode
        self.info = {"model_id": about.model_id, "quality": about.quality}
        if container.ICC in chunks:
            self.info["icc_profile"] = chunks[container.ICC]
        if container.EXIF in chunks:
            self.info["exif"] = _EXIF_PREFIX + chunks[container.EXIF]
        if container.XMP in chunks:
            self.info["xmp"] = chunks[container.XMP]
        self.tile = []  # no decoder of Pillow's: load does it all

    def load(self) -> Any:
        """Decodes the pixels, once."""
        if self._data is not None:
            from neurocodec import codec

            try:
                self.im = codec.decode(self._data).im
            except NicFormatError as error:
                raise UnreadableNicError(str(error)) from error
            self._data = None
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
            self.fp = None
        return super().load()


def register() -> None:
    """Makes the format known to Pillow; a second call changes nothing."""
    Image.register_open(FORMAT, NicImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".nic")
    Image.register_mime(FORMAT, "image/x-nic")


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.SIGNATURE)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes | os.PathLike[str]) -> None:
    """Image.save: takes the options of `neurocodec.encode`, and icc_profile, exif and xmp to replace those of im.info.

    Raises what `neurocodec.encode` raises.
    """
    from neurocodec import codec

    given: dict[str, Any] = getattr(im, "encoderinfo", {})
    options = {name: given[name] for name in _ENCODE_OPTIONS if name in given}
    if replaced := {name: given[name] for name in ("icc_profile", "exif", "xmp") if name in given}:
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
