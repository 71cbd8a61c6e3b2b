"""Speed and size of the range coder, beside constriction and compressai's ans, on the same symbols in the same run.

    python benchmarks/coder.py [--count N] [--symbols FILE.npz] [-o coder_speed.json]

Times are the smallest of several runs, on one core unless a row says otherwise. What the other coders need first is not
timed: Python lists for compressai, symbols sorted by row for constriction's tables. Symbols are clipped to their
row, as the others have no escapes, or different ones.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neurocodec.bench import provenance
from neurocodec.bench.results import write_json
from neurocodec.entropy import coder
from neurocodec.entropy.native import extension
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import NeurocodecError, one_line
from neurocodec.packages import import_with_torchvision

SCALES = np.geomspace(0.11, 128, 64)
FEW = 3
"""Runs of the slower coders."""


@dataclass(eq=False)
class Sample:
    """Symbols to code, int32 and flat, their table rows, and the tables. gaussian: whether the rows are SCALES."""

    name: str
    symbols: NDArray[np.int32]
    indexes: NDArray[np.uint8]
    tables: Tables
    gaussian: bool = False

    def __post_init__(self) -> None:
        """Clips every symbol to its row."""
        low, last = (
            column[self.indexes] for column in (self.tables.offsets, self.tables.offsets + self.tables.lengths)
        )
        self.symbols = np.clip(self.symbols, low, last - 2).astype(np.int32)


class Coder(NamedTuple):
    """symbols: in the order in which it codes them; unit: bytes of an item of what it encodes to."""

    name: str
    symbols: NDArray[np.int32]
    encode: Callable[[], Any]
    decode: Callable[[Any], Any]
    unit: int = 1


def gaussian_samples(count: int) -> list[Sample]:
    """Four sets of Gaussian symbols of 64 scales, `count` in each but the last, which has eight times as many.

    Rows fall off exponentially, as scales of real latents do, at three rates.
    """
    samples = []
    for mean_row, times in ((3, 1), (10, 1), (30, 1), (10, 8)):
        rng = np.random.default_rng(0)
        indexes = np.minimum(63, rng.exponential(mean_row, times * count)).astype(np.uint8)
        symbols = np.rint(rng.standard_normal(times * count) * SCALES[indexes])
        name = f"Gaussian, mean row {mean_row}" + (f", {times} times as many" if times > 1 else "")
        samples.append(Sample(name, symbols, indexes, gaussian_tables(SCALES.tolist()), gaussian=True))
    return samples


def read(path: Path) -> Sample:
    """Symbols of an .npz file with the arrays symbols, indexes, frequencies, offsets and lengths."""
    with np.load(path) as arrays:
        tables = Tables(*(arrays[name] for name in ("frequencies", "offsets", "lengths")))
        return Sample(path.name, arrays["symbols"].ravel(), arrays["indexes"].ravel().astype(np.uint8), tables)


def ours(sample: Sample, threads: int) -> Coder:
    """This project's range coder."""
    symbols, indexes, tables = sample.symbols, sample.indexes, sample.tables

    def decode(data: bytes) -> NDArray[np.int32]:
        decoder = coder.Decoder(data, tables, threads=threads)
        decoded = decoder.decode(indexes)
        decoder.finish()
        return decoded

    name = "neurocodec" if threads == 1 else f"neurocodec, {threads} threads"
    return Coder(name, symbols, lambda: coder.encode(symbols, indexes, tables, threads=threads), decode)


def constriction_tables(sample: Sample) -> Coder:
    """One call for each row: constriction has no table per symbol."""
    stream: Any = importlib.import_module("constriction").stream
    symbols, indexes, tables = sample.symbols, sample.indexes, sample.tables
    rows = [int(row) for row in np.unique(indexes)]
    models = [stream.model.Categorical(tables.row(row)[:-1].astype(np.float32), perfect=False) for row in rows]
    positions = [(symbols[indexes == row] - tables.offsets[row]).astype(np.int32) for row in rows]

    def encode() -> Any:
        ans = stream.stack.AnsCoder()
        for model, values in zip(reversed(models), reversed(positions), strict=True):
            ans.encode_reverse(values, model)
        return ans.get_compressed()

    def decode(data: Any) -> Any:
        ans = stream.stack.AnsCoder(data)
        return np.concatenate([ans.decode(model, p.size) for model, p in zip(models, positions, strict=True)])

    return Coder("constriction, tables, sorted by row", np.concatenate(positions), encode, decode, unit=4)


def constriction_gaussian(sample: Sample) -> Coder:
    """A Gaussian per symbol, as constriction's documentation recommends for learned compression."""
    stream: Any = importlib.import_module("constriction").stream
    model = stream.model.QuantizedGaussian(-1024, 1024)
    means, scales = np.zeros(sample.symbols.size), SCALES[sample.indexes]

    def encode() -> Any:
        ans = stream.stack.AnsCoder()
        ans.encode_reverse(sample.symbols, model, means, scales)
        return ans.get_compressed()

    def decode(data: Any) -> Any:
        return stream.stack.AnsCoder(data).decode(model, means, scales)

    return Coder("constriction, Gaussian", sample.symbols, encode, decode, unit=4)


def compressai_ans(sample: Sample) -> Coder:
    """CompressAI's coder with the same tables."""
    ans: Any = import_with_torchvision("compressai.ans")
    tables = sample.tables
    cdfs = [[0, *np.cumsum(tables.row(row), dtype=np.int64).tolist()] for row in range(tables.rows)]
    arrays = sample.indexes.tolist(), cdfs, [len(cdf) for cdf in cdfs], tables.offsets.tolist()
    symbols = sample.symbols.tolist()
    return Coder(
        "compressai ans",
        sample.symbols,
        lambda: ans.RansEncoder().encode_with_indexes(symbols, *arrays),
        lambda data: ans.RansDecoder().decode_with_indexes(data, *arrays),
    )


def measure(build: Callable[[Sample], Coder], sample: Sample, repeats: int) -> dict[str, Any]:
    """A row: bytes, loss against an ideal coder, million symbols a second; or why the coder was not measured."""
    try:
        one = build(sample)
    except ImportError as error:
        return {"not_measured": one_line(error)}
    encode_s, data = fastest(repeats, one.encode)
    decode_s, decoded = fastest(repeats, lambda: one.decode(data))
    if not np.array_equal(np.asarray(decoded), one.symbols):
        raise SystemExit(f"{one.name} decoded other symbols than were encoded")
    size = one.unit * len(data)
    return {
        "coder": one.name,
        "bytes": size,
        "encode_msymbols_s": round(one.symbols.size / encode_s / 1e6, 1),
        "decode_msymbols_s": round(one.symbols.size / decode_s / 1e6, 1),
        "over_ideal_percent": round(100 * (8 * size / sample.tables.bits(sample.symbols, sample.indexes) - 1), 4),
    }


def fastest(repeats: int, function: Callable[[], Any]) -> tuple[float, Any]:
    """The smallest number of seconds of several runs, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def main() -> None:
    """Measures, prints each row when it is ready, and writes the results where -o says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1 << 20, help="Gaussian symbols of each set")
    parser.add_argument("--symbols", type=Path, help="instead: arrays symbols, indexes, frequencies, offsets, lengths")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if extension() is None:
        raise SystemExit("there is no compiled range coder: install neurocodec with a C++ compiler")
    about = provenance.stamp("coder", provenance.command_line(["python", "benchmarks/coder.py", *sys.argv[1:]]))
    about["machine"]["load_before"] = provenance.load_average()
    about["versions"]["constriction"] = provenance.version("constriction")
    about["timing"] = f"smallest of {args.repeats} runs, of {FEW} for the other coders; one core unless named otherwise"
    about["results"] = []
    for sample in [read(args.symbols)] if args.symbols else gaussian_samples(args.count):
        size, ideal = sample.symbols.size, sample.tables.bits(sample.symbols, sample.indexes) / 8
        head = {"set": sample.name, "symbols": size, "zeros": float((sample.symbols == 0).mean()), "ideal_bytes": ideal}
        print(head)
        rows = [measure(partial(ours, threads=threads), sample, args.repeats) for threads in (1, 2)]
        others = [constriction_tables, *([constriction_gaussian] if sample.gaussian else []), compressai_ans]
        rows += [measure(build, sample, FEW) for build in others]
        print(*(f"  {row}" for row in rows), sep="\n", flush=True)
        about["results"].append(head | {"rows": rows})
    if args.output:
        write_json(args.output, about, force=True)


if __name__ == "__main__":
    try:
        main()
    except NeurocodecError as error:
        sys.exit(str(error))
