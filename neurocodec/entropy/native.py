"""Loads the C++ core, if it was built.

The environment variable NEUROCODEC_NATIVE is auto (the default: without the core, slow Python code and one warning),
require (NativeUnavailableError without the core) or off (slow code, same results).
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

from neurocodec.errors import ConfigError, NativeUnavailableError


def extension() -> ModuleType | None:
    """`neurocodec._native`, or None.

    Raises NativeUnavailableError if it is required but cannot be loaded, ConfigError if the variable has another value.
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
    """The value of an environment variable: auto (the default), require or off. Raises ConfigError for others."""
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
