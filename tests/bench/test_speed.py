"""`neurocodec bench speed`: what is measured, by whom, and what is said of the rest."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import SMALL_MODEL
from PIL import Image

from neurocodec.bench import rivals, speed
from neurocodec.errors import ImageError, ModelNotFoundError
from neurocodec.model import GeneratorConfig, Model
from neurocodec.models import generators

RGB = rivals.synthetic_picture(48, 80, seed=5)
STAGES = ("g_a", "entropy model and range coder", "g_s")
LINUX = os.path.exists("/proc/self/clear_refs")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file of 56 x 40 pixels."""
    Image.fromarray(rivals.synthetic_picture(40, 56)).save(tmp_path / "0.png")
    return tmp_path / "0.png"


def test_rows(picture: Path) -> None:
    threads = [1, 2] if speed.available_cores() > 1 else [1]
    results = speed.run(
        [rivals.Nic(SMALL_MODEL, "nic"), rivals.RIVALS["jpeg"]],
        [(70, 50)],
        picture,
        threads=threads,
        bpp=2.0,
        repeats=2,
        device="cpu",
        missing={"bpg": "not there"},
    )
    rows = results["rows"]
    assert [(row["codec"], row["threads"]) for row in rows] == [(c, t) for c in ("nic", "jpeg") for t in threads]
    for row in rows:
        assert (row["width"], row["height"], row["device"]) == (70, 50, "cpu")
        assert row["bpp"] == 8 * row["bytes"] / 3500
        assert row["psnr"] > 10 or row["codec"] == "nic"
        for way in ("encode", "decode"):
            assert 0 < row[way]["min_s"] <= row[way]["median_s"]
            assert row[way]["runs"] == 2
            assert row[way]["peak_bytes"] > 1e7 or not LINUX
    assert rows[0]["load_s"] > 0
    assert "stages_s" not in rows[-1]["encode"]
    if LINUX:
        assert rows[-1]["encode"]["peak_bytes"] < rows[0]["encode"]["peak_bytes"]
    encode, decode = rows[0]["encode"], rows[0]["decode"]
    assert encode["stages_s"].keys() == {*STAGES, speed.REST}  # g_s: a filter is fitted to the decoded picture
    assert decode["stages_s"].keys() == {*STAGES[1:], speed.REST}
    for direction in (encode, decode):
        assert direction["stages_peak_bytes"].keys() == direction["stages_s"].keys()
        assert all(seconds > 0 for seconds in direction["stages_s"].values())
        assert sum(direction["stages_s"].values()) == pytest.approx(direction["median_s"], rel=0.5)
    text = speed.table(results)
    assert "Each codec at the setting nearest to 2 bits per pixel: compare where bpp are alike." in text
    assert "| jpeg | 70×50 | 0.00 | 1 |" in text
    assert f"- nic, 70×50, {threads[-1]} thread" in text
    assert "- bpg is left out: not there" in text
    assert results["picture"] == "0.png"


@dataclasses.dataclass(frozen=True)
class Failing:
    """A codec that does what its name says, where it is measured but not where its setting is looked for."""

    name: str

    def settings(self) -> tuple[float, ...]:
        return (1,)

    def describe(self) -> dict[str, str]:
        return {}

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        if rgb.shape[0] == 512:
            return b"x"
        if self.name == "raises":
            raise ImageError("no such picture")
        if self.name == "dies":
            os._exit(7)
        if self.name == "greedy":
            return bytes(np.ones(1 << 46, np.uint8)[:1])
        return b"x"

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return np.zeros((8, 8, 3), np.uint8)


def test_a_codec_that_fails_is_a_row_and_does_not_stop_the_others(picture: Path) -> None:
    lines: list[str] = []
    chosen = [Failing(name) for name in ("raises", "dies", "greedy", "works")]
    results = speed.run(chosen, [(8, 8)], picture, repeats=1, device="cpu", progress=lines.append)
    reasons = [row.get("not_measured", "") for row in results["rows"]]
    assert reasons[0] == "no such picture"
    assert "process died" in reasons[1]
    assert "allocate" in reasons[2]
    assert reasons[3] == ""
    text = speed.table(results)
    assert "- raises, 8×8, 1 thread: no such picture" in text
    assert "| works | 8×8 |" in text
    assert [line.split(",")[0] for line in lines] == ["raises", "dies", "greedy", "works"]


@dataclasses.dataclass(frozen=True)
class Holding(Failing):
    """Holds 100 MB while it encodes, and 300 MB while it decodes."""

    name: str = "holding"

    def encode(self, rgb: NDArray[np.uint8], setting: float) -> bytes:
        return bytes(np.ones(100_000_000, np.uint8)[:1])

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return np.ones(300_000_000, np.uint8)[:192].reshape(8, 8, 3)


@pytest.mark.skipif(not LINUX, reason="peaks are measured on Linux")
def test_peaks_are_those_of_the_part_and_not_of_this_process(picture: Path) -> None:
    ballast = np.ones(700_000_000, np.uint8)
    works, holds = speed.run([Failing("works"), Holding()], [(8, 8)], picture, repeats=1, device="cpu")["rows"]
    del ballast
    for way, size in (("encode", 100e6), ("decode", 300e6)):
        assert holds[way]["peak_bytes"] - works[way]["peak_bytes"] == pytest.approx(size, rel=0.15)


@pytest.mark.skipif(not LINUX, reason="peaks are measured on Linux")
def test_stages_have_seconds_and_peaks_of_their_own() -> None:
    clock = speed.Clock("cpu")
    large = clock.timed("large", lambda: np.ones(200_000_000, np.uint8).sum())
    small = clock.timed("small", lambda: time.sleep(0.02))

    def run() -> str:
        large()
        np.ones(50_000_000, np.uint8).sum()
        small()
        large()
        return "result"

    result, values = clock.time(run, 2)
    assert result == "result"
    seconds, peaks = values["stages_s"], values["stages_peak_bytes"]
    assert seconds.keys() == peaks.keys() == {"large", "small", speed.REST}
    assert seconds["small"] >= 0.02
    assert values["min_s"] <= values["median_s"]
    assert values["runs"] == 2
    assert values["peak_bytes"] == peaks["large"]
    assert peaks["large"] - peaks["small"] == pytest.approx(200e6, rel=0.15)
    assert peaks[speed.REST] - peaks["small"] <= 65e6  # 50 MB, less what the allocator had at hand


def test_realism_is_what_is_measured(small_model: Model) -> None:
    """The generator decodes, in the stage of g_s."""
    clock = speed.Clock("cpu")
    with pytest.raises(ModelNotFoundError, match="generative decoder"):
        speed.coders(rivals.Nic(SMALL_MODEL, "nic@0.5", realism=0.5), 50, clock)
    generator = generators.new(GeneratorConfig(channels=32, blocks=1, fine_blocks=1), small_model)
    model = dataclasses.replace(small_model, generator=generators.freeze(generator.eval(), small_model))
    for realism in (0.5, 0.0):
        nic = rivals.Nic(model, "nic", realism=realism)
        encode, decode = speed.coders(nic, 50, clock)
        assert encode(RGB) == nic.encode(RGB, 50)
        decoded, values = clock.time(lambda: decode(nic.encode(RGB, 50)), 1)  # noqa: B023
        assert np.array_equal(decoded, nic.decode(nic.encode(RGB, 50)))
        assert values["stages_s"].keys() == {*STAGES[1:], speed.REST}


def test_the_nearest_setting() -> None:
    jpeg = rivals.RIVALS["jpeg"]
    sizes = {setting: 8 * len(jpeg.encode(RGB, setting)) / (48 * 80) for setting in jpeg.settings()}
    for target in (0.01, 2.0, 4.0, 100.0):
        nearest = min(sizes, key=lambda s: abs(math.log(sizes[s] / target)))
        assert speed.nearest_setting(jpeg, RGB, target) == nearest


def test_fill_mirrors_and_cuts() -> None:
    small = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert speed.fill(small, 2, 5)[:, :, 0].tolist() == [[0, 3, 3, 0, 0]] * 2
    assert np.array_equal(speed.fill(RGB, 10, 20), RGB[:10, :20])
