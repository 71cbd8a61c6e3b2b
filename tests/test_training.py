"""Training: configuration, data, the loop's resume, two processes, what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from neurocodec import checkpoint, codec
from neurocodec.entropy.likelihood import gaussian_bits, index_of_scale, scale_of_index, training_bits
from neurocodec.errors import ConfigError
from neurocodec.training.config import Config, load_config
from neurocodec.training.data import Photographs, find_images, random_crops
from neurocodec.training.loop import load_run, train
from neurocodec.training.losses import rate_distortion_loss

TINY = """
[model]
channels = 8
latent_channels = 16
hyper_channels = 8
hidden_channels = 8
[data]
folder = "{folder}"
validation_every = 4
crop = 64
[training]
steps = 6
batch = 4
init_images = 0
log_every = 2
checkpoint_every = 3
validate_every = 6
device = "cpu"
threads = 1
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub").mkdir()
    for i in range(6):
        Image.fromarray(photo[i * 60 : i * 60 + 100, i * 50 : i * 50 + 120]).save(
            folder / ("sub" if i % 2 else ".") / f"{i}.png"
        )
    (folder / "broken.jpg").write_bytes(b"not a picture")
    Image.fromarray(photo[:10, :10]).save(folder / "small.png")
    return folder


@pytest.fixture
def config_file(tmp_path, pictures):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(folder=pictures))
    return path


def rows(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def test_n_steps_equal_half_a_resume_and_half(config_file, tmp_path):
    config = load_config(config_file, ["training.validate_actual=false"])
    train(config, tmp_path / "whole")
    half = load_config(config_file, ["training.validate_actual=false"])
    process = tmp_path / "halves"
    # The first half ends as a stopped run does: its schedule still spans all six steps.
    program = (
        "import sys, os, signal; from neurocodec.training import loop;"
        "from neurocodec.training.config import load_config; save = loop._save;"
        "loop._save = lambda *a: (save(*a), os.kill(os.getpid(), signal.SIGTERM));"
        "loop.train(load_config(sys.argv[1], ['training.validate_actual=false']), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", program, str(config_file), str(process)], check=True, capture_output=True)
    assert weights(process)["state"]["step"] == 3
    train(half, process, resume=True)
    expected, found = weights(tmp_path / "whole"), weights(process)
    assert found["state"]["step"] == 6
    for part in ("model", "ema"):
        for name, value in expected[part].items():
            assert torch.equal(value, found[part][name]), name


def test_a_run_leaves_a_log_and_a_model_that_can_be_frozen(config_file, tmp_path, photo):
    run = tmp_path / "run"
    path = train(load_config(config_file), run)
    log = rows(run)
    assert log[0]["config"]["training"]["steps"] == 6
    assert log[0]["pictures"] == 5  # eight files, less two held out and a broken one
    steps = [row["step"] for row in log if "loss" in row]
    assert steps == [2, 4, 6]
    validation = [row["validation"] for row in log if "validation" in row]
    assert {"quality_index", "bpp", "psnr", "file_bpp", "file_psnr"} <= set(validation[0])
    frozen = checkpoint.load(path)
    data = codec.encode(photo[:50, :50], model=path)
    assert codec.decode(data, model=frozen).size == (50, 50)
    again = checkpoint.freeze(load_run(run / "model.pt"), tables=frozen.tables)
    assert again.model_id == frozen.model_id
    with pytest.raises(ConfigError, match="already holds a run"):
        train(load_config(config_file), run)
    with pytest.raises(ConfigError, match="no checkpoint"):
        train(load_config(config_file), tmp_path / "other", resume=True)


def test_learning_lowers_the_loss(config_file, tmp_path):
    overrides = [
        "training.steps=60",
        "training.validate_every=1000",
        "training.validate_actual=false",
        "training.log_every=10",
    ]
    run = tmp_path / "run"
    train(load_config(config_file, overrides), run)
    losses = [row["loss"] for row in rows(run) if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]


def test_two_processes_share_a_batch(config_file, tmp_path):
    program = tmp_path / "go.py"
    program.write_text(
        "import sys\nfrom neurocodec.training.config import load_config\nfrom neurocodec.training.loop import train\n"
        "train(load_config(sys.argv[1], ['training.validate_actual=false']), sys.argv[2])\n"
    )
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, str(config_file), str(run)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert rows(run)[0]["processes"] == 2
    assert weights(run)["state"]["step"] == 6


def test_sigterm_ends_a_run_with_a_checkpoint(config_file, tmp_path):
    program = (
        "import sys; from neurocodec.training.config import load_config; from neurocodec.training.loop import train;"
        "train(load_config(sys.argv[1], ['training.steps=1000000', 'training.validate_actual=false']), sys.argv[2])"
    )
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", program, str(config_file), str(run)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run / "checkpoint.pt").exists():
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert weights(run)["state"]["step"] >= 3
    assert not list(run.glob("*.part"))


def test_configuration_errors_name_the_key(config_file, tmp_path):
    assert (
        load_config(config_file, ["training.learning_rate=1", "training.optimizer=muon"]).training.learning_rate == 1.0
    )
    assert load_config(config_file) == load_config(config_file)
    assert Config().training.steps > 0
    for override, message in {
        "training.stepps=3": "stepps",
        "training.steps=3.5": "int",
        "steps=3": "section.key",
        "nosuch.key=1": "nosuch",
        "training.ema=high": "float",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_config(config_file, [override])
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.toml")
    config_file.write_text("[model")
    with pytest.raises(ConfigError, match="TOML"):
        load_config(config_file)


def test_photographs_are_decoded_once_and_again_when_they_change(pictures, tmp_path):
    paths = find_images(pictures)
    first = Photographs(paths, tmp_path, min_side=64)
    assert len(first) == 6
    stamp = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert (Photographs(paths, tmp_path, min_side=64)[3] == first[3]).all()
    assert stamp == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(Photographs(paths[:3], tmp_path, min_side=64)) < 6
    with pytest.raises(ConfigError, match="at least 500"):
        Photographs(paths, tmp_path, min_side=500)
    with pytest.raises(ConfigError, match="no pictures"):
        find_images(tmp_path)


def test_crops_are_cut_from_the_pictures(pictures, tmp_path):
    photographs = Photographs(find_images(pictures), tmp_path, min_side=64)
    crops = random_crops(photographs, np.random.default_rng(0), 5, 64)
    assert crops.shape == (5, 3, 64, 64)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    again = random_crops(photographs, np.random.default_rng(0), 5, 64)
    assert torch.equal(crops, again)
    levels = torch.unique((crops * 255).round()).tolist()
    assert set(levels) <= set(np.unique(np.concatenate([photographs[i].ravel() for i in range(6)])).tolist())


def test_bits_of_a_gaussian():
    index = torch.tensor([index_of_scale(2.0)])
    assert scale_of_index(index).item() == pytest.approx(2.0, rel=1e-5)
    from math import erf, log2, sqrt

    for k in (0, 1, 5):
        p = 0.5 * (erf((k + 0.5) / (2 * sqrt(2))) - erf((k - 0.5) / (2 * sqrt(2))))
        assert gaussian_bits(torch.tensor([float(-k)]), index).item() == pytest.approx(-log2(p), rel=1e-4)
    assert torch.isfinite(gaussian_bits(torch.tensor([1e6]), index)).all()


def test_training_bits_are_those_of_the_rounded_residual_and_can_be_learned_from():
    residual = torch.tensor([0.3, 0.49, 1.2], requires_grad=True)
    index = torch.tensor([10.0, 10.0, 10.0], requires_grad=True)
    bits = training_bits(residual, index)
    assert torch.allclose(bits, gaussian_bits(residual.detach().round(), index.detach()), atol=1e-5)
    bits.sum().backward()
    assert residual.grad.abs().sum() > 0
    assert index.grad[2] < 0  # a larger scale makes the outlier cheaper


def test_loss_by_hand():
    x = torch.zeros(2, 3, 64, 64)
    output = {"x_hat": x + 0.1, "y_bits": torch.tensor([4096.0, 8192.0]), "z_bits": torch.tensor([0.0, 4096.0])}
    lmbda = torch.tensor([0.001, 0.01])
    losses = rate_distortion_loss(output, x, lmbda)
    assert losses["bpp"].tolist() == [1.0, 3.0]
    expected = ((1 + 0.001 * 650.25) / 1 + (3 + 0.01 * 650.25) / 10**0.5) / 2
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
