"""Clips of ten actions, and the motion vectors that a video decoder has for them.

The camera moves over a photograph, or a disc or a square with the texture of another one moves in front of it. FFmpeg,
through PyAV, codes clips as MPEG-4 and exports the motion vectors that it decodes. It exports no residuals, so
`inputs_of` makes them from decoded frames.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from neurocodec.errors import ImageError
from neurocodec.packages import require
from neurocodec.training.data import Rgb

CAMERA = ("pan left", "pan right", "pan up", "pan down", "zoom in", "zoom out")
OBJECTS = ("disc left", "disc right", "square left", "square right")
CLASSES = CAMERA + OBJECTS
FRAMES = 12
"""Frames of a clip: one that stands alone, and eleven predicted ones."""
SEEN = (3, 7, 11)
"""The predicted frames that networks look at: their scores are averaged, as CoViAR averages over segments."""
CELL = 4
"""Pixels a side for which the networks get one vector; blocks of MPEG-4 have 8 or 16."""


def make_clip(photo: Rgb, other: Rgb, action: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A clip of an action of CLASSES, uint8 (12, side, side, 3), with camera noise. photo: (1.5 side, 1.5 side, 3).

    The camera pans 1 to 2.5 pixels or zooms 1.5 to 3 % a frame; objects move 1.5 to 3 pixels a frame, 24 to 40 across.
    """
    crop = photo.shape[0]
    side, source = crop * 2 // 3, Image.fromarray(photo)
    kind, way = action.split()
    sign = 1 if way in ("right", "down", "in") else -1
    speed, radius = rng.uniform(1, 2.5), rng.uniform(12, 20)
    start, drift = rng.uniform(0.35, 0.65, 2) * side, rng.uniform(-0.5, 0.5)
    texture = Image.fromarray(other).resize((side, side))
    frames = []
    for t in range(FRAMES):
        at = sign * (t - (FRAMES - 1) / 2)
        middle, scale = np.array([crop / 2, crop / 2]), 1.0
        if kind == "pan":
            middle += at * speed * (np.array([1, 0]) if way in ("left", "right") else np.array([0, 1]))
        elif kind == "zoom":
            scale = (1 - 0.012 * speed) ** at
        half = side * scale / 2
        frame = source.resize((side, side), Image.Resampling.BICUBIC, box=(*(middle - half), *(middle + half)))
        if kind in ("disc", "square"):
            x, y = start + np.array([at * (speed + 0.5), drift * t])
            mask = Image.new("L", (side, side))
            draw = ImageDraw.Draw(mask).ellipse if kind == "disc" else ImageDraw.Draw(mask).rectangle
            draw((x - radius, y - radius, x + radius, y + radius), fill=255)
            moved = texture.transform((side, side), Image.Transform.AFFINE, (1, 0, side / 2 - x, 0, 1, side / 2 - y))
            frame.paste(moved, mask=mask)
        frames.append(np.asarray(frame))
    noisy = np.stack(frames) + rng.normal(0, 2, (FRAMES, side, side, 3))
    clip: NDArray[np.uint8] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return clip


def compress(clip: NDArray[np.uint8], rate: float) -> bytes:
    """A clip as MPEG-4, one frame that stands alone and predicted ones, in AVI. rate: kilobits per second."""
    av = require("av", "av", "coding clips", extra="video")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        coder = stream.codec_context
        coder.gop_size, coder.max_b_frames, coder.bit_rate, coder.thread_count = len(clip), 0, round(1000 * rate), 1
        for frame in clip:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


class Decoded(NamedTuple):
    """frames: uint8 (T, H, W, 3). vectors: of each frame, int (T, H, W, 2), pixels down and right to where its pixels
    come from in the frame before; 0 in frames that stand alone."""

    frames: NDArray[np.uint8]
    vectors: NDArray[np.int16]


def decompress(data: bytes) -> Decoded:
    """The first FRAMES frames of a video and the motion vectors that its decoder used. Raises ImageError."""
    av = require("av", "av", "decoding motion vectors", extra="video")
    frames, vectors = [], []
    try:
        with av.open(io.BytesIO(data)) as file:
            stream = file.streams.video[0]
            stream.codec_context.options = {"flags2": "+export_mvs"}
            stream.codec_context.thread_count = 1
            for frame in file.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                moves = frame.side_data.get("MOTION_VECTORS")
                vectors.append(field_of(moves.to_ndarray(), frame.height, frame.width) if moves else None)
                if len(frames) == FRAMES:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise ImageError(f"this is not a video that can be decoded: {error}") from error
    if not frames:
        raise ImageError("the video holds no frames, expected at least one")
    still = np.zeros((*frames[0].shape[:2], 2), np.int16)
    return Decoded(np.stack(frames), np.stack([still if v is None else v for v in vectors]))


def field_of(moves: NDArray[Any], height: int, width: int) -> NDArray[np.int16]:
    """FFmpeg's list of blocks as a vector for each pixel, (H, W, 2), down and right; 0 where a frame has no vector."""
    vectors = np.zeros((height, width, 2), np.int16)
    for w, h, from_x, from_y, x, y in moves[["w", "h", "src_x", "src_y", "dst_x", "dst_y"]].tolist():
        top, left = y - h // 2, x - w // 2
        vectors[max(top, 0) : top + h, max(left, 0) : left + w] = from_y - y, from_x - x
    return vectors


def accumulate(vectors: NDArray[np.int16]) -> NDArray[np.int32]:
    """The way from each pixel to where it comes from in frame 0: (T, H, W, 2), pixels down and right.

    vectors: those of `Decoded`. CoViAR, eq. 2: the vector of a pixel, and what was accumulated where it points.
    """
    t, h, w = vectors.shape[:3]
    rows, columns = np.arange(h)[:, None], np.arange(w)[None]
    total = np.zeros((t, h, w, 2), np.int32)
    for k in range(1, t):
        y, x = np.clip(rows + vectors[k, ..., 0], 0, h - 1), np.clip(columns + vectors[k, ..., 1], 0, w - 1)
        total[k] = total[k - 1][y, x] + np.stack([y - rows, x - columns], -1)
    return total


def inputs_of(decoded: Decoded) -> dict[str, Tensor]:
    """What each network sees of a clip: intra (1, 3, H, W), motion (3, 2, H/4, W/4), residual (3, 3, H, W), rgb
    (1, 12, H, W): frame 0 and those SEEN, stacked. Vectors in units of 16 pixels, the rest in [-0.5, 0.5]."""
    traced, seen = accumulate(decoded.vectors), list(SEEN)
    pixels = torch.from_numpy(decoded.frames[[0, *seen]]).permute(0, 3, 1, 2).float() / 255  # (4, 3, H, W)
    h, w = decoded.frames.shape[1:3]
    y, x = traced[seen, ..., 0] + np.arange(h)[:, None], traced[seen, ..., 1] + np.arange(w)[None]
    residual = (decoded.frames[seen].astype(np.float32) - decoded.frames[0][y, x]) / 255
    motion = F.avg_pool2d(torch.from_numpy(traced[seen]).permute(0, 3, 1, 2).float() / 16, CELL)
    return {
        "intra": pixels[:1] - 0.5,
        "motion": motion,
        "residual": torch.from_numpy(residual).permute(0, 3, 1, 2),
        "rgb": pixels.reshape(1, 12, *pixels.shape[2:]) - 0.5,
    }
