"""Speed of the CUDA range coder and of batches of pictures, as JSON: part of tools/gpu_check.sh.

    python tools/gpu_bench.py -o gpu.json [--pictures FOLDER] [--seconds 200]

Coder: symbols a second by lanes, groups and streams at once, beside the CPU's coder on one core and a copy on the
device of as many bytes as decoding reads and writes. Codec: pictures a second, and milliseconds a batch, at 768×512 and
1920×1080, of batches of 1 to 64. Times are the smallest of several runs, and are taken after the device has finished.
Without --pictures, the bundled photograph is used, mirrored to each size.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurocodec import image
from neurocodec import model as model_files
from neurocodec.entropy import coder, cuda
from neurocodec.entropy.tables import gaussian_tables
from neurocodec.torch import decode_batch, encode_batch

ROOT = Path(__file__).parents[1]
SCALES = np.geomspace(0.11, 128, 64)
SIZES = {"768x512": (512, 768), "1920x1080": (1080, 1920)}
BATCHES = (1, 4, 16, 64)


def best(device: str, work: Callable[[], Any], seconds: float = 1.0) -> float:
    """The smallest duration of a call, over as many as fit into `seconds`, at least 2 after one to warm up."""
    durations: list[float] = []
    work()
    begun = time.perf_counter()
    while len(durations) < 2 or time.perf_counter() - begun < seconds:
        finish(device)
        started = time.perf_counter()
        work()
        finish(device)
        durations.append(time.perf_counter() - started)
    return min(durations)


def finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def bench_coder(
    library: cuda.Library, device: str, symbols_each: int, layouts: list[tuple[int, int]]
) -> dict[str, Any]:
    """Rows by layout and number of streams. Symbols are Gaussian of 64 scales, as latents of photographs are."""
    rng = np.random.default_rng(1)
    tables = gaussian_tables(SCALES.tolist())
    indexes = np.minimum(63, rng.exponential(10, symbols_each)).astype(np.uint8)
    symbols = np.rint(rng.standard_normal(symbols_each) * SCALES[indexes]).astype(np.int32)
    data = coder.encode(symbols, indexes, tables)
    on_cpu = best("cpu", lambda: coder.Decoder(data, tables).decode(indexes))
    encode_on_cpu = best("cpu", lambda: coder.encode(symbols, indexes, tables))

    def array(values: torch.Tensor) -> Any:
        return values.numpy() if library.on_host else values

    rows = []
    for lanes, groups in layouts:
        stream = coder.encode(symbols, indexes, tables, layout=(lanes, groups))
        logs = lanes.bit_length() - 1, groups.bit_length() - 1
        for streams in (1, 16, 128):
            if streams * symbols_each > 1 << 28 or (library.on_host and streams > 1):
                continue
            many = torch.from_numpy(np.tile(indexes, (streams, 1))).to(device)
            expected = torch.from_numpy(np.tile(symbols, (streams, 1))).to(device)
            out = torch.zeros_like(expected)
            decoders = [cuda.BatchDecoder([stream] * streams, tables, library) for _ in range(40)]
            durations = []
            for decoder in decoders:
                finish(device)
                started = time.perf_counter()
                decoder.decode(array(many), array(out))
                finish(device)
                durations.append(time.perf_counter() - started)
                if library.on_host:
                    break
            assert decoder.finish() == [None] * streams
            assert torch.equal(out, expected)
            row = {"lanes": lanes, "groups": groups, "streams": streams, "lanes_in_all": lanes * groups * streams}
            row["decode_symbols_per_second"] = streams * symbols_each / min(durations)
            arguments = array(expected), array(many), tables, library
            encode = best(device, lambda a=arguments, n=streams, at=logs: cuda.encode(
                *a, calls=[symbols_each], layouts=[at] * n), 0.2)  # fmt: skip
            rows.append(row | {"encode_symbols_per_second": streams * symbols_each / encode, "bytes": len(stream)})
    moved = torch.zeros(len(data) + 5 * symbols_each, dtype=torch.uint8, device=device)
    copy = best(device, moved.clone, 0.2)
    return {
        "symbols_each": symbols_each,
        "cpu_decode_symbols_per_second": symbols_each / on_cpu,
        "cpu_encode_symbols_per_second": symbols_each / encode_on_cpu,
        "device_copy_symbols_per_second": symbols_each / copy,
        "rows": rows,
    }


def photographs(folder: Path | None, height: int, width: int, count: int) -> np.ndarray:
    """uint8 (count, 3, H, W): photographs, repeated and mirrored until they fill the size."""
    paths = sorted(folder.glob("*.png")) if folder else [ROOT / "neurocodec" / "data" / "astronaut.png"]
    result = []
    for i in range(count):
        rgb = image.load(paths[i % len(paths)]).rgb
        rgb = np.pad(rgb, ((0, max(0, height - len(rgb))), (0, max(0, width - rgb.shape[1])), (0, 0)), "symmetric")
        result.append(rgb[:height, :width].transpose(2, 0, 1))
    return np.stack(result)


def bench_codec(device: str, folder: Path | None, deadline: float, batches: tuple[int, ...]) -> list[dict[str, Any]]:
    model = model_files.load("base")
    rows = []
    for size, (height, width) in SIZES.items():
        for batch in batches:
            if time.perf_counter() > deadline:
                break
            pictures = torch.from_numpy(photographs(folder, height, width, batch)).to(device)
            try:
                files = encode_batch(pictures, model=model)
                decode = best(device, lambda f=files: decode_batch(f, device, model=model))
                encode = best(device, lambda p=pictures: encode_batch(p, model=model), 0.5)
            except torch.OutOfMemoryError:
                break
            rows.append(
                {
                    "size": size, "batch": batch, "decode_ms": 1e3 * decode, "encode_ms": 1e3 * encode,
                    "decode_pictures_per_second": batch / decode, "encode_pictures_per_second": batch / encode,
                    "bytes": sum(map(len, files)),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of PNG files")
    parser.add_argument(
        "--seconds", type=float, default=200, help="start no new size or batch after this many seconds (200)"
    )
    parser.add_argument("--library", metavar="FILE", help="a CUDA coder built with the shim: a dry run on the CPU")
    args = parser.parse_args()
    library = cuda.Library(args.library) if args.library else cuda.library()
    if library is None:
        raise SystemExit("gpu_bench: the CUDA coder was not built.")
    deadline = time.perf_counter() + args.seconds
    device = "cpu" if library.on_host else "cuda"
    layouts = [(4, 1), (32, 1), (32, 4), (32, 16), (32, 64), (32, 128)]
    result: dict[str, Any] = {
        "device": "cpu, through the shim: a dry run, no speeds" if library.on_host else torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "coder": [
            bench_coder(library, device, count, layouts[:2] if library.on_host else layouts)
            for count in ([3000] if library.on_host else [1 << 17, 1 << 21])
        ],
    }
    result["codec"] = bench_codec(device, args.pictures, deadline, (1,) if library.on_host else BATCHES)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
