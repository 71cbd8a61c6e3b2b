"""preview: near to the reduced picture, in every mode and over several tiles; its map's file, and what has no map."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

import neurocodec
from neurocodec import container
from neurocodec import model as model_files
from neurocodec.errors import ArgumentError, ChecksumError, ModelMismatchError, NicFormatError
from neurocodec.metrics import psnr
from neurocodec.model import Model


def box(im: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(im.resize(size, Image.Resampling.BOX))


@pytest.mark.parametrize(("quality", "least"), [(5, 29), (50, 36), (95, 38)])
def test_it_is_near_to_the_reduced_picture(photo: NDArray[np.uint8], quality: int, least: float) -> None:
    data = neurocodec.encode(photo[:384], quality=quality)
    whole = neurocodec.decode(data)
    for size in (32, 64, 128):  # one, four and sixteen colours for each latent, which are means
        small = neurocodec.preview(data, size)
        assert (small.mode, small.size) == ("RGB", (size, size * 3 // 4))
        assert psnr(np.asarray(small), box(whole, small.size)) > least


def test_larger_ones_are_decoded_and_nothing_is_enlarged(photo: NDArray[np.uint8]) -> None:
    data = neurocodec.encode(photo[:90, :160])
    whole = neurocodec.decode(data)
    expected = whole.resize((100, 56), Image.Resampling.LANCZOS)
    assert neurocodec.preview(data, 100) == expected
    for size in (160, 10**6):
        assert neurocodec.preview(data, size).tobytes() == whole.tobytes()


def test_a_model_without_a_map_is_decoded(small_model: Model, photo: NDArray[np.uint8]) -> None:
    data = neurocodec.encode(photo[:64, :96], model=small_model)
    whole = neurocodec.decode(data, model=small_model)
    small = neurocodec.preview(data, 12, model=small_model)
    assert small.tobytes() == whole.resize((12, 8), Image.Resampling.LANCZOS).tobytes()


def test_tiles_meet(photo: NDArray[np.uint8]) -> None:
    wide = np.tile(photo[:80], (1, 5, 1))[:, :2100]  # three tiles
    data = neurocodec.encode(wide)
    assert neurocodec.info(data).tiles == 3
    for size in (100, 300):
        small = neurocodec.preview(data, size)
        assert psnr(np.asarray(small), box(neurocodec.decode(data), small.size)) > 28  # not of whole squares


def test_alpha_profile_and_orientation_are_those_of_decode(photo: NDArray[np.uint8]) -> None:
    alpha = np.zeros((200, 300), np.uint8)
    alpha[50:, 100:] = np.arange(200)
    source = Image.fromarray(np.dstack([photo[:200, :300], alpha]))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    exif[0x010E] = "what it shows"
    buffer = io.BytesIO()
    source.save(buffer, "PNG", icc_profile=profile, exif=exif)
    data = neurocodec.encode(io.BytesIO(buffer.getvalue()))
    whole, small = neurocodec.decode(data), neurocodec.preview(data, 50)
    assert (whole.size, small.size) == ((200, 300), (33, 50))
    assert small.mode == whole.mode == "RGBA"
    assert small.info.get("icc_profile") == profile
    assert "exif" in whole.info
    assert "exif" not in small.info
    difference = np.asarray(small)[..., 3].astype(int) - box(whole, small.size)[..., 3]
    assert np.abs(difference).mean() < 3

    gray = neurocodec.preview(neurocodec.encode(photo[:200, :300, 0]), 40)
    assert (gray.mode, gray.size) == ("L", (40, 27))


def test_what_is_wrong_is_a_typed_error(photo: NDArray[np.uint8]) -> None:
    data = neurocodec.encode(photo[:64, :64])
    for size in (0, -1, 1.5, "8"):
        with pytest.raises(ArgumentError):
            neurocodec.preview(data, size)  # type: ignore[arg-type]
    with pytest.raises(NicFormatError, match="limit of 4095"):
        neurocodec.preview(data, 8, max_pixels=4095)
    with pytest.raises(ChecksumError):
        neurocodec.preview(data[:-1] + bytes([data[-1] ^ 1]), 8)
    nic = container.read(data)
    forged = container.NicFile(nic.header, nic.chunks, (container.Tile(nic.tiles[0].stream, 0),))
    with pytest.raises(ChecksumError, match="do not match"):
        neurocodec.preview(container.write(forged), 8)


def test_the_map_has_a_file_of_its_own(base_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = model_files.find_preview(base_model)
    assert arrays is not None
    assert arrays.keys() == (model_files.find_preview(base_model.decoder()) or {}).keys()
    path = tmp_path / "map.safetensors"
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    model_files.save_preview(path, base_model, {**arrays, "bias": arrays["bias"] + 20})
    data = neurocodec.encode(np.full((64, 64, 3), 100, np.uint8))
    assert abs(np.asarray(neurocodec.preview(data, 8)).mean() - 120) < 3
    for name, value in {"bias": arrays["bias"] * np.float32(np.nan), "weight": arrays["weight"][1:]}.items():
        model_files.save_preview(path, base_model, {**arrays, name: value})
        with pytest.raises(ModelMismatchError, match="damaged"):
            neurocodec.preview(data, 8)
