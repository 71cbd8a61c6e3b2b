"""What the package promises by name, and what pyproject.toml says about it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

import neurocodec
from neurocodec import errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_public_names() -> None:
    exceptions = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == "neurocodec.errors"
    }
    assert set(neurocodec.__all__) == exceptions | {"NicInfo", "decode", "decode_array", "encode", "info", "preview"}
    assert list(neurocodec.__all__) == sorted(neurocodec.__all__)
    for name in neurocodec.__all__:
        assert getattr(neurocodec, name) is not None
    assert set(neurocodec.__all__) <= set(dir(neurocodec))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = neurocodec.nothing


def test_every_error_is_a_neurocodec_error() -> None:
    for name in neurocodec.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(neurocodec, name), neurocodec.NeurocodecError)


def test_version(project: dict[str, Any]) -> None:
    assert neurocodec.__version__ == project["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {neurocodec.__version__}" in changelog


def test_core_dependencies_are_three(project: dict[str, Any]) -> None:
    assert project["project"]["dependencies"] == ["numpy>=1.26", "pillow>=10.1", "safetensors>=0.4"]


def test_data_files_are_listed_and_exist(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]["neurocodec"]
    package = ROOT / "neurocodec"
    listed = {path for pattern in patterns for path in package.glob(pattern)}
    code = {".py", ".so", ".pyd", ".pyc"}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in code}
    assert files <= listed, "a file that is not listed is not installed"
    for name in ("py.typed", "data/astronaut.png"):
        assert package / name in listed
        assert (resources.files("neurocodec") / name).is_file()


def test_the_source_distribution_holds_the_folders_that_tests_read() -> None:
    grafted = set(re.findall(r"^graft (\S+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    read = {name for name in re.findall(r'(?:ROOT|parents\[1\]) / "(\w+)', tests) if (ROOT / name).is_dir()}
    assert {"docs", "examples", "tests"} <= read <= grafted | {"neurocodec"}


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds the extension of setup.py from a source with a compile error."""
    pytest.importorskip("pybind11.setup_helpers", reason="pip install pybind11 setuptools")
    pytest.importorskip("setuptools")
    shutil.copy(ROOT / "setup.py", folder)
    (folder / "csrc").mkdir()
    (folder / "csrc" / "bindings.cpp").write_text("#error refused\n")
    command = [sys.executable, "setup.py", "build_ext"]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


def test_without_a_compiler_the_package_can_still_be_built(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "no-compiler")
    done = build(tmp_path, CC=nowhere, CXX=nowhere)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_a_compile_error_is_an_error(tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler here")
    assert build(tmp_path).returncode != 0


def test_licence(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "Apache-2.0"
    assert "setuptools>=77.0.3" in project["build-system"]["requires"], "older ones refuse a licence of this form"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "public domain" in (ROOT / "neurocodec" / "data" / "astronaut.txt").read_text()


def test_a_wheel_in_a_clean_environment_codes_pictures_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="pip install build")
    source, environment = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "csrc", source / "csrc")
    shutil.copytree(
        ROOT / "neurocodec", source / "neurocodec", ignore=shutil.ignore_patterns("_native*", "_cuda*", "__pycache__")
    )
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, source)
    run(sys.executable, "-m", "venv", environment)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        run(*install, "numpy", "pillow", "safetensors")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"NumPy, Pillow and safetensors cannot be installed: {error.stderr[-200:]}")
    run(*install, "--no-deps", *tmp_path.glob("*.whl"))

    photo = ROOT / "neurocodec" / "data" / "astronaut.png"
    assert "exact" in run(python, "-m", "neurocodec", "doctor", cwd=tmp_path)
    run(python, "-m", "neurocodec", "encode", photo, "-o", "photo.nic", cwd=tmp_path)
    run(python, "-m", "neurocodec", "decode", "photo.nic", "-o", "photo.png", cwd=tmp_path)
    data = (tmp_path / "photo.nic").read_bytes()
    assert data == neurocodec.encode(photo)
    assert np.array_equal(Image.open(tmp_path / "photo.png"), neurocodec.decode(data))
    with pytest.raises(subprocess.CalledProcessError):
        run(python, "-c", "import torch", cwd=tmp_path)


def run(*command: object, cwd: Path | None = None) -> str:
    """The standard output of a command, which has neither this checkout nor its settings in its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NEUROCODEC_"))}
    environment |= {"NEUROCODEC_CUDA": "off", "CFLAGS": "-O1"}  # nvcc and -O3 take half a minute each
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=True).stdout
