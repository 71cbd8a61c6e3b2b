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

TINY: dict[str, dict[str, Any]] = {
    "dcgan": {"crop": 32, "settings": "size = 32\nlatent = 8\nchannels = 4\nguard_window = 5"},
}
"""Of each system: crop and, where they are not those below, batch, more training settings, and its own settings."""


def write_config(folder: Path, system: str, pictures: Path) -> Path:
    path = folder / f"{system}.toml"
    values = {"batch": 2, "training": "", "settings": ""} | TINY[system]
    path.write_text(COMMON.format(folder=pictures, system=system, **values))
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
