"""Every exception that neurocodec raises on purpose.

NeurocodecError
├── NicFormatError            the bytes are not a valid .nic file
│   ├── TruncatedError        they end too early
│   ├── ChecksumError         a checksum does not match: damaged, or decoded to other symbols
│   └── UnsupportedVersionError   a newer format than this release reads
├── ModelNotFoundError        no installed model has the id or the name asked for
├── ModelMismatchError        a model file is damaged, or is not the one the .nic names
├── ImageError                the input is no picture that can be encoded
├── OutputError               an output exists already or cannot be written
├── ConfigError               a configuration, an argument of a benchmark or a results file is wrong
├── MissingPackageError       an optional package is not installed
├── MissingWeightsError       the weights of a feature network are not on this machine, or are damaged
└── NativeUnavailableError    the compiled range coder was required and is not there
"""


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
    """The weights of a feature network are not on this machine, or the file that should hold them does not."""


class NativeUnavailableError(NeurocodecError, ImportError):
    """The compiled extension was required (NEUROCODEC_NATIVE=require) and cannot be used."""
