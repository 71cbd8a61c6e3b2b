"""Where the realism slider should end: LPIPS and PSNR of several amounts of the detail of several β; and an end there.

    python benchmarks/slider.py GENERATOR PICTURES... --qualities 20,38,56

prints a table for the model "base" and a generator's file. LPIPS has a minimum along the slider: beyond it, detail
looks real but is less like the original; at high rates, learned detail may be too faint everywhere.

    python benchmarks/slider.py GENERATOR --end 0.6 --amount 1.2 -o OUT

writes a generator whose realism 1 is β = 0.6 with 1.2 times its detail. Realism ½ stays what it is, and so does
everything below; between the two gains are straight.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocodec import codec, image, tiling
from neurocodec import model as model_files
from neurocodec.bench.quality import lpips
from neurocodec.entropy.grid import QUALITY_STEPS, UNIT
from neurocodec.errors import NeurocodecError
from neurocodec.metrics import psnr
from neurocodec.model import Model
from neurocodec.models import generators
from neurocodec.models.hific import LEAST_LEARNED, Generator, RealismGain
from neurocodec.models.pixels import from_tensor

BETAS = (0.5, 0.6, 0.7, 0.8, 1.0)
AMOUNTS = (1.0, 1.1, 1.2, 1.3, 1.5)
"""What is scanned: the β of the detail, and what it is multiplied by."""
FEATURES = 3
"""Fourier features of β that make a gain straight between ½ and 1, to one part in 10,000."""


def with_end(generator: Generator, model: Model, end: float, amount: float) -> Generator:
    """A generator for the same model whose realism 1 is β = `end`, in [½, 1], with `amount`, above 0, times its detail.

    Realism ½ and below stay; between ½ and 1 the gains are straight.
    """
    made = generators.new(dataclasses.replace(generator.config, frequencies=FEATURES), model).eval()
    state = generator.state_dict()
    beta = torch.linspace(LEAST_LEARNED, 1.0, 51)
    share = ((beta - LEAST_LEARNED) / (1.0 - LEAST_LEARNED)).double()[:, None]
    weight = torch.ones(len(beta), 1, dtype=torch.float64)
    weight[0] = weight[-1] = 1e3  # the ends are met, what lies between is near
    gains = dict(made.named_modules())
    for name, gain in generator.named_modules():
        if isinstance(gain, RealismGain):
            first, last = gain(torch.tensor([LEAST_LEARNED, end]))[:, :, 0, 0].double()
            last = last * (amount if gain is generator.gain else 1.0)  # what multiplies the detail itself
            straight = (1.0 - share) * first + share * last
            features = cast("RealismGain", gains[name]).features(beta).double()
            state[f"{name}.weight"] = torch.linalg.lstsq(features * weight, straight * weight).solution.T.float()
    made.load_state_dict(state)
    return made


@torch.no_grad()
def scan(
    generator: Generator, model: Model, pictures: Sequence[NDArray[np.uint8]], quality: float
) -> list[tuple[float, float, float, float]]:
    """(β, amount, mean LPIPS, mean PSNR in dB) for each of BETAS and AMOUNTS.

    pictures: uint8 (H, W, 3), of one tile each. Raises MissingWeightsError without the weights of LPIPS.
    """
    values: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for rgb in pictures:
        network, index = codec.network_of(model), codec.quality_index(quality)
        nic = codec.code_picture(
            image.Picture(rgb), network=network, index=index
        )  # without a palette, which has no slider
        [latents] = codec.decode_latents(nic, model)
        y_hat = torch.from_numpy(latents.y_hat).permute(2, 0, 1)[None].float() / UNIT
        row = torch.tensor([index / QUALITY_STEPS])

        def decoded(beta: float, y_hat: Tensor = y_hat, row: Tensor = row) -> Tensor:
            return generator(y_hat, row, torch.tensor([beta]))

        base = decoded(0.0)
        for beta in BETAS:
            detail = decoded(beta) - base
            for amount in AMOUNTS:
                x_hat = from_tensor(base + amount * detail)[: rgb.shape[0], : rgb.shape[1]]
                values.setdefault((beta, amount), []).append((lpips(rgb, x_hat), psnr(rgb, x_hat)))
    return [(*key, *np.mean(pairs, axis=0).tolist()) for key, pairs in values.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, or writes a generator with another end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("generator", type=Path)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--model", default="base")
    parser.add_argument(
        "--qualities", type=lambda text: [float(q) for q in text.split(",")], default=[20.0, 38.0, 56.0]
    )
    parser.add_argument("--side", type=int, default=768, help="pictures are cut to this in both directions")
    parser.add_argument("--end", type=float)
    parser.add_argument("--amount", type=float, default=1.0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_intermixed_args(arguments)
    if (args.end is None) != (args.output is None) or (args.end is None) != bool(args.pictures):
        parser.error("expected either pictures, or --end and --output")
    if not 1 <= args.side <= tiling.WHOLE:
        parser.error(f"--side is from 1 to {tiling.WHOLE}: larger pictures are several tiles")
    model = model_files.load(args.model)
    generator = generators.load(args.generator, model)
    if args.end is not None:
        if not (LEAST_LEARNED <= args.end <= 1.0 and 0.0 < args.amount < math.inf):
            parser.error(f"--end is from {LEAST_LEARNED} to 1, and --amount above 0")
        ending = with_end(generator, model, args.end, args.amount)
        generators.freeze(ending, model).save(args.output)
        return 0
    pictures = [image.load(path).rgb[: args.side, : args.side] for path in args.pictures]
    print(f"| quality | β | amount | LPIPS | PSNR (dB) |, {len(pictures)} pictures\n|---:|---:|---:|---:|---:|")
    for quality in args.qualities:
        for beta, amount, distance, distortion in scan(generator, model, pictures, quality):
            print(f"| {quality:g} | {beta:g} | {amount:g} | {distance:.4f} | {distortion:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NeurocodecError as error:
        sys.exit(str(error))
