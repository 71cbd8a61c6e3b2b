"""Sequences of frames <-> .nicv bytes: frames that stand alone are .nic files, others are motion and a coded residual.

The scheme is that of Rippel et al. ("Learned video compression", ICCV 2019) and DVC (Lu et al., CVPR 2019): motion, a
prediction by it, and a residual coded by a learned transform with a learned prior. Motion is searched for, block by
block, as in standard codecs, not learned. The residual is a picture around 128, which a model for pictures codes or one
that was trained on residuals (`synthesis.video`). Decoding is in integers alone, so pixels are the same everywhere.

    frame 0 ── codec ── .nic ───────────────────────────────┐
    frame t ── search ── vectors ── predict from frame t - 1 ┴ residual + 128 ── codec ── stream ── frame t as decoded
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from neurocodec import arguments, codec, container
from neurocodec import model as model_files
from neurocodec.entropy.grid import QUALITY_STEPS
from neurocodec.errors import ImageError, NicFormatError
from neurocodec.image import Picture
from neurocodec.integer.network import Network
from neurocodec.model import Model
from neurocodec.synthesis import motion, nicv
from neurocodec.synthesis.motion import Frame

RATE = Fraction(25)
"""Frames per second, if the source does not say."""
GOP = 32
"""Frames from one that stands alone to the next."""
BIT_COST = 1.4
"""Of the motion search, in units of sqrt(1 / λ), with which squared errors would be weighed as absolute ones."""


def encode(
    frames: Iterable[Frame],
    *,
    quality: float = codec.QUALITY,
    gop: int = GOP,
    rate: Fraction = RATE,
    model: str | Path | Model = "base",
    residual_model: str | Path | Model = "base",
) -> bytes:
    """The bytes of a .nicv file. frames: uint8 (H, W, 3), all of one size, sides up to 2048.

    quality: 1 to 100, of all frames. gop: every gop-th frame stands alone, and others where that costs less. rate:
    frames per second. model: of frames that stand alone; residual_model: of residuals.
    Raises ImageError for frames that do not fit, ArgumentError, ModelNotFoundError.
    """
    index = codec.quality_index(arguments.number("quality", quality, 1, 100))
    gop = arguments.integer("gop", gop, 1)
    intra, inter = (
        codec.network_of(m if isinstance(m, Model) else model_files.load(m)) for m in (model, residual_model)
    )
    weight = float(intra.model.config.lmbda(index / QUALITY_STEPS)) / 3  # of a squared error, in bits
    records: list[nicv.Record] = []
    decoded = np.zeros((0, 0, 3), np.uint8)
    intra_bits = 0.0
    for t, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or max(frame.shape) > nicv.MAX_SIDE:
            raise ImageError(
                f"frame {t} is {frame.dtype} {frame.shape}, expected uint8 (H, W, 3), sides up to {nicv.MAX_SIDE}"
            )
        if t and frame.shape != decoded.shape:
            raise ImageError(f"frame {t} is of shape {frame.shape}, and those before it of {decoded.shape}")
        choices = [_predicted(frame, decoded, inter, index, weight)] if t % gop else []
        if not choices or 16 * len(choices[0][0].payload) > intra_bits:  # a cut, perhaps
            choices.append(_intra(frame, intra, index))
            intra_bits = 8.0 * len(choices[-1][0].payload)
        costs = [8 * len(r.payload) + weight * float(np.square(frame - d.astype(np.float64)).sum()) for r, d in choices]
        record, decoded = choices[int(np.argmin(costs))]
        records.append(record)
    if not records:
        raise ImageError("there are no frames, expected at least one")
    height, width = decoded.shape[:2]
    rate = rate.limit_denominator(1001)
    header = nicv.Header(width, height, len(records), (rate.numerator, rate.denominator), index, inter.model.model_id)
    return nicv.write(header, records)


def decode(data: bytes, *, residual_model: Model | None = None) -> Iterator[Frame]:
    """The frames of a .nicv file, one by one, uint8 (H, W, 3). residual_model: instead of the installed one of its id.

    Raises, when the frames are taken, NicFormatError or a subclass for damaged data, ModelNotFoundError or
    ModelMismatchError for a model. The header, lengths and checksums are checked before the first frame; the contents
    of a frame when it is decoded.
    """
    header, records = nicv.read(data)
    inter = codec.network_of(residual_model or model_files.find(header.model_id))
    codec.check_decodable(_residual_header(header), inter.model)
    decoded = np.zeros((header.height, header.width, 3), np.uint8)
    for t, record in enumerate(records):
        if record.kind == nicv.INTRA:
            nic = container.read(record.payload)
            if (nic.header.width, nic.header.height) != (header.width, header.height):
                raise NicFormatError(
                    f"frame {t} is {nic.header.width}×{nic.header.height}, in a file of {header.width}×{header.height}"
                )
            decoded = codec.decode_picture(nic, codec.network_of(model_files.find(nic.header.model_id))).rgb
        else:
            vectors, residual = nicv.unpack_predicted(record.payload)
            field = motion.decode_vectors(vectors, header.height, header.width, inter.model.tables)
            decoded = motion.Reference(decoded).predict(field)
            if residual is not None:
                nic = container.NicFile(_residual_header(header), {}, (container.Tile(residual[1], residual[0]),))
                decoded = _add(decoded, codec.decode_picture(nic, inter).rgb)
        yield decoded


def _intra(frame: Frame, network: Network, index: int) -> tuple[nicv.Record, Frame]:
    data = codec.encode_picture(Picture(frame), network, index)
    return nicv.Record(nicv.INTRA, data), codec.decode_picture(container.read(data), network).rgb


def _predicted(frame: Frame, previous: Frame, network: Network, index: int, weight: float) -> tuple[nicv.Record, Frame]:
    """A predicted frame and its pixels, with a residual or without, whichever costs less."""
    reference = motion.Reference(previous)
    vectors = motion.search(frame, reference, previous, BIT_COST / (3 * weight) ** 0.5)
    coded, predicted = motion.encode_vectors(vectors, network.model.tables), reference.predict(vectors)
    nic = codec.code_picture(Picture(_subtract(frame, predicted)), network=network, index=index, bare=True)
    (tile,) = nic.tiles
    decoded = _add(predicted, codec.decode_picture(nic, network).rgb)
    saved = weight * float(np.square(frame - predicted.astype(np.float64)).sum())
    saved -= weight * float(np.square(frame - decoded.astype(np.float64)).sum())
    if saved <= 8 * (4 + len(tile.stream)):
        return nicv.Record(nicv.PREDICTED, nicv.pack_predicted(coded, None)), predicted
    payload = nicv.pack_predicted(coded, (tile.symbols_crc, tile.stream))
    return nicv.Record(nicv.PREDICTED, payload), decoded


def _residual_header(header: nicv.Header) -> container.Header:
    return container.Header(header.width, header.height, header.quality_index, header.model_id)


def _subtract(frame: Frame, predicted: Frame) -> Frame:
    """The residual as a picture: 128 where the prediction is right. Differences beyond ±127 are cut."""
    picture: Frame = np.clip(frame.astype(np.int16) - predicted + 128, 0, 255).astype(np.uint8)
    return picture


def _add(predicted: Frame, residual: Frame) -> Frame:
    frame: Frame = np.clip(predicted.astype(np.int16) + residual - 128, 0, 255).astype(np.uint8)
    return frame
