"""A tiny run of each system that learns: twenty steps, on pictures of 64² and more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from neurocodec.synthesis.registry import trained_system
from neurocodec.synthesis.system import SynthesisConfig, TrainedSystem, load_config
from neurocodec.training.loop import train

COMMON = """
[data]
folder = "{folder}"
validation_every = 4
crop = {crop}
workers = 1
{data}
[training]
steps = 20
batch = {batch}
log_every = 5
checkpoint_every = 10
validate_every = 1000
device = "cpu"
threads = 1
{training}
[{system}]
{settings}
"""

GAN = "features = 'alexnet'\nfeature_weight = 0.01\ngan_weight = 0.01\ndiscriminator_channels = 4\nguard_window = 5"
APART = ("action",)
"""Systems that learn and are applied to other files than pictures: test_action.py has their tiny runs."""
TINY: dict[str, dict[str, Any]] = {
    "superresolution": {"crop": 32, "settings": f"channels = 4\nblocks = 1\nrelativistic = true\n{GAN}"},
    "artefacts": {"crop": 32, "settings": f"channels = 4\nlayers = 4\n{GAN}"},
    "pix2pix": {
        "crop": 32,
        "settings": "levels = 5\nchannels = 4\ndiscriminator_channels = 4\nguard_window = 5",
    },
    "faststyle": {"crop": 32, "batch": 1, "settings": "painting = '{painting}'\npainting_size = 32\nchannels = 4"},
    "cyclegan": {
        "crop": 32,
        "data": "in_turn = true\nmix = {{'{other}' = 0.5}}",
        "settings": "channels = 4\nblocks = 1\npool = 5\ndiscriminator_channels = 4\nguard_window = 5",
    },
    "spade": {
        "crop": 48,
        "settings": "labels = 4\nlevels = 2\nchannels = 4\nhidden = 4\nfeature_weight = 0.0\n"
        "discriminator_channels = 4\nguard_window = 5",
    },
    "latent": {
        "crop": 32,
        "settings": "model = '{dcgan}'\nsize = 32\nlatent = 8\nchannels = 4\nguard_window = 5",
    },
    "dcgan": {"crop": 32, "settings": "size = 32\nlatent = 8\nchannels = 4\nguard_window = 5"},
}
"""Of each system: crop and, where they are not those below, batch, more training settings, and its own settings."""


def write_config(folder: Path, system: str, pictures: Path) -> Path:
    path = folder / f"{system}.toml"
    values = {"batch": 2, "data": "", "training": "", "settings": ""} | TINY[system]
    names = {"painting": pictures / "0.png", "other": pictures.parent / "other", "dcgan": pictures.parent / "dcgan"}
    filled = {key: str(value).format(**names) for key, value in values.items()}
    path.write_text(COMMON.format(folder=pictures, system=system, **filled))
    return path


def run(config_file: Path, system: str, folder: Path, *overrides: str) -> tuple[Path, SynthesisConfig]:
    """Trains a tiny run: its model file and its configuration."""
    kind = trained_system(system)
    config = load_config(kind, str(config_file), overrides)
    return train(config, folder, kind), config


def interrupted_at(system: str, last: int) -> type[TrainedSystem[Any, Any]]:
    """The system, but Ctrl-C comes in the middle of a step: after the discriminator's, if there is one."""
    kind = trained_system(system)

    class Interrupted(kind):  # type: ignore[misc, valid-type]
        def losses(self, modules, x, quality_index, step, fraction):
            for loss in super().losses(modules, x, quality_index, step, fraction):
                if step == last and loss.module == "generator":
                    raise KeyboardInterrupt
                yield loss

    return Interrupted


def rows(folder: Path, key: str) -> list[dict[str, Any]]:
    """The rows of a run's log that have the key."""
    return [row for row in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if key in row]
