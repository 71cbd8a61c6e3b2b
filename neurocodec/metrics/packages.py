"""Packages that only measuring needs: imported when used, with a sentence when they are not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from neurocodec.errors import MissingPackageError


def require(module: str, package: str, purpose: str, extra: str = "bench") -> ModuleType:
    """The imported module. Raises MissingPackageError, which names the package, what it is for and the extra that
    brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'neurocodec[{extra}]'"
        ) from error
