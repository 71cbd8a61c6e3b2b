"""Packages that only measuring needs, imported when used."""

from __future__ import annotations

import importlib
from types import ModuleType

from neurocodec.errors import MissingPackageError


def require(module: str, package: str, purpose: str) -> ModuleType:
    """The imported module. Raises MissingPackageError, which names the package and its purpose."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = "pip install 'neurocodec[bench]'"
        raise MissingPackageError(f"{purpose} needs {package}, which is not installed: {hint}") from error
