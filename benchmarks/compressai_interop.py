"""CompressAI networks: .nic files and this project's coder beside CompressAI's own compress and decompress.

    python benchmarks/compressai_interop.py [--models mbt2018-mean,...] [--sizes 768x512] [--threads 1]

The same network, picture and number of threads for both; medians; model loading and pixel files stay outside the
clocks. The networks' share is timed with hooks, the rest counts as coding. --pretrained uses published weights; the
others are random, scaled so that the picture takes --bpp bits per pixel: good for bytes and seconds of the coders on
the same symbols, not for pictures. Needs compressai.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurocodec import container, image
from neurocodec.bench.provenance import command_line, load_average, stamp
from neurocodec.bench.results import write_json
from neurocodec.bench.speed import fill
from neurocodec.interop import compressai as interop
from neurocodec.models.pixels import from_tensor, to_tensor

PHOTO = Path(__file__).parents[1] / "neurocodec" / "data" / "astronaut.png"
PARTS = ("g_a", "h_a", "h_s", "g_s", "context_prediction", "entropy_parameters")


def untrained(architecture: str, quality: int, rgb: NDArray[np.uint8], *, bpp: float) -> Any:
    """A CompressAI network with random weights, its latents scaled so that a picture takes about `bpp` bits per pixel.

    For measuring speed: the coder does about as much work as with trained weights. rgb: the picture, uint8 (H, W, 3).
    Raises what `interop.load` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = interop.zoo_network(architecture, quality, "mse", pretrained=False)
    set_spread = _spread_of_latents(network, rgb)
    low, high = 0.02, 50.0  # standard deviation of y
    for _ in range(9):
        middle = (low * high) ** 0.5
        set_spread(middle)
        bits = 8 * len(interop.encode(rgb, interop.freeze(network, device="cpu")))
        low, high = (middle, high) if bits < bpp * rgb.shape[0] * rgb.shape[1] else (low, middle)
    return network


def _spread_of_latents(network: Any, rgb: NDArray[np.uint8]) -> Callable[[float], None]:
    """A function that sets the standard deviation of the picture's y, in g_a and in the entropy model."""
    with torch.no_grad():
        x = to_tensor(image.pad_to_multiple(rgb, network.downsampling_factor))
        last, bottleneck = _last_convolution(network.eval().g_a), network.entropy_bottleneck
        y = network.g_a(x)
        unit = last.weight / (y - y.mean((2, 3), keepdim=True)).std()
        density = torch.nn.functional.softplus(bottleneck.matrices[0])

    @torch.no_grad()
    def set_spread(spread: float) -> None:
        last.weight.copy_(unit * spread)
        last.bias.zero_()
        last.bias.copy_(-network.g_a(x).mean((0, 2, 3)))
        if has_hyperprior := hasattr(network, "gaussian_conditional"):
            head = _last_convolution(getattr(network, "entropy_parameters", network.h_s))
            head.weight.zero_()
            head.bias.zero_()
            head.bias[: y.shape[1]] = spread
        # The density of new weights is about 3 wide; z costs hardly anything in trained models.
        stretched = density * 3.0 / (0.2 if has_hyperprior else spread)
        bottleneck.matrices[0].copy_(stretched + torch.log(-torch.expm1(-stretched)))  # the inverse of softplus
        network.update(force=True, update_quantiles=True)

    return set_spread


def _last_convolution(module: torch.nn.Module) -> Any:
    return [m for m in module.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))][-1]


def medians(function: Callable[[], Any], parts: list[Any], repeats: int) -> dict[str, float]:
    """Medians of total_s, networks_s and coding_s, seconds of a call: of all of it, of the networks in it, of the rest.

    parts: the networks that the function calls. A first call, which warms up, does not count.
    """
    spent, started = 0.0, 0.0

    def begin(*_: Any) -> None:
        nonlocal started
        started = time.perf_counter()

    def end(*_: Any) -> None:
        nonlocal spent
        spent += time.perf_counter() - started

    hooks = [hook for p in parts for hook in (p.register_forward_pre_hook(begin), p.register_forward_hook(end))]
    runs = []
    try:
        for _ in range(repeats + 1):
            spent, start = 0.0, time.perf_counter()
            function()
            total = time.perf_counter() - start
            runs.append((total, spent, total - spent))
    finally:
        for hook in hooks:
            hook.remove()
    columns = zip(*runs[1:], strict=True)
    return {
        name: round(statistics.median(column), 6)
        for name, column in zip(("total_s", "networks_s", "coding_s"), columns, strict=True)
    }


def measure(network: Any, rgb: np.ndarray, repeats: int) -> list[dict[str, Any]]:
    """A row for this project's coder and one for CompressAI's own: bytes, and seconds as `medians` gives them.

    network: one of CompressAI's, with tables; rgb: uint8 (H, W, 3).
    """
    model = interop.freeze(network, device="cpu")
    data = interop.encode(rgb, model)
    ours = [p for p in (model.g_a, model.h_a, model.h_s, model.g_s, model.parameters) if p is not None]
    theirs = [getattr(network, name) for name in PARTS if hasattr(network, name)]

    def compress() -> Any:
        with torch.inference_mode():
            return network.compress(to_tensor(image.pad_to_multiple(rgb, network.downsampling_factor)))

    def decompress() -> np.ndarray:
        with torch.inference_mode():
            return from_tensor(network.decompress(**out)["x_hat"])[: rgb.shape[0], : rgb.shape[1]]

    out = compress()
    streams = sum(len(stream) for part in out["strings"] for stream in part)
    own = container.read(data, any_architecture=True).tiles[0].stream
    apart = np.asarray(interop.decode(data, model)) != decompress()
    return [
        {
            "coder": ".nic, neurocodec",
            "stream_bytes": len(own),
            "file_bytes": len(data),
            "encode": medians(lambda: interop.encode(rgb, model), ours, repeats),
            "decode": medians(lambda: interop.decode(data, model), ours, repeats),
            "samples_that_differ_percent": round(100 * float(apart.mean()), 4),
        },
        {
            "coder": "compressai",
            "stream_bytes": streams,
            "encode": medians(compress, theirs, repeats),
            "decode": medians(decompress, theirs, repeats),
        },
    ]


def main() -> None:
    """Measures every network at every size, prints the rows and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bmshj2018-factorized,bmshj2018-hyperprior,mbt2018-mean,mbt2018")
    parser.add_argument("--sizes", default="768x512")
    parser.add_argument("--quality", type=int, default=4, help="the zoo's: decides on the number of channels")
    parser.add_argument("--bpp", type=float, default=0.7)
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "compressai_interop.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photo = image.load(PHOTO).rgb
    report = stamp("interop", command_line(["python", "benchmarks/compressai_interop.py", *sys.argv[1:]]))
    report["machine"]["load_before"] = load_average()

    rows = []
    print(
        f"{'network':22} {'size':>9} {'coder':18} {'bytes':>8} {'encode s':>9} {'coding':>8} "
        f"{'decode s':>9} {'coding':>8}"
    )
    for name in args.models.split(","):
        if args.pretrained:
            network = interop.zoo_network(name, args.quality, "mse", pretrained=True).eval()
        else:
            network = untrained(name, args.quality, photo[:256, 128:384], bpp=args.bpp)
        for size in args.sizes.split(","):
            width, height = (int(side) for side in size.split("x"))
            for row in measure(network, fill(photo, height, width), args.repeats):
                rows.append({"network": name, "size": size} | row)
                print(
                    f"{name:22} {size:>9} {row['coder']:18} {row['stream_bytes']:8} {row['encode']['total_s']:9.3f} "
                    f"{row['encode']['coding_s']:8.3f} {row['decode']['total_s']:9.3f} {row['decode']['coding_s']:8.3f}"
                )
    report |= {
        "weights": f"published, quality {args.quality}" if args.pretrained else f"random, scaled to {args.bpp} bpp",
        "threads": args.threads,
        "timing": f"median of {args.repeats} runs in a warm process",
        "rows": rows,
    }
    write_json(args.output, report, force=True)


if __name__ == "__main__":
    main()
