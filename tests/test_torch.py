"""Batches: the pixels and bytes of the codec, on the CPU and through the CUDA coder's shim."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import cuda_shim
import numpy as np
import pytest
import torch
from paths import ROOT
from torch.utils.data import DataLoader

import neurocodec
from neurocodec import codec, container, image
from neurocodec.errors import ChecksumError, ImageError, ModelNotFoundError, NicFormatError
from neurocodec.model import Model
from neurocodec.torch import BatchNetwork, NicFolder, SameSize, decode_batch, encode_batch
from neurocodec.torch import _decode as decode_with

on_every_device = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))],
)


def pictures(height: int, width: int, count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(height + width)
    x, y = np.mgrid[:height, :width]
    waves = [np.stack([np.sin(x / (5 + i)), np.cos(y / 7), np.sin((x + i * y) / 11)], 2) for i in range(count)]
    return [(128 + 90 * wave + rng.normal(0, 9, wave.shape)).clip(0, 255).astype(np.uint8) for wave in waves]


def file_of(rgb: np.ndarray, model: Model, index: int, layout: str = "cpu") -> bytes:
    return codec.encode_picture(image.load(rgb), model, index, layout=layout)


def pixels_of(data: bytes, model: Model) -> np.ndarray:
    rgb = codec.decode_picture(container.read(data), model).rgb
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))


@on_every_device
@pytest.mark.parametrize("size", [(37, 50), (20, 2100)], ids=["one tile", "three tiles"])
def test_a_batch_decodes_to_the_pixels_of_the_codec(small_model: Model, size: tuple[int, int], device: str) -> None:
    """Of several qualities and both layouts."""
    files = [
        file_of(rgb, small_model, index, layout)
        for rgb, index, layout in zip(pictures(*size), (100, 480, 960), ("cpu", "gpu", "cpu"), strict=True)
    ]
    files.append(file_of(pictures(*size)[0][:, :, 0], small_model, 480))  # gray
    assert all(container.FILTER in container.read(data).chunks for data in files)
    nic = container.read(files[0])
    files.append(container.write(replace(nic, chunks={k: v for k, v in nic.chunks.items() if k != container.FILTER})))
    decoded = decode_batch(files, device, model=small_model)
    assert decoded.dtype == torch.uint8
    assert decoded.device.type == device
    np.testing.assert_array_equal(decoded.cpu().numpy(), np.stack([pixels_of(data, small_model) for data in files]))


@on_every_device
@pytest.mark.parametrize("size", [(37, 50), (20, 2100)], ids=["one tile", "three tiles"])
@pytest.mark.parametrize("layout", ["cpu", "gpu"])
def test_a_batch_encodes_to_the_bytes_of_the_codec(
    small_model: Model, size: tuple[int, int], layout: str, device: str
) -> None:
    batch = torch.from_numpy(np.stack(pictures(*size))).permute(0, 3, 1, 2).to(device)
    index = codec.quality_index(50)
    expected = [file_of(rgb, small_model, index, layout) for rgb in pictures(*size)]
    assert encode_batch(batch, quality=50, layout=layout, model=small_model) == expected


@on_every_device
def test_palettes_and_streams_of_z_in_a_batch(small_model: Model, device: str) -> None:
    """Pages of text, smooth pictures and others, in one batch."""
    size = (64, 96)
    page = np.full((*size, 3), 240, np.uint8)
    page[8:50:6, 10:80:4] = page[9:50:6, 12:80:5] = (20, 20, 90)
    mixture = [pictures(*size, 1)[0], page, np.full_like(page, 90)]
    batch = torch.from_numpy(np.stack(mixture)).permute(0, 3, 1, 2).to(device)
    for quality in (20, 90):
        files = encode_batch(batch, quality=quality, layout="cpu", model=small_model)
        assert files == [file_of(rgb, small_model, codec.quality_index(quality)) for rgb in mixture]
        decoded = decode_batch(files, device, model=small_model)
        assert np.array_equal(decoded.cpu().numpy(), np.stack([pixels_of(data, small_model) for data in files]))
    chunks = [container.read(data).chunks for data in files]
    assert container.PALETTE in chunks[1]
    assert len({container.Z_STREAMS in each for each in chunks}) == 2
    nic = container.read(files[1])
    (record,) = container.tile_records(nic, container.PALETTE)
    damaged = replace(nic, chunks=nic.chunks | {container.PALETTE: container.join_records([record[:-1]])})
    with pytest.raises(NicFormatError, match="file 1 of the batch"):
        decode_batch([files[0], container.write(damaged)], device, model=small_model)


def test_the_device_path_through_the_shim(small_model: Model) -> None:
    """The CUDA coder and its checksums, on tensors of the CPU."""
    library = cuda_shim.build()
    network = BatchNetwork(small_model, "cpu", library)
    host = BatchNetwork(small_model, "cpu", None)
    rgb = torch.from_numpy(np.stack(pictures(48, 64)))
    y = network.analyse(rgb, 300)
    *encoded, z_hat, y_hat = network.encode(y, 300, "gpu")
    *expected, expected_z_hat, expected_y_hat = host.encode(y, 300, "gpu")
    assert encoded == expected
    assert torch.equal(z_hat, expected_z_hat)
    assert torch.equal(y_hat, expected_y_hat)
    assert encoded[0] == [codec.network_of(small_model).encode(mine, 300, layout="gpu")[0] for mine in y.numpy()]
    files = [
        file_of(picture, small_model, index) for picture, index in zip(pictures(48, 64), (0, 300, 960), strict=True)
    ]
    nics = [container.read(data) for data in files]
    expected = np.stack([pixels_of(data, small_model) for data in files])
    np.testing.assert_array_equal(decode_with(nics, network, range(3)).numpy(), expected)

    streams = [nic.tiles[0].stream for nic in nics]
    damaged = [streams[0], streams[1][:-3], streams[2] + b"\0\0"]
    *_, errors = network.decode(damaged, 3, 4, np.array([0, 300, 960]))
    *_, on_host = host.decode(damaged, 3, 4, np.array([0, 300, 960]))
    assert [(type(e), str(e)) for e in errors] == [(type(e), str(e)) for e in on_host]
    assert errors[0] is None
    assert errors[2] is not None


def test_rejected_batches(small_model: Model) -> None:
    one, other = (file_of(pictures(*size, 1)[0], small_model, 480) for size in ((32, 32), (32, 48)))
    with pytest.raises(ValueError, match="several sizes"):
        decode_batch([one, other], "cpu", model=small_model)
    with pytest.raises(NicFormatError, match="file 1 of the batch"):
        decode_batch([one, one[:-1]], "cpu", model=small_model)
    nic = container.read(one)
    forged = container.write(container.NicFile(nic.header, {}, (container.Tile(nic.tiles[0].stream, 1),)))
    with pytest.raises(ChecksumError, match="file 1 of the batch"):
        decode_batch([one, forged], "cpu", model=small_model)
    with pytest.raises(ModelNotFoundError):
        decode_batch([one], "cpu")
    assert decode_batch([], "cpu").shape[:2] == (0, 3)
    assert encode_batch(torch.zeros((0, 3, 16, 16), dtype=torch.uint8), model=small_model) == []
    for wrong in (torch.zeros(1, 3, 16, 16), torch.zeros((3, 16, 16), dtype=torch.uint8)):
        with pytest.raises(ImageError, match="expected uint8"):
            encode_batch(wrong, model=small_model)
    with pytest.raises(ValueError, match="quality"):
        encode_batch(torch.zeros((1, 3, 16, 16), dtype=torch.uint8), quality=0, model=small_model)
    with pytest.raises(ValueError, match="layout"):
        encode_batch(torch.zeros((1, 3, 16, 16), dtype=torch.uint8), layout="tpu", model=small_model)


def test_a_folder_in_batches_of_one_size(small_model: Model, tmp_path) -> None:
    sizes = [(16, 32)] * 5 + [(32, 16)] * 3
    for i, (height, width) in enumerate(sizes):
        (tmp_path / f"{i}.nic").write_bytes(file_of(pictures(height, width, 1)[0], small_model, 100 * i))
    folder = NicFolder(tmp_path)
    for shuffle in (None, torch.Generator().manual_seed(1)):
        batches = SameSize(folder, 2, shuffle)
        assert sorted(place for batch in batches for place in batch) == list(range(8))
        assert len(list(batches)) == len(batches) == 5
        shapes = []
        for files in DataLoader(folder, batch_sampler=batches, collate_fn=list):
            shapes.append(tuple(decode_batch(files, "cpu", model=small_model).shape))
        assert sorted(shapes) == [(1, 3, 16, 32), (1, 3, 32, 16), (2, 3, 16, 32), (2, 3, 16, 32), (2, 3, 32, 16)]
    assert list(SameSize(folder, 2)) == [[0, 1], [2, 3], [4], [5, 6], [7]]
    with pytest.raises(ValueError, match=r"no \.nic files"):
        NicFolder(tmp_path / "missing")
    with pytest.raises(ValueError, match="batch_size is 0"):
        SameSize(folder, 0)


def test_errors_of_a_folder_name_the_file(small_model: Model, tmp_path) -> None:
    for name in ("good.nic", "wrong.nic"):
        (tmp_path / name).write_bytes(file_of(pictures(16, 16, 1)[0], small_model, 100))
    folder = NicFolder(tmp_path)
    (tmp_path / "wrong.nic").write_bytes(b"no header")
    with pytest.raises(NicFormatError, match=r"wrong\.nic: this is not a \.nic file"):
        folder[1]
    with pytest.raises(NicFormatError, match=r"wrong\.nic: this is not a \.nic file"):
        SameSize(folder, 2)
    (tmp_path / "wrong.nic").unlink()
    with pytest.raises(NicFormatError, match=r"^cannot read '.*wrong\.nic': No such file"):
        folder[1]
    with pytest.raises(NicFormatError, match=r"wrong\.nic: No such file"):
        SameSize(folder, 2)


def test_the_example_loader(tmp_path) -> None:
    for i, rgb in enumerate(pictures(32, 48)):
        (tmp_path / f"{i}.nic").write_bytes(neurocodec.encode(rgb, quality=30 + i, layout="gpu"))
    script = ROOT / "examples" / "nic_loader.py"
    command = [sys.executable, str(script), str(tmp_path), "--workers", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("3 pictures, mean 0.")
