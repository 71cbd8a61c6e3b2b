"""docs/results.md and its figures are made from the files in benchmarks/results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT, script

from neurocodec.bench import curves, report


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """tools/make_results.py."""
    return script("make_results", "tools")


def test_results_page_is_up_to_date(maker: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == maker.text(), (
        "benchmarks/results changed: run python tools/make_results.py"
    )


def test_figures_show_every_curve(maker: ModuleType) -> None:
    for path, results in maker.rate_distortion(ROOT / "benchmarks" / "results"):
        svg = (ROOT / "docs" / f"{path.stem}.svg").read_text(encoding="utf-8")
        assert f">{report.title(results)}<" in svg
        for curve in curves.curves_of(results, []):
            assert f">{curve.label}<" in svg, path.name


def test_any_results_file_becomes_a_table(maker: ModuleType, tmp_path: Path) -> None:
    about = {"command": "a command", "commit": None, "date": "today", "machine": {"cpu": "one", "gpu": None}}
    rows = [{"codec": "a", "seconds": 0.123456, "stages": {"one": 1.0}}, {"codec": "b|c", "bytes": 123456}]
    (tmp_path / "plain.json").write_text(json.dumps(about | {"rows": rows}))
    (tmp_path / "grouped.json").write_text(json.dumps(about | {"results": [{"set": "x", "rows": rows[:1]}]}))
    text = maker.text(tmp_path)
    assert "`a command`, commit unknown, today, cpu one" in text
    assert "| codec | seconds | stages | bytes |" in text
    assert "| a | 0.1235 | one 1 |  |" in text
    assert "| b\\|c |  |  | 123456 |" in text
    assert text.index("## grouped") < text.index("set x") < text.index("## plain")


def test_help_writes_nothing() -> None:
    page = ROOT / "docs" / "results.md"
    before = page.stat().st_mtime_ns
    command = [sys.executable, str(ROOT / "tools" / "make_results.py"), "--help"]
    assert "Writes docs/results.md" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert page.stat().st_mtime_ns == before
