"""Packages that only measuring needs: imported when used, with a sentence when they are not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from neurocodec.errors import MissingPackageError


def require(module: str, package: str, purpose: str) -> ModuleType:
    """The imported module. Raises MissingPackageError, which names the package, what it is for and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'neurocodec[bench]'"
        ) from error
