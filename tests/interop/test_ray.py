"""Large collections through Ray Data, on a local Ray instance. Needs ray: skipped where it cannot be imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import SMALL_MODEL
from PIL import Image

import neurocodec
from neurocodec import codec
from neurocodec.errors import ConfigError, MissingPackageError, ModelNotFoundError
from neurocodec.interop import ray as interop


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    """A local Ray instance of two processors, without dashboard and without reports to anybody."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray = interop._package()
    except MissingPackageError as error:
        pytest.skip(f"Ray is not tested here: {error}")
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, logging_level="error", log_to_driver=False
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five pictures, two of them below, one that is none, and two of one name."""
    folder = tmp_path / "in"
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.png", "sub/sub/d.webp", "twice.png", "twice.jpg", "e.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(rgb).resize((40, 30), Image.Resampling.BICUBIC).save(path)
    (folder / "broken.png").write_text("no picture at all")
    return folder


@pytest.mark.usefixtures("_cluster")
def test_the_same_files_as_on_one_machine_and_again(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "e.nic").write_bytes(neurocodec.encode(tree / "e.png", model=SMALL_MODEL, device="cpu"))
    summary = interop.encode_folder(tree, out, model=SMALL_MODEL, quality=30, workers=2)
    assert (summary.encoded, summary.skipped) == (4, 1)
    assert {Path(source).name for source in summary.failed} == {"broken.png", "twice.png", "twice.jpg"}
    assert "broken.png is not a picture" in summary.failed[str(tree / "broken.png")]
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files.keys() == {"a.nic", "b.nic", "e.nic", "sub/c.nic", "sub/sub/d.nic"}
    for name, source in (("a.nic", "a.png"), ("sub/sub/d.nic", "sub/sub/d.webp")):
        assert files[name] == neurocodec.encode(tree / source, quality=30, model=SMALL_MODEL, device="cpu")
    assert summary.bytes == sum(map(len, files.values())) - len(files["e.nic"])
    assert summary.seconds > 0

    (out / "sub" / "c.nic").unlink()
    again = interop.encode_folder(tree, out, model=SMALL_MODEL, quality=90)
    assert (again.encoded, again.skipped, again.failed.keys()) == (1, 4, summary.failed.keys())
    assert (out / "a.nic").read_bytes() == files["a.nic"]
    forced = interop.encode_folder(tree, out, model=SMALL_MODEL, quality=90, force=True)
    assert (forced.encoded, forced.skipped) == (5, 0)
    assert len((out / "a.nic").read_bytes()) > len(files["a.nic"])


@pytest.mark.usefixtures("_cluster")
def test_each_worker_loads_the_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    log = tmp_path / "loads"
    log.mkdir()

    class Counting(interop._Encoder):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            (log / str(os.getpid())).touch(exist_ok=False)  # a second one in this process would fail

    monkeypatch.setattr(interop, "_Encoder", Counting)
    assert interop.encode_folder(tmp_path, tmp_path / "out", model=SMALL_MODEL, workers=2).encoded == 40
    assert 1 <= len(list(log.iterdir())) <= 2


@pytest.mark.usefixtures("_cluster")
def test_a_worker_that_ends_costs_its_own_picture_only(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ending(interop._Encoder):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            if row["source"].endswith("b.jpg"):
                os._exit(1)
            return super().__call__(row)

    monkeypatch.setattr(interop, "_Encoder", Ending)
    summary = interop.encode_folder(tree, tmp_path / "out", model=SMALL_MODEL, workers=1)
    assert summary.encoded == 4
    assert "its worker died" in summary.failed[str(tree / "b.jpg")]
    monkeypatch.undo()
    again = interop.encode_folder(tree, tmp_path / "out", model=SMALL_MODEL)
    assert (again.encoded, again.skipped) == (1, 4)


def test_a_worker_codes_on_its_device(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(codec, "encode", lambda _, **options: calls.append(options) or b"")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(sys.modules, "torch", None)  # only GPUs need it
    worker = interop._Encoder(str(SMALL_MODEL), "cuda", 3, {"quality": 30}, False)
    assert worker({"source": str(tree / "a.png"), "target": str(tmp_path / "a.nic")})["problem"] == ""
    assert [(options["device"], options["quality"]) for options in calls] == [("cuda", 30)]
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_what_a_worker_made_before_it_ended_counts(tree: Path, tmp_path: Path) -> None:
    worker = interop._Encoder(str(SMALL_MODEL), "cpu", 1, {"quality": 30}, False)
    row = {"source": str(tree / "a.png"), "target": str(tmp_path / "a.nic")}
    first, second = worker(row), worker(row)
    assert first["bytes"] == second["bytes"] == (tmp_path / "a.nic").stat().st_size
    assert (first["problem"], second["problem"]) == ("", "")


def test_a_target_replaces_the_quality(tree: Path, tmp_path: Path) -> None:
    options = interop._rate_options(50, target_bpp=None, target_bytes=250, target_psnr=None)
    worker = interop._Encoder(str(SMALL_MODEL), "cpu", 1, options, False)
    row = {"source": str(tree / "a.png"), "target": str(tmp_path / "a.nic")}
    assert worker(row)["problem"] == ""
    assert (tmp_path / "a.nic").stat().st_size <= 250


@pytest.mark.usefixtures("_cluster")
def test_what_cannot_be(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        interop.encode_folder(tree / "a.png", tmp_path / "out")
    with pytest.raises(ConfigError, match="expected at least 1"):
        interop.encode_folder(tree, tmp_path / "out", workers=0)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        interop.encode_folder(tree, tmp_path / "out", model="nowhere")
    (tmp_path / "empty").mkdir()
    summary = interop.encode_folder(tmp_path / "empty", tmp_path / "out")
    assert (summary.encoded, list(summary.failed)) == (0, [str(tmp_path / "empty")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 101}, {"target_bpp": 0.3, "target_bytes": 300}])
def test_options_that_no_picture_can_have_are_one_error(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 100, or one target"):
        interop.encode_folder(tmp_path, tmp_path / "out", **options)


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"neurocodec\[ray\]"):
        interop.encode_folder(tmp_path, tmp_path / "out")
