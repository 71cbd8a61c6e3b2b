"""The entropy coder: symbols and table rows to bytes, and back.

The C++ extension does the work; without it, its Python twin in `reference.py` produces the same bytes slowly.
`entropy.native` chooses between them.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from neurocodec import arguments
from neurocodec.entropy import reference
from neurocodec.entropy.native import extension
from neurocodec.entropy.tables import Tables
from neurocodec.errors import ArgumentTypeError, ArgumentValueError


def encode(
    symbols: NDArray[np.int32],
    indexes: NDArray[np.uint8],
    tables: Tables,
    *,
    calls: Sequence[int] | None = None,
    threads: int = 1,
    layout: str | tuple[int, int] = "cpu",
) -> bytes:
    """Encodes `symbols` with the table rows `indexes`, in the order in which they will be decoded.

    symbols: int32 of any shape and value; values outside their row cost about 16 bits plus one to five bytes.
    indexes: uint8 of the same shape, each below `tables.rows`.
    calls: lengths of the decode calls that will read the stream, by default a single call. They matter only for streams
        with several groups (2**18 or more nonzero symbols on a CPU), which take a share of each call.
    threads: maximum thread count, at least 1; it never changes the bytes.
    layout: cpu, gpu, or (lanes, groups), powers of two up to 32 and 128. Every decoder reads every layout;
        docs/coder.md says what they cost.

    Raises ArgumentTypeError for arrays of other types (smaller integers are converted), ArgumentValueError for a wrong
    length, layout or thread count, ValueError for an index out of range.
    """
    native = extension()
    symbols, indexes = _array("symbols", symbols, np.int32), _array("indexes", indexes, np.uint8)
    if symbols.shape != indexes.shape:
        raise ArgumentValueError(f"symbols have the shape {symbols.shape}, but indexes {indexes.shape}.")
    lengths = [symbols.size] if calls is None else [arguments.integer("each of calls", n) for n in calls]
    if min(lengths, default=0) < 0 or sum(lengths) != symbols.size:
        raise ArgumentValueError(f"calls must not be negative and must add up to the {symbols.size} symbols.")
    lanes_and_groups = layout_of(layout, int(np.count_nonzero(symbols)))
    if native is None:
        return reference.encode(symbols, indexes, tables, calls=lengths, layout=lanes_and_groups)
    threads = arguments.integer("threads", threads, 1)
    result: bytes = native.encode(_native_tables(native, tables), symbols, indexes, lengths, *lanes_and_groups, threads)
    return result


def layout_of(layout: str | tuple[int, int], nonzero: int) -> tuple[int, int]:
    """Base-2 logarithms of the lane and group counts of a layout (see `encode`). Raises ArgumentValueError.

    nonzero: the number of nonzero symbols.
    """
    if layout == "cpu":
        return reference.cpu_layout(nonzero)
    if layout == "gpu":
        return reference.gpu_layout(nonzero)
    limits = 1 << reference.MAX_LANES_LOG2, 1 << reference.MAX_GROUPS_LOG2
    if (
        not isinstance(layout, tuple)
        or len(layout) != 2
        or any(not 1 <= n <= limit or n & (n - 1) for n, limit in zip(layout, limits, strict=True))
    ):
        raise ArgumentValueError(
            f"layout is {layout!r}; it must be cpu, gpu, or powers of two (lanes, groups) up to {limits}."
        )
    return layout[0].bit_length() - 1, layout[1].bit_length() - 1


class Decoder:
    """Decodes the output of `encode` in one or more calls, such as one for each context pass.

    data: exactly the bytes of one stream. threads: maximum thread count, at least 1.

    The data are untrusted: the constructor, `decode` or `finish` raises TruncatedError, ChecksumError or NicFormatError
    for bytes that no encoder writes. A damaged stream may also decode to wrong symbols without an error; the
    container's checksums detect that.
    """

    def __init__(self, data: bytes, tables: Tables, *, threads: int = 1) -> None:
        native = extension()
        threads = arguments.integer("threads", threads, 1)
        self._impl: _DecoderImpl
        if native is None:
            self._impl = reference.Decoder(bytes(data), tables)
        else:
            self._impl = native.Decoder(bytes(data), _native_tables(native, tables), threads)

    def decode(self, indexes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The next symbols, int32, in the shape of `indexes` (table rows, uint8, each below `tables.rows`).

        Uses four bytes of memory per symbol, whatever the data contain.
        """
        indexes = _array("indexes", indexes, np.uint8)
        return self._impl.decode(indexes).reshape(indexes.shape)

    def finish(self) -> None:
        """Checks after the last call that the stream ends here: all bytes are used and all states are back at start."""
        self._impl.finish()


class _DecoderImpl(Protocol):
    def decode(self, indexes: NDArray[np.uint8]) -> NDArray[np.int32]: ...

    def finish(self) -> None: ...


_Scalar = TypeVar("_Scalar", np.int32, np.uint8)


def _array(name: str, values: NDArray[Any], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    array = np.asarray(values)
    if not np.can_cast(array.dtype, dtype, "safe") or array.dtype == np.bool_:
        raise ArgumentTypeError(f"{name} must be an array of {np.dtype(dtype)}, not {array.dtype}.")
    # Not ascontiguousarray: it makes scalars one-dimensional.
    return np.asarray(array, dtype=dtype, order="C")


_compiled: WeakKeyDictionary[Tables, Any] = WeakKeyDictionary()
"""The extension's counterpart of each live table."""


def _native_tables(native: ModuleType, tables: Tables) -> Any:
    compiled = _compiled.get(tables)
    if compiled is None:
        compiled = _compiled[tables] = native.Tables(tables.frequencies, tables.offsets, tables.lengths)
    return compiled
