"""Codecs behind the one interface: what they write, what they say about themselves, and the anchors they reproduce."""

from __future__ import annotations

import json
import pickle
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import SMALL_MODEL
from PIL import Image

from neurocodec import codec, container
from neurocodec.bench import rivals
from neurocodec.bench.quality import Metrics
from neurocodec.bench.rate_distortion import measure
from neurocodec.errors import ConfigError, ImageError, MissingPackageError, ModelNotFoundError
from neurocodec.metrics import psnr
from neurocodec.model import Model

RGB = rivals.synthetic_picture(48, 80, seed=5)
OTHERS = [name for name in rivals.NAMES if name not in ("nic", "bpg")]


def create(name: str) -> rivals.Codec:
    """The codec; skips where it is not installed."""
    codecs, missing = rivals.installed(["jpeg", name] if name != "jpeg" else [name])
    if name in missing:
        pytest.skip(missing[name])
    return codecs[-1]


@pytest.mark.parametrize("name", OTHERS)
def test_codecs_spend_more_and_lose_less(name: str) -> None:
    one = create(name)
    assert one.name == name
    settings = one.settings()
    assert list(settings) in (sorted(set(settings)), sorted(set(settings), reverse=True))
    files = [one.encode(RGB, setting) for setting in (settings[0], settings[len(settings) // 2], settings[-1])]
    assert [len(data) for data in files] == sorted(len(data) for data in files)
    decoded = [one.decode(data) for data in files]
    assert all(d.shape == RGB.shape and d.dtype == np.uint8 for d in decoded)
    assert psnr(RGB, decoded[0]) < psnr(RGB, decoded[1]) < psnr(RGB, decoded[2])


def test_jpeg_subsampling_is_in_the_file() -> None:
    def sampling(data: bytes) -> int:
        at = data.index(b"\xff\xc0")
        return data[at + 11]  # of the first component: horizontal and vertical factors

    assert sampling(rivals.RIVALS["jpeg"].encode(RGB, 50)) == 0x22
    assert sampling(rivals.RIVALS["jpeg-444"].encode(RGB, 50)) == 0x11


def test_nic_is_the_codec(small_model: Model) -> None:
    for nic in (rivals.Nic(small_model), rivals.Nic(SMALL_MODEL), rivals.Nic(str(SMALL_MODEL))):
        data = nic.encode(RGB, 50)
        assert data == codec.encode(RGB, quality=50, model=small_model)
        np.testing.assert_array_equal(nic.decode(data), codec.decode_picture(container.read(data), small_model).rgb)
        assert nic.describe()["model_id"] == small_model.model_id.hex()
    assert rivals.Nic().settings() == (1, *range(5, 101, 5))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("jpeg", 0),
        ("jpeg", 50.5),
        ("jpeg", 101),
        ("mozjpeg", 0),
        ("webp", -1),
        ("avif", 101),
        ("heic", 20.5),
        ("jxl", 0),
        ("jxl", 26),
        ("jpeg2000", 0),
        ("nic", 0),
        ("nic", 101),
    ],
)
def test_settings_that_do_not_exist(name: str, setting: float) -> None:
    one = create(name)
    with pytest.raises(ConfigError, match="expected"):
        one.encode(RGB, setting)


@pytest.mark.parametrize("names", [["jpg"], ["jpeg", "jpeg"], [], ["nic@2"], ["nicer"], ["nic:a@b"]])
def test_names_that_do_not_fit(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        rivals.installed(names)


def test_synthetic_pictures_repeat() -> None:
    np.testing.assert_array_equal(rivals.synthetic_picture(48, 80, 5), RGB)
    assert (rivals.synthetic_picture(48, 80, 6) != RGB).any()
    assert rivals.synthetic_picture(1, 1).shape == (1, 1, 3)


@pytest.mark.parametrize("name", OTHERS)
def test_describing_and_pickling(name: str) -> None:
    """What decides on the bytes is named with a version, and encoding twice or in another process changes nothing."""
    one = create(name)
    before = one.describe()
    data = one.encode(RGB, one.settings()[3])
    assert pickle.loads(pickle.dumps(one)).encode(RGB, one.settings()[3]) == data
    assert one.describe() == before
    assert len(before) >= 2
    assert not any(value in ("", "None", "unknown") for value in before.values())


def test_heic_is_labelled_as_what_it_is() -> None:
    assert create("heic").describe()["settings"].startswith("HEVC intra (x265 through pillow-heif), a stand-in for BPG")


def test_several_models_side_by_side(tmp_path: Path, small_model: Model) -> None:
    other = tmp_path / "runs" / "small.safetensors"
    other.parent.mkdir()
    other.write_bytes(SMALL_MODEL.read_bytes())
    codecs, _ = rivals.installed([f"nic:{SMALL_MODEL}", "jpeg", f"nic:{other}", f"nic:{other}@0.5"])
    assert [one.name for one in codecs] == ["nic:model/small", "jpeg", "nic:runs/small", "nic:runs/small@0.5"]
    assert rivals.installed([f"nic:{other}"])[0][0].name == "nic:small"
    assert codecs[0].encode(RGB, 50) == codec.encode(RGB, quality=50, model=small_model)
    assert all(rivals.is_ours(one.name) == (one.name != "jpeg") for one in codecs)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        rivals.installed(["nic:nowhere.safetensors"])
    twin = tmp_path / "deep" / "runs" / "small.safetensors"
    with pytest.raises(ConfigError, match="each name only once"):
        rivals.installed([f"nic:{other}", f"nic:{twin}"])


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pillow_heif", "imagecodecs", "pyvips"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PATH", "")
    codecs, missing = rivals.installed(["jpeg", "heic", "jxl", "mozjpeg", "bpg"])
    assert [one.name for one in codecs] == ["jpeg"]
    assert list(missing) == ["heic", "jxl", "mozjpeg", "bpg"]
    for name in ("heic", "jxl", "mozjpeg"):
        assert "neurocodec[bench]" in missing[name]
    assert "NEUROCODEC_BPGENC" in missing["bpg"]
    with pytest.raises(MissingPackageError, match="pillow-heif"):
        rivals.RIVALS["heic"].encode(RGB, 50)
    with pytest.raises(ConfigError, match="none of these codecs is installed: HEIC needs"):
        rivals.installed(["heic"])


def test_compressai_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurocodec.interop import compressai

    def load(architecture: str, quality: int, **_: object) -> None:
        if architecture == "mbt2018":
            raise MissingPackageError(f"no {architecture} here")

    monkeypatch.setattr(compressai, "load", load)
    monkeypatch.setattr(compressai, "qualities", lambda architecture: [1, 2])
    codecs, missing = rivals.installed(["cai:mbt2018-mean", "cai:mbt2018"])
    assert [one.name for one in codecs] == ["cai:mbt2018-mean"]
    assert missing == {"cai:mbt2018": "no mbt2018 here"}
    assert not rivals.has_common_quality(rivals.RIVALS["jxl"])
    assert rivals.has_common_quality(rivals.RIVALS["jpeg"])


TOOL = """#!{python}
import sys, pathlib
a = sys.argv[1:]
pathlib.Path(__file__).with_suffix(".called").write_text(" ".join(a))
source = pathlib.Path(a[-1])
if a[a.index("-q") + 1 if "-q" in a else 0] == "51":
    print("first"); print("cannot do this"); sys.exit(3)
pathlib.Path(a[a.index("-o") + 1]).write_bytes(source.read_bytes())
"""


def test_bpg_calls_its_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bpgenc", "bpgdec"):
        tool = tmp_path / name
        tool.write_text(TOOL.format(python=sys.executable))
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(f"NEUROCODEC_{name.upper()}", str(tool))
    (bpg,), _ = rivals.installed(["bpg"])
    data = bpg.encode(RGB, 30)
    assert (tmp_path / "bpgenc.called").read_text().startswith("-e x265 -m 8 -f 444 -c ycbcr -b 8 -q 30 -o ")
    np.testing.assert_array_equal(bpg.decode(data), RGB)  # the stand-in for the tools copies a PNG
    assert list(bpg.settings()) == sorted(bpg.settings(), reverse=True)
    with pytest.raises(ImageError, match=r"bpgenc ended with status 3: cannot do this"):
        bpg.encode(RGB, 51)
    with pytest.raises(ConfigError, match="from 0 to 51"):
        bpg.encode(RGB, 52)
    monkeypatch.setenv("NEUROCODEC_BPGDEC", str(tmp_path / "nowhere"))
    assert "not where NEUROCODEC_BPGDEC says" in rivals.installed(["jpeg", "bpg"])[1]["bpg"]


ANCHORS = [
    ("jpeg", "jpeg_420", (10, 50)),
    ("jpeg-444", "jpeg_444", (10, 50)),
    ("mozjpeg", "mozjpeg_420", (10, 50)),
    ("webp", "webp_m6", (10, 50)),
    ("heic", "heic_444_mse", (20, 44)),
    ("avif", "avif_420_s6_default", (40,)),
    ("avif-psnr", "avif_444_s6_psnr", (36,)),
    ("jxl", "jxl_e7", (6, 1.5)),
    ("jpeg2000", "jpeg2000", (0.26, 1.0)),
]


@pytest.mark.parametrize(("name", "anchor", "settings"), ANCHORS)
def test_anchors_are_reproduced(data_folder: Path, name: str, anchor: str, settings: tuple[float, ...]) -> None:
    """Points measured elsewhere with other builds of the same libraries: within 1 % in bpp and 0.05 dB."""
    path = data_folder / "anchors" / "kodak" / f"{anchor}.json"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in the data folder")
    points = {point["q"]: point["per_image"] for point in json.loads(path.read_text())["points"]}
    one = create(name)
    for file in ("kodim05.png", "kodim23.png"):
        rgb = np.asarray(Image.open(data_folder / "kodak" / file).convert("RGB"))
        for setting in settings:
            expected = next(row for row in points[setting] if row["file"] == file)
            row, _ = measure(one, rgb, setting, Metrics(ms_ssim=(name, file, setting) == ("jpeg", "kodim05.png", 50)))
            assert row["bpp"] == pytest.approx(expected["bpp"], rel=0.01)
            assert row["psnr"] == pytest.approx(expected["psnr"], abs=0.05)
            if row["ms_ssim"] is not None:
                assert row["ms_ssim"] == pytest.approx(expected["ms_ssim"], abs=1e-3)
