"""The range coder on a GPU: codes many streams at once, on arrays that stay there. It wraps csrc/cuda/c_api.h.

The environment variable NEUROCODEC_CUDA is auto (the default: used if it was built), require (NativeUnavailableError if
it was not) or off. setup.py reads the same variable.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from neurocodec.entropy.native import mode_of
from neurocodec.entropy.tables import Tables
from neurocodec.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ChecksumError,
    NativeUnavailableError,
    NicFormatError,
    OutOfMemoryError,
    TruncatedError,
)

_OK, _BAD_ARGUMENT, _NO_MEMORY, _BAD_INDEX = 0, 1, 3, 4
_STREAM_ERRORS = {1: TruncatedError, 2: NicFormatError, 3: ChecksumError}
_size, _pointer, _int = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int


def library() -> Library | None:
    """The compiled coder, or None.

    Raises NativeUnavailableError if it is required but cannot be loaded, ConfigError if the variable has another value.
    """
    mode = mode_of("NEUROCODEC_CUDA")
    if mode == "off":
        return None
    try:
        return _installed()
    except OSError as error:
        if mode == "require":
            raise NativeUnavailableError(
                f"NEUROCODEC_CUDA=require, but the CUDA coder cannot be loaded ({error}); "
                "install neurocodec again where nvcc is on the PATH."
            ) from error
        return None


@functools.cache
def _installed() -> Library:
    spec = importlib.util.find_spec("neurocodec._cuda")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("it was not built")
    return Library(spec.origin)


class Library:
    """The functions of csrc/cuda/c_api.h in a shared library. Raises OSError if it cannot be loaded."""

    def __init__(self, path: str | Path) -> None:
        self._c = ctypes.CDLL(str(path))
        for name in ("ncc_tables_free", "ncc_decoder_free", "ncc_free"):
            getattr(self._c, name).argtypes = [_pointer]
            getattr(self._c, name).restype = None
        self.free = self._c.ncc_free
        self.on_host = bool(self._c.ncc_is_host())
        """Whether the kernels run on the CPU, for tests; arrays are then NumPy's, and the only device is 0."""
        self._tables: WeakKeyDictionary[Tables, dict[int, _Handle]] = WeakKeyDictionary()

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the library.

        Raises ArgumentValueError if it rejects the arguments, OutOfMemoryError, and RuntimeError if CUDA fails.
        """
        message = ctypes.create_string_buffer(512)
        code = getattr(self._c, name)(*arguments, message, _size(len(message)))
        if code == _OK:
            return
        sentence = message.value.decode(errors="replace")
        if code in (_BAD_ARGUMENT, _BAD_INDEX):
            raise ArgumentValueError(sentence)
        if code == _NO_MEMORY:
            raise OutOfMemoryError(sentence)
        raise RuntimeError(f"CUDA: {sentence}")

    def owned(self, name: str, free: str, *arguments: Any) -> _Handle:
        """Calls a function that creates an object and returns a handle that frees it.

        The function receives the address for the object's pointer as its last argument.
        """
        pointer = _pointer()
        self.call(name, *arguments, ctypes.byref(pointer))
        return _Handle(getattr(self._c, free), pointer)

    def tables(self, tables: Tables, device: int, stream: int) -> _Handle:
        """The tables on a device, copied once per device."""
        on_devices = self._tables.setdefault(tables, {})
        if device not in on_devices:
            arrays = tables.frequencies, tables.offsets, tables.lengths
            frequencies, offsets, lengths = (_pointer(array.ctypes.data) for array in arrays)
            sizes = _size(tables.frequencies.size), _size(tables.rows)
            on_devices[device] = self.owned(
                *("ncc_tables_new", "ncc_tables_free"),
                *(frequencies, sizes[0], offsets, lengths, sizes[1], _int(device), _pointer(stream)),
            )
        return on_devices[device]

    def address(self, array: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> ctypes.c_void_p:
        """The address of an array.

        Raises ArgumentTypeError for another dtype, ArgumentValueError for another shape or a non-contiguous array.
        """
        kind = "__array_interface__" if self.on_host else "__cuda_array_interface__"
        interface = getattr(array, kind, None)
        if interface is None:
            raise ArgumentTypeError(f"the arrays must have {kind}, which {type(array).__name__} lacks.")
        if np.dtype(interface["typestr"]) != np.dtype(dtype):
            raise ArgumentTypeError(f"an array holds {interface['typestr']}, not {np.dtype(dtype)}.")
        if tuple(interface["shape"]) != shape:
            raise ArgumentValueError(f"an array has the shape {tuple(interface['shape'])}, not {shape}.")
        strides = interface.get("strides")
        steps = tuple(np.dtype(dtype).itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        if strides is not None and any(n > 1 and a != b for n, a, b in zip(shape, strides, steps, strict=True)):
            raise ArgumentValueError("an array is not contiguous; make a contiguous copy.")
        return _pointer(interface["data"][0])


class _Handle:
    def __init__(self, free: Any, pointer: ctypes.c_void_p) -> None:
        self._free, self.pointer = free, pointer

    def __del__(self) -> None:
        self._free(self.pointer)


class BatchDecoder:
    """Decodes many streams in lockstep: each call decodes the same number of symbols of every stream.

    streams: the bytes of each stream. device: the number of a GPU. stream: the address of a cudaStream_t, 0 for the
    default one; calls are ordered in it, so their arrays must be ready there. library: the compiled coder. Raises
    RuntimeError if CUDA fails.
    """

    def __init__(
        self, streams: Sequence[bytes], tables: Tables, library: Library, *, device: int = 0, stream: int = 0
    ) -> None:
        self._library, self._stream, self._count = library, stream, len(streams)
        self._tables = library.tables(tables, device, stream)  # must outlive the decoder
        pointers = (ctypes.c_char_p * len(streams))(*streams)
        sizes = (_size * len(streams))(*map(len, streams))
        self._decoder = library.owned(
            *("ncc_decoder_new", "ncc_decoder_free"),
            *(self._tables.pointer, pointers, sizes, _size(len(streams)), _pointer(stream)),
        )

    def decode(self, indexes: Any, symbols: Any) -> None:
        """Decodes the next n symbols of each stream. indexes: table rows, uint8 (streams, n). symbols: output, int32.

        Both arrays are on the device and have `__cuda_array_interface__`, like torch tensors and CuPy arrays. From an
        error on, the symbols of its stream are 0. Returns before the work is done.
        """
        shape = tuple(int(n) for n in symbols.shape)
        if len(shape) != 2 or shape[0] != self._count:
            raise ArgumentValueError(f"symbols have the shape {shape}, and there are {self._count} streams.")
        addresses = self._library.address(indexes, np.uint8, shape), self._library.address(symbols, np.int32, shape)
        self._library.call("ncc_decode", self._decoder.pointer, *addresses, _size(shape[1]), _pointer(self._stream))

    def finish(self) -> list[NicFormatError | None]:
        """Waits for the work and returns, for each stream, None or the error that `coder.Decoder` would have raised.

        Raises ArgumentValueError if an index was not a table row.
        """
        results, sentences = (_int * self._count)(), (ctypes.c_char_p * self._count)()
        self._library.call("ncc_finish", self._decoder.pointer, _pointer(self._stream), results, sentences)
        errors: list[NicFormatError | None] = []
        for result, sentence in zip(results, sentences, strict=True):
            text = (sentence or b"").decode()
            if result and result not in _STREAM_ERRORS:
                raise ArgumentValueError(text)
            errors.append(_STREAM_ERRORS[result](text) if result else None)
        return errors


def encode(
    symbols: Any,
    indexes: Any,
    tables: Tables,
    library: Library,
    *,
    calls: Sequence[int],
    layouts: Sequence[tuple[int, int]],
    device: int = 0,
    stream: int = 0,
) -> list[bytes]:
    """Encodes many arrays of symbols to the same bytes as `coder.encode`, and waits for the work.

    symbols, indexes: int32 and uint8 (streams, n) on the device, as for `BatchDecoder.decode`. calls: the lengths of
    the decode calls, n in total. layouts: one for each stream, from `coder.layout_of`. device, stream, library: as for
    BatchDecoder. Uses 7 bytes of device memory per symbol. Raises ArgumentValueError for an index that is not a table
    row, mismatched shapes and unknown layouts, RuntimeError if CUDA fails.
    """
    count, shape = len(layouts), (len(layouts), sum(calls))
    lanes, groups = ((_int * count)(*values) for values in (zip(*layouts, strict=True) if layouts else ((), ())))
    sizes, pointer = (_size * count)(), _pointer()
    library.call(
        *("ncc_encode", library.tables(tables, device, stream).pointer),
        *(library.address(symbols, np.int32, shape), library.address(indexes, np.uint8, shape)),
        *((_size * len(calls))(*calls), _size(len(calls)), lanes, groups, _size(count), _pointer(stream)),
        *(ctypes.byref(pointer), sizes),
    )
    owner = _Handle(library.free, pointer)
    data = ctypes.string_at(owner.pointer, sum(sizes))
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def crc32(values: Any, before: Any, after: Any, library: Library, *, device: int = 0, stream: int = 0) -> None:
    """Updates one CRC-32 register per stream with values as little-endian bytes, all on the device.

    values: int32 (streams, n). before: registers, int32 (streams,). after: output of the same shape, another array. A
    register starts at -1; its complement is the CRC-32. Returns before the work is done.
    """
    count, n = (int(size) for size in values.shape)
    library.call(
        *("ncc_crc32", library.address(values, np.int32, (count, n)), _size(count), _size(n)),
        *(library.address(before, np.int32, (count,)), library.address(after, np.int32, (count,))),
        *(_int(device), _pointer(stream)),
    )
