"""Reads a pickle of nested dictionaries of float32 NumPy arrays, and refuses every other pickle.

A pickle is a program. Here it can only build dictionaries, tuples, numbers and text: other opcodes are refused before
anything runs, and the three NumPy names that arrays need stand for objects of this module, which build an array from
its bytes and nothing else. Neither NumPy's own reconstruction code nor any other function sees data of the pickle.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

# fmt: off
OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "BINPUT", "BINGET", "GLOBAL", "REDUCE", "BUILD",
})
# fmt: on
"""What dictionaries of arrays consist of in pickle protocol 3."""

MAX_DIMENSIONS = 4
MAX_DEPTH = 3


def loads(data: bytes) -> dict[str, Any]:
    """The dictionary: its keys are str, its values float32 arrays or such dictionaries.

    Raises pickle.UnpicklingError for anything else, before any code that the pickle names could run.
    """
    try:
        for opcode, _, _ in pickletools.genops(data):
            if opcode.name not in OPCODES:
                raise pickle.UnpicklingError(f"pickle opcode {opcode.name}, expected dictionaries of arrays only")
        found = _Unpickler(io.BytesIO(data)).load()
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, EOFError, OverflowError) as error:
        raise pickle.UnpicklingError(f"no well-formed pickle of arrays: {error}") from error
    if not isinstance(found, dict):
        raise pickle.UnpicklingError(f"a pickled {type(found).__name__}, expected a dictionary of arrays")
    return _arrays(found, MAX_DEPTH, set())


def _arrays(tree: dict[Any, Any], depth: int, seen: set[int]) -> dict[str, Any]:
    """The tree with arrays for stand-ins. A dictionary may be there once: repeated ones could grow without end."""
    if depth == 0 or id(tree) in seen:
        raise pickle.UnpicklingError(f"pickled dictionaries repeated or nested more than {MAX_DEPTH} deep")
    seen.add(id(tree))
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise pickle.UnpicklingError(f"a pickled key of type {type(key).__name__}, expected str")
        if isinstance(value, dict):
            found[key] = _arrays(value, depth - 1, seen)
        elif isinstance(value, _Array) and value.array is not None:
            found[key] = value.array
        else:
            raise pickle.UnpicklingError(f"a pickled {type(value).__name__} at {key!r}, expected an array")
    return found


class _StandIn:
    """Stands for a name that the pickle imports. Has no attributes that BUILD could set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle changes an imported name, expected arrays only")


class _NdarrayClass(_StandIn):
    """numpy.ndarray: only ever the first argument of _reconstruct."""

    __slots__ = ()


class _DtypeClass(_StandIn):
    """numpy.dtype: called with the type's name."""

    __slots__ = ()

    def __call__(self, name: Any, *options: Any) -> _Dtype:
        if name != "f4":
            raise pickle.UnpicklingError(f"a pickled array of type {str(name)[:20]!r}, expected float32")
        return _Dtype()


class _Reconstruct(_StandIn):
    """numpy.core.multiarray._reconstruct: makes the empty array, which BUILD fills."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, _NdarrayClass) or shape != (0,) or code not in (b"b", "b"):
            raise pickle.UnpicklingError("an array pickled in an unknown way, expected a plain numpy.ndarray")
        return _Array()


class _Dtype:
    """float32, little-endian once its state has been read."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete = False

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[:2] != (3, "<") or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("an array type pickled in an unknown way, expected little-endian float32")
        self.complete = True


class _Array:
    """An array, once its state has been read."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[np.float32] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array pickled in an unknown way, expected NumPy's five-part state")
        version, shape, dtype, fortran, raw = state
        sizes_fit = (
            isinstance(shape, tuple)
            and len(shape) <= MAX_DIMENSIONS
            and all(type(size) is int and size >= 0 for size in shape)
            and isinstance(raw, bytes)
            and len(raw) == 4 * math.prod(shape)
        )
        if version != 1 or not isinstance(dtype, _Dtype) or not dtype.complete or not sizes_fit:
            raise pickle.UnpicklingError("a pickled array whose shape, type and bytes do not fit each other")
        self.array = np.frombuffer(raw, "<f4").reshape(shape, order="F" if fortran is True else "C").astype(np.float32)


_NAMES: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _NdarrayClass,
    ("numpy", "dtype"): _DtypeClass,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _StandIn:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}, expected NumPy arrays only")
        return _NAMES[module, name]()
