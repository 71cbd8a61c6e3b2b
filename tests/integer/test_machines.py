"""The core on machines that this one is not: the same layers and tiles, compiled for others and run under emulation."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

HEADERS = "#include <immintrin.h>\n#include <simde/x86/avx512/dpwssd.h>\n"


def compare(folder: Path, compiler: str, *flags: str, emulator: str = "") -> tuple[list[str], list[str]]:
    """Names of the kernels that the machine compared, and checksums that are the same on every machine."""
    program = folder / "kernels"
    source = ROOT / "csrc" / "test" / "kernels.cpp"
    command = [compiler, "-std=c++17", "-O1", "-w", "-pthread", f"-I{ROOT / 'csrc'}", *flags, source, "-o", program]
    subprocess.run(command, check=True)
    run = subprocess.run([*emulator.split(), program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stderr.split(), run.stdout.splitlines()


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    need("c++")
    return compare(tmp_path_factory.mktemp("here"), "c++")


def test_neon(here: tuple[list[str], list[str]], tmp_path: Path) -> None:
    need("aarch64-linux-gnu-g++", "qemu-aarch64")
    kernels, checksums = compare(tmp_path, "aarch64-linux-gnu-g++", "-static", emulator="qemu-aarch64")
    assert kernels == ["neon", "generic"]
    assert checksums == here[1]


def test_avx512(here: tuple[list[str], list[str]], tmp_path: Path) -> None:
    """With every instruction of AVX-512 emulated by the SIMDe headers."""
    if "avx2" not in here[0]:
        pytest.skip("the emulation needs a machine with AVX2")
    probe = ["c++", "-fsyntax-only", "-w", "-mavx2", "-x", "c++", "-"]
    if subprocess.run(probe, input=HEADERS, text=True, capture_output=True, check=False).returncode != 0:
        pytest.skip("the SIMDe headers are not installed")
    kernels, checksums = compare(tmp_path, "c++", "-mavx2", "-DNC_EMULATE_AVX512")
    assert kernels == ["avx512", "avx2", "generic"]
    assert checksums == here[1]


def test_wasm(here: tuple[list[str], list[str]], tmp_path: Path) -> None:
    need("node")
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: pip install 'neurocodec[web]'")
    program = tmp_path / "kernels.wasm"
    target = ["-target", "wasm32-wasi", "-mcpu=generic+simd128+bulk_memory", "-fignore-exceptions", "-fno-rtti"]
    sources = [ROOT / "csrc" / "test" / "kernels.cpp", ROOT / "web" / "runtime.cpp"]
    command = [sys.executable, "-m", "ziglang", "c++", *target, "-std=c++17", "-O2", "-w", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, *sources, "-o", program], check=True)
    node = ["node", "--no-warnings", str(ROOT / "tests" / "web" / "wasi.mjs"), str(program)]
    run = subprocess.run(node, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.split() == ["wasm", "generic"]
    assert run.stdout.splitlines() == here[1]
