"""Model files: round trip, identity, damage."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from paths import SMALL_MODEL
from safetensors.numpy import load_file, save_file

from neurocodec import codec, image, model
from neurocodec.errors import ModelMismatchError, ModelNotFoundError
from neurocodec.integer.gpu import resolve_device
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.integer.reference import NumpyArithmetic


def test_a_saved_model_is_the_same_model(small_model, tmp_path, photo):
    path = tmp_path / "copy.safetensors"
    small_model.save(path)
    again = model.load(path)
    assert again.model_id == small_model.model_id
    assert codec.encode(photo[:40, :40], model=again) == codec.encode(photo[:40, :40], model=small_model)
    assert [p.name for p in tmp_path.iterdir()] == ["copy.safetensors"]
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode, "others may read a model that is installed for all"


def test_the_id_covers_what_decoding_reads_and_nothing_else(small_model):
    def id_with_change(name):
        arrays = {n: v.copy() for n, v in small_model.arrays.items()}
        arrays[name].flat[0] += 1
        return model.Model(small_model.config, arrays).model_id

    for name in ("g_s.head.weight", "entropy.h_s.up1.weight", "entropy.log_table", "tables.offsets"):
        assert id_with_change(name) != small_model.model_id
    for name in ("g_a.stem.weight", "h_a.conv_in.weight"):
        assert id_with_change(name) == small_model.model_id


def test_damaged_model_files(tmp_path):
    data = bytearray(SMALL_MODEL.read_bytes())
    path = tmp_path / "m.safetensors"
    for bad in (b"", data[:100], data[: len(data) // 2], b"\xff" * 64):
        path.write_bytes(bad)
        with pytest.raises(ModelMismatchError):
            model.load(path)
        path.unlink()
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelMismatchError):
        model.load(path)


@pytest.mark.parametrize("kind", ["encoder", "generator"])
def test_damage_that_the_model_id_does_not_cover(tmp_path, small_model, base_model, kind):
    path = tmp_path / "m.safetensors"
    if kind == "encoder":
        small_model.save(path)
        read, name = model.load, "g_a.stem.weight"
    else:
        model.find_generator(base_model).save(path)
        read, name = functools.partial(model.load_generator, model=base_model), "head.weight"
    read(path)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + json.loads(data[8:start])[name]["data_offsets"][0]] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))  # files are cached by their time
    with pytest.raises(ModelMismatchError, match="is damaged: its arrays do not match its checksum"):
        read(path)


def test_a_file_without_its_tables(tmp_path, small_model):
    arrays = load_file(SMALL_MODEL)
    del arrays["tables.offsets"]
    with pytest.raises(ModelMismatchError, match="offsets"):
        model.Model(small_model.config, arrays)
    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ModelMismatchError, match="not a neurocodec model"):
        model.load(path)


def test_unknown_models():
    for name in ("nosuch", "long" * 1000, "zero\0byte"):
        for suffix in ("", ".safetensors"):
            with pytest.raises(ModelNotFoundError, match=name[:4]):
                model.load(name + suffix)
    with pytest.raises(ModelNotFoundError, match="0123"):
        model.find(bytes.fromhex("0123456789abcdef"))


@pytest.mark.parametrize("change", [{"channels": 9}, {"channels": 1000}, {"latent_blocks": 2}, {"encoder_blocks": 2}])
def test_a_configuration_that_does_not_fit_the_arrays(tmp_path, small_model, photo, change):
    forged = model.Model(dataclasses.replace(small_model.config, **change), small_model.arrays)
    forged.save(tmp_path / "m.safetensors")
    loaded = model.load(tmp_path / "m.safetensors")
    for build in (codec.network_of, lambda m: LayerwiseNetwork(m, NumpyArithmetic())):
        with pytest.raises(ModelMismatchError, match=r"the model file (lacks|holds)"):
            build(loaded)


def test_a_fractional_number_of_channels():
    with pytest.raises(ValueError, match=r"channels is 8\.5; it must be a whole number"):
        model.HyperpriorConfig(channels=8.5)


def test_an_id_that_does_not_fit_the_contents(tmp_path, small_model):
    config = json.dumps(dataclasses.asdict(small_model.config))
    metadata = {"format": model.FILE_FORMAT, "config": config, "model_id": "0123456789abcdef"}
    save_file(dict(small_model.arrays), tmp_path / "m.safetensors", metadata=metadata)
    with pytest.raises(ModelMismatchError, match="is damaged"):
        model.load(tmp_path / "m.safetensors")


def test_settings_of_training_and_the_encoder_leave_the_id_alone(small_model):
    for change in ({"lambda_max": 0.9}, {"lambda_min": 1e-5}, {"encoder_blocks": 4}):
        config = dataclasses.replace(small_model.config, **change)
        assert model.Model(config, small_model.arrays).model_id == small_model.model_id
    config = dataclasses.replace(small_model.config, decoder_blocks=3)
    assert model.Model(config, small_model.arrays).model_id != small_model.model_id


def test_the_decoder_alone(tmp_path, small_model, photo):
    data = codec.encode(photo[:40, :50], model=small_model)
    small_model.decoder().save(tmp_path / "decoder.safetensors")
    decoder = model.load(tmp_path / "decoder.safetensors")
    assert decoder.model_id == small_model.model_id
    assert (tmp_path / "decoder.safetensors").stat().st_size < SMALL_MODEL.stat().st_size
    assert codec.decode(data, model=decoder).tobytes() == codec.decode(data, model=small_model).tobytes()
    for network in (codec.network_of(decoder), LayerwiseNetwork(decoder, NumpyArithmetic())):
        with pytest.raises(ModelMismatchError, match="for decoding alone"):
            codec.encode_picture(image.load(photo[:16, :16]), network, 480)


def with_configuration(small_model, change, path):
    """A file of the small model whose configuration differs, and its path."""
    config = json.dumps(dataclasses.asdict(small_model.config) | change)
    metadata = {"format": model.FILE_FORMAT, "config": config, "model_id": small_model.model_id.hex()}
    save_file(dict(small_model.arrays), path, metadata=metadata)
    return path


@pytest.mark.parametrize("change", [{"channels": 30_000}, {"hidden_channels": 10**12}, {"latent_blocks": 10**9}])
def test_a_configuration_that_asks_for_any_amount_of_memory(tmp_path, small_model, change):
    with pytest.raises(ModelMismatchError, match=f"{next(iter(change))} is .*; it must be from"):
        model.load(with_configuration(small_model, change, tmp_path / "m.safetensors"))


def written(path, header, data=b""):
    """A safetensors file with this header, a JSON text or an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("F8_E4M3", 1),
        ("F8_E5M2", 1),
        ("F4", 1),
        ("BF16", 2),
        ("F32", 4),
        ("BOOL", 1),
        ("C64", 8),
        ("I64", 8),
        ("X9", 1),
    ],
)
def test_types_that_no_model_has_are_refused(tmp_path, small_model, dtype, size):
    """F8 and F4 once ended in AttributeError; bool, complex and NaN passed."""
    metadata = {"format": model.FILE_FORMAT, "config": json.dumps(dataclasses.asdict(small_model.config))}
    header = {"__metadata__": metadata, "g_a.stem.weight": entry(dtype, [2], 0, 2 * size)}
    with pytest.raises(ModelMismatchError, match=r"'g_a\.stem\.weight', expected other names or types"):
        model.load(written(tmp_path / "m.safetensors", header, bytes(2 * size)))


@pytest.mark.parametrize("name", ["", "weight", "g_b.stem", "g_s.", "g_s." + "a" * 100, "g_s.a\n", "g_s.ä"])
def test_names_that_no_model_has_are_refused(tmp_path, small_model, name):
    metadata = {"format": model.FILE_FORMAT, "config": json.dumps(dataclasses.asdict(small_model.config))}
    header = {"__metadata__": metadata, name: entry("I16", [1], 0, 2)}
    with pytest.raises(ModelMismatchError, match="expected other names or types") as caught:
        model.load(written(tmp_path / "m.safetensors", header, bytes(2)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_model_files_are_checked_before_memory_is_taken(tmp_path, small_model):
    metadata = {"format": model.FILE_FORMAT, "config": json.dumps(dataclasses.asdict(small_model.config))}
    many = {"__metadata__": metadata, **{f"g_s.{i}": entry("I16", [0], 0, 0) for i in range(5000)}}
    large = {"__metadata__": metadata, "g_s.a": entry("I8", [2**24], 0, 2**24)}
    files = {
        "a header that claims 2^63 bytes": (2**63 - 1).to_bytes(8, "little") + b"{}",
        "a header of 20 MB": None,
        "thousands of arrays": many,
        "more bytes than such a model has": large,
        "no metadata": {"g_s.a": entry("I16", [1], 0, 2)},
        "a list": b"[]",
        "deep": b"[" * 100_000,
        "no type": {"__metadata__": metadata, "g_s.a": {}},
        "metadata that is none": {"__metadata__": 3},
    }
    for what, header in files.items():
        path = tmp_path / f"{what}.safetensors"
        if what == "a header of 20 MB":
            written(path, b'{"' + b"a" * 20_000_000 + b'": 3}')
        elif isinstance(header, bytes) and what.startswith("a header"):
            path.write_bytes(header)
        else:
            written(path, header, bytes(2**24 if header is large else 2))
        tracemalloc.start()
        with pytest.raises(ModelMismatchError) as caught:
            model.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23, what
        tracemalloc.stop()
        assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize(
    "change", [{"channels": True}, {"channels": "8"}, {"lambda_max": float("inf")}, {"lambda_min": float("nan")}]
)
def test_numbers_of_a_configuration_that_are_none(tmp_path, small_model, change):
    with pytest.raises(ModelMismatchError, match=r"whole number|lambda_min must be above 0"):
        model.load(with_configuration(small_model, change, tmp_path / "m.safetensors"))


def test_links_to_nowhere_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nothing")
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="0123"):
        model.find(bytes.fromhex("0123456789abcdef"))


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="'cuda', and PyTorch finds no GPU"):
        resolve_device("cuda")
    with pytest.raises(ValueError, match="'gpu'; known are auto, cpu and cuda"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="'cuda:2', and the last GPU that PyTorch finds here is cuda:1"):
        resolve_device("cuda:2")
    for device in ("cudnn", "cuda:", "cuda:x", "cuda:-1"):
        with pytest.raises(ValueError, match="known are"):
            resolve_device(device)


def test_the_shipped_model_is_small_enough(base_model):
    assert (model.PACKAGED / "base.safetensors").stat().st_size <= 12_000_000
