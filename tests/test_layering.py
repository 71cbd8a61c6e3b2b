"""Imports run downward only, without circles; coding knows no torch and needs the core dependencies alone."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "neurocodec"

LEVELS: tuple[set[str], ...] = (
    {"errors", "_native"},
    {"arguments", "files", "packages", "workers"},
    {"alpha", "entropy", "container", "tiling", "metrics", "perceptual"},
    {"metadata"},
    {"image"},
    {"bands", "model", "targets"},
    {"integer"},
    {"models", "screen"},
    {"tiles"},
    {"codec"},
    {"collection", "conformance", "pillow_reader", "thumbnail", "torch"},
    {"pillow_plugin"},
    {""},  # neurocodec itself: the public names
    {"training", "interop"},
    {"bench", "synthesis"},
    {"cli"},
    {"__main__"},
)
"""The rooms of the house from the ground up. A room imports rooms below its own level, never its neighbours."""

NO_TORCH = (
    *(
        "errors",
        "arguments",
        "files",
        "container",
        "alpha",
        "image",
        "bands",
        "metadata",
        "targets",
        "tiling",
        "model",
        "screen",
        "tiles",
        "codec",
        "thumbnail",
    ),
    "conformance",
    *("pillow_plugin", "pillow_reader"),
    *("entropy.grid", "entropy.tables", "entropy.coder", "entropy.reference", "entropy.native", "entropy.cuda"),
    *("integer.reference", "integer.native", "integer.network", "integer.entropy", "integer.transforms"),
    *("integer.context_coder", "integer.palette", "integer.hyper"),
)
CODING = (
    *(
        "",
        "codec",
        "tiles",
        "model",
        "container",
        "alpha",
        "image",
        "bands",
        "metadata",
        "targets",
        "tiling",
        "errors",
        "arguments",
        "files",
    ),
    *("entropy", "integer", "conformance", "pillow_plugin", "pillow_reader"),
)
CORE = {"numpy", "PIL", "safetensors", "neurocodec"}
OPTIONAL = {
    *(("files", "pooch"), ("integer.gpu", "torch")),
    *(("image", "pillow_heif"), ("image", "pillow_jxl")),
}
"""Imported when they are used: for downloads, for coding on a GPU, and to read HEIC and JPEG XL."""
FORBIDDEN = ("compressai", "torchvision", "scipy", "pandas", "matplotlib")


def _modules() -> dict[str, Path]:
    """Every module of the package, by its name within the package; the package itself is ""."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = _modules()


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Full names of the modules that a source imports anywhere in it, functions included, and the lines.

    Imports under `if TYPE_CHECKING` count as well: a reader follows them like the others.
    """
    full = f"neurocodec.{module}".rstrip(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = full.split(".") if is_package else full.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("neurocodec.")
                known = base.split(".")[0] == "neurocodec" and (inner in MODULES or inner == "_native")
                yield (f"neurocodec.{inner}" if known else base), node.lineno


def imports_of(module: str) -> list[tuple[str, int]]:
    path = MODULES[module]
    return list(imports(path.read_text(), module, path.name == "__init__.py"))


def within(name: str) -> str | None:
    """A full module name as one within the package; None for foreign modules."""
    return name.removeprefix("neurocodec").removeprefix(".") if name.split(".")[0] == "neurocodec" else None


def room(module: str) -> str:
    return module.split(".")[0]


def level(module: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if room(module) in rooms)


def test_every_room_has_one_level() -> None:
    rooms = [name for names in LEVELS for name in names]
    assert len(rooms) == len(set(rooms))
    assert set(rooms) - {"_native"} == {room(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for name, line in imports_of(module)
        if (inner := within(name)) is not None and room(inner) != room(module) and level(inner) >= level(module)
    ]
    assert not wrong


def test_no_file_is_part_of_a_circle() -> None:
    graph = {
        module: {inner for name, _ in imports_of(module) if (inner := within(name)) is not None} - {module}
        for module in MODULES
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_wrong_imports_would_be_noticed() -> None:
    source = """
if TYPE_CHECKING:
    import torch

def f():
    from neurocodec import codec
    from ..training import loop
    import neurocodec.cli.main
"""
    assert sorted(imports(source, "metrics.psnr", False), key=lambda item: item[1]) == [
        ("torch", 3),
        ("neurocodec.codec", 6),
        ("neurocodec.training.loop", 7),
        ("neurocodec.cli.main", 8),
    ]
    assert level("metrics.psnr") < level("codec") < level("cli.main")
    assert level("entropy.grid") == level("container")
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter({"entropy": {"models"}, "models": {"entropy"}}).static_order())


@pytest.mark.parametrize("module", NO_TORCH)
def test_no_torch_where_bytes_are_made(module: str) -> None:
    assert "torch" not in {name.split(".")[0] for name, _ in imports_of(module)}


def test_no_torch_in_the_process_either() -> None:
    names = ", ".join(f"neurocodec.{module}" for module in NO_TORCH)
    script = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_coding_needs_only_the_core_dependencies() -> None:
    allowed = CORE | set(sys.stdlib_module_names)
    foreign = [
        f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES
        if room(module) in CODING
        for name, line in imports_of(module)
        if name.split(".")[0] not in allowed and (module, name) not in OPTIONAL
    ]
    assert not foreign


def test_coding_imports_nothing_else_at_run_time() -> None:
    script = (
        "import sys, numpy, neurocodec\n"
        "data = neurocodec.encode(numpy.zeros((20, 30, 3), numpy.uint8), device='cpu')\n"
        "neurocodec.decode(data, device='cpu')\n"
        f"print([name for name in {FORBIDDEN} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
