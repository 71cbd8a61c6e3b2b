"""A small sample of tools/mutate.py: damaged files give typed errors or pictures, in bounded processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import GOLDEN, ROOT, SMALL_MODEL, script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
FILES = sorted((GOLDEN / "valid").glob("*.nic"))


def mutate(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "mutate.py", *FILES, "--model", SMALL_MODEL]
    command += ["--max-pixels", 2**16, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)


def test_mutations_of_real_files_are_typed_errors_or_pictures(tmp_path: Path) -> None:
    done = mutate("--count", 2000, "--batch", 1100, "--keep", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "0 failures of 2,000"
    assert {"ChecksumError", "NicFormatError", "TruncatedError"} < set(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_memory_is_compared_with_that_of_a_sound_file_of_the_declared_size() -> None:
    tool = script("mutate", "tools")
    assert [tool.size_class(path.read_bytes(), 2**16) for path in FILES] == [2, 2, 6, 3, 3, 3, 4, 5, 0]
    assert tool.size_class(FILES[0].read_bytes(), 20 * 20 - 1) is None
    assert tool.peak_kib(lambda: bytearray(50 << 20)) > tool.peak_kib(lambda: None) + (49 << 10)


def test_a_mutation_that_fails_is_kept_and_reported(tmp_path: Path) -> None:
    """Here for the time that it took: the limit is none at all."""
    done = mutate("--count", 3, "--batch", 2, "--first", 40, "--seconds", 0, "--keep", tmp_path / "kept")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "3 failures of 3"
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["0-40.nic", "0-41.nic", "0-42.nic"]
