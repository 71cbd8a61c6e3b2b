"""Peak signal-to-noise ratio."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from neurocodec.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """10 log10(255² / MSE) in dB, with one MSE over all pixels and channels; inf when the arrays are equal.

    a, b: uint8 of the same shape, usually (H, W, 3) RGB. This is the PSNR of CompressAI's and TensorFlow Compression's
    tables; the mean of the three channels' PSNRs is another number. Raises ImageError if type or shape does not fit.
    """
    check_pair(a, b)
    difference = (a.astype(np.int32) - b.astype(np.int32)).ravel()
    squares = int(np.einsum("i,i->", difference, difference, dtype=np.int64))  # exact
    return math.inf if squares == 0 else 10.0 * math.log10(255.0**2 * a.size / squares)


def check_pair(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    """Raises ImageError unless both are uint8 of the same shape and not empty."""
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ImageError(f"found arrays of {a.dtype} and {b.dtype}, expected uint8: measure the 8-bit pictures")
    if a.shape != b.shape or a.size == 0:
        raise ImageError(f"found shapes {a.shape} and {b.shape}, expected the same shape and at least one pixel")
