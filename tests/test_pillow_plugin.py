""".nic through Image.open and Image.save."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, UnidentifiedImageError

import neurocodec
from neurocodec import codec, pillow_plugin
from neurocodec import model as model_files

ROOT = Path(__file__).parents[1]
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch, small_model: Any) -> None:
    """`base` is the small golden model."""
    monkeypatch.setattr(model_files, "load", lambda *_, **__: small_model)
    monkeypatch.setattr(model_files, "find", lambda *_, **__: small_model)
    pillow_plugin.register()


def picture(mode: str = "RGB") -> Image.Image:
    """A picture of 33 x 21 pixels, of smooth colours."""
    y, x = np.mgrid[0:21, 0:33]
    im = Image.fromarray(np.stack([x * 7, y * 11, 255 - x * 5, 100 + x * 2], axis=-1).astype(np.uint8))
    return im.convert(mode)


def nic_bytes(im: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    im.save(out, format="NIC", **options)
    return out.getvalue()


def test_save_takes_an_effort() -> None:
    assert nic_bytes(picture(), effort=2) == neurocodec.encode(picture(), effort=2)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_round_trip_through_a_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.nic"
    picture(mode).save(path, quality=30)
    assert path.read_bytes() == neurocodec.encode(picture(mode), quality=30)
    with Image.open(path) as im:
        assert (im.format, im.mode, im.size) == ("NIC", mode, (33, 21))
        assert im.get_format_mimetype() == "image/x-nic"
        assert (np.asarray(im) == np.asarray(neurocodec.decode(path))).all()
        if mode.endswith("A"):
            assert (np.asarray(im.getchannel("A")) == np.asarray(picture(mode).getchannel("A"))).all()


def test_open_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = nic_bytes(picture(), quality=30)
    decoded: list[int] = []
    real = codec.decode
    monkeypatch.setattr(codec, "decode", lambda *a, **k: decoded.append(1) or real(*a, **k))
    im = Image.open(io.BytesIO(data))
    about = neurocodec.info(data)
    assert im.size == (33, 21)
    assert im.info == {"model_id": about.model_id, "quality": about.quality}
    assert decoded == []
    im.load()
    im.load()
    im.resize((10, 10))
    assert decoded == [1]


def test_pixels_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nic"
    picture().save(path)
    with Image.open(path) as im:
        copy = im.copy()
        part = im.crop((3, 4, 13, 10))
    path.unlink()
    assert copy.size == (33, 21)
    assert (np.asarray(part) == np.asarray(copy)[4:10, 3:13]).all()
    im = Image.open(io.BytesIO(nic_bytes(picture())))
    assert (np.asarray(pickle.loads(pickle.dumps(im))) == np.asarray(im)).all()


def test_save_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(codec, "encode", lambda im, **options: calls.append(options) or b"")
    for options in ({}, {"quality": 7}, {"target_bpp": 0.5}, {"target_psnr": 30.0, "model": "m", "device": "cpu"}):
        picture().save(io.BytesIO(), format="NIC", **options, optimize=True)
        assert calls.pop() == options


@pytest.mark.parametrize(
    "options", [{"bpp": 0.3}, {"exact": True}, {"target_bbp": 1}, {"quality": 20, "target_bpp": 1}]
)
def test_options_are_never_ignored_silently(options: dict[str, Any]) -> None:
    with pytest.raises(
        neurocodec.ArgumentError, match=r"no option '\w+'; known are quality|only one of quality and"
    ) as caught:
        nic_bytes(picture(), **options)
    assert isinstance(caught.value, (TypeError, ValueError))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pixels_can_be_changed_as_in_other_formats(mode: str) -> None:
    data = nic_bytes(picture(mode))
    colour = (1, 2, 3, 4)[: len(mode)] if len(mode) > 1 else 1
    for im in (Image.open(io.BytesIO(data)), neurocodec.decode(data)):
        pixels = im.load()
        pixels[0, 0] = colour
        im.putpixel((1, 0), colour)
        assert im.getpixel((0, 0)) == im.getpixel((1, 0)) == colour
        im.load()  # does not decode again
        assert im.getpixel((0, 0)) == colour


def test_metadata_is_kept() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    source = picture()
    source.info |= {"icc_profile": icc, "exif": exif.tobytes(), "xmp": XMP}
    im = Image.open(io.BytesIO(nic_bytes(source)))
    assert im.info["icc_profile"] == icc
    assert im.info["xmp"] == XMP
    assert im.getexif()[0x010E] == "a description"
    again = Image.open(io.BytesIO(nic_bytes(im)))
    assert {key: again.info[key] for key in ("icc_profile", "exif", "xmp")} == {
        key: im.info[key] for key in ("icc_profile", "exif", "xmp")
    }


def test_metadata_can_be_replaced_and_left_out() -> None:
    source = picture()
    source.info |= {"exif": b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0", "xmp": XMP}
    before = dict(source.info)
    exif = Image.Exif()
    exif[0x010E] = "another"
    im = Image.open(io.BytesIO(nic_bytes(source, exif=exif, xmp=None)))
    assert im.getexif()[0x010E] == "another"
    assert "xmp" not in im.info
    assert source.info == before


def test_damaged_files_raise_what_both_sides_expect() -> None:
    data = nic_bytes(picture())
    for damaged in (data[:-1], data[:30], data[:10], data[:-1] + bytes([data[-1] ^ 1]), data[:4] + b"\x09" + data[5:]):
        for kind in (neurocodec.NicFormatError, UnidentifiedImageError, OSError):
            with pytest.raises(kind) as caught:
                Image.open(io.BytesIO(damaged))
            assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"NIC" + data))


def test_damage_that_only_decoding_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    im = Image.open(io.BytesIO(nic_bytes(picture())))

    def wrong(*_: object, **__: object) -> Image.Image:
        raise neurocodec.ChecksumError("other symbols")

    monkeypatch.setattr(codec, "decode", wrong)
    with pytest.raises(OSError, match="other symbols") as caught:
        im.load()
    assert isinstance(caught.value, neurocodec.NicFormatError)


def test_missing_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    im = Image.open(io.BytesIO(nic_bytes(picture())))
    monkeypatch.undo()
    with pytest.raises(neurocodec.ModelNotFoundError, match=im.info["model_id"]):
        im.load()


def test_a_failed_save_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(neurocodec.ImageError):
        picture().save(tmp_path / "a.nic", target_bytes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "first",
    [
        "import neurocodec; from PIL import Image",
        "from PIL import Image; import neurocodec",
        "import neurocodec.pillow_plugin; from PIL import Image",
    ],
)
def test_import_neurocodec_registers_the_format(first: str) -> None:
    script = f"""import sys; {first}
print(Image.MIME["NIC"], Image.EXTENSION[".nic"])
print(*[name for name in ("numpy", "torch") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "image/x-nic NIC\n\n"
