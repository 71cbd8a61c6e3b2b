"""Decodes damaged copies of .nic files: each must give a typed error or a picture, in bounded time and memory.

    python tools/mutate.py FILE.nic... --count 100000 [--seed 0]

A mutation changes bytes, cuts, doubles or zeroes runs of them, splices two files, or changes a field of the header or a
length; in half of them the container's checksums are repaired, so that the damage reaches the decoder. Each process
decodes --batch of them. It may take --seconds for one, and 1.5 times the memory of a sound file of the declared size:
the most that the given files and one of noise with alpha take whose number of latents has the same next power of two.
Memory is the peak above what the process held before, with 2 MiB to spare, and no process may hold 16 MiB more after
its last mutation than before its first; this needs Linux. What ends in another exception, is above a limit or ends its
process is written to --keep, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import resource
import struct
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import neurocodec
from neurocodec import container
from neurocodec import model as model_files
from neurocodec.model import Model
from neurocodec.tiling import LATENT

MEMORY = 1.5
SPARE_KIB = 2048
KEPT_KIB = 16 * 1024
SOUND_QUALITY = 90.0


def mutated(files: Sequence[bytes], seed: int, ordinal: int) -> bytes:
    """A damaged copy of one of the files; the same for the same arguments."""
    rng = np.random.default_rng((seed, ordinal))
    data = bytearray(files[ordinal % len(files)])
    for _ in range(int(rng.integers(1, 5))):
        _change(data, files, rng)
    return repaired(bytes(data)) if ordinal // len(files) % 2 else bytes(data)


def _change(data: bytearray, files: Sequence[bytes], rng: np.random.Generator) -> None:
    if not data:
        return
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
    if rng.random() < 0.3:  # the start of the file: header, chunks, first records
        at = int(rng.integers(min(len(data), 120)))
    kind = int(rng.integers(9))
    if kind == 0:
        data[at] = int(rng.integers(256))
    elif kind == 1:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = data[at : at + length]
    elif kind == 4:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 5:
        data[at : at + length] = rng.bytes(len(data[at : at + length]))
    elif kind == 6:  # a number of 32 bits where there may be a length
        data[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**16, 2**24 - 1, 2**28, 2**31, 2**32 - 1])))
    elif kind == 7:
        other = files[int(rng.integers(len(files)))]
        start = int(rng.integers(len(other)))
        data[at : at + length] = other[start : start + length]
    else:  # width, height, flags, quality
        field, size = [(8, 3), (11, 3), (5, 1), (6, 2)][int(rng.integers(4))]
        data[field : field + size] = rng.bytes(size) if rng.random() < 0.5 else _near(data[field : field + size], rng)


def _near(field: bytes, rng: np.random.Generator) -> bytes:
    """A number close to the one in the field: a size that is nearly right."""
    value = int.from_bytes(field, "little") + int(rng.integers(-20, 21))
    return (value % 256 ** len(field)).to_bytes(len(field), "little")


def repaired(data: bytes) -> bytes:
    """The file with the checksums that its header, chunks and tiles should have, as far as they can be found."""
    out = bytearray(data)
    if len(out) < container.HEADER_BYTES:
        return data
    struct.pack_into("<I", out, 22, zlib.crc32(out[:22]))
    at, ordinal = container.HEADER_BYTES, 0
    in_chunks = bool(out[5] & 1)
    while at + container.RECORD_BYTES <= len(out):
        length = struct.unpack_from("<I", out, at + 4 if in_chunks else at)[0]
        if length > len(out) - at - container.RECORD_BYTES:
            break
        if in_chunks:
            end = at + 8 + length
            struct.pack_into("<I", out, end, zlib.crc32(out[at:end]))
            in_chunks, at = out[at : at + 4] != b"Tile", end + 4
        else:
            end = at + container.RECORD_BYTES + length
            crc = zlib.crc32(out[at + container.RECORD_BYTES : end], zlib.crc32(out[at : at + 8]))
            struct.pack_into("<I", out, at + 8, zlib.crc32(struct.pack("<I", ordinal), crc))
            at, ordinal = end, ordinal + 1
    return bytes(out)


class Result(NamedTuple):
    """What became of a mutation. seconds: of CPU time. peak, limit: in KiB. size: `size_class` of what it declares."""

    what: str
    seconds: float = 0.0
    peak: int = 0
    limit: int = 0
    size: int | None = None


def outcome(data: bytes, models: dict[str, Model], max_pixels: int) -> str:
    """The name of the typed error, or "picture". Any other exception is raised."""
    try:
        model = models.get(container.read_header(data).model_id.hex())
        im = neurocodec.decode(data, model=model, max_pixels=max_pixels)
        return f"picture {im.mode}"
    except neurocodec.NeurocodecError as error:
        if "\n" in str(error) or not str(error):
            raise AssertionError(f"the text of {type(error).__name__} is not one sentence: {error}") from error
        return type(error).__name__


def size_class(data: bytes, max_pixels: int) -> int | None:
    """The least k such that the picture that a header declares has at most 2^k latents; None if it is refused."""
    try:
        header = container.read_header(data, max_pixels=max_pixels)
    except neurocodec.NicFormatError:
        return None
    return (-(-header.width // LATENT) * -(-header.height // LATENT) - 1).bit_length()


def noise(size: int, max_pixels: int, model: Model) -> bytes:
    """A file of 2^size latents: noise with alpha, as nearly square as max_pixels allows, in tiles if it is long."""
    rows = 2 ** (size // 2)
    while rows > 1 and 2**size * LATENT**2 > max_pixels:
        rows //= 2
    height, width = rows * LATENT, 2**size // rows * LATENT
    if height * width > max_pixels:
        height = max(1, max_pixels // width)
    pixels = np.random.default_rng(size).integers(0, 256, (height, width, 4), np.uint8)
    return neurocodec.encode(pixels, model=model, quality=SOUND_QUALITY, max_pixels=max_pixels)


def peak_kib(work: Callable[[], object]) -> int:
    """Calls the function. The most memory that this process had meanwhile, above what it had before."""
    before = resident_kib()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    work()
    return resident_kib("VmHWM") - before


def resident_kib(field: str = "VmRSS") -> int:
    """Resident memory of this process, after it has given back what is free; or another field of its status."""
    if field == "VmRSS":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field))


def decode_mutations(args: argparse.Namespace, first: int, count: int, results: Any) -> None:
    """The worker: sends the ordinal of each mutation, then its result."""
    models = {m.model_id.hex(): m for m in map(model_files.load, ["base", *args.model])}
    files = [path.read_bytes() for path in args.files]
    resource.setrlimit(resource.RLIMIT_AS, (args.memory_mib << 20,) * 2)
    for model in models.values():
        outcome(noise(4, args.max_pixels, model), models, args.max_pixels)
    gc.freeze()

    @functools.cache
    def sound(size: int) -> int:
        """Memory of sound files of this size; the larger one, if a mutation names no known model."""
        some = [noise(size, args.max_pixels, model) for model in models.values()]
        some += [data for data in files if size_class(data, args.max_pixels) == size]
        return max(peak_kib(functools.partial(outcome, data, models, args.max_pixels)) for data in some)

    def decode(data: bytes) -> None:
        nonlocal what
        try:
            what = outcome(data, models, args.max_pixels)
        except BaseException as error:
            what = f"!{type(error).__name__}: {error}"

    for ordinal in range(first, first + count):
        results.send(ordinal)
        data, what = mutated(files, args.seed, ordinal), ""
        size = size_class(data, args.max_pixels)
        limit = int(MEMORY * sound(size)) + SPARE_KIB if size is not None else SPARE_KIB
        started = time.process_time()
        peak = peak_kib(functools.partial(decode, data))
        if ordinal == first:
            held = resident_kib()
        elif ordinal == first + count - 1 and (kept := resident_kib() - held) > KEPT_KIB:
            what = f"!the process kept {kept} KiB"
        results.send(Result(what, time.process_time() - started, peak, limit, size))


def run_batches(args: argparse.Namespace) -> Iterator[tuple[int, Result]]:
    """Ordinal and result of every mutation."""
    context = multiprocessing.get_context("spawn")
    ordinal, end = args.first - 1, args.first + args.count
    while ordinal + 1 < end:
        receiver, sender = context.Pipe(duplex=False)
        count = min(args.batch, end - ordinal - 1)
        process = context.Process(target=decode_mutations, args=(args, ordinal + 1, count, sender))
        process.start()
        sender.close()
        waiting = False
        with contextlib.suppress(EOFError):
            while True:
                message = receiver.recv()
                waiting = isinstance(message, int)
                if waiting:
                    ordinal = message
                else:
                    yield ordinal, message
        process.join()
        if waiting:
            yield ordinal, Result(f"!the process ended with {process.exitcode}")
        elif process.exitcode:
            raise RuntimeError(f"the process of mutation {ordinal + 1} could not start")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the mutations and prints what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.nic")
    parser.add_argument("--model", action="append", default=[], type=Path, metavar="M", help="a model file they need")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="ordinal of the first mutation, to repeat one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=5000, help="mutations a process (5000)")
    parser.add_argument("--max-pixels", type=int, default=2**20, help="max_pixels of decode (1,048,576)")
    parser.add_argument("--memory-mib", type=int, default=1024, help="address space of a process (1024)")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time that a mutation may take (2)")
    parser.add_argument("--keep", type=Path, default=Path("mutations"), help="folder for what fails")
    args = parser.parse_args(argv)

    sources = [path.read_bytes() for path in args.files]
    by_size: dict[int | None, list[Result]] = defaultdict(list)
    outcomes: Counter[str] = Counter()
    failures, started = 0, time.monotonic()
    for ordinal, result in run_batches(args):
        outcomes[result.what.split(":")[0]] += 1
        by_size[result.size].append(result)
        if result.what.startswith("!") or result.seconds > args.seconds or result.peak > result.limit:
            failures += 1
            args.keep.mkdir(exist_ok=True)
            (args.keep / f"{args.seed}-{ordinal}.nic").write_bytes(mutated(sources, args.seed, ordinal))
            print(f"{ordinal}: {result.what}, {result.seconds:.2f} s, {result.peak} KiB of {result.limit}", flush=True)
        if sum(outcomes.values()) % 10_000 == 0:
            print(f"{sum(outcomes.values()):,} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    for what, count in outcomes.most_common():
        print(f"{count:>8,}  {what}")
    print("latents  mutations  pictures  slowest s  memory MiB  limit MiB")
    for size in sorted(by_size, key=lambda size: -1 if size is None else size):
        some = by_size[size]
        pictures = sum(result.what == "picture" for result in some)
        peak, limit = max(result.peak for result in some) / 1024, min(result.limit for result in some) / 1024
        name = "refused" if size is None else f"≤ {2**size:,}"
        slowest = max(result.seconds for result in some)
        print(f"{name:>7} {len(some):>10,} {pictures:>9,} {slowest:>10.3f} {peak:>11.1f} {limit:>10.1f}")
    print(f"{failures} failures of {sum(outcomes.values()):,}")
    return int(failures > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
