"""Fits the map of `neurocodec.preview` for a model: from y_hat to the mean colours of squares of 4×4 pixels.

    python tools/fit_preview.py FOLDER [--model base] [--crops 150] -o neurocodec/weights/base-preview.safetensors

A crop of 256×256 pixels of each photograph in FOLDER is coded at every second quality row. Least squares between y_hat
and what g_s makes of it give a matrix that all rows share, and for each row a scale for each channel and a bias. Prints
the root mean square of the error at each row, in levels of 0 to 255, on every fifth crop, which the fit does not see.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurocodec import codec, collection, image
from neurocodec import model as model_files
from neurocodec.entropy.grid import QUALITY_STEPS, UNIT
from neurocodec.integer.transforms import LOG_GAIN_BITS
from neurocodec.model import PREVIEW_CELLS, QUALITY_ROWS, Model
from neurocodec.thumbnail import GRAY, linear_map
from neurocodec.tiling import LATENT

CROP = 256
ROUNDS = 6
RIDGE = 1e-7
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--model", default="base")
    parser.add_argument("--crops", type=int, default=150)
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    model = model_files.load(args.model)
    crops = crops_of(args.folder, args.crops)
    held_out = crops[::5]
    arrays = fit(model, [crop for i, crop in enumerate(crops) if i % 5])
    model_files.save_preview(args.output, model, arrays)
    for row in range(QUALITY_ROWS):
        matrix, offset = linear_map(model, arrays, row * QUALITY_STEPS, PREVIEW_CELLS)
        pairs = [coded(model, crop, row) for crop in held_out]
        errors = [np.square((y_hat @ matrix + offset).clip(0, 255) - means).mean() for y_hat, means in pairs]
        print(f"row {row:2}: {np.sqrt(np.mean(errors)):.2f}", flush=True)


def crops_of(folder: str, count: int) -> list[NDArray[np.uint8]]:
    """The middle of `count` pictures in a folder, chosen at random, uint8 (256, 256, 3)."""
    names = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in collection.picture_suffixes())
    crops: list[NDArray[np.uint8]] = []
    for name in random.Random(0).sample(names, len(names)):
        rgb = image.load(name).rgb
        top, left = (rgb.shape[0] - CROP) // 2, (rgb.shape[1] - CROP) // 2
        if min(top, left) >= 0:
            crops.append(np.ascontiguousarray(rgb[top : top + CROP, left : left + CROP]))
        if len(crops) == count:
            break
    return crops


def coded(model: Model, crop: NDArray[np.uint8], row: int) -> tuple[Floats, Floats]:
    """y_hat of a crop, (positions, M) in units of 1/64, and the mean colours that g_s makes of it, (positions, 48)."""
    network, index = codec.network_of(model), row * QUALITY_STEPS
    _, latents = network.encode(network.analyse(crop, index), index)
    side, cell = CROP // LATENT, LATENT // PREVIEW_CELLS
    pixels = network.synthesise(latents.y_hat, index).astype(np.float64)
    means = pixels.reshape(side, PREVIEW_CELLS, cell, side, PREVIEW_CELLS, cell, 3).mean((2, 5)).swapaxes(1, 2)
    return latents.y_hat.reshape(side**2, -1).astype(np.float64), means.reshape(side**2, -1)


def fit(model: Model, crops: list[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """The arrays of `model.find_preview`. Weight and scales are fitted in turn, with the bias as one more channel."""
    gains = np.exp2(model.arrays["g_s.log_y_gain"].astype(np.float64) / 2**LOG_GAIN_BITS) / UNIT
    channels, colours = model.config.latent_channels + 1, 3 * PREVIEW_CELLS**2
    products, targets = np.zeros((QUALITY_ROWS, channels, channels)), np.zeros((QUALITY_ROWS, channels, colours))
    for i, crop in enumerate(crops):
        for row in range(i % 2, QUALITY_ROWS, 2):
            y_hat, means = coded(model, crop, row)
            x = np.column_stack([y_hat * gains[row], np.ones(len(y_hat))])
            products[row] += x.T @ x
            targets[row] += x.T @ (means - GRAY)
    scale = np.ones((QUALITY_ROWS, channels))
    for _ in range(ROUNDS):
        weight = solve(np.einsum("ri,rij,rj->ij", scale, products, scale), np.einsum("ri,rik->ik", scale, targets))
        for row in range(QUALITY_ROWS):
            scale[row] = solve(products[row] * (weight @ weight.T), (targets[row] * weight).sum(1))
    arrays = {"weight": weight[:-1], "scale": scale[:, :-1], "bias": scale[:, -1:] * weight[-1]}
    return {name: array.astype(np.float32, order="C") for name, array in arrays.items()}


def solve(a: Floats, b: Floats) -> Floats:
    """a⁻¹ b, with a little added to the diagonal: some channels hold nothing in low rows."""
    solution: Floats = np.linalg.solve(a + np.eye(len(a)) * (RIDGE * np.trace(a) / len(a)), b)
    return solution


if __name__ == "__main__":
    main()
