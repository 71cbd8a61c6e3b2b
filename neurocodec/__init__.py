"""neurocodec: a neural image codec.

data = neurocodec.encode("photo.png", quality=50)
im = neurocodec.decode(data)
neurocodec.info(data)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from neurocodec import pillow_hook
from neurocodec.container import NicInfo, describe, read_bytes
from neurocodec.errors import (
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
    OutputError,
    TruncatedError,
    UnsupportedVersionError,
)

if TYPE_CHECKING:
    from neurocodec.codec import decode, encode

pillow_hook.install()  # Pillow opens and saves .nic; costs nothing until Pillow is imported

__version__ = "0.1.0"

__all__ = [
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
    "OutputError",
    "TruncatedError",
    "UnsupportedVersionError",
    "decode",
    "encode",
    "info",
]


def info(data: bytes | str | os.PathLike[str]) -> NicInfo:
    """What a .nic file says about itself, without running a network. data: the bytes of the file, or its path.

    Raises NicFormatError or a subclass for data that are not a sound .nic file, or a path that cannot be read.
    """
    return describe(read_bytes(data))


def __getattr__(name: str) -> Any:
    """`encode` and `decode` import torch when they are first used."""
    if name in ("encode", "decode"):
        from neurocodec import codec

        return getattr(codec, name)
    raise AttributeError(f"module 'neurocodec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "decode", "encode"])
