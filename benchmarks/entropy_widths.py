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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocodec import codec, container, image, tiling
from neurocodec.bench.rate_distortion import commit, machine, versions
from neurocodec.entropy.grid import OUTPUT_LIMIT, UNIT, gather, scatter
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import NativeArithmetic, kernels
from neurocodec.integer.network import EntropyNetwork, Stage
from neurocodec.integer.reference import Arithmetic, IntegerLayer, NumpyArithmetic
from neurocodec.models import networks as model_networks
from neurocodec.models.hyperprior import INDEX_UNIT, Hyperprior
from neurocodec.models.networks import Networks
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


class FloatEntropyNetwork:
    """The walk over a tile with means and table rows from the float network; means are fractions of 1/64."""

    def __init__(self, exact: EntropyNetwork, network: Hyperprior) -> None:
        self._exact, self._network = exact, network

    @torch.no_grad()
    def stages(self, quality_index: int, y_hat: np.ndarray) -> Iterator[Stage]:
        height, width, channels = y_hat.shape
        z = next(self._exact.stages(quality_index, y_hat))
        yield z
        row = torch.tensor([quality_index / 64])
        features = self._network.h_s(_channels_first(z.symbols), row)[:, :, :height, :width]
        base, decoded = self._network.prediction(features, row), np.zeros(y_hat.shape)
        for step in range(4):
            entropy = base
            if step > 0:
                entropy = base + self._network.contexts[step - 1](features, _channels_first(decoded), row)
            values = entropy[0].permute(1, 2, 0).double().numpy()
            means = gather(values[:, :, :channels], step)
            rows = np.clip(np.rint(gather(values[:, :, channels:], step) * INDEX_UNIT), 0, 63)
            stage = Stage(step, rows.astype(np.uint8), means * UNIT)
            yield stage
            scatter(stage.symbols + means, step, decoded)


def _channels_first(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None]


def stream_bytes(networks: Networks, y: Tensor, index: int, entropy: Any) -> int:
    """Bytes of the stream of a tile with these latents and this entropy network."""
    chosen = dataclasses.replace(networks, entropy=entropy)
    stages, _ = codec.quantise(y, chosen, index)
    return len(codec.code(stages, chosen))


def analysed(networks: Networks, rgb: np.ndarray, index: int) -> Tensor:
    padded = image.pad_to_multiple(rgb, tiling.LATENT)
    window = tiling.Window(0, 0, padded.shape[0] // tiling.LATENT, padded.shape[1] // tiling.LATENT)
    return codec.analyse(padded, window, networks, index)


def decode_times(networks: Networks, rgb: np.ndarray, arithmetic: Arithmetic, threads: int) -> dict[str, float]:
    """Milliseconds of a decode: the entropy path, and all of it. Smallest of seven."""
    torch.set_num_threads(threads)
    chosen = dataclasses.replace(networks, entropy=networks.entropy.using(arithmetic))
    nic = container.read(codec.encode_picture(image.load(rgb), networks, 480))
    (latents,) = codec.decode_latents(nic, networks)
    symbols = (latents.z_hat, *latents.symbols)
    best = {"entropy_ms": math.inf, "decode_ms": math.inf}
    for _ in range(7):
        start = time.perf_counter()
        for stage, known in zip(chosen.entropy.stages(480, np.zeros_like(latents.y_hat)), symbols, strict=True):
            stage.symbols = known
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
    networks, network = model_networks.load("base", device="cpu"), load_run(args.run)
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
            y = analysed(networks, rgb, index)
            stream_bytes(networks, y, index, networks.entropy.using(variants["8 bits"]))
    variants["8 bits"].calibrate = False  # type: ignore[attr-defined]

    sizes: dict[str, dict[int, int]] = {name: dict.fromkeys(INDEXES, 0) for name in ("float", *variants)}
    for rgb in pictures:
        for index in INDEXES:
            y = analysed(networks, rgb, index)
            sizes["float"][index] += stream_bytes(networks, y, index, FloatEntropyNetwork(networks.entropy, network))
            for name, arithmetic in variants.items():
                sizes[name][index] += stream_bytes(networks, y, index, networks.entropy.using(arithmetic))
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
            row = {"variant": name, "threads": threads} | decode_times(networks, landscape, arithmetic, threads)
            times.append(row)
            print(row)
    if args.output:
        about = {
            "command": f"python benchmarks/entropy_widths.py {args.pictures.name} --float {args.run.name}",
            "model_id": networks.model_id.hex(),
            "commit": commit(),
            "machine": machine(),
            "versions": versions(),
            "quality_indexes": INDEXES,
            "pictures": [path.name for path in paths],
        }
        args.output.write_text(json.dumps(about | {"sizes": rows, "times_768x512": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
