"""Data for the demonstrations of docs/synthesis.md, and what they are measured by. Needs the package's bench extra.

python tools/synthesis.py modes FOLDER          # pictures of eight known modes
python tools/synthesis.py dcgan-modes MODEL     # which of the modes a generator makes
"""

from __future__ import annotations

import argparse
import colorsys
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neurocodec.synthesis import pictures
from neurocodec.synthesis.dcgan import Dcgan

MODES = np.array([colorsys.hsv_to_rgb(k / 8, 0.9, 0.9) for k in range(8)], np.float32)
"""The colours of the eight modes, (8, 3)."""


def draw_mode(rng: np.random.Generator, mode: int, side: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A disc in the colour of its mode on gray; its place, its radius and all brightnesses vary."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    dy, dx = rng.uniform(-3, 3, 2)
    disc = np.clip(rng.uniform(8, 11) - np.hypot(y - dy, x - dx), 0, 1)[:, :, None]
    picture = disc * MODES[mode] * rng.uniform(0.9, 1.1) + (1 - disc) * rng.uniform(0.2, 0.3)
    return np.clip(255 * picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def modes(args: argparse.Namespace) -> None:
    rng, folder = np.random.default_rng(0), Path(args.folder)
    folder.mkdir(parents=True)
    for i in range(args.count):
        Image.fromarray(draw_mode(rng, i % 8)).save(folder / f"{i:04d}.png")


def modes_of(x: Tensor) -> Tensor:
    """The mode of each picture, (N,), by the colour of its middle; -1 if no mode is nearer than half the way between
    two. x: (N, 3, 32, 32) in [0, 1]."""
    colours, middle = torch.from_numpy(MODES), x[:, :, 12:20, 12:20].mean((2, 3))
    apart = torch.cdist(colours, colours).fill_diagonal_(9).min() / 2
    distance, mode = torch.cdist(middle, colours).min(1)
    return torch.where(distance < apart, mode, -1)


def dcgan_modes(args: argparse.Namespace) -> None:
    network, settings = Dcgan.load(args.model)
    with torch.no_grad():
        x = network(pictures.noise((1000, settings.latent), 0))
    found = modes_of(x)
    counts = [int((found == k).sum()) for k in range(8)]
    report(modes=sum(count >= 10 for count in counts), counts=counts, none=int((found < 0).sum()))
    if args.sheet:
        pictures.write(pictures.grid(x[:32], 8), args.sheet, force=True)


def report(**figures: Any) -> None:
    """Prints figures as a line of JSON."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("modes")
    action.add_argument("folder")
    action.add_argument("--count", type=int, default=1600)
    action.set_defaults(run=modes)
    action = actions.add_parser("dcgan-modes")
    action.add_argument("model")
    action.add_argument("--sheet")
    action.set_defaults(run=dcgan_modes)
    args = parser.parse_args()
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
