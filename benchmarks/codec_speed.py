"""Seconds to encode and to decode a picture with several programs, each warm in a process of its own, in turn.

    python benchmarks/codec_speed.py PICTURE -o codec_speed.json now=PYTHON before=PYTHON bmshj2018-hyperprior=PYTHON

PYTHON is an interpreter in which the program is installed: neurocodec, of this commit or of another one, or, for the
name of a network in its zoo, CompressAI beside neurocodec. That has random weights, whose latents are scaled to about
the bits of the others: its speed is the same, its pictures mean nothing. All programs take turns, run by run, so that
they meet the same machine. On a busy machine only the seconds of CPU can be compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("encode", "decode")


def neurocodec_coder(rgb: Any) -> tuple[Callable[[], bytes], Callable[[bytes], Any]]:
    """Functions that encode the pixels, uint8 (H, W, 3), and decode the bytes, at quality 50."""
    import neurocodec

    def decode(data: bytes) -> Any:
        image = neurocodec.decode(data, device="cpu")
        image.load()
        return image

    return lambda: neurocodec.encode(rgb, quality=50, device="cpu"), decode


def compressai_coder(rgb: Any, name: str, spread: float = 0.45) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """The same for a network of CompressAI's zoo with random weights.

    spread: standard deviation of the latents, and the scale that the entropy model predicts.
    """
    import torch

    from neurocodec.packages import import_with_torchvision

    def last(module: Any) -> Any:
        return [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))][-1]

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    network = (
        import_with_torchvision("compressai.zoo").image_models[name](quality=5, metric="mse", pretrained=False).eval()
    )

    def pixels() -> Any:
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255

    with torch.no_grad():
        head = last(network.h_s)
        head.weight.zero_()
        head.bias.fill_(spread)
        last(network.g_a).weight.mul_(spread / network.g_a(pixels()).std())
    network.update(force=True)

    @torch.no_grad()
    def encode() -> Any:
        return network.compress(pixels())

    @torch.no_grad()
    def decode(coded: Any) -> Any:
        x_hat = network.decompress(coded["strings"], coded["shape"])["x_hat"]
        return x_hat.mul(255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()

    return encode, decode


def work(name: str, picture: str) -> None:
    """Runs what stdin asks for; prints the bytes of the file first, then CPU and wall-clock seconds of each run."""
    import numpy as np
    from PIL import Image

    rgb = np.asarray(Image.open(picture).convert("RGB"))
    encode, decode = neurocodec_coder(rgb) if name == "neurocodec" else compressai_coder(rgb, name)
    data = encode()
    decode(data)
    size = len(data) if isinstance(data, bytes) else sum(len(s[0]) for s in data["strings"])
    print(json.dumps([size, *rgb.shape[:2]]), flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        encode() if line.strip() == "encode" else decode(data)
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)


class Worker:
    """A program in its own process, warm."""

    def __init__(self, name: str, python: str, picture: Path, threads: int) -> None:
        self.name, self.threads = name, threads
        kind = name if "-" in name else "neurocodec"
        command = [python, __file__, "--worker", kind, str(picture)]
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | limits)
        self.bytes, height, width = self._answer()
        self.bpp = 8 * self.bytes / (height * width)
        self.runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}

    def run(self, way: str) -> None:
        """Encodes or decodes once."""
        assert self.process.stdin is not None
        print(way, file=self.process.stdin, flush=True)
        cpu, wall = self._answer()
        self.runs[way].append((cpu, wall))

    def row(self) -> dict[str, Any]:
        """Medians and minima of the runs, in seconds."""
        row: dict[str, Any] = {"program": self.name, "threads": self.threads, "bpp": round(self.bpp, 4)}
        for way, runs in self.runs.items():
            cpu, wall = zip(*runs, strict=True)
            row |= {f"{way}_cpu_s": round(statistics.median(cpu), 4), f"{way}_cpu_min_s": round(min(cpu), 4)}
            row |= {f"{way}_wall_s": round(statistics.median(wall), 4), f"{way}_wall_min_s": round(min(wall), 4)}
        return row

    def _answer(self) -> list[Any]:
        assert self.process.stdout is not None
        answer: list[Any] = json.loads(self.process.stdout.readline())
        return answer


def main() -> int:
    """Measures, prints a line for each program, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("programs", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--threads", default="1,2", metavar="N,N")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()

    from neurocodec.bench import provenance
    from neurocodec.bench.results import write_json

    rows = []
    load = provenance.load_average()
    for threads in map(int, args.threads.split(",")):
        workers = [Worker(*program.split("=", 1), args.picture, threads) for program in args.programs]
        for _, worker, way in itertools.product(range(args.repeats), workers, WAYS):
            worker.run(way)
        for worker in workers:
            rows.append(worker.row())
            print(json.dumps(rows[-1]), flush=True)
            assert worker.process.stdin is not None
            worker.process.stdin.close()
            worker.process.wait()
    about = provenance.stamp("codec speed", provenance.command_line(["python", *sys.argv]))
    about["machine"]["load_before"] = load
    timing = "medians and minima; CPU: of all threads of the process; wall: more where other programs ran"
    write_json(args.output, about | {"timing": timing, "repeats": args.repeats, "rows": rows}, force=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        sys.exit(main())
