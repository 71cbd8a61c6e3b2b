"""docs/results.md and its figures are made from the files in benchmarks/results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

from neurocodec.bench import curves, summary


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """tools/make_results.py."""
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "tools" / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_page_is_up_to_date(maker: ModuleType) -> None:
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == maker.text(), (
        "benchmarks/results changed: run python tools/make_results.py"
    )


def test_figures_show_every_curve(maker: ModuleType) -> None:
    for path, results in maker.rate_distortion(ROOT / "benchmarks" / "results"):
        svg = (ROOT / "docs" / f"{path.stem}.svg").read_text(encoding="utf-8")
        assert f">{summary.title(results)}<" in svg
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
