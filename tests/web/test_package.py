"""What the npm package holds, and that its compiled part belongs to the sources."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

import neurocodec
from neurocodec.model import Model

WEB = ROOT / "web"
SCRIPTS = ("nic.js", "container.js", "core.js", "worker.js", "png.js")
MOST_CODE, MOST_WEIGHTS, MOST_GENERATOR = 200_000, 7_000_000, 2_500_000
"""Bytes."""


@pytest.fixture(scope="module")
def package() -> dict[str, Any]:
    """package.json."""
    loaded: dict[str, Any] = json.loads((WEB / "package.json").read_text())
    return loaded


def test_the_package_names_its_files_and_version(package: dict[str, Any]) -> None:
    assert package["version"] == neurocodec.__version__
    assert set(package["files"]) == {*SCRIPTS, "nic.d.ts", "nic.wasm", "weights/*.safetensors"}
    assert "dependencies" not in package
    for script in SCRIPTS:
        imports = re.findall(r'(?:from "|new URL\(")\./?([\w.-]+)"', (WEB / script).read_text())
        assert set(imports) <= {*SCRIPTS, "nic.wasm"}, script


def test_it_is_small(weights: Path, base_model: Model) -> None:
    assert sum((WEB / name).stat().st_size for name in (*SCRIPTS, "nic.wasm")) <= MOST_CODE
    assert (weights / f"{base_model.model_id.hex()}.safetensors").stat().st_size <= MOST_WEIGHTS
    assert (weights / f"{base_model.model_id.hex()}-realism.safetensors").stat().st_size <= MOST_GENERATOR


def test_the_types_name_what_the_module_exports() -> None:
    script, types = (WEB / "nic.js").read_text(), (WEB / "nic.d.ts").read_text()
    exported = set(re.findall(r"^export (?:async )?(?:function|class) (\w+)", script, re.M)) | {"NicError"}
    assert set(re.findall(r"^export (?:function|class) (\w+)", types, re.M)) == exported


def test_npm_packs_these_files(package: dict[str, Any]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")
    command = [npm, "pack", "--dry-run", "--json", "--offline", "--loglevel=error"]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=True, timeout=120)
    packed = {entry["path"] for entry in json.loads(done.stdout)[0]["files"]}
    assert packed >= {*SCRIPTS, "nic.d.ts", "nic.wasm", "package.json", "README.md"}
    others = packed - {*SCRIPTS, "nic.d.ts", "nic.wasm", "package.json", "README.md", "LICENSE"}
    assert all(name.startswith("weights/") for name in others), others


def test_the_committed_module_is_what_the_sources_give(tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: pip install 'neurocodec[web]'")
    plan = ["make", "-n", "-B", "-o", ".venv/.web", "BIN=bin", "web/nic.wasm"]
    lines = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = next(line for line in lines.replace("\\\n", " ").splitlines() if "ziglang" in line)
    built = tmp_path / "nic.wasm"
    words = [str(built) if word == "web/nic.wasm" else word for word in command.split()[1:]]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)
    assert built.read_bytes() == (WEB / "nic.wasm").read_bytes(), "web/nic.wasm is older than the sources: make web"
