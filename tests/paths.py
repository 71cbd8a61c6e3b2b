"""Where things are in a checkout."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
SMALL_MODEL = GOLDEN / "model" / "small.safetensors"
PHOTO = ROOT / "neurocodec" / "data" / "astronaut.png"


def script(name: str, folder: str = "benchmarks") -> ModuleType:
    """FOLDER/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
