"""Reads a pickle of nested dictionaries of float32 NumPy arrays, and refuses every other pickle.

A pickle is a program. This is a small machine for the few opcodes that such dictionaries need, and Python's own
unpickler never sees the data: that one can be made to call functions, and, by tuples in tuples, to overflow the stack
or to work for ever. Here tuples are short and flat, keys are text, and the arrays together are no larger than the
pickle.
"""

from __future__ import annotations

import enum
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DIMENSIONS = 4
MAX_DEPTH = 3
MAX_TUPLE = 8
"""Items of a tuple: NumPy describes a type with so many. A tuple in a tuple holds no third one."""


class _Name(enum.Enum):
    """A name that the pickle imports."""

    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "numpy.core.multiarray._reconstruct"


_NAMES = {
    "numpy ndarray": _Name.NDARRAY,
    "numpy dtype": _Name.DTYPE,
    "numpy.core.multiarray _reconstruct": _Name.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Name.RECONSTRUCT,
}


class _Dtype:
    """float32, little-endian once its state has been read."""

    def __init__(self) -> None:
        self.complete = False

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[:2] != (3, "<") or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("an array type pickled in an unknown way, expected little-endian float32")
        self.complete = True


class _Array:
    """An array, once its state has been read."""

    def __init__(self) -> None:
        self.array: NDArray[np.float32] | None = None

    def build(self, state: Any) -> int:
        """Returns the array's bytes."""
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
        return len(raw)


def loads(data: bytes) -> dict[str, Any]:
    """The dictionary: its keys are str, its values float32 arrays or such dictionaries.

    Raises pickle.UnpicklingError for anything else.
    """
    try:
        found = _run(data)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise pickle.UnpicklingError(f"no well-formed pickle of arrays: {error}") from error
    if not isinstance(found, dict):
        raise pickle.UnpicklingError(f"a pickled {type(found).__name__}, expected a dictionary of arrays")
    return _arrays(found, MAX_DEPTH, set())


def _run(data: bytes) -> Any:
    """What the pickle leaves: dictionaries with keys of type str, _Array, and the parts that those consist of."""
    stack: list[Any] = []
    marks: list[int] = []  # lengths of the stack
    memo: dict[int, Any] = {}
    room = len(data)

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(_tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(_tuple(items[::-1]))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                pairs = pop_to_mark()
                _set_items(stack[-1], pairs)
            case "BINPUT":
                memo[argument] = stack[-1]
            case "BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                if argument not in _NAMES:
                    name = argument.replace(" ", ".")
                    raise pickle.UnpicklingError(f"the pickle names {name}, expected NumPy arrays only")
                stack.append(_NAMES[argument])
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_call(called, arguments))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if isinstance(target, _Array):
                    room -= target.build(state)
                elif isinstance(target, _Dtype):
                    target.build(state)
                else:
                    raise pickle.UnpicklingError("the pickle changes something else than an array")
                if room < 0:
                    raise pickle.UnpicklingError("pickled arrays larger than the pickle: their bytes are repeated")
            case "STOP":
                return stack.pop()
            case _:
                raise pickle.UnpicklingError(f"pickle opcode {opcode.name}, expected dictionaries of arrays only")
    raise AssertionError("genops ends with STOP or raises ValueError")


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    inner = [item for item in items[:MAX_TUPLE] if isinstance(item, tuple)]
    if len(items) > MAX_TUPLE or any(isinstance(part, tuple) for item in inner for part in item):
        raise pickle.UnpicklingError(f"pickled tuples of more than {MAX_TUPLE} items or nested more than twice")
    return tuple(items)


def _set_items(target: Any, pairs: list[Any]) -> None:
    if not isinstance(target, dict):
        raise TypeError(f"items for a {type(target).__name__}")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, str):
            raise pickle.UnpicklingError(f"a pickled key of type {type(key).__name__}, expected str")
        target[key] = value


def _call(called: Any, arguments: Any) -> _Dtype | _Array:
    """numpy.dtype of the type's name, or _reconstruct, which makes the empty array that BUILD fills."""
    if not isinstance(arguments, tuple):
        raise TypeError(f"a call with a {type(arguments).__name__}")
    if called is _Name.DTYPE:
        if arguments[0] != "f4":
            name = arguments[0][:20] if isinstance(arguments[0], str) else type(arguments[0]).__name__
            raise pickle.UnpicklingError(f"a pickled array of type {name!r}, expected float32")
        return _Dtype()
    if called is _Name.RECONSTRUCT:
        kind, shape, code = arguments
        if kind is not _Name.NDARRAY or shape != (0,) or code not in (b"b", "b"):
            raise pickle.UnpicklingError("an array pickled in an unknown way, expected a plain numpy.ndarray")
        return _Array()
    raise TypeError(f"a call of {called.value if isinstance(called, _Name) else type(called).__name__}")


def _arrays(tree: dict[str, Any], depth: int, seen: set[int]) -> dict[str, Any]:
    """The tree with arrays for _Array. A dictionary may be there once: repeated ones could grow without end."""
    if depth == 0 or id(tree) in seen:
        raise pickle.UnpicklingError(f"pickled dictionaries repeated or nested more than {MAX_DEPTH} deep")
    seen.add(id(tree))
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found[key] = _arrays(value, depth - 1, seen)
        elif isinstance(value, _Array) and value.array is not None:
            found[key] = value.array
        else:
            raise pickle.UnpicklingError(f"a pickled {type(value).__name__} at {key!r}, expected an array")
    return found
