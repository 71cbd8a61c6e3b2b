"""Registers the Pillow plugin as soon as Pillow is imported, and not before: `neurocodec info` never pays for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_PILLOW = "PIL.Image"


def install() -> None:
    """Registers .nic with Pillow now if it is imported, else when it will be. A second call changes nothing."""
    if _PILLOW in sys.modules:
        _register()
    elif not any(isinstance(finder, _PillowFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PillowFinder())


def _register() -> None:
    from neurocodec.pillow_plugin import register

    register()


class _PillowFinder:
    """Finds PIL.Image where the other finders do, and has its loader register the plugin after it."""

    def __init__(self) -> None:
        self._asking_others = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """importlib's question for a module; None leaves it to the others."""
        if name != _PILLOW or self._asking_others:
            return None
        from importlib.util import find_spec

        self._asking_others = True
        try:
            spec = find_spec(name)
        finally:
            self._asking_others = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
