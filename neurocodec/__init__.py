"""neurocodec: a neural image codec.

data = neurocodec.encode("photo.png", quality=50)
im = neurocodec.decode(data)
neurocodec.info(data)
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

from neurocodec import pillow_plugin
from neurocodec.container import NicInfo, describe, read_bytes
from neurocodec.errors import (
    ArgumentError,
    ArgumentTypeError,
    ArgumentValueError,
    ChecksumError,
    ConfigError,
    ImageError,
    MissingPackageError,
    MissingWeightsError,
    ModelMismatchError,
    ModelNotFoundError,
    NativeUnavailableError,
    NeurocodecError,
    NicFormatError,
    OutOfMemoryError,
    OutputError,
    TruncatedError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from neurocodec.codec import decode, decode_array, encode
    from neurocodec.thumbnail import preview

pillow_plugin.register()

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "ArgumentValueError",
    "ChecksumError",
    "ConfigError",
    "ImageError",
    "MissingPackageError",
    "MissingWeightsError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "NativeUnavailableError",
    "NeurocodecError",
    "NicFormatError",
    "NicInfo",
    "OutOfMemoryError",
    "OutputError",
    "TruncatedError",
    "UnsupportedVersionError",
    "decode",
    "decode_array",
    "encode",
    "info",
    "preview",
]


def info(data: bytes | str | os.PathLike[str] | IO[bytes]) -> NicInfo:
    """Describes a .nic file without running a network. data: the bytes of the file, its path, or an open file.

    Raises NicFormatError if the data are not a valid .nic file, or cannot be read.
    """
    return describe(read_bytes(data))


def __getattr__(name: str) -> Any:
    """Imports what runs networks, `encode`, `decode`, `decode_array` and `preview`, when it is first used."""
    if name in ("encode", "decode", "decode_array"):
        from neurocodec import codec

        return getattr(codec, name)
    if name == "preview":
        from neurocodec import thumbnail

        return thumbnail.preview
    raise AttributeError(f"module 'neurocodec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "decode", "decode_array", "encode", "preview"])
