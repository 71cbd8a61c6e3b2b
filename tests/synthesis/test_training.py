"""Every system that learns: trains, is interrupted, goes on to the same result, and is applied."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from synthesis.systems import APART, TINY, interrupted_at, rows, run, write_config

from neurocodec.cli.main import main
from neurocodec.errors import ConfigError
from neurocodec.synthesis.registry import SYSTEMS, system, trained_system
from neurocodec.synthesis.system import SHIPPED, SynthesisConfig, TrainedSystem, load_config, resumed_config
from neurocodec.training import checkpoint
from neurocodec.training.loop import train

TRAINED = [name for name, entry in SYSTEMS.items() if entry.inputs[0] == "MODEL" and name not in APART]


def test_every_trained_system_has_a_tiny_run():
    assert set(TINY) == set(TRAINED)
    assert all(issubclass(trained_system(name), TrainedSystem) for name in TRAINED)
    assert all(system(name).name == name for name in SYSTEMS)


@pytest.mark.parametrize("name", TRAINED)
def test_trains_is_interrupted_goes_on_and_is_applied(tmp_path, pictures, name):
    kind, config_file = trained_system(name), write_config(tmp_path, name, pictures)
    model, config = run(config_file, name, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", interrupted_at(name, 13))
    assert checkpoint.read(tmp_path / "parts")["state"]["step"] == 10
    again = resumed_config(kind, str(tmp_path / "parts"), [])
    assert again == config
    (network, settings), (other, _) = kind.load(model), kind.load(train(again, tmp_path / "parts", kind, resume=True))
    assert settings == getattr(config, name)
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    one, two = (checkpoint.read(tmp_path / part)["weights"] for part in ("whole", "parts"))
    for module, weights in one.items():
        assert all(torch.equal(value, two[module][key]) for key, value in weights.items()), module

    log = rows(tmp_path / "whole", "loss")
    assert [row["step"] for row in log] == [5, 10, 15, 20]
    assert all(math.isfinite(row["loss"]) and row["skipped"] == 0 for row in log)
    sheet = np.asarray(Image.open(tmp_path / "whole" / "sheets" / "0000020.png"))
    assert sheet.shape[2] == 3
    assert sheet.std() > 0

    sources = {"IN": str(next(pictures.glob("*.png"))), "SEED": "3", "MODEL": str(model)}
    words = [name, *(sources[word] for word in SYSTEMS[name].inputs), "-o", str(tmp_path / "out.png")]
    assert main(["synth", "apply", *words]) == 0
    with Image.open(tmp_path / "out.png") as im:
        assert min(im.size) >= 32
    assert main(["synth", "apply", *words]) == 1  # it exists


def test_model_files_are_checked(tmp_path, pictures, capsys):
    (tmp_path / "no.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "not").write_bytes(b"no model")
    for path in ("no.safetensors", "not", "nothing"):
        assert main(["synth", "apply", "dcgan", str(tmp_path / path), "3", "-o", str(tmp_path / "o.png")]) == 1
        assert path in capsys.readouterr().err
    assert main(["synth", "apply", "nosuch", "a", "-o", str(tmp_path / "o.png")]) == 1
    assert "no system 'nosuch'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="texture needs no training"):
        trained_system("texture")
    with pytest.raises(SystemExit):
        main(["synth", "apply", "dcgan", "one", "-o", "o.png"])


def test_the_command_trains_and_resumes(tmp_path, pictures, capsys):
    config_file = write_config(tmp_path, "dcgan", pictures)
    words = ["synth", "train", "dcgan", str(config_file), "--run", str(tmp_path / "run"), "training.steps=2"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'model.safetensors'}: the trained dcgan\n"
    assert main(["synth", "train", "dcgan", "--resume", str(tmp_path / "run"), "training.steps=3"]) == 0
    assert checkpoint.read(tmp_path / "run")["state"]["step"] == 3
    assert main(["synth", "train", "dcgan", "--resume", str(tmp_path / "run"), "dcgan.latent=9"]) == 1
    assert "dcgan.latent" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["synth", "train", "dcgan"])


def test_a_signal_ends_a_run_that_tells_how_to_continue(tmp_path, pictures):
    config_file, folder = write_config(tmp_path, "dcgan", pictures), tmp_path / "run"
    words = ["synth", "train", "dcgan", config_file, "--run", folder, "training.steps=1000000"]
    command = [sys.executable, "-m", "neurocodec", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (folder / checkpoint.NAME).exists():
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=300)[0] == f"{folder}: ended early; --resume {folder} continues\n"
    assert process.returncode == 128 + signal.SIGTERM
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pyramid", "in.png", "device=cuda"], "options.device"),
        (["video", "in.webp", "device=cuda"], "options.device"),
        (["video", "in.webp", "seed=2"], "unknown key 'seed' in [options]"),
        (["style", "in.png", "painting.png", "seed=2"], "unknown key 'seed' in [options]"),
        (["dcgan", "model.safetensors", "3", "seed=2"], "unknown key 'seed' in [options]"),
        (["dcgan", "model.safetensors", "3", "count=10"], "options.count is 10, expected 1 to 8, or a multiple of 8"),
    ],
)
def test_options_that_a_system_cannot_use_are_refused(tmp_path, capsys, words, message):
    assert main(["synth", "apply", *words, "-o", str(tmp_path / "out.png")]) == 1
    assert message in capsys.readouterr().err


def test_the_list_names_every_system(capsys):
    assert main(["synth", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SYSTEMS)


def test_every_configuration_that_ships_is_one_of_a_system():
    for path in SHIPPED.glob("*.toml"):
        name = next(name for name in SYSTEMS if path.stem == name or path.stem.startswith(f"{name}-"))
        assert isinstance(load_config(trained_system(name), path.stem, []), SynthesisConfig)
