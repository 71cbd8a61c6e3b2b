"""Exact decoding: the conformance vectors in every way and condition, and what `neurocodec doctor` makes of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import GOLDEN, SMALL_MODEL

from neurocodec import codec, conformance, container, image
from neurocodec.cli.main import main
from neurocodec.errors import NicFormatError
from neurocodec.models import networks

FOLDERS = {"base": conformance.VECTORS, "small": GOLDEN / "valid"}
VECTORS = [(model, vector) for model, folder in FOLDERS.items() for vector in conformance.load_vectors(folder)]
CONDITIONS = ("default", "avx2", "avx512", "no-onednn", "medium", "high", "autocast", "float64-default")

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def models(base_model, small_model):
    return {"base": base_model, "small": small_model}


@pytest.mark.parametrize(("model", "vector"), VECTORS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_vectors_decode_exactly_in_every_way(model, vector, models):
    ways = dict(conformance.arithmetics("cpu"))
    assert "torch" in ways
    for name, arithmetic in ways.items():
        chosen = dataclasses.replace(models[model], entropy=models[model].entropy.using(arithmetic))
        outcome = conformance.check(vector, chosen)
        assert outcome.exact, name
        assert outcome.levels <= 1, name  # synthesis is float: one level between machines


def run_all_vectors() -> None:
    """Run in other processes, under a condition: prints `exact` or what was not."""
    condition, threads = sys.argv[2:4]
    torch.set_num_threads(int(threads))
    torch.backends.mkldnn.enabled = condition != "no-onednn"
    if condition in ("medium", "high"):
        torch.set_float32_matmul_precision(condition)
    if condition == "float64-default":
        torch.set_default_dtype(torch.float64)
    paths = {"base": "base", "small": SMALL_MODEL}
    models = {name: networks.load(path, device="cpu") for name, path in paths.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=condition == "autocast"):
        for name, vector in VECTORS:
            for way, arithmetic in conformance.arithmetics("cpu"):
                chosen = dataclasses.replace(models[name], entropy=models[name].entropy.using(arithmetic))
                if conformance.digests_of(vector.data, chosen) != vector.expected:
                    sys.exit(f"{vector.name}: {way} is not exact")
    print("exact")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_vectors_decode_exactly_in_other_processes(condition, threads):
    """Whatever the instruction set, oneDNN, matmul precision, autocast and default type of the caller."""
    environment = dict(os.environ)
    if condition in ("default", "avx2", "avx512"):
        environment["ATEN_CPU_CAPABILITY"] = condition
    arguments = [sys.executable, __file__, "vectors", condition, str(threads)]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert result.stdout == "exact\n", result.stderr


@needs_cuda
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_vectors_decode_exactly_on_cuda(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        for name, path in {"base": "base", "small": SMALL_MODEL}.items():
            model = networks.load(path, device="cuda")
            for vector in conformance.load_vectors(FOLDERS[name]):
                outcome = conformance.check(vector, model)
                assert outcome.exact
                assert outcome.levels <= 1
    finally:
        torch.set_float32_matmul_precision("highest")


@needs_cuda
@pytest.mark.parametrize("index", [100, 480, 900])
def test_files_cross_between_cpu_and_cuda(index, photo, base_model):
    on_gpu = networks.load("base", device="cuda")
    picture = image.load(photo)
    for writer, reader in ((base_model, on_gpu), (on_gpu, base_model)):
        nic = container.read(codec.encode_picture(picture, writer, index))
        there, here = codec.decode_latents(nic, reader), codec.decode_latents(nic, writer)
        assert (there[0].y_hat == here[0].y_hat).all()
        levels = np.abs(
            codec.decode_picture(nic, reader).rgb.astype(int) - codec.decode_picture(nic, writer).rgb.astype(int)
        )
        assert levels.max() <= 1


def test_a_machine_that_computes_something_else_gets_an_error(photo, base_model):
    """One wrong unit in one layer, as a bad kernel would give, and decoding refuses instead of showing noise."""

    class Wrong(type(base_model.entropy.arithmetic)):
        def depthwise(self, x, layer):
            y = super().depthwise(x, layer)
            y[0, 0, 0] += 1000
            return y

    nic = container.read(codec.encode(photo[:128, :128], model=base_model))
    broken = dataclasses.replace(base_model, entropy=base_model.entropy.using(Wrong()))
    with pytest.raises(NicFormatError):  # a checksum that does not fit, or a stream that ends too early
        codec.decode_picture(nic, broken)


def test_doctor_says_exact(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Decoding is exact on this machine."
    for way, _ in conformance.arithmetics("cpu"):
        assert any(line.startswith(f"cpu, {way}, ") and " exact; " in line for line in lines)


def test_doctor_says_not_exact(capsys, monkeypatch, tmp_path):
    for path in conformance.VECTORS.iterdir():
        shutil.copy(path, tmp_path)
    table = json.loads((tmp_path / "expected.json").read_text())
    name = next(iter(table))
    table[name]["symbols_sha256"] = "0" * 64
    (tmp_path / "expected.json").write_text(json.dumps(table))
    monkeypatch.setattr(conformance, "VECTORS", tmp_path)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"NOT EXACT: other symbols in {name}" in out
    assert "please report it" in out


def test_doctor_reports_files_that_do_not_decode(capsys, monkeypatch, tmp_path):
    for path in conformance.VECTORS.iterdir():
        shutil.copy(path, tmp_path)
    name = next(iter(json.loads((tmp_path / "expected.json").read_text())))
    data = bytearray((tmp_path / f"{name}.nic").read_bytes())
    data[-1] ^= 1
    (tmp_path / f"{name}.nic").write_bytes(data)
    monkeypatch.setattr(conformance, "VECTORS", tmp_path)
    assert main(["doctor"]) == 1
    assert f"FAILED: {name}: " in capsys.readouterr().out


def test_vectors_are_of_the_shipped_model(base_model):
    assert {v.expected.model_id for v in conformance.load_vectors()} == {base_model.model_id.hex()}
    assert sum(path.stat().st_size for path in Path(conformance.VECTORS).iterdir()) < 200_000


if __name__ == "__main__":
    run_all_vectors()
