"""What integers in the entropy path cost, in bytes of real files and in time, at several widths.

    python benchmarks/entropy_widths.py PICTURES --float runs/base/model.pt -o benchmarks/results/entropy_widths.json

PICTURES: a folder of PNG files, one of them 768×512 pixels, which is timed. --float: model.pt of the run that made the
shipped model, EMA weights before freezing. Every variant codes the same latents y with the same tables; only means and
table rows differ. Variants:

    float              float32 networks, means and scales as they come, latents decoded in float
    16 bits            what ships: docs/arithmetic.md
    16 bits, 8 weights the same with weights of 8 bits
    8 bits             weights and activations of 8 bits, steps a power of two for each layer, set on three pictures

Times are the entropy path's share of one decode, smallest of several; "8 bits in float32" is 8 bits as matrix
products of float32, which hold them exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocodec import checkpoint, codec, container, image, tiling
from neurocodec.bench.provenance import commit, machine, versions
from neurocodec.entropy import coder
from neurocodec.entropy.arithmetic import (
    Arithmetic,
    IntegerLayer,
    NativeArithmetic,
    NumpyArithmetic,
    TorchArithmetic,
    kernels,
)
from neurocodec.entropy.integer import OUTPUT_LIMIT, PASSES
from neurocodec.models.hyperprior import INDEX_UNIT, Hyperprior, pass_masks
from neurocodec.training.run import load_run

INDEXES = (60, 200, 340, 480, 620, 760, 900)
CALIBRATION = 3


class Coarse(TorchArithmetic):
    """The shipped arithmetic with weights, and if `activations` is not 0 activations, of fewer bits.

    Runs in float64, so it is a model of such hardware, not a fast one. `calibrate` is on for the first pictures, whose
    largest activations set each layer's step.
    """

    def __init__(self, weights: int, activations: int) -> None:
        super().__init__("cpu")
        self.weight_bits, self.activation_bits, self.calibrate = weights, activations, True
        self._coarse: dict[int, tuple[IntegerLayer, IntegerLayer]] = {}
        self._largest: dict[int, float] = {}

    def pointwise(self, x: Tensor, layer: IntegerLayer, bias: Any, low: int, high: int) -> Tensor:
        y = super().pointwise(x, self._rounded(layer), bias, low, high)
        return y if high == OUTPUT_LIMIT - 1 else self._on_steps(y, layer, 0)

    def depthwise(self, x: Tensor, layer: IntegerLayer) -> Tensor:
        return self._on_steps(super().depthwise(x, self._rounded(layer)), layer, -1)

    def _rounded(self, layer: IntegerLayer) -> IntegerLayer:
        if id(layer) not in self._coarse:
            weight = layer.weight.astype(np.int64)
            step = 2 ** max(0, math.ceil(math.log2(np.abs(weight).max() / (2 ** (self.weight_bits - 1) - 1))))
            coarse = dataclasses.replace(layer, weight=(np.rint(weight / step) * step).astype(np.int16))
            self._coarse[id(layer)] = (layer, coarse)
        return self._coarse[id(layer)][1]

    def _on_steps(self, y: Tensor, layer: IntegerLayer, sign: int) -> Tensor:
        if self.activation_bits == 0:
            return y
        if self.calibrate:
            largest = float(np.quantile(np.abs(y.numpy()), 0.9999))
            self._largest[id(layer)] = max(self._largest.get(id(layer), 1.0), largest)
            return y
        levels = 2**self.activation_bits if sign == 0 else 2 ** (self.activation_bits - 1)
        step = 2.0 ** math.ceil(math.log2(self._largest[id(layer)] / levels))
        return torch.clamp(torch.floor(y / step + 0.5), sign * levels, levels - 1) * step


class InFloat32(TorchArithmetic):
    """For its time only: matrix products in float32."""

    def load(self, values: Any) -> Any:
        return super().load(values).float()


@torch.no_grad()
def float_bytes(model: checkpoint.Model, network: Hyperprior, y: Tensor, index: int) -> int:
    """Bytes of the stream when means and scales come from the float network."""
    row = torch.tensor([index / 64])
    z_hat = model.h_a(y, row).round()
    z_rows = model.entropy.z_rows(index, y.shape[2], y.shape[3])
    z_symbols = z_hat[0].permute(1, 2, 0).numpy().astype(np.int32)
    symbols, rows = [z_symbols.ravel()], [z_rows.ravel()]
    features = network.h_s(z_hat, row)
    features = features[:, :, : y.shape[2], : y.shape[3]]
    base, y_hat = network.prediction(features, row), torch.zeros_like(y)
    for step, mask in enumerate(pass_masks(y.shape[1], y.shape[2], y.shape[3], y.device)):
        entropy = base if step == 0 else base + network.contexts[step - 1](features, y_hat, row)
        means, indexes = entropy.chunk(2, dim=1)
        table_rows = (indexes * INDEX_UNIT).round().clamp(0, 63)
        residual = (y - means).round()
        y_hat = torch.where(mask, residual + means, y_hat)
        picked = mask[0].permute(1, 2, 0)
        part, part_rows = (t[0].permute(1, 2, 0)[picked].numpy() for t in (residual, table_rows))
        symbols.append(part.ravel().astype(np.int32))
        rows.append(part_rows.ravel().astype(np.uint8))
    calls = [part.size for part in symbols]
    return len(coder.encode(np.concatenate(symbols), np.concatenate(rows), model.tables, calls=calls))


def integer_bytes(model: checkpoint.Model, y: Tensor, index: int, arithmetic: Arithmetic) -> int:
    chosen = dataclasses.replace(model, entropy=model.entropy.using(arithmetic))
    return len(codec._encode_latents(y, chosen, index).stream)


def analysed(model: checkpoint.Model, rgb: np.ndarray, index: int) -> Tensor:
    padded = image.pad_to_multiple(rgb, codec.LATENT)
    window = tiling.Window(0, 0, padded.shape[0] // codec.LATENT, padded.shape[1] // codec.LATENT)
    return codec._analyse(padded, window, model, index)


def decode_times(model: checkpoint.Model, rgb: np.ndarray, arithmetic: Arithmetic, threads: int) -> dict[str, float]:
    """Milliseconds of a decode: the entropy path, and all of it. Smallest of seven."""
    torch.set_num_threads(threads)
    chosen = dataclasses.replace(model, entropy=model.entropy.using(arithmetic))
    nic = container.read(codec.encode_picture(image.load(rgb), model, 480))
    (latents,) = codec.decode_latents(nic, model)
    height, width, _ = latents.y_hat.shape
    best = {"entropy_ms": math.inf, "decode_ms": math.inf}
    for _ in range(7):
        start = time.perf_counter()
        passes = chosen.entropy.start(latents.z_hat, 480, height, width)
        for step in range(PASSES):
            passes.predict()
            passes.put(latents.symbols[step] * 64)
        best["entropy_ms"] = min(best["entropy_ms"], 1000 * (time.perf_counter() - start))
        if not isinstance(arithmetic, InFloat32):
            start = time.perf_counter()
            codec.decode_picture(nic, chosen)
            best["decode_ms"] = min(best["decode_ms"], 1000 * (time.perf_counter() - start))
    torch.set_num_threads(1)
    return {key: round(value, 1) for key, value in best.items() if math.isfinite(value)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--float", type=Path, required=True, dest="run")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, network = checkpoint.load("base", device="cpu"), load_run(args.run)
    paths = sorted(args.pictures.glob("*.png"))[: args.images]
    pictures = [image.load(path).rgb for path in paths]
    landscape = next((rgb for rgb in pictures if rgb.shape[:2] == (512, 768)), None)
    if landscape is None:
        parser.error(f"{args.pictures} holds no PNG file of 768×512 pixels")

    variants: dict[str, Arithmetic] = {
        "16 bits": NativeArithmetic() if kernels() else TorchArithmetic(),
        "16 bits, 8 weights": Coarse(8, 0),
        "8 bits": Coarse(8, 8),
    }
    for rgb in pictures[:CALIBRATION]:
        for index in INDEXES:
            integer_bytes(model, analysed(model, rgb, index), index, variants["8 bits"])
    variants["8 bits"].calibrate = False  # type: ignore[attr-defined]

    sizes: dict[str, dict[int, int]] = {name: dict.fromkeys(INDEXES, 0) for name in ("float", *variants)}
    for rgb in pictures:
        for index in INDEXES:
            y = analysed(model, rgb, index)
            sizes["float"][index] += float_bytes(model, network, y, index)
            for name, arithmetic in variants.items():
                sizes[name][index] += integer_bytes(model, y, index, arithmetic)
    rows = []
    for name, table in sizes.items():
        extra = [100 * (table[i] / sizes["float"][i] - 1) for i in INDEXES]
        row = {"variant": name, "bytes": table, "percent": [round(e, 3) for e in extra]}
        rows.append(row | {"mean_percent": round(float(np.mean(extra)), 3)})
        print(f"{name:<20} mean {np.mean(extra):+.3f} %   by quality {' '.join(f'{e:+.2f}' for e in extra)}")

    ways: dict[str, Arithmetic] = {f"16 bits, C++ {kernel}": NativeArithmetic(kernel) for kernel in kernels()}
    ways |= {"16 bits, torch float64": TorchArithmetic(), "8 bits, torch float32": InFloat32()}
    if len(pictures) < 3:  # minutes a picture; only to see that it is no way to decode
        ways["16 bits, NumPy int64"] = NumpyArithmetic()
    times = []
    for name, arithmetic in ways.items():
        for threads in (1, 2):
            row = {"variant": name, "threads": threads} | decode_times(model, landscape, arithmetic, threads)
            times.append(row)
            print(row)
    if args.output:
        about = {
            "command": f"python benchmarks/entropy_widths.py {args.pictures.name} --float {args.run.name}",
            "model_id": model.model_id.hex(),
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "quality_indexes": INDEXES,
            "pictures": [path.name for path in paths],
        }
        args.output.write_text(json.dumps(about | {"sizes": rows, "times_768x512": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
