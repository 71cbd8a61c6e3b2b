"""Speed and size of the range coder, beside constriction and compressai's ans, on the same symbols in the same run.

Times are the smallest of several runs, on one core unless a row says otherwise. Everything that the others need
beforehand stays outside the clock: Python lists for compressai, symbols sorted by row for constriction's tables.
Symbols are clipped to their row, as the others' tables have no escapes or other ones.
"""

from __future__ import annotations

import importlib
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurocodec.bench.rate_distortion import commit, machine, versions
from neurocodec.entropy import coder
from neurocodec.entropy.native import extension
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ConfigError, ModelMismatchError, NativeUnavailableError
from neurocodec.packages import import_with_torchvision

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALES = np.geomspace(0.11, 128, 64)
FEW = 3
"""Runs of the slower coders."""
SYMBOLS = 1 << 20
MEAN_ROWS = (3, 10, 30)
_ARRAYS = ("symbols", "indexes", "frequencies", "offsets", "lengths")


@dataclass(frozen=True, eq=False)
class Sample:
    """Symbols to code, int32 and flat, their table rows, and the tables. gaussian: the scales behind the rows."""

    name: str
    symbols: NDArray[np.int32]
    indexes: NDArray[np.uint8]
    tables: Tables
    gaussian: bool = False

    @property
    def ideal_bytes(self) -> float:
        """Bytes that an ideal coder takes."""
        return self.tables.bits(self.symbols, self.indexes) / 8


def drawn(count: int = SYMBOLS) -> list[Sample]:
    """Gaussian symbols of 64 scales. Rows fall off exponentially, as scales of real latents do, at three rates."""
    tables = gaussian_tables(SCALES.tolist())
    samples = []
    for mean_row, times in (*((row, 1) for row in MEAN_ROWS), (MEAN_ROWS[1], 8)):
        rng = np.random.default_rng(0)
        indexes = np.minimum(63, rng.exponential(mean_row, times * count)).astype(np.uint8)
        symbols = np.rint(rng.standard_normal(times * count) * SCALES[indexes]).astype(np.int32)
        name = f"Gaussian, mean row {mean_row}" + (f", {times} times as many" if times > 1 else "")
        samples.append(Sample(name, _clipped(symbols, indexes, tables), indexes, tables, gaussian=True))
    return samples


def read(path: Path) -> Sample:
    """Symbols of an .npz file with the arrays symbols, indexes, frequencies, offsets and lengths.

    Raises ConfigError if it is none.
    """
    try:
        with np.load(path) as arrays:
            symbols, indexes, *table = (arrays[name] for name in _ARRAYS)
        tables = Tables(*table)
        if not indexes.size or not 0 <= indexes.min() <= indexes.max() < tables.rows:
            raise ValueError(f"found no indexes, or some that are not from 0 to {tables.rows - 1}")
        if symbols.size != indexes.size or {symbols.dtype.kind, indexes.dtype.kind} - set("iu"):
            raise ValueError("found symbols and indexes that are no integers, or not as many of both")
        symbols, indexes = symbols.reshape(-1).astype(np.int32), indexes.reshape(-1).astype(np.uint8)
        return Sample(path.name, _clipped(symbols, indexes, tables), indexes, tables)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
        ModelMismatchError,
    ) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no .npz file with the arrays {', '.join(_ARRAYS)}: {reason}") from error


def run(
    samples: list[Sample],
    *,
    repeats: int = 15,
    command: str = "",
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """A results object: for each sample a row for each coder, and where it was measured. progress: is given lines.

    Raises NativeUnavailableError without the compiled coder, whose speed this is about.
    """
    if extension() is None:
        raise NativeUnavailableError("the compiled range coder is not there: install neurocodec with a C++ compiler.")
    load = (
        round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    )  # of others: above 0, times are upper bounds
    results = []
    for sample in samples:
        progress(_head(sample))
        rows = []
        for measure in _measures(sample, repeats):
            try:
                row = measure()
            except ImportError as error:
                row = {"not_measured": " ".join(str(error).split())}
            else:
                row["over_ideal_percent"] = round(100 * (row["bytes"] / sample.ideal_bytes - 1), 4)
            rows.append(row)
            progress(_line(row))
        results.append(
            {
                "set": sample.name,
                "symbols": sample.symbols.size,
                "zeros": float((sample.symbols == 0).mean()),
                "ideal_bytes": sample.ideal_bytes,
                "rows": rows,
            }
        )
    return {
        "kind": "coder",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "machine": machine() | {"load_before": load},
        "versions": versions() | {package: _version(package) for package in ("constriction", "compressai")},
        "timing": f"smallest of {repeats} runs, of {FEW} for the other coders; one core unless named otherwise",
        "results": results,
    }


def _clipped(symbols: NDArray[np.int32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """Every symbol inside its row."""
    clipped: NDArray[np.int32] = np.clip(
        symbols, tables.offsets[indexes], (tables.offsets + tables.lengths - 2)[indexes]
    ).astype(np.int32)
    return clipped


def _measures(sample: Sample, repeats: int) -> list[Callable[[], dict[str, Any]]]:
    measures: list[Callable[[], dict[str, Any]]] = [
        lambda: _ours(sample, 1, repeats),
        lambda: _ours(sample, 2, repeats),
        lambda: _constriction_tables(sample),
    ]
    if sample.gaussian:
        measures.append(lambda: _constriction_gaussian(sample))
    return [*measures, lambda: _compressai_ans(sample)]


def _measure(
    name: str,
    symbols: NDArray[np.int32],
    repeats: int,
    encode: Callable[[], Any],
    size: Callable[[Any], int],
    decode: Callable[[Any], Any],
) -> dict[str, Any]:
    encode_s, data = _fastest(repeats, encode)
    decode_s, decoded = _fastest(repeats, lambda: decode(data))
    if not np.array_equal(np.asarray(decoded), symbols):
        raise RuntimeError(f"{name} decoded other symbols than were encoded")
    return {
        "coder": name,
        "bytes": size(data),
        "encode_msymbols_s": round(symbols.size / encode_s / 1e6, 1),
        "decode_msymbols_s": round(symbols.size / decode_s / 1e6, 1),
    }


def _fastest(repeats: int, function: Callable[[], Any]) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def _ours(sample: Sample, threads: int, repeats: int) -> dict[str, Any]:
    symbols, indexes, tables = sample.symbols, sample.indexes, sample.tables

    def decode(data: bytes) -> NDArray[np.int32]:
        decoder = coder.Decoder(data, tables, threads=threads)
        decoded = decoder.decode(indexes)
        decoder.finish()
        return decoded

    name = "neurocodec" if threads == 1 else f"neurocodec, {threads} threads"
    return _measure(
        name, symbols, repeats, lambda: coder.encode(symbols, indexes, tables, threads=threads), len, decode
    )


def _constriction_tables(sample: Sample) -> dict[str, Any]:
    """One call a row with the same table: constriction has no table per symbol."""
    stream = _constriction()
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

    name = "constriction, tables, sorted by row"
    return _measure(name, np.concatenate(positions), FEW, encode, lambda data: 4 * len(data), decode)


def _constriction_gaussian(sample: Sample) -> dict[str, Any]:
    """A Gaussian per symbol, as constriction's documentation recommends for learned compression."""
    stream = _constriction()
    model = stream.model.QuantizedGaussian(-1024, 1024)
    means, scales = np.zeros(sample.symbols.size), SCALES[sample.indexes]

    def encode() -> Any:
        ans = stream.stack.AnsCoder()
        ans.encode_reverse(sample.symbols, model, means, scales)
        return ans.get_compressed()

    def decode(data: Any) -> Any:
        return stream.stack.AnsCoder(data).decode(model, means, scales)

    return _measure("constriction, Gaussian", sample.symbols, FEW, encode, lambda data: 4 * len(data), decode)


def _constriction() -> Any:
    return importlib.import_module("constriction").stream


def _compressai_ans(sample: Sample) -> dict[str, Any]:
    ans = import_with_torchvision("compressai.ans")
    tables = sample.tables
    cdfs = [[0, *np.cumsum(tables.row(row), dtype=np.int64).tolist()] for row in range(tables.rows)]
    sizes, offsets = [len(cdf) for cdf in cdfs], tables.offsets.tolist()
    symbols, indexes = sample.symbols.tolist(), sample.indexes.tolist()
    return _measure(
        "compressai ans",
        sample.symbols,
        FEW,
        lambda: ans.RansEncoder().encode_with_indexes(symbols, indexes, cdfs, sizes, offsets),
        len,
        lambda data: ans.RansDecoder().decode_with_indexes(data, indexes, cdfs, sizes, offsets),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _head(sample: Sample) -> str:
    bits, zeros = 8 * sample.ideal_bytes / sample.symbols.size, (sample.symbols == 0).mean()
    return (
        f"\n{sample.name}: {sample.symbols.size} symbols, {zeros:.1%} zero, {bits:.3f} bits each\n"
        f"  {'coder':36} {'bytes':>10} {'over ideal':>11} {'encode':>9} {'decode':>9}  million symbols a second"
    )


def _line(row: dict[str, Any]) -> str:
    if "not_measured" in row:
        return f"  not measured: {row['not_measured']}"
    return (
        f"  {row['coder']:36} {row['bytes']:10} {row['over_ideal_percent']:10.4f}% "
        f"{row['encode_msymbols_s']:9.1f} {row['decode_msymbols_s']:9.1f}"
    )
