"""The quality that reaches a target: a number of bytes, or a PSNR.

Parts of the picture, coded at a few qualities, say how its files grow; then the whole picture is coded one to three
times. What codes is the caller's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from neurocodec import container
from neurocodec.entropy.grid import QUALITY_STEPS
from neurocodec.errors import ImageError
from neurocodec.image import Picture

EncodeAt = Callable[[Picture, int, int], bytes]
"""A picture or a part of it, a quality index from 0 to 960, and an effort -> the bytes of its file."""
PsnrOf = Callable[[bytes, Picture], float]
"""The bytes of a file and its picture -> dB."""

SEARCHES = 4
"""Maximum number of searches for one target."""
PSNR_TOLERANCE = 0.05
"""In dB: a file this near above the target is not made again for a smaller one."""
BYTES_TOLERANCE = 0.01
"""The same for files below a limit on bytes, as a share of it."""
CELL = 64
"""Pixels a side of the squares that stand for a picture while a quality is sought."""
CELL_SHARE, MIN_CELLS, MAX_CELLS = 1 / 16, 6, 128


def to_bytes(picture: Picture, encode_at: EncodeAt, psnr_of: PsnrOf, limit: int, effort: int) -> bytes:
    """A file of at most `limit` bytes: at effort 1 the best one, or at most BYTES_TOLERANCE smaller than the limit.

    Raises ImageError if the file of the lowest quality is larger.
    """

    def fixed(of: Picture) -> int:
        """Bytes that do not depend on the quality."""
        return container.HEADER_BYTES + container.RECORD_BYTES + sum(map(len, of.metadata.values()))

    aim = _Aim(
        measure=lambda data, of: len(data) - fixed(of),
        scale=math.log,
        limit=math.log(max(limit - fixed(picture), 1)),
        tolerance=BYTES_TOLERANCE,
        rise=0.3,
    )
    candidates = _files_within(picture, encode_at, aim, effort)
    if not candidates:
        smallest = encode_at(picture, 0, 1)
        raise ImageError(f"{limit} bytes cannot be reached: at the lowest quality the file has {len(smallest)} bytes.")
    return max(candidates, key=lambda data: psnr_of(data, picture)) if effort > 1 else candidates[0]


def to_psnr(picture: Picture, encode_at: EncodeAt, psnr_of: PsnrOf, target: float, effort: int) -> bytes:
    """A file whose picture has at least `target` dB: at effort 1 the smallest one, or at most PSNR_TOLERANCE more.

    Raises ImageError if the highest quality has less.
    """
    most = container.QUALITY_INDEX_MAX
    aim = _Aim(
        measure=lambda data, of: of.rgb.size * 10 ** (-psnr_of(data, of) / 10),
        scale=lambda error: 10 * math.log10(max(error / picture.rgb.size, 1e-100)),
        limit=-target,
        tolerance=PSNR_TOLERANCE,
        rise=1.2,
    )
    candidates = _files_within(picture, lambda of, step, effort: encode_at(of, most - step, effort), aim, effort)
    if not candidates:
        highest = psnr_of(encode_at(picture, most, 1), picture)
        raise ImageError(f"{target} dB cannot be reached: the highest quality gives {highest:.2f} dB.")
    return min(candidates, key=len)


@dataclass(frozen=True)
class _Aim:
    """What a file must not exceed.

    measure: of a file and its picture, such as its bytes; those of a picture's parts add up. scale: of such a sum, in a
    unit in which it rises evenly with the quality, usually by `rise` a row. limit, tolerance: in that unit; a file is
    near enough within the tolerance below the limit.
    """

    measure: Callable[[bytes, Picture], float]
    scale: Callable[[float], float]
    limit: float
    tolerance: float
    rise: float


def _files_within(picture: Picture, encode_at: EncodeAt, aim: _Aim, effort: int) -> list[bytes]:
    """Files within the limit: that of effort 1, then those of searches; none if the file of step 0 exceeds it.

    encode_at: takes a step in place of the quality index; what is measured rises with the step. Parts of the picture,
    coded at a few steps, say how it rises. The whole picture is coded at the step that they suggest, and again at the
    one that the difference between it and its parts suggests, until its file is near the limit.
    """
    parts, last, top = _parts(picture), container.QUALITY_INDEX_MAX // QUALITY_STEPS, container.QUALITY_INDEX_MAX
    share = sum(part.rgb.size for part in parts) / picture.rgb.size
    goal = aim.limit - aim.tolerance / 2

    @functools.cache
    def at_row(row: int) -> float:
        return aim.scale(sum(aim.measure(encode_at(part, row * QUALITY_STEPS, 1), part) for part in parts) / share)

    def estimate(step: int) -> float:
        row = min(step // QUALITY_STEPS, last - 1)
        return at_row(row) + (at_row(row + 1) - at_row(row)) * (step / QUALITY_STEPS - row)

    def last_step(change: float, row: int = last // 2) -> int:
        """The highest step within the goal if the whole picture differs from its parts by `change`."""
        low, high = -1, last + 1
        while high - low > 1:
            over = at_row(row) + change - goal
            low, high = (row, high) if over <= 0 else (low, row)
            row = min(max(round(row - over / aim.rise), low + 1), high - 1)
        if not 0 <= low < last:
            return top if low == last else 0
        inside = (goal - change - at_row(low)) / (at_row(high) - at_row(low))
        return int((low + inside) * QUALITY_STEPS)

    low, high, step, candidates = -1, top + 1, last_step(0), list[bytes]()
    values: dict[int, float] = {}  # of the whole picture
    while high - low > 1:
        step = min(max(step, low + 1), high - 1) if len(values) < 6 else (low + high) // 2
        data = encode_at(picture, step, 1)
        values[step] = value = aim.scale(aim.measure(data, picture))
        if value > aim.limit:
            high = step
        else:
            low, candidates = step, [data]
            if value >= aim.limit - aim.tolerance:
                break
        if low in values and high in values:
            step = low + int((high - low) * (goal - values[low]) / (values[high] - values[low]))
        elif high - low > 1:
            step = last_step(value - estimate(step), step // QUALITY_STEPS)

    step, tried = low, set[int]()
    while effort > 1 and candidates and step not in tried and len(tried) < SEARCHES:
        tried.add(step)
        data = encode_at(picture, step, effort)
        value = aim.scale(aim.measure(data, picture))
        if value <= aim.limit:
            candidates.append(data)
        step = last_step(value - estimate(step), step // QUALITY_STEPS)
    return candidates


def _parts(picture: Picture) -> list[Picture]:
    """Squares of a picture, of every degree of activity; the picture itself if it is small."""
    rows, columns = (side // CELL for side in picture.rgb.shape[:2])
    count = min(max(round(rows * columns * CELL_SHARE), MIN_CELLS), MAX_CELLS)
    if rows * columns < 2 * count:
        return [picture]
    activity = []
    for row in range(rows):
        green = picture.rgb[row * CELL : (row + 1) * CELL, : columns * CELL, 1].astype(np.int32)
        cells = green.reshape(CELL, columns, CELL)
        activity += list(sum(np.abs(np.diff(cells, axis=axis)).sum((0, 2)) for axis in (0, 2)))
    by_activity = np.argsort(activity, kind="stable")
    chosen = by_activity[(2 * np.arange(count) + 1) * len(by_activity) // (2 * count)]
    return [
        replace(picture, rgb=picture.rgb[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL], alpha=None, metadata={})
        for y, x in (divmod(int(cell), columns) for cell in chosen)
    ]
