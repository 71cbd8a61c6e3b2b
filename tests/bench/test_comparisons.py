"""The scripts in benchmarks/ that compare two runs of a benchmark, programs in turn, and whole processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import PHOTO, ROOT
from PIL import Image

from neurocodec.bench.results import write_json

POINTS = ((10.0, 0.1, 26.0), (30.0, 0.2, 29.0), (50.0, 0.5, 32.0), (70.0, 0.9, 35.0))


def run(script: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def results(path: Path, larger: dict[str, float]) -> Path:
    """A results file. larger: by picture, how much larger its files are than those of POINTS."""
    rows = [
        {"image": image, "codec": "nic", "setting": q, "bpp": bpp * factor, "psnr": psnr, "encode_s": 1, "decode_s": 1}
        for image, factor in larger.items()
        for q, bpp, psnr in POINTS
    ]
    about = {"date": "2026-01-01", "commit": "c0ffee", "machine": {}, "command": "neurocodec bench rd", "versions": {}}
    write_json(path, about | {"kind": "rd", "codecs": {"nic": {}}, "rows": rows})
    return path


def test_the_bd_rate_of_two_runs(tmp_path: Path) -> None:
    before = results(tmp_path / "before.json", {"a": 1.0, "b": 1.0})
    after = results(tmp_path / "after.json", {"a": 1.01, "b": 1.03})
    assert run("compare_runs", before, after, "-o", "out.json", folder=tmp_path).returncode == 0
    (comparison,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert comparison["bd_rate_percent"] == pytest.approx(2, abs=1e-6)
    assert comparison["worst"] == {"picture": "b", "bd_rate_percent": pytest.approx(3, abs=1e-6)}
    assert comparison["psnr_range"] == [26, 35]
    assert comparison["rows"][1]["after_bpp"] == pytest.approx(0.2 * 1.02)


def test_runs_of_other_pictures_are_not_compared(tmp_path: Path) -> None:
    files = [results(tmp_path / f"{image}.json", {image: 1.0}) for image in ("a", "b")]
    done = run("compare_runs", *files, "-o", "out.json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "the two runs do not hold the same pictures\n")


def test_programs_take_turns(tmp_path: Path) -> None:
    with Image.open(PHOTO) as im:
        im.crop((200, 100, 264, 148)).save(tmp_path / "photo.png")
    words = ("photo.png", f"now={sys.executable}", "--threads", "1", "--repeats", "2", "-o", "out.json")
    assert run("codec_speed", *words, folder=tmp_path).returncode == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (row["program"], row["threads"]) == ("now", 1)
    assert 0 < row["bpp"] < 24
    assert all(row[f"{way}_{clock}_s"] > 0 for way in ("encode", "decode") for clock in ("cpu", "wall"))


def test_whole_processes(tmp_path: Path) -> None:
    words = ("-o", "out.json", "--repeats", "2", f"small={sys.executable} -c pass")
    large = f"large={sys.executable} -c 'bytes([7]) * 200_000_000'"
    assert run("processes", *words, large, folder=tmp_path).returncode == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert rows["large"]["peak_mb"] > rows["small"]["peak_mb"] + 150
    assert rows["small"]["runs"] == 2
    done = run("processes", *words, f"bad={sys.executable} -c 'raise SystemExit(3)'", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("failed\n")
