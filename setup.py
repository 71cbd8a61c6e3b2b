"""Builds the core in C++; everything else is in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext, has_flag
from setuptools import setup


class BuildIfThereIsACompiler(build_ext):
    """Without a C++17 compiler the extension is skipped and slower code does its work; a compile error is an error."""

    def build_extensions(self) -> None:
        compiler = has_flag(self.compiler, "-std=c++17")
        for extension in self.extensions:
            extension.optional = not compiler
        super().build_extensions()


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
        )
    ],
    cmdclass={"build_ext": BuildIfThereIsACompiler},
)
