"""Decodes damaged copies of .nic files: each must give a typed error or a picture, in bounded time and memory.

    python tools/mutate.py FILE.nic... --count 100000 [--seed 0]

A mutation changes bytes, cuts, doubles or zeroes runs of them, splices two files, or changes a field of the header or a
length; in half of them the container's checksums are repaired, so that the damage reaches the decoder. Each process
decodes --batch of them, with limited memory (--memory-mib). What ends in another exception, takes longer than --seconds
or ends its process is written to --keep, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import neurocodec
from neurocodec import codec, container
from neurocodec import model as model_files
from neurocodec.model import Model


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


def decode_mutations(args: argparse.Namespace, first: int, count: int, results: Any) -> None:
    """The worker: sends the ordinal of each mutation, then its outcome, seconds, and the peak memory so far in KiB."""
    models = {m.model_id.hex(): m for m in map(model_files.load, ["base", *args.model])}
    for model in models.values():
        codec.network_of(model)
    files = [path.read_bytes() for path in args.files]
    resource.setrlimit(resource.RLIMIT_AS, (args.memory_mib << 20,) * 2)
    for ordinal in range(first, first + count):
        results.send(ordinal)
        started = time.process_time()
        try:
            what = outcome(mutated(files, args.seed, ordinal), models, args.max_pixels)
        except BaseException as error:
            what = f"!{type(error).__name__}: {error}"
        seconds = time.process_time() - started
        results.send((what, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def run_batches(args: argparse.Namespace) -> Iterator[tuple[int, str, float, int]]:
    """Ordinal, outcome, seconds, and the peak memory of its process in KiB, of every mutation."""
    context = multiprocessing.get_context("spawn")
    ordinal, end, peak = args.first - 1, args.first + args.count, 0
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
                    what, seconds, peak = message
                    yield ordinal, what, seconds, peak
        process.join()
        if waiting:
            yield ordinal, f"!the process ended with {process.exitcode}", 0.0, peak
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
    outcomes: Counter[str] = Counter()
    slowest, largest, failures = (0.0, -1), 0, 0
    started = time.monotonic()
    for ordinal, what, seconds, peak in run_batches(args):
        largest = max(largest, peak)
        outcomes[what.split(":")[0]] += 1
        slowest = max(slowest, (seconds, ordinal))
        if what.startswith("!") or seconds > args.seconds:
            failures += 1
            args.keep.mkdir(exist_ok=True)
            (args.keep / f"{args.seed}-{ordinal}.nic").write_bytes(mutated(sources, args.seed, ordinal))
            print(f"{ordinal}: {what}, {seconds:.2f} s", flush=True)
        if sum(outcomes.values()) % 10_000 == 0:
            print(f"{sum(outcomes.values()):,} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    for what, count in outcomes.most_common():
        print(f"{count:>8,}  {what}")
    print(f"slowest: {slowest[0]:.3f} s (mutation {slowest[1]}); peak memory of a process: {largest / 1024:.0f} MiB")
    print(f"{failures} failures of {sum(outcomes.values()):,}")
    return int(failures > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
