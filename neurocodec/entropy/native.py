"""The core in C++, where it was built.

The environment variable NEUROCODEC_NATIVE chooses: auto (the default; one warning if slower code has to do), require
(NativeUnavailableError instead), or off (the slower code: same results).
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

from neurocodec.errors import ConfigError, NativeUnavailableError


def extension() -> ModuleType | None:
    """`neurocodec._native`, or None. Raises NativeUnavailableError if it is required and cannot be loaded.

    Raises ConfigError for another value of the variable.
    """
    mode = mode_of("NEUROCODEC_NATIVE")
    if mode == "off":
        return None
    try:
        return importlib.import_module("neurocodec._native")
    except ImportError as error:
        if mode == "require":
            raise NativeUnavailableError(
                f"NEUROCODEC_NATIVE=require, but the compiled core cannot be loaded ({error}); "
                "install neurocodec again where there is a C++ compiler."
            ) from error
        _warn_once(str(error))
        return None


def mode_of(variable: str) -> str:
    """What an environment variable asks for: auto (the default), require or off. Raises ConfigError for others."""
    mode = os.environ.get(variable, "auto")
    if mode not in ("auto", "require", "off"):
        raise ConfigError(f"{variable} is {mode!r}; it must be auto, require or off.")
    return mode


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"The compiled core cannot be loaded ({reason}); using the slow one in Python.",
        RuntimeWarning,
        stacklevel=4,
    )
