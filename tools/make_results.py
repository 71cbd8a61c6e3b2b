"""Writes docs/results.md and its figures from the files in benchmarks/results, and nothing else.

python tools/make_results.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurocodec import files
from neurocodec.bench import curves, figure, report, speed
from neurocodec.bench.results import load

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


def text(folder: Path = RESULTS) -> str:
    """The text of docs/results.md."""
    parts = [
        "# Results",
        "",
        "Made by `python tools/make_results.py` from the files in [benchmarks/results](../benchmarks/results), "
        "each of which names the command, the commit and the machine that made it; a test holds this page to them.",
        "",
    ]
    for path, results in rate_distortion(folder):
        heading, rest = report.markdown(results, level=2, fold=True).split("\n", 1)
        parts += [
            heading,
            "",
            f"From [{path.name}](../benchmarks/results/{path.name}).",
            "",
            f"![PSNR over bits per pixel on {report.title(results)}: the tables hold the numbers]({path.stem}.svg)",
            rest.rstrip(),
            "",
        ]
    for path in sorted(folder.glob("*.json")):
        if not path.name.startswith("rd-"):
            parts += [f"## {path.stem}", "", *other(json.loads(path.read_text(encoding="utf-8"))), ""]
    return "\n".join(parts).rstrip() + "\n"


def rate_distortion(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every rd-*.json with its BD-rates, which are computed if the file is too old to hold them."""
    loaded = [(path, load(path)) for path in sorted(folder.glob("rd-*.json"))]
    return [(path, results if "bd_rates" in results else curves.summarise(results)) for path, results in loaded]


def other(results: dict[str, Any]) -> list[str]:
    """A file of another benchmark: its provenance, then its rows."""
    about = [
        f"`{results.get('command', 'unknown command')}`, commit {results.get('commit') or 'unknown'}, "
        f"{results.get('date', 'no date')}, {flat(results.get('machine', {}))}",
        *(f"- {key}: {results[key]}" for key in ("timing", "picture", "repeats", "memory") if key in results),
        "",
    ]
    if results.get("kind") == "speed" and "memory" in results:
        return [*about[:1], "", speed.table(results)]
    groups = [group for group in results.get("results", ()) if isinstance(group, dict) and "rows" in group]
    if groups:
        for group in groups:
            facts = {key: value for key, value in group.items() if key != "rows"}
            about += [flat(facts), "", *rows_table(group["rows"]), ""]
        return about
    lists = {key: value for key, value in results.items() if isinstance(value, list) and value}
    for key, rows in lists.items():
        if all(isinstance(row, dict) for row in rows):
            about += [*([f"{key}:", ""] if len(lists) > 1 else []), *rows_table(rows), ""]
    return about


def rows_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Any rows as a Markdown table: a column for each key that any of them has, in order; inner objects as text."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [
        "| " + " | ".join(key.replace("_", " ") for key in keys) + " |",
        "|" + "---|" * len(keys),
        *("| " + " | ".join(cell(row.get(key)) for key in keys) + " |" for row in rows),
    ]


def flat(facts: Mapping[str, Any]) -> str:
    """key value, key value."""
    return ", ".join(f"{key.replace('_', ' ')} {cell(value)}" for key, value in facts.items() if value is not None)


def cell(value: Any) -> str:
    """A value as text for a table."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return flat(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "\\|")


def main() -> int:
    """Writes the page and a figure for each rd-*.json."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for path, results in rate_distortion(RESULTS):
        figure.save(curves.curves_of(results, []), report.title(results), [DOCS / f"{path.stem}.svg"])
    files.write_bytes(DOCS / "results.md", text().encode(), force=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
