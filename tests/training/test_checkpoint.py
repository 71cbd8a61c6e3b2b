"""Checkpoints: what is written is what is read; hostile files."""

from __future__ import annotations

import contextlib
import json
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from training.runs import train

from neurocodec.cli.main import main
from neurocodec.errors import ConfigError
from neurocodec.training import checkpoint


def test_trees_come_back_with_layouts_and_shared_memory(tmp_path):
    dense = torch.arange(120.0).reshape(2, 3, 4, 5)
    tree = {
        "config": {},
        "channels-last": dense.to(memory_format=torch.channels_last),
        "transposed": torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
        "nested": [{"bf16": torch.ones(3, dtype=torch.bfloat16)}, None, 0.1, 7, "text", [], torch.zeros(0, 4)],
        "scalar": torch.tensor(3.0),
    }
    shared = torch.rand(1000)
    tree |= {"one": shared, "other": {"name": shared}}
    checkpoint.write(tmp_path, tree)
    back = checkpoint.read(tmp_path)
    for name in ("channels-last", "transposed", "scalar", "one"):
        assert torch.equal(back[name], tree[name])
        assert back[name].stride() == tree[name].stride()
    assert torch.equal(back["other"]["name"], shared)
    assert back["nested"][1:6] == tree["nested"][1:6]
    assert back["nested"][0]["bf16"].dtype == torch.bfloat16
    assert back["nested"][6].shape == (0, 4)
    assert (tmp_path / checkpoint.NAME).stat().st_size < 6500  # the shared kilobytes once


def hostile(path, tree):
    tensors = {"a": torch.zeros(4), "b": torch.zeros(2, 2)}
    text = tree if isinstance(tree, str) else json.dumps(tree)
    save_file(tensors, path, {"format": checkpoint.FORMAT, "tree": text})


class MakesFolder:
    """Its pickle makes a folder when it is read without restrictions."""

    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    "tree",
    [
        "",
        "[" * 100_000,
        "[1, 2",
        {"a": {"tensor": "none", "stride": [1]}},
        {"a": {"tensor": "a", "stride": [1 << 40]}},
        {"a": {"tensor": "a", "stride": [-1]}},
        {"a": {"tensor": "a", "stride": []}},
        {"a": {"tensor": "b", "stride": ["1", 2]}},
        {"a": {"tensor": ["b"], "stride": [2, 1]}},
        {"a": {"tensor": "b", "stride": 3}},
        {"config": []},
        {},
        [],
    ],
)
def test_hostile_trees_are_config_errors(tmp_path, config_file, tree):
    """Never another exception, and no more memory than the file has bytes."""
    hostile(tmp_path / checkpoint.NAME, tree)
    with pytest.raises(ConfigError):
        train(config_file, tmp_path, resume=True)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 900), value=st.integers(0, 255), length=st.integers(0, 1200))
def test_damaged_checkpoints_are_config_errors(tmp_path_factory, position, value, length):
    folder = tmp_path_factory.mktemp("damaged")
    checkpoint.write(folder, {"weights": {"ema": {"a": torch.zeros(4, 3).T}}, "config": {"model": {}}})
    data = bytearray((folder / checkpoint.NAME).read_bytes())
    data[min(position, len(data) - 1)] = value
    (folder / checkpoint.NAME).write_bytes(data[:length] if length < len(data) else data)
    with contextlib.suppress(ConfigError):
        assert isinstance(checkpoint.read(folder), dict)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"weights": MakesFolder()}),
        b"\x80\x02" + b"r\xff\xff\xff\x7f" + b".",  # a memo of 2^31 entries: gigabytes
        b"\x80\x02" + b"(" + b"\x85" * 200_000 + b".",  # nested tuples
    ],
    ids=["code", "memory", "depth"],
)
def test_a_pickle_in_the_place_of_a_checkpoint_is_not_unpickled(tmp_path, monkeypatch, capsys, content):
    """torch.load(weights_only=True) took 6.7 GB for a few dozen bytes, or crashed the interpreter."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / checkpoint.NAME).write_bytes(content)
    assert main(["train", "--resume", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "is not a checkpoint that neurocodec train wrote" in err
    assert not (tmp_path / "made").exists()
