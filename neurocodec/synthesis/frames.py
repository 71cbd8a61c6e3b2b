"""Frames, uint8 (H, W, 3), one by one: from folders of pictures, animations and videos, and to animations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

from PIL import Image, ImageSequence, UnidentifiedImageError

from neurocodec import files, image
from neurocodec.collection import picture_suffixes
from neurocodec.errors import ImageError, OutputError, one_line
from neurocodec.packages import require
from neurocodec.synthesis.motion import Frame
from neurocodec.synthesis.sequence import RATE

ANIMATIONS = {".png": "PNG", ".webp": "WEBP"}
"""Formats of animations that hold every pixel exactly."""


def read(path: str) -> tuple[Iterator[Frame], Fraction]:
    """The frames, and how many there are a second, which in animations the duration of the first decides.

    path: a folder of pictures, in order of their names; an animation that Pillow reads; or a video, for which PyAV is
    needed. Raises ImageError, also later, for frames that cannot be read; MissingPackageError.
    """
    if os.path.isdir(path):
        names = sorted(n for n in os.listdir(path) if os.path.splitext(n)[1].lower() in picture_suffixes())
        return (image.load(os.path.join(path, name)).rgb for name in names), RATE
    try:
        with Image.open(path) as im:
            im.load()  # some formats have a duration only then
            duration = round(im.info.get("duration", 0))  # milliseconds
    except UnidentifiedImageError:
        return _video(path)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or one_line(error)}: give frames that can be read") from error
    return _animation(path), Fraction(1000, duration) if duration > 0 else RATE


def _animation(path: str) -> Iterator[Frame]:
    with Image.open(path) as im:
        try:
            for frame in ImageSequence.Iterator(im):
                yield image.load(frame.convert("RGB")).rgb
        except (OSError, SyntaxError) as error:  # Pillow's parsers raise both on damaged files
            raise ImageError(f"{path} cannot be decoded ({one_line(error)}): the file is damaged") from error


def _video(path: str) -> tuple[Iterator[Frame], Fraction]:
    av = require("av", "av", f"{path} is not a picture, and reading videos", extra="video")
    try:
        with av.open(path) as file:
            rate = Fraction(file.streams.video[0].average_rate or RATE)
    except (av.FFmpegError, IndexError) as error:
        raise ImageError(f"{path} is neither a picture nor a video that can be read ({one_line(error)})") from error

    def decoded() -> Iterator[Frame]:
        try:
            with av.open(path) as file:
                for frame in file.decode(video=0):
                    yield frame.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            raise ImageError(f"{path} cannot be decoded ({one_line(error)}): the file is damaged") from error

    return decoded(), rate


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
