"""Imports run downward only, the coder knows no torch, and decoding needs nothing but the core dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neurocodec"

LEVELS = {
    "neurocodec.errors": 0,
    "neurocodec._native": 1,
    "neurocodec.container": 1,
    "neurocodec.image": 1,
    "neurocodec.files": 1,
    "neurocodec.entropy.native": 1,
    "neurocodec.tiling": 1,
    "neurocodec.processes": 1,
    "neurocodec.metrics": 1,
    "neurocodec.entropy": 2,
    "neurocodec.perceptual": 2,
    "neurocodec.models.layers": 2,
    "neurocodec.models": 3,
    "neurocodec.checkpoint": 4,
    "neurocodec.codec": 5,
    "neurocodec.collection": 5,
    "neurocodec.conformance": 5,
    "neurocodec.pillow_plugin": 5,
    "neurocodec.pillow_hook": 5,
    "neurocodec.training": 5,
    "neurocodec.bench": 5,
    "neurocodec.interop": 5,
    "neurocodec.packages": 1,
    "neurocodec": 5,  # the public names, which are codec's
    "neurocodec.cli": 6,
    "neurocodec.__main__": 6,
}
"""A part and everything in it: the longest name that fits decides. A module imports its own level or lower ones."""

NO_TORCH = (
    "container",
    "entropy.tables",
    "entropy.reference",
    "entropy.coder",
    "entropy.native",
    "errors",
    "pillow_hook",
)
CODING = ("neurocodec", "codec", "checkpoint", "container", "image", "tiling", "errors", "entropy", "models", "pillow")
CORE = {"torch", "numpy", "PIL", "safetensors", "neurocodec"}
FORBIDDEN = ("compressai", "torchvision", "scipy", "pandas", "matplotlib")


def modules() -> dict[str, Path]:
    """Every module of the package, by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Names of the modules that a source imports anywhere in it, functions included, and the lines.

    Not those that only type checkers see, under `if TYPE_CHECKING`: they are never imported.
    """
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += reversed(list(ast.iter_child_nodes(node)))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES or inner == "neurocodec._native" else base), node.lineno


def imports_of(module: str) -> list[tuple[str, int]]:
    path = MODULES[module]
    return list(imports(path.read_text(), module, path.name == "__init__.py"))


def level(module: str) -> int:
    while module not in LEVELS:
        module = module.rpartition(".")[0]
    return LEVELS[module]


def test_every_part_has_a_level() -> None:
    parts = {".".join(name.split(".")[:2]) for name in MODULES}
    assert parts <= set(LEVELS), "a new part of the package needs its level here, and its place in the design"


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    upward = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for name, line in imports_of(module)
        if name.split(".")[0] == "neurocodec" and level(name) > level(module)
    ]
    assert not upward


def test_upward_imports_would_be_seen() -> None:
    source = """
if TYPE_CHECKING:
    import torch

def f():
    from neurocodec import codec
    from ..training import loop
    import neurocodec.cli.main
"""
    assert list(imports(source, "neurocodec.metrics.psnr", False)) == [
        ("neurocodec.codec", 6),
        ("neurocodec.training.loop", 7),
        ("neurocodec.cli.main", 8),
    ]
    assert level("neurocodec.metrics.psnr") < level("neurocodec.codec") < level("neurocodec.cli.main")
    assert level("neurocodec.models.layers") < level("neurocodec.models.hyperprior")


@pytest.mark.parametrize("module", NO_TORCH)
def test_no_torch_where_bytes_are_made(module: str) -> None:
    assert "torch" not in {name.split(".")[0] for name, _ in imports_of(f"neurocodec.{module}")}


def test_no_torch_in_the_process_either() -> None:
    wanted = [f"neurocodec.{module}" for module in NO_TORCH]
    script = f"import sys, {', '.join(wanted)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_coding_needs_only_the_core_dependencies() -> None:
    allowed = CORE | set(sys.stdlib_module_names)
    foreign = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES
        if module == "neurocodec" or module.removeprefix("neurocodec.").startswith(CODING)
        for name, line in imports_of(module)
        if name.split(".")[0] not in allowed
    ]
    assert not foreign


def test_coding_imports_nothing_else_at_run_time() -> None:
    if not (PACKAGE / "weights" / "base.safetensors").is_file():
        pytest.skip("the model base is not in neurocodec/weights yet")
    script = (
        "import sys, numpy, neurocodec\n"
        "data = neurocodec.encode(numpy.zeros((20, 30, 3), numpy.uint8), device='cpu')\n"
        "neurocodec.decode(data, device='cpu')\n"
        f"print([name for name in {FORBIDDEN} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
