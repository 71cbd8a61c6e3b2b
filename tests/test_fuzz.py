"""The fuzz targets in Python on committed inputs; `make fuzz` looks for more, `make sanitize` runs those in C++."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import GOLDEN, ROOT, script

CORPUS = ROOT / "tests" / "corpus"


@pytest.mark.parametrize("target", ["container", "alpha"])
def test_committed_inputs_end_in_a_result_or_a_typed_error(target: str) -> None:
    count = len(list((CORPUS / target).iterdir()))
    assert count >= 10
    command = [sys.executable, ROOT / "tools" / "fuzz.py", target, "--once", CORPUS / target]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.splitlines()[-1] == f"{count} inputs, no fault", done.stdout + done.stderr


def test_a_reader_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    tool = script("fuzz", "tools")
    lines = bytes([1, 9, 9, 2, 7, 7])
    plane, nic = bytes([1, 2, 2 | 5 << 2, 0, 0, 0, 0]) + lines, (GOLDEN / "valid" / "pixel-1x1-q480.nic").read_bytes()
    tool.alpha_input(plane)
    tool.container_input(nic)
    right = tool.alpha.decode_alpha
    monkeypatch.setattr(tool.alpha, "decode_alpha", lambda *words: right(*words) ^ 1)
    monkeypatch.setattr(tool.container, "write", lambda _: b"other")
    with pytest.raises(AssertionError):
        tool.alpha_input(plane)
    with pytest.raises(AssertionError):
        tool.container_input(nic)
