"""Builds the core in C++, and the range coder in CUDA where nvcc is; everything else is in pyproject.toml.

NEUROCODEC_CUDA: auto (the default), require (an error without nvcc) or off.
"""

import os
import shutil
import subprocess
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext, has_flag
from setuptools import Extension, setup

CUDA = "neurocodec._cuda"
ARCHITECTURES = ("sm_80", "sm_90", "compute_90")  # the last for newer ones, compiled when it is first used


class BuildWithWhatIsThere(build_ext):
    """Without a C++17 compiler or nvcc, what needs it is skipped; a compile error is an error."""

    def build_extensions(self) -> None:
        compiler = has_flag(self.compiler, "-std=c++17")
        for extension in self.extensions:
            extension.optional = not compiler
        if not find_nvcc() or not compiler:  # nvcc needs one too
            self.extensions = [extension for extension in self.extensions if extension.name != CUDA]
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        if ext.name != CUDA:
            super().build_extension(ext)
            return
        target = Path(self.get_ext_fullpath(CUDA))
        target.parent.mkdir(parents=True, exist_ok=True)
        number = "arch=compute_{},code={}".format
        code = [f"-gencode={number(a.split('_')[1], a)}" for a in ARCHITECTURES]
        options = ["-shared", "-cudart=static", "-std=c++17", "-O3", "-Xcompiler=-fPIC", *code]
        subprocess.run([find_nvcc(), *options, *ext.sources, "-o", str(target)], check=True)


def find_nvcc() -> str:
    """nvcc, or nothing where it is missing or not wanted."""
    mode = os.environ.get("NEUROCODEC_CUDA", "auto")
    if mode not in ("auto", "require", "off"):
        raise SystemExit(f"NEUROCODEC_CUDA is {mode!r}; it must be auto, require or off.")
    folder = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    nvcc = "" if mode == "off" else shutil.which("nvcc") or shutil.which("nvcc", path=str(folder)) or ""
    if mode == "require" and not nvcc:
        raise SystemExit(f"NEUROCODEC_CUDA=require, but there is no nvcc on the PATH or in {folder}.")
    return nvcc


setup(
    ext_modules=[
        Pybind11Extension(
            "neurocodec._native",
            ["csrc/bindings.cpp", "csrc/c_api.cpp"],
            include_dirs=["csrc"],
            depends=glob("csrc/*.h*"),
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-pthread"],
            extra_link_args=["-pthread"],
        ),
        Extension(
            CUDA,
            ["csrc/cuda/c_api.cpp", "csrc/cuda/range_coder.cu"],
            depends=["csrc/range_coder.hpp", *glob("csrc/cuda/*.h*")],
        ),
    ],
    cmdclass={"build_ext": BuildWithWhatIsThere},
)
