"""Imports optional packages when they are used, and says in one sentence which is missing.

torchvision's only wheel for Linux holds CUDA code, which does not load next to a CPU build of torch. torchvision
tolerates that, but then registers operators that do not exist, and `import torchvision` fails with "operator
torchvision::nms does not exist". CompressAI and torch-fidelity import torchvision but need none of these operators.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from neurocodec.errors import MissingPackageError


def require(module: str, package: str, purpose: str, extra: str = "bench") -> ModuleType:
    """Imports a module. Raises MissingPackageError, which names the package, its purpose and the extra to install."""
    needs_torchvision = module.partition(".")[0] == "torch_fidelity"
    try:
        return import_with_torchvision(module) if needs_torchvision else importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'neurocodec[{extra}]'"
        ) from error


@contextmanager
def training_packages() -> Iterator[None]:
    """Turns failed imports of packages of the extra `train` into MissingPackageError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("filelock", "tqdm", "tomli", "torch"):
            raise
        raise MissingPackageError(f"this command needs {error.name}: pip install 'neurocodec[train]'") from error


def import_with_torchvision(name: str) -> ModuleType:
    """`importlib.import_module(name)` for a module that imports torchvision. Raises what the import raises."""
    with _missing_operators_ignored():
        return importlib.import_module(name)


@contextmanager
def _missing_operators_ignored() -> Iterator[None]:
    """Makes `torch.library.register_fake` skip operators of torchvision that do not exist."""
    import torch.library

    register: Callable[..., Any] = torch.library.register_fake

    def register_if_it_exists(operator: Any, *arguments: Any, **options: Any) -> Any:
        decorator = register(operator, *arguments, **options)
        if not (isinstance(operator, str) and operator.startswith("torchvision::") and callable(decorator)):
            return decorator

        def decorate(function: Any) -> Any:
            try:
                return decorator(function)
            except RuntimeError as error:
                if f"operator {operator} does not exist" not in str(error):
                    raise
                return function

        return decorate

    torch.library.register_fake = register_if_it_exists
    try:
        yield
    finally:
        torch.library.register_fake = register
