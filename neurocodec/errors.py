"""Every exception that neurocodec raises on purpose, and the sentence that a user sees for any exception.

NeurocodecError
├── NicFormatError            the data are not a valid .nic file
│   ├── TruncatedError        they end too early
│   ├── ChecksumError         a checksum does not match: damaged, or wrongly decoded
│   └── UnsupportedVersionError   a newer format than this release reads
├── ModelNotFoundError        no installed model has this id or name
├── ModelMismatchError        a model file is damaged, or is not the one the .nic names
├── ImageError                the input is not a picture that can be encoded
├── ArgumentError             an argument of a function is wrong
│   ├── ArgumentTypeError     it has the wrong type; also a TypeError
│   └── ArgumentValueError    it has a value out of range; also a ValueError
├── OutOfMemoryError          there is not enough memory; also a MemoryError
├── OutputError               an output exists already or cannot be written
├── ConfigError               a configuration, an argument of a benchmark or a results file is wrong
├── MissingPackageError       an optional package is not installed
├── MissingWeightsError       the weights of a feature network are not on this machine, or are damaged
└── NativeUnavailableError    the compiled core is required but cannot be used
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


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


class ArgumentError(NeurocodecError):
    """An argument of a function is wrong."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has the wrong type."""


class ArgumentValueError(ArgumentError, ValueError):
    """An argument is out of range or conflicts with another."""


class OutOfMemoryError(NeurocodecError, MemoryError):
    """There is not enough memory for the operation."""


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


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns errors about exhausted memory, including torch's, into OutOfMemoryError."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise OutOfMemoryError(OUT_OF_MEMORY) from error


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out: a MemoryError, or a RuntimeError from torch or CUDA that says so."""
    text = str(error).lower()
    says_so = any(words in text for words in ("out of memory", "allocate memory", "alloc_failed"))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_so)


OUT_OF_MEMORY = "out of memory: close other programs, use a smaller picture, or decode regions of it"


def one_line(error: BaseException) -> str:
    """The error's text on one line, or the name of its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """The text with control characters, line ends and characters that cannot be encoded replaced by escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def sentence(error: BaseException, subject: str = "") -> str:
    """The error as one sentence for the user. subject: a file name, say; put in front unless the text contains it."""
    text = one_line(error)
    if isinstance(error, NeurocodecError):
        pass
    elif is_memory_error(error):
        text = OUT_OF_MEMORY
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("neurocodec"):
        text = f"this command needs {error.name}, which is not installed: pip install {error.name}"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    elif not (isinstance(error, ValueError) and str(error).strip()):
        text = f"unexpected {type(error).__name__}{f': {text}' if str(error).strip() else ''}: please report it, "
        text += "with what NEUROCODEC_TRACEBACK=1 shows"
    return text if subject in text else f"{subject}: {text}"
