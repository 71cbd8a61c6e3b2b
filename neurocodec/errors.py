"""Every exception that neurocodec raises on purpose, and the sentence that tells a user about any exception.

NeurocodecError
├── NicFormatError            the data are not a valid .nic file
│   ├── TruncatedError        they end too early
│   ├── ChecksumError         a checksum does not match: damaged, or wrongly decoded
│   └── UnsupportedVersionError   a newer format than this release reads
├── ModelNotFoundError        no installed model has this id or name
├── ModelMismatchError        a model file is damaged, or is not the one the .nic names
├── ImageError                the input is not a picture that can be encoded
├── OutputError               an output exists already or cannot be written
├── ConfigError               a configuration, an argument of a benchmark or a results file is wrong
├── MissingPackageError       an optional package is not installed
├── MissingWeightsError       the weights of a feature network are not on this machine, or are damaged
└── NativeUnavailableError    the compiled core is required but cannot be used
"""

from __future__ import annotations

import os


class NeurocodecError(Exception):
    """Base class of all errors raised by neurocodec. Its text is one sentence for the user."""


class NicFormatError(NeurocodecError, ValueError):
    """The data are not a valid .nic file."""


class TruncatedError(NicFormatError):
    """The data end before the .nic file does."""


class ChecksumError(NicFormatError):
    """A checksum does not match: the file is damaged, or its symbols decoded wrongly."""


class UnsupportedVersionError(NicFormatError):
    """The file uses a version or a required feature that this release does not know."""


class ModelNotFoundError(NeurocodecError, LookupError):
    """No model with this name or id is installed."""


class ModelMismatchError(NeurocodecError, ValueError):
    """A model file is damaged or is not the model that was asked for."""


class ImageError(NeurocodecError, ValueError):
    """The input cannot be read as a picture, or has a shape or type that cannot be encoded."""


class OutputError(NeurocodecError, OSError):
    """An output exists already, or cannot be written."""


class ConfigError(NeurocodecError, ValueError):
    """A configuration, an argument of a benchmark, a run folder or a results file is wrong."""


class MissingPackageError(NeurocodecError, ImportError):
    """An optional package is not installed."""


class MissingWeightsError(NeurocodecError, FileNotFoundError):
    """The weights of a feature network are not on this machine, or are damaged."""


class NativeUnavailableError(NeurocodecError, ImportError):
    """The compiled extension was required (NEUROCODEC_NATIVE=require) and cannot be used."""


def one_line(error: BaseException) -> str:
    """The error's text on one line, or the name of its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def sentence(error: BaseException, subject: str = "") -> str:
    """The error in one sentence for the user. subject: such as a file name; it comes first unless the text has it."""
    text = one_line(error)
    if isinstance(error, NeurocodecError):
        pass
    elif isinstance(error, MemoryError):
        text = "out of memory: close other programs or use a smaller picture"
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("neurocodec"):
        text = f"this command needs {error.name}, which is not installed: pip install {error.name}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    elif not (isinstance(error, ValueError) and str(error).strip()):
        text = f"unexpected {type(error).__name__}{f': {text}' if str(error).strip() else ''}: please report it, "
        text += "with what NEUROCODEC_TRACEBACK=1 shows"
    return text if subject in text else f"{subject}: {text}"
