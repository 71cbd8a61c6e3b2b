"""Exact coding: the conformance vectors in every way and condition, and what `neurocodec doctor` says of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from golden.make import CASES
from paths import GOLDEN, ROOT, SMALL_MODEL

from neurocodec import codec, conformance, container, image
from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.errors import NicFormatError
from neurocodec.integer.native import NativeNetwork, kernels
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.integer.reference import NumpyArithmetic

FOLDERS = {"base": (conformance.VECTORS, conformance.SOURCES), "small": (GOLDEN / "valid", CASES)}
VECTORS = [
    (model, v) for model, (folder, sources) in FOLDERS.items() for v in conformance.load_vectors(folder, sources)
]
OLDER = [
    pytest.param(vector, chunks, id=f"{folder}-{vector.name}")
    for folder, chunks in (("unfiltered", set()), ("filtered", {container.FILTER}))
    for vector in conformance.load_vectors(GOLDEN / folder, CASES)
]
"""Files of encoders that wrote fewer kinds of chunks, and these kinds."""
CONDITIONS = ("default", "avx2", "no-onednn", "medium", "autocast", "float64-default")

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def models(base_model, small_model):
    return {"base": base_model, "small": small_model}


@pytest.mark.parametrize(("model", "vector"), VECTORS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_vectors_are_exact_in_every_way(model, vector, models):
    ways = dict(conformance.networks(models[model]))
    assert "torch" in ways
    for name, network in ways.items():
        assert conformance.mismatches(vector, network) == [], name
    for kernel in kernels():
        assert conformance.mismatches(vector, NativeNetwork(models[model], kernel, threads=3)) == []


@pytest.mark.parametrize("vector", [v for model, v in VECTORS if model == "small"], ids=lambda v: v.name)
def test_vectors_are_exact_in_the_reference(vector, small_model):
    assert conformance.mismatches(vector, LayerwiseNetwork(small_model, NumpyArithmetic())) == []


@pytest.mark.parametrize(("vector", "chunks"), OLDER)
def test_older_files_decode_as_they_did(vector, chunks, small_model):
    newer = {container.FILTER, container.PALETTE, container.Z_STREAMS} - chunks
    assert not newer & container.read(vector.data).chunks.keys()
    for name, network in conformance.networks(small_model):
        assert set(conformance.mismatches(vector, network)) <= {"encoded bytes"}, name


def run_all_vectors() -> None:
    """Run in other processes, under a condition, with some of the vectors: prints `exact` or what was not."""
    condition, threads = sys.argv[2:4]
    torch.set_num_threads(int(threads))
    torch.backends.mkldnn.enabled = condition != "no-onednn"
    if condition == "medium":
        torch.set_float32_matmul_precision(condition)
    if condition == "float64-default":
        torch.set_default_dtype(torch.float64)
    models = {"base": model_files.load("base"), "small": model_files.load(SMALL_MODEL)}
    with torch.autocast("cpu", torch.bfloat16, enabled=condition == "autocast"):
        for name, vector in VECTORS:
            if name == "base" and vector.name not in ("photo-131x97-q480", "noise-48x40-q700"):
                continue
            for way, network in conformance.networks(models[name]):
                if conformance.mismatches(vector, network):
                    sys.exit(f"{vector.name}: {way} is not exact")
    print("exact")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_vectors_are_exact_in_other_processes(condition):
    """Whatever the instruction set, threads, oneDNN, matmul precision, autocast and default type of the caller."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "tests"), str(ROOT)]))
    if condition in ("default", "avx2"):
        environment["ATEN_CPU_CAPABILITY"] = condition
    arguments = [sys.executable, __file__, "vectors", condition, "1" if condition == "default" else "2"]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert result.stdout == "exact\n", result.stderr


@needs_cuda
def test_vectors_are_exact_on_cuda(models):
    for name, vector in VECTORS:
        assert conformance.mismatches(vector, codec.network_of(models[name], "cuda")) == []


@needs_cuda
@pytest.mark.parametrize("index", [100, 480, 900])
def test_files_cross_between_cpu_and_cuda(index, photo, base_model):
    cpu, gpu = codec.network_of(base_model), codec.network_of(base_model, "cuda")
    picture = image.load(photo)
    data = codec.encode_picture(picture, cpu, index)
    assert codec.encode_picture(picture, gpu, index) == data
    nic = container.read(data)
    assert (codec.decode_picture(nic, cpu).rgb == codec.decode_picture(nic, gpu).rgb).all()


def test_a_machine_that_computes_something_else_gets_an_error(photo, small_model):
    """One wrong unit in one layer, as a bad kernel would give, and decoding refuses instead of showing noise."""

    class Wrong(NumpyArithmetic):
        def depthwise(self, x, layer):
            y = super().depthwise(x, layer)
            y[0, 0, 0] += 1000
            return y

    nic = container.read(codec.encode(photo[:128, :128], model=small_model))
    with pytest.raises(NicFormatError):  # a checksum that does not fit, or a stream that ends too early
        codec.decode_picture(nic, LayerwiseNetwork(small_model, Wrong()))


def test_doctor_says_exact(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Coding is exact on this machine."
    for kernel in kernels():
        assert any(line.startswith(f"cpu, C++ {kernel} ") and line.endswith(" exact") for line in lines)


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
    assert f"NOT EXACT: other symbols of {name}" in out
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


def test_doctor_reports_another_generative_decoder_in_the_package(capsys, monkeypatch, tmp_path, base_model):
    """Such as one with a changed bit, which still fits its configuration."""
    shipped = model_files.shipped_generator(base_model)
    changed = {**shipped.arrays, "head.bias": shipped.arrays["head.bias"] ^ 1}
    dataclasses.replace(shipped, arrays=changed).save(tmp_path / "base-realism.safetensors")
    monkeypatch.setattr(model_files, "PACKAGED", tmp_path)
    vector = next(v for v in conformance.load_vectors() if v.expected.generator)
    _, network = next(conformance.networks(base_model))
    assert "generative decoder" in conformance.mismatches(vector, network)


def test_vectors_are_of_the_shipped_model(base_model):
    assert {v.expected.model_id for v in conformance.load_vectors()} == {base_model.model_id.hex()}
    assert sum(path.stat().st_size for path in conformance.VECTORS.iterdir()) < 200_000


if __name__ == "__main__":
    run_all_vectors()
