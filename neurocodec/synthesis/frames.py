"""Sequences of frames, uint8 (T, H, W, 3): from folders of pictures, animations and videos, and to animations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence, UnidentifiedImageError

from neurocodec import files, image
from neurocodec.collection import picture_suffixes
from neurocodec.errors import ImageError, OutputError, one_line
from neurocodec.packages import require
from neurocodec.synthesis.sequence import RATE

Frame = NDArray[np.uint8]

ANIMATIONS = {".png": "PNG", ".webp": "WEBP"}
"""Formats of animations that hold every pixel exactly."""


def read(path: str, limit: int | None = None) -> tuple[NDArray[np.uint8], Fraction]:
    """Frames, uint8 (T, H, W, 3), and their rate per second.

    path: a folder of pictures of equal size, in order of their names; an animation that Pillow reads; or a video, for
    which PyAV is needed. limit: maximum number of frames. Raises ImageError, MissingPackageError.
    """
    if os.path.isdir(path):
        names = sorted(n for n in os.listdir(path) if os.path.splitext(n)[1].lower() in picture_suffixes())
        frames: Iterable[Frame] = (image.load(os.path.join(path, name)).rgb for name in names)
        rate = RATE
    else:
        try:
            with Image.open(path) as im:
                frames = [
                    image.load(frame.convert("RGB")).rgb
                    for frame in itertools.islice(ImageSequence.Iterator(im), limit)
                ]
                rate = Fraction(1000, duration) if (duration := round(im.info.get("duration", 0))) > 0 else RATE
        except UnidentifiedImageError:
            frames, rate = _video(path)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror or one_line(error)}: give frames that can be read") from error
    chosen = list(itertools.islice(frames, limit))
    if not chosen or any(frame.shape != chosen[0].shape for frame in chosen):
        raise ImageError(f"{path} holds {len(chosen)} frames, expected at least one, and all of one size")
    return np.stack(chosen), rate


def _video(path: str) -> tuple[Iterator[Frame], Fraction]:
    av = require("av", "av", f"{path} is not a picture, and reading videos", extra="video")
    try:
        file = av.open(path)
        stream = file.streams.video[0]
    except (av.FFmpegError, IndexError) as error:
        raise ImageError(f"{path} is neither a picture nor a video that can be read ({one_line(error)})") from error

    def frames() -> Iterator[Frame]:
        with file:
            for frame in file.decode(stream):
                yield frame.to_ndarray(format="rgb24")

    return frames(), Fraction(stream.average_rate or RATE)


def write(path: str, frames: Iterator[Frame], rate: Fraction, *, force: bool = False) -> int:
    """Writes frames as an animation without loss, .png or .webp, and returns their number. Raises OutputError."""
    kind = ANIMATIONS.get(os.path.splitext(path)[1].lower())
    if kind is None:
        raise OutputError(f"{path} must end in {' or '.join(ANIMATIONS)}: animations that hold every pixel exactly")
    first, *others = (Image.fromarray(frame) for frame in frames)
    options = {"lossless": True} if kind == "WEBP" else {}
    with files.writing(path, force=force) as file:
        duration = round(1000 / rate)
        first.save(file, kind, save_all=True, append_images=others, duration=duration, loop=0, **options)
    return 1 + len(others)
