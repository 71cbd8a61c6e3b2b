"""Pillow's view of a .nic file. It is separate so that PIL.ImageFile is imported only when a file is opened."""

from __future__ import annotations

from typing import Any

from PIL import ImageFile, UnidentifiedImageError

from neurocodec import container, metadata
from neurocodec.errors import NicFormatError


class UnreadableNicError(NicFormatError, UnidentifiedImageError):
    """A damaged .nic file: a NicFormatError, and an OSError as users of Pillow expect."""


class NicImageFile(ImageFile.ImageFile):
    """An opened .nic file. Opening verifies it without running a network; pixels are decoded on first use.

    info: model_id (16 hex digits), quality (1 to 100), and icc_profile, exif and xmp if the file has them. Opening and
    loading raise UnreadableNicError if the file is damaged; loading raises ModelNotFoundError if its model is missing.
    """

    format = "NIC"
    format_description = "neurocodec image"
    _data: bytes | None = None  # the file, until its pixels are decoded; a class attribute for unpickled pictures

    def _open(self) -> None:
        assert self.fp is not None
        try:
            data = container.read_bytes(self.fp)
            nic = container.read(data)
        except NicFormatError as error:
            raise UnreadableNicError(str(error)) from error
        info = container.info_of(nic, len(data))
        self._data = data
        self._size = (info.width, info.height)
        self._mode = info.mode
        self.info = {"model_id": info.model_id, "quality": info.quality}
        metadata.attach(self, nic.chunks)
        self.tile = []  # no Pillow decoder; load does everything

    def load(self) -> Any:
        """Decodes the pixels, once."""
        if self._data is not None:
            from neurocodec import codec

            try:
                self.im = codec.decode(self._data, max_pixels=container.MAX_PIXELS).im  # Pillow has its own limit
            except NicFormatError as error:
                raise UnreadableNicError(str(error)) from error
            self._data, self.readonly = None, 0
            if self._exclusive_fp and self.fp is not None:
                self.fp.close()
            self.fp = None
        return super().load()
