"""Speed and size of the range coder, beside constriction and compressai's ans, on the same symbols in the same run.

Times are the smallest of several runs, on one core unless a row says otherwise. What the other coders need first is not
timed: Python lists for compressai, symbols sorted by row for constriction's tables. Symbols are clipped to their
row, as the others have no escapes, or different ones.
"""

from __future__ import annotations

import importlib
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurocodec.bench import provenance
from neurocodec.entropy import coder
from neurocodec.entropy.native import extension
from neurocodec.entropy.tables import Tables, gaussian_tables
from neurocodec.errors import ConfigError, NativeUnavailableError, one_line
from neurocodec.packages import import_with_torchvision

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALES = np.geomspace(0.11, 128, 64)
FEW = 3
"""Runs of the slower coders."""
_ARRAYS = ("symbols", "indexes", "frequencies", "offsets", "lengths")


@dataclass(frozen=True, eq=False)
class Sample:
    """Symbols to code, int32 and flat, their table rows, and the tables. gaussian: whether the rows are SCALES."""

    name: str
    symbols: NDArray[np.int32]
    indexes: NDArray[np.uint8]
    tables: Tables
    gaussian: bool = False

    @property
    def ideal_bytes(self) -> float:
        """The size that an ideal coder reaches."""
        return self.tables.bits(self.symbols, self.indexes) / 8


def gaussian_samples(count: int) -> list[Sample]:
    """Four sets of Gaussian symbols of 64 scales, `count` in each but the last, which has eight times as many.

    Rows fall off exponentially, as scales of real latents do, at three rates.
    """
    tables = gaussian_tables(SCALES.tolist())
    samples = []
    for mean_row, times in ((3, 1), (10, 1), (30, 1), (10, 8)):
        rng = np.random.default_rng(0)
        indexes = np.minimum(63, rng.exponential(mean_row, times * count)).astype(np.uint8)
        symbols = np.rint(rng.standard_normal(times * count) * SCALES[indexes]).astype(np.int32)
        name = f"Gaussian, mean row {mean_row}" + (f", {times} times as many" if times > 1 else "")
        samples.append(Sample(name, _clipped(symbols, indexes, tables), indexes, tables, gaussian=True))
    return samples


def read(path: Path) -> Sample:
    """Symbols of an .npz file with the arrays symbols, indexes, frequencies, offsets and lengths.

    Raises ConfigError if an array is missing or does not fit.
    """
    try:
        with np.load(path) as arrays:
            symbols, indexes, *table = (arrays[name] for name in _ARRAYS)
        tables = Tables(*table)
        if not indexes.size or not 0 <= indexes.min() <= indexes.max() < tables.rows:
            raise ValueError(f"found no indexes, or some that are not from 0 to {tables.rows - 1}")
        if symbols.size != indexes.size or {symbols.dtype.kind, indexes.dtype.kind} - set("iu"):
            raise ValueError("found symbols and indexes that are no integers, or different numbers of them")
        symbols, indexes = symbols.reshape(-1).astype(np.int32), indexes.reshape(-1).astype(np.uint8)
        return Sample(path.name, _clipped(symbols, indexes, tables), indexes, tables)
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is no .npz file with the arrays {', '.join(_ARRAYS)}: {one_line(error)}") from error


def run(
    samples: list[Sample],
    *,
    repeats: int = 15,
    command: str = "",
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """A results object with a row for each sample and coder. progress: called with each line as it is ready.

    Raises NativeUnavailableError without the compiled coder, whose speed this is about.
    """
    if extension() is None:
        raise NativeUnavailableError("there is no compiled range coder: install neurocodec with a C++ compiler.")
    about = provenance.stamp("coder", command)
    about["machine"]["load_before"] = provenance.load_average()
    for package in ("constriction", "compressai"):
        about["versions"][package] = provenance.version(package) or "not installed"
    results = []
    for sample in samples:
        zeros, size = float((sample.symbols == 0).mean()), sample.symbols.size
        progress(
            f"\n{sample.name}: {size} symbols, {zeros:.1%} zero, {8 * sample.ideal_bytes / size:.3f} bits each\n"
            f"  {'coder':36} {'bytes':>10} {'over ideal':>11} {'encode':>9} {'decode':>9}  million symbols a second"
        )
        rows = []
        for build in (_ours, partial(_ours, threads=2), _constriction_tables, _constriction_gaussian, _compressai_ans):
            if build is not _constriction_gaussian or sample.gaussian:
                rows.append(_row(build, sample, repeats))
                progress(_line(rows[-1]))
        head = {"set": sample.name, "symbols": size, "zeros": zeros, "ideal_bytes": sample.ideal_bytes}
        results.append(head | {"rows": rows})
    timing = f"smallest of {repeats} runs, of {FEW} for the other coders; one core unless named otherwise"
    return about | {"timing": timing, "results": results}


class _Coder(NamedTuple):
    """symbols: in the order in which it codes them."""

    name: str
    symbols: NDArray[np.int32]
    encode: Callable[[], Any]
    decode: Callable[[Any], Any]
    size: Callable[[Any], int] = len


def _row(build: Callable[[Sample], _Coder], sample: Sample, repeats: int) -> dict[str, Any]:
    try:
        one = build(sample)
    except ImportError as error:
        return {"not_measured": one_line(error)}
    repeats = repeats if one.name.startswith("neurocodec") else FEW
    encode_s, data = _fastest(repeats, one.encode)
    decode_s, decoded = _fastest(repeats, lambda: one.decode(data))
    if not np.array_equal(np.asarray(decoded), one.symbols):
        raise RuntimeError(f"{one.name} decoded other symbols than were encoded")
    return {
        "coder": one.name,
        "bytes": one.size(data),
        "encode_msymbols_s": round(one.symbols.size / encode_s / 1e6, 1),
        "decode_msymbols_s": round(one.symbols.size / decode_s / 1e6, 1),
        "over_ideal_percent": round(100 * (one.size(data) / sample.ideal_bytes - 1), 4),
    }


def _fastest(repeats: int, function: Callable[[], Any]) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def _ours(sample: Sample, threads: int = 1) -> _Coder:
    symbols, indexes, tables = sample.symbols, sample.indexes, sample.tables

    def decode(data: bytes) -> NDArray[np.int32]:
        decoder = coder.Decoder(data, tables, threads=threads)
        decoded = decoder.decode(indexes)
        decoder.finish()
        return decoded

    name = "neurocodec" if threads == 1 else f"neurocodec, {threads} threads"
    return _Coder(name, symbols, lambda: coder.encode(symbols, indexes, tables, threads=threads), decode)


def _constriction_tables(sample: Sample) -> _Coder:
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

    name = "constriction, tables, sorted by row"
    return _Coder(name, np.concatenate(positions), encode, decode, _bytes_of_words)


def _constriction_gaussian(sample: Sample) -> _Coder:
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

    return _Coder("constriction, Gaussian", sample.symbols, encode, decode, _bytes_of_words)


def _compressai_ans(sample: Sample) -> _Coder:
    ans: Any = import_with_torchvision("compressai.ans")
    tables = sample.tables
    cdfs = [[0, *np.cumsum(tables.row(row), dtype=np.int64).tolist()] for row in range(tables.rows)]
    arrays = sample.indexes.tolist(), cdfs, [len(cdf) for cdf in cdfs], tables.offsets.tolist()
    symbols = sample.symbols.tolist()
    return _Coder(
        "compressai ans",
        sample.symbols,
        lambda: ans.RansEncoder().encode_with_indexes(symbols, *arrays),
        lambda data: ans.RansDecoder().decode_with_indexes(data, *arrays),
    )


def _bytes_of_words(data: Any) -> int:
    return 4 * len(data)


def _clipped(symbols: NDArray[np.int32], indexes: NDArray[np.uint8], tables: Tables) -> NDArray[np.int32]:
    """Every symbol inside its row."""
    last = (tables.offsets + tables.lengths - 2)[indexes]
    clipped: NDArray[np.int32] = np.clip(symbols, tables.offsets[indexes], last).astype(np.int32)
    return clipped


def _line(row: dict[str, Any]) -> str:
    if "not_measured" in row:
        return f"  not measured: {row['not_measured']}"
    return (
        f"  {row['coder']:36} {row['bytes']:10} {row['over_ideal_percent']:10.4f}% "
        f"{row['encode_msymbols_s']:9.1f} {row['decode_msymbols_s']:9.1f}"
    )
