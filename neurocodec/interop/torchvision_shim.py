"""Modules that import torchvision, beside a torch that its compiled part was not built for.

torchvision's only Linux wheel holds CUDA code. Beside a CPU torch that code does not load, which torchvision itself
allows; but it then describes operators that do not exist, and `import torchvision` ends with "operator
torchvision::nms does not exist". Nothing that CompressAI or torch-fidelity use needs these operators.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_with_torchvision(name: str) -> ModuleType:
    """`importlib.import_module(name)` for a module that imports torchvision. Raises what the import raises."""
    with _missing_operators_forgiven():
        return importlib.import_module(name)


@contextmanager
def _missing_operators_forgiven() -> Iterator[None]:
    """`torch.library.register_fake` does nothing for operators of torchvision that are not there."""
    import torch.library

    register: Callable[..., Any] = torch.library.register_fake

    def forgiving(operator: Any, *arguments: Any, **options: Any) -> Any:
        done = register(operator, *arguments, **options)
        if not (isinstance(operator, str) and operator.startswith("torchvision::") and callable(done)):
            return done

        def decorate(function: Any) -> Any:
            try:
                return done(function)
            except RuntimeError as error:
                if f"operator {operator} does not exist" not in str(error):
                    raise
                return function

        return decorate

    torch.library.register_fake = forgiving
    try:
        yield
    finally:
        torch.library.register_fake = register
