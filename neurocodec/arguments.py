"""Checks the arguments of public functions and converts them to plain Python values."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

from neurocodec.errors import ArgumentTypeError, ArgumentValueError


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """An integer of any type, including NumPy's and torch's, as an int in [least, most]. name: used in errors.

    Raises ArgumentTypeError for anything else, such as True or 2.0, ArgumentValueError for an integer out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise _wrong_type(name, value, "an integer") from None
    if (least is not None and result < least) or (most is not None and result > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ArgumentValueError(f"{name} is {_shown(result)}; it must be {limits}.")
    return result


def number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> float:
    """A real number of any type as a finite float in [least, most], or in (least, most] with `above`.

    Raises ArgumentTypeError for anything but one number (Booleans too), ArgumentValueError for a number out of range.
    """
    plain = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise _wrong_type(name, value, "a number")
    try:
        result = float(plain)
    except OverflowError:
        result = math.inf
    if not (math.isfinite(result) and least <= result <= most) or (above and result == least):
        limits = f"above {least:g}" if above else f"from {least:g} to {most:g}"
        raise ArgumentValueError(f"{name} is {_shown(plain)}; it must be a number {limits}.")
    return result


def boolean(name: str, value: Any) -> bool:
    """True or False, including NumPy's. Raises ArgumentTypeError for anything else."""
    plain = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    if not isinstance(plain, bool):
        raise _wrong_type(name, value, "True or False")
    return plain


def region(value: Any, width: int, height: int) -> tuple[int, int, int, int]:
    """A region (x, y, width, height) of a picture, all in pixels; None is the whole picture.

    Raises ArgumentTypeError for anything but four integers, ArgumentValueError for a region not inside the picture.
    """
    if value is None:
        return 0, 0, width, height
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise _wrong_type("region", value, "four integers: x, y, width, height")
    items = list(value)
    if len(items) != 4:
        raise ArgumentValueError(f"region has {len(items)} values; it must have four: x, y, width, height.")
    x, y, w, h = (integer("each value of region", item) for item in items)
    if not (x >= 0 and y >= 0 and 0 < w <= width - x and 0 < h <= height - y):
        shown = ", ".join(map(_shown, (x, y, w, h)))
        raise ArgumentValueError(f"the region ({shown}) is not inside the picture of {width}×{height} pixels.")
    return x, y, w, h


def device(value: Any) -> str:
    """The name of a device, given as a string or a torch.device. Raises ArgumentTypeError for anything else."""
    if isinstance(value, str):
        return value
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        return str(value)
    raise _wrong_type("device", value, "a string: auto, cpu or cuda")


def _wrong_type(name: str, value: Any, expected: str) -> ArgumentTypeError:
    return ArgumentTypeError(f"{name} is {_shown(value)} of type {type(value).__name__}; it must be {expected}.")


def _shown(value: Any) -> str:
    """The value as one short line."""
    try:
        text = " ".join((str(value) if isinstance(value, numbers.Number) else repr(value)).split())
    except Exception:  # an integer of too many digits, or a broken __repr__
        return "a value that cannot be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."
