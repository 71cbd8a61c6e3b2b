"""Tiny runs of both objectives, and what tests read from their folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from paths import SMALL_MODEL
from PIL import Image
from torch import nn

from neurocodec.perceptual.features import FeatureNetwork
from neurocodec.perceptual.lpips import LPIPS
from neurocodec.training import checkpoint, loop
from neurocodec.training.config import load_config
from neurocodec.training.rate_distortion import RateDistortion
from neurocodec.training.realism import Realism

COMMON = """
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
validate_every = 1000
validate_actual = false
device = "cpu"
threads = 1
"""
MODEL = """
[model]
channels = 8
latent_channels = 16
hyper_channels = 8
hidden_channels = 8
latent_blocks = 1
"""
GENERATOR = f"""
[generator]
channels = 16
blocks = 1
fine_blocks = 1
frequencies = 2
[realism]
model = "{SMALL_MODEL}"
gan_start = 0.0
discriminator_channels = 4
"""
OBJECTIVES = {"rate-distortion": RateDistortion, "realism": Realism}

PROGRAM = """
import os, sys
import torch
sys.path.insert(0, {tests!r})
from neurocodec.training import loop, realism
from training.runs import OBJECTIVES, load_config, tiny_lpips
realism.load_lpips = lambda *_: tiny_lpips()
{before}
config = load_config(sys.argv[1], sys.argv[3:])
loop.train(config, sys.argv[2], OBJECTIVES[{kind!r}], resume="again" in sys.argv[2])
{after}
"""
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def write_config(path, kind, folder):
    """A configuration of a tiny run; kind: a key of OBJECTIVES."""
    path.write_text(COMMON.format(folder=folder) + (MODEL if kind == "rate-distortion" else GENERATOR))
    return path


def train(config_file, run, overrides=(), *, resume=False, make=lambda objective: objective):
    """Trains by the objective that the configuration is for, or what `make` returns for it."""
    config = load_config(config_file, overrides)
    objective = Realism if hasattr(config, "realism") else RateDistortion
    return loop.train(config, run, make(objective), resume=resume)


def tiny_lpips():
    """LPIPS of two layers with random weights."""
    generator = torch.Generator().manual_seed(7)
    steps = [
        ("conv1", nn.Conv2d(3, 6, 5, stride=2, padding=2)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(6, 8, 3, stride=2, padding=1)),
        ("relu2", nn.ReLU()),
    ]
    network = FeatureNetwork(steps, ("relu1", "relu2"), 8)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return LPIPS(network, [torch.full((6,), 0.2), torch.full((8,), 0.2)])


def write_pictures(folder, photo):
    """Six pictures in two folders, one that is broken and one that is too small."""
    (folder / "sub").mkdir(parents=True)
    for i in range(6):
        picture = photo[i * 60 : i * 60 + 140, i * 50 : i * 50 + 160]
        Image.fromarray(picture).save(folder / ("sub" if i % 2 else ".") / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    Image.fromarray(photo[:10, :10]).save(folder / "small.png")
    return folder


def rows(run, key="loss"):
    """The rows of the log that have the key."""
    return [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if key in row]


def weights(run):
    """The modules of a run's checkpoint by name, its "state", and its "optimizers" as `load_state_dict` takes them."""
    saved = checkpoint.read(run)
    states = [{int(i): state for i, state in optimizer["state"].items()} for optimizer in saved["optimizers"]]
    optimizers = [{**values, "state": state} for values, state in zip(saved["optimizers"], states, strict=True)]
    return {**saved["weights"], "state": saved["state"], "optimizers": optimizers}


def edit_checkpoint(run, change):
    """Replaces the checkpoint of a run by what `change` makes of its tree."""
    tree = checkpoint.read(run)
    change(tree)
    checkpoint.write(run, tree)


def assert_same_weights(expected, actual):
    """Of all modules of two checkpoints and the average."""
    parts = [part for part in expected if part in ("model", "codec", "discriminator", "ema")]
    assert len(parts) >= 2
    for part in parts:
        for name, value in expected[part].items():
            assert torch.equal(value, actual[part][name]), f"{part}: {name}"


def python(tmp_path, kind, *arguments, before="", after="", launcher=()):
    """Starts PROGRAM, with lines before and after its training, in a process of its own."""
    program = tmp_path / f"program{len(list(tmp_path.glob('program*.py')))}.py"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parents[1]), kind=kind, before=before, after=after))
    command = [sys.executable, *launcher, str(program), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def succeed(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
