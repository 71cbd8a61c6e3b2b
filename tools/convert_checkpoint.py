"""Turns the checkpoint.pt of a run, as versions before November 2026 wrote it, into checkpoint.safetensors.

    python tools/convert_checkpoint.py runs/mine

After that `neurocodec train --resume runs/mine` continues the run and `--init-from runs/mine` starts from it. The old
file stays. It is a pickle, which torch.load reads without running what it names, but in any amount of memory: convert
runs of your own only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_type_hints

import torch

from neurocodec.training import checkpoint
from neurocodec.training.config import GenerativeConfig


def convert(run: Path) -> None:
    """Writes the new checkpoint of a run beside its old one. Raises OutputError."""
    saved = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    state = {"crops": 0, "warned": []} | saved.pop("state")  # the first runs did not have them
    config = saved.pop("config")
    for section, part in get_type_hints(GenerativeConfig).items():
        for key in set(config.get(section, {})) - set(get_type_hints(part)):
            del config[section][key]  # no longer a setting
    tree = {"config": config, "state": state, "optimizers": saved.pop("optimizers")}
    checkpoint.write(run, tree | {"weights": saved})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    convert(parser.parse_args().run)
