"""The CUDA coder, built to run on this CPU: csrc/cuda/host_shim.hpp."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

import pytest
from paths import ROOT

from neurocodec.entropy.cuda import Library

SOURCES = [ROOT / "csrc" / "cuda" / name for name in ("c_api.cpp", "c_api.h", "range_coder.cu", "range_coder.hpp")]
SOURCES += [ROOT / "csrc" / "cuda" / "host_shim.hpp", ROOT / "csrc" / "range_coder.hpp"]

TARGET = ROOT.joinpath("build", "native", "libcuda-shim.so")
"""As `make cuda-streams` builds it."""


def build() -> Library:
    """Compiles the library unless it is newer than its sources. Skips the test without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    if not TARGET.exists() or TARGET.stat().st_mtime < max(path.stat().st_mtime for path in SOURCES):
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
            library = os.path.join(folder, TARGET.name)
            command = [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", f"-I{ROOT / 'csrc'}"]
            subprocess.run([*command, SOURCES[0], "-x", "c++", SOURCES[2], "-o", library], check=True)
            os.replace(library, TARGET)  # another process may do the same
    return Library(TARGET)
