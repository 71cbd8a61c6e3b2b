"""Finds the quality that meets a target: a number of bytes, or a PSNR.

Sample squares of the picture are encoded at a few qualities to predict how its file grows with quality; then the whole
picture is encoded one to three times. The caller supplies the encoder.
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
"""(picture or part of it, quality index 0 to 960, effort) -> the bytes of its file."""
PsnrOf = Callable[[bytes, Picture], float]
"""(bytes of a file, its picture) -> dB."""

SEARCHES = 4
"""Maximum number of searches for one target."""
PSNR_TOLERANCE = 0.05
"""dB. A file at most this far above the target is accepted."""
BYTES_TOLERANCE = 0.01
"""A file at most this share below a limit on bytes is accepted."""
CELL = 64
"""Side of the sample squares, in pixels."""
CELL_SHARE, MIN_CELLS, MAX_CELLS = 1 / 16, 6, 128
"""Share of the picture that is sampled, and limits on the number of squares."""


def to_bytes(picture: Picture, encode_at: EncodeAt, psnr_of: PsnrOf, limit: int, effort: int) -> bytes:
    """The best file of at most `limit` bytes, or one at most BYTES_TOLERANCE below the limit.

    Above effort 1, the file of the highest PSNR among those searched. Raises ImageError if the file of the lowest
    quality is larger than the limit.
    """

    def overhead(part: Picture) -> int:
        """Bytes that do not depend on the quality."""
        return container.HEADER_BYTES + container.RECORD_BYTES + sum(map(len, part.metadata.values()))

    aim = _Aim(
        measure=lambda data, part: len(data) - overhead(part),
        scale=math.log,
        limit=math.log(max(limit - overhead(picture), 1)),
        tolerance=BYTES_TOLERANCE,
        rise=0.3,
    )
    candidates = _files_within(picture, encode_at, aim, effort)
    if not candidates:
        smallest = encode_at(picture, 0, 1)
        raise ImageError(f"{limit} bytes cannot be reached: at the lowest quality the file has {len(smallest)} bytes.")
    return max(candidates, key=lambda data: psnr_of(data, picture)) if effort > 1 else candidates[0]


def to_psnr(picture: Picture, encode_at: EncodeAt, psnr_of: PsnrOf, target: float, effort: int) -> bytes:
    """The smallest file whose picture has at least `target` dB, or one at most PSNR_TOLERANCE above it.

    Above effort 1, the smallest file among those searched. Raises ImageError if the highest quality falls short.
    """
    most = container.QUALITY_INDEX_MAX
    aim = _Aim(
        measure=lambda data, part: part.rgb.size * 10 ** (-psnr_of(data, part) / 10),
        scale=lambda error: 10 * math.log10(max(error / picture.rgb.size, 1e-100)),
        limit=-target,
        tolerance=PSNR_TOLERANCE,
        rise=1.2,
    )
    candidates = _files_within(picture, lambda part, step, effort: encode_at(part, most - step, effort), aim, effort)
    if not candidates:
        highest = psnr_of(encode_at(picture, most, 1), picture)
        raise ImageError(f"{target} dB cannot be reached: the highest quality gives {highest:.2f} dB.")
    return min(candidates, key=len)


@dataclass(frozen=True)
class _Aim:
    """A quantity that a file must not exceed.

    measure: computes it from a file and its picture, such as the number of bytes; values of parts add up. scale: maps
    it to a unit in which it rises evenly with quality, typically by `rise` per row. limit, tolerance: in that unit; a
    file no more than the tolerance below the limit is accepted.
    """

    measure: Callable[[bytes, Picture], float]
    scale: Callable[[float], float]
    limit: float
    tolerance: float
    rise: float


def _files_within(picture: Picture, encode_at: EncodeAt, aim: _Aim, effort: int) -> list[bytes]:
    """Files within the limit: one of effort 1, then those of searches; empty if the file of step 0 exceeds it.

    encode_at takes a step in place of the quality index, and the measured quantity rises with the step. The picture is
    encoded at the step that its parts predict, then at the step corrected by the difference between it and its parts,
    until the file is close enough to the limit.
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
        """The highest step that meets the goal if the whole picture exceeds the parts' estimate by `change`."""
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
    """Sample squares that cover the range of activity in a picture; the picture itself if it is small."""
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
