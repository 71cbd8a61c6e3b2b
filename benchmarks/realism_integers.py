"""What integers change in the generative decoder: PSNR, LPIPS and CPU seconds against the float network.

    python benchmarks/realism_integers.py FLOAT.safetensors PICTURE... -o benchmarks/results/realism-integers.json

FLOAT.safetensors holds the trained weights as float32, by their names in `models.hific.Generator`: the file of
neurocodec/weights before generators were frozen (commit 0f52cd7). LPIPS needs its weights (docs/perceptual.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from neurocodec import codec, image
from neurocodec import model as model_files
from neurocodec.bench import provenance
from neurocodec.bench.quality import lpips
from neurocodec.bench.results import write_json
from neurocodec.entropy.grid import QUALITY_STEPS, UNIT
from neurocodec.integer.generator import realism_step
from neurocodec.integer.native import NativeNetwork
from neurocodec.metrics import psnr
from neurocodec.model import GeneratorConfig, Model
from neurocodec.models import generators
from neurocodec.models.hific import Generator
from neurocodec.models.pixels import from_tensor

HEIGHT, WIDTH = 256, 384
"""Pictures are cut to their middle."""
QUALITIES, REALISMS = (10.0, 20.0, 38.0, 56.0), (0.25, 0.5, 1.0)


def load_float(path: Path, model: Model) -> Generator:
    """The float network of a file from before generators were frozen."""
    with safe_open(path, framework="pt") as file:
        config = GeneratorConfig(**json.loads(file.metadata()["config"]))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    generator = generators.new(config, model)
    generator.load_state_dict(state | generator.trunk.state_dict(prefix="trunk."))
    return generator.eval()


def middle(path: Path) -> NDArray[np.uint8]:
    rgb = image.load(path).rgb
    top, left = (rgb.shape[0] - HEIGHT) // 2, (rgb.shape[1] - WIDTH) // 2
    return np.ascontiguousarray(rgb[top : top + HEIGHT, left : left + WIDTH])


@torch.inference_mode()
def measure(rgb: NDArray[np.uint8], network: NativeNetwork, generator: Generator) -> list[dict[str, Any]]:
    rows = []
    for quality in QUALITIES:
        index = codec.quality_index(quality)
        y_hat = network.encode(network.analyse(rgb, index), index)[1].y_hat
        latents = torch.from_numpy(y_hat).permute(2, 0, 1)[None].float() / UNIT
        row = torch.tensor([index / QUALITY_STEPS])
        for realism in REALISMS:
            started = time.process_time()
            ours = network.synthesise(y_hat, index, 8, realism_step(realism))
            between = time.process_time()
            theirs = from_tensor(generator(latents, row, torch.tensor([realism])))
            values: dict[str, Any] = {"quality": quality, "realism": realism}
            for name, picture, seconds in (
                ("integers", ours, between - started),
                ("float", theirs, time.process_time() - between),
            ):
                values |= {f"{name} psnr": psnr(rgb, picture), f"{name} lpips": lpips(rgb, picture)}
                values[f"{name} cpu_s"] = seconds
            values["largest difference"] = int(np.abs(ours.astype(int) - theirs).max())
            rows.append(values)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float", type=Path)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = model_files.load("base")
    network, generator = NativeNetwork(model, threads=1), load_float(args.float, model)
    command = provenance.command_line(["python", "benchmarks/realism_integers.py", *sys.argv[1:]])
    results = provenance.stamp("realism in integers", command)
    rows = [{"image": p.name} | row for p in args.pictures for row in measure(middle(p), network, generator)]
    names = [name for name in rows[0] if name not in ("image", "quality", "realism")]
    results["means"] = [
        {"realism": realism} | {n: float(np.mean([row[n] for row in rows if row["realism"] == realism])) for n in names}
        for realism in REALISMS
    ]
    results["largest difference"] = max(row["largest difference"] for row in rows)
    results["rows"] = rows
    for row in results["means"]:
        print({name: round(value, 4) for name, value in row.items()})
    if args.output:
        write_json(args.output, results)


if __name__ == "__main__":
    main()
