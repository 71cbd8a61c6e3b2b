"""Packages that only measuring needs: imported when used, with a sentence when they are not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from neurocodec.errors import MissingPackageError
from neurocodec.interop.torchvision_shim import import_with_torchvision


def require(module: str, package: str, purpose: str, extra: str = "bench") -> ModuleType:
    """The imported module. Raises MissingPackageError, which names the package, what it is for and the extra that
    brings it."""
    needs_torchvision = module.partition(".")[0] == "torch_fidelity"
    try:
        return import_with_torchvision(module) if needs_torchvision else importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'neurocodec[{extra}]'"
        ) from error
