"""Builds the native range coder and integer layers; everything else stands in pyproject.toml."""

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "neurocodec._native",
            ["csrc/bindings.cpp"],
            include_dirs=["csrc"],
            depends=["csrc/range_coder.hpp", "csrc/integer_layers.hpp", "csrc/parallel.hpp"],
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
