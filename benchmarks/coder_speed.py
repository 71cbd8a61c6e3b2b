"""Speed and size of the range coder, beside constriction and compressai's ans, on the same symbols in the same run.

    python benchmarks/coder_speed.py                          # 64 Gaussian rows, three mixtures of rows
    python benchmarks/coder_speed.py --symbols latents.npz    # symbols, indexes, frequencies, offsets, lengths

Times are the smallest of several repeats, on one core unless a line says otherwise. Everything that the others need
beforehand stays outside the clock: Python lists for compressai, symbols sorted by row for constriction's tables.
Symbols are clipped to their row, as the others' tables have no escapes or other ones.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from neurocodec.entropy import coder
from neurocodec.entropy.tables import Tables, gaussian_tables

SCALES = np.geomspace(0.11, 128, 64)
FEW = 3  # repeats for the slower coders


def draw(count: int, mean_row: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows fall off exponentially, as scales of real latents do; symbols are Gaussian."""
    rng = np.random.default_rng(0)
    indexes = np.minimum(63, rng.exponential(mean_row, count)).astype(np.uint8)
    return np.rint(rng.standard_normal(count) * SCALES[indexes]).astype(np.int32), indexes


def fastest(repeats: int, function: Callable[[], Any]) -> tuple[float, Any]:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def measure(
    name: str, symbols: np.ndarray, repeats: int, encode: Callable[[], Any], size: Callable[[Any], int],
    decode: Callable[[Any], np.ndarray],
) -> dict[str, Any]:  # fmt: skip
    encode_s, data = fastest(repeats, encode)
    decode_s, decoded = fastest(repeats, lambda: decode(data))
    np.testing.assert_array_equal(np.asarray(decoded), symbols)
    return {
        "coder": name,
        "bytes": size(data),
        "encode_msymbols_s": round(symbols.size / encode_s / 1e6, 1),
        "decode_msymbols_s": round(symbols.size / decode_s / 1e6, 1),
    }


def ours(symbols: np.ndarray, indexes: np.ndarray, tables: Tables, threads: int, repeats: int) -> dict[str, Any]:
    def decode(data: bytes) -> np.ndarray:
        decoder = coder.Decoder(data, tables, threads=threads)
        decoded = decoder.decode(indexes)
        decoder.finish()
        return decoded

    name = "neurocodec" if threads == 1 else f"neurocodec, {threads} threads"
    return measure(name, symbols, repeats, lambda: coder.encode(symbols, indexes, tables, threads=threads), len, decode)


def constriction_tables(symbols: np.ndarray, indexes: np.ndarray, tables: Tables, repeats: int) -> dict[str, Any]:
    """One call a row with the same table: constriction has no table per symbol."""
    import constriction

    rows = [int(row) for row in np.unique(indexes)]
    models = [constriction.stream.model.Categorical(tables.row(r)[:-1].astype(np.float32), perfect=False) for r in rows]
    positions = [(symbols[indexes == r] - tables.offsets[r]).astype(np.int32) for r in rows]

    def encode() -> np.ndarray:
        ans = constriction.stream.stack.AnsCoder()
        for model, values in zip(reversed(models), reversed(positions), strict=True):
            ans.encode_reverse(values, model)
        return ans.get_compressed()

    def decode(data: np.ndarray) -> np.ndarray:
        ans = constriction.stream.stack.AnsCoder(data)
        return np.concatenate([ans.decode(m, p.size) for m, p in zip(models, positions, strict=True)])

    name = "constriction, tables, sorted by row"
    return measure(name, np.concatenate(positions), repeats, encode, lambda data: 4 * len(data), decode)


def constriction_gaussian(symbols: np.ndarray, indexes: np.ndarray, repeats: int) -> dict[str, Any]:
    """A Gaussian per symbol, as constriction's documentation recommends for learned compression."""
    import constriction

    model = constriction.stream.model.QuantizedGaussian(-1024, 1024)
    means, scales = np.zeros(symbols.size), SCALES[indexes]

    def encode() -> np.ndarray:
        ans = constriction.stream.stack.AnsCoder()
        ans.encode_reverse(symbols, model, means, scales)
        return ans.get_compressed()

    def decode(data: np.ndarray) -> np.ndarray:
        return constriction.stream.stack.AnsCoder(data).decode(model, means, scales)

    return measure("constriction, Gaussian", symbols, repeats, encode, lambda data: 4 * len(data), decode)


def compressai_ans(symbols: np.ndarray, indexes: np.ndarray, tables: Tables, repeats: int) -> dict[str, Any]:
    from compressai import ans

    cdfs = [[0, *np.cumsum(tables.row(r), dtype=np.int64).tolist()] for r in range(tables.rows)]
    sizes, offsets = [len(cdf) for cdf in cdfs], tables.offsets.tolist()
    symbol_list, index_list = symbols.tolist(), indexes.tolist()
    return measure(
        "compressai ans",
        symbols,
        repeats,
        lambda: ans.RansEncoder().encode_with_indexes(symbol_list, index_list, cdfs, sizes, offsets),
        len,
        lambda data: ans.RansDecoder().decode_with_indexes(data, index_list, cdfs, sizes, offsets),
    )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1 << 20, help="symbols (default: 2**20)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--symbols", type=Path, help="measure these instead: an .npz file")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "coder_speed.json")
    args = parser.parse_args()
    os.environ["NEUROCODEC_NATIVE"] = "require"

    if args.symbols:
        with np.load(args.symbols) as arrays:
            tables = Tables(*(arrays[name] for name in ("frequencies", "offsets", "lengths")))
            sets = {args.symbols.name: (arrays["symbols"].reshape(-1), arrays["indexes"].reshape(-1))}
    else:
        tables = gaussian_tables(SCALES.tolist())
        sets = {f"Gaussian, mean row {mean}": draw(args.count, mean) for mean in (3, 10, 30)}
        sets["Gaussian, mean row 10, 8 times as many"] = draw(8 * args.count, 10)

    load = os.getloadavg()[0]  # of other work: above 0, the times are upper bounds
    results = []
    for name, (symbols, indexes) in sets.items():
        smallest, largest = tables.offsets[indexes], (tables.offsets + tables.lengths - 2)[indexes]
        symbols = np.clip(symbols, smallest, largest).astype(np.int32)
        ideal = tables.bits(symbols, indexes) / 8
        zeros = float((symbols == 0).mean())
        print(f"\n{name}: {symbols.size} symbols, {zeros:.1%} zero, {ideal * 8 / symbols.size:.3f} bits each")
        print(f"  {'coder':36} {'bytes':>10} {'over ideal':>11} {'encode':>9} {'decode':>9}  million symbols a second")
        runs: list[Callable[[], dict[str, Any]]] = [
            lambda s=symbols, i=indexes: ours(s, i, tables, 1, args.repeats),  # type: ignore[misc]
            lambda s=symbols, i=indexes: ours(s, i, tables, 2, args.repeats),  # type: ignore[misc]
            lambda s=symbols, i=indexes: constriction_tables(s, i, tables, FEW),  # type: ignore[misc]
            lambda s=symbols, i=indexes: compressai_ans(s, i, tables, FEW),  # type: ignore[misc]
        ]
        if not args.symbols:
            runs.insert(3, lambda s=symbols, i=indexes: constriction_gaussian(s, i, FEW))  # type: ignore[misc]
        rows = []
        for run in runs:
            try:
                row = run()
            except ImportError as error:
                print(f"  not measured: {error}")
                rows.append({"not_measured": str(error)})
                continue
            row["over_ideal_percent"] = round(100 * (row["bytes"] / ideal - 1), 4)
            rows.append(row)
            print(
                f"  {row['coder']:36} {row['bytes']:10} {row['over_ideal_percent']:10.4f}% "
                f"{row['encode_msymbols_s']:9.1f} {row['decode_msymbols_s']:9.1f}"
            )
        results.append({"set": name, "symbols": symbols.size, "zeros": zeros, "ideal_bytes": ideal, "rows": rows})

    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "command": " ".join(["python", "benchmarks/coder_speed.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "load_before": round(load, 2),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "constriction", "compressai")},
        },
        "timing": f"smallest of {args.repeats} repeats, of {FEW} for the other coders; one core unless named otherwise",
        "results": results,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
