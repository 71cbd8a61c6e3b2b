"""Makes the conformance vectors: `python tests/golden/make.py small`, `base` for those that ship, or `video`.

Run `small` and `video` only for a new format version, and `base` only for new weights: the committed files are a
promise. small.safetensors is a tiny model with random weights, so that the vectors outlive the weights of `base`;
unfiltered/ holds its vectors from before encoders wrote filters, filtered/ those from before they wrote palettes and
streams of z.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from neurocodec import codec, container, model
from neurocodec.conformance import SOURCES, VECTORS, Source, write_vectors
from neurocodec.image import Picture
from neurocodec.model import HyperpriorConfig, Model
from neurocodec.models.freeze import freeze
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.synthesis import motion, nicv, sequence

HERE = Path(__file__).parent
CASES = {
    "photo-64x48-q100": Source(100, (200, 100, 64, 48)),
    "photo-37x23-q500": Source(500, (220, 60, 37, 23)),
    "photo-70x65-q960": Source(960, (150, 150, 70, 65)),
    "pixel-1x1-q480": Source(480, (10, 10, 1, 1)),
    "gray-33x17-q480": Source(480, (200, 100, 33, 17), "L"),
    "alpha-20x20-q480": Source(480, (200, 100, 20, 20), "RGBA"),
    "lossless-37x23-q480": Source(480, (220, 60, 37, 23), lossless=True),
    "deep-30x20-q700": Source(700, (200, 100, 30, 20), depth=16),
    "drawing-130x70-q601": Source(601, kind="drawing"),
}


def small_model() -> Model:
    """A model of 8 to 16 channels whose latents have a spread of scales. Its pictures look like nothing."""
    torch.manual_seed(1)
    network = Hyperprior(
        HyperpriorConfig(
            channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8, encoder_blocks=1, latent_blocks=1
        )
    )
    with torch.no_grad():
        gains = torch.linspace(0.0, 5.0, 16)[:, None] + torch.linspace(-2.0, 2.0, 16)[None]
        network.g_a.log_y_gain.weight.copy_(gains)
        network.g_s.log_y_gain.weight.copy_(-gains)
        network.prediction.bias.weight[:, 16:] = (gains / 0.112 + 20.0).clamp(0, 60) / 8.0
        network.prediction.head.weight.normal_(0.0, 0.1)
        for context in network.contexts:
            context.head.weight.normal_(0.0, 0.1)
            context.phase_bias.normal_(0.0, 0.1)
        network.h_a.down2.weight.mul_(10.0)
        network.g_s.head.weight.mul_(0.3)
    return freeze(network)


def small_sequence() -> bytes:
    """A .nicv file of five frames: alone, moved, moved with a residual, moved again, alone.

    The encoder would leave the residual out, because it costs more than the small model's pictures gain.
    """
    small = model.load(HERE / "model" / "small.safetensors")
    network, index = codec.network_of(small), 700
    frames = [Source(index, (200 + 3 * t, 100 + t, 52, 37)).picture().rgb for t in range(5)]
    data = sequence.encode(frames, quality=70, gop=4, model=small, residual_model=small)
    header, records = nicv.read(data)
    vectors, _ = nicv.unpack_predicted(records[2].payload)
    tile = container.read(codec.encode_picture(Picture(frames[2]), network, header.quality_index)).tiles[0]
    field = motion.decode_vectors(vectors, *frames[2].shape[:2], small.tables)
    field[1, 2] += (-9, 30)  # a block of its own
    payload = nicv.pack_predicted(motion.encode_vectors(field, small.tables), (tile.symbols_crc, tile.stream))
    records[2] = nicv.Record(nicv.PREDICTED, payload)
    return nicv.write(header, records)


def main() -> None:
    """The small model and its vectors with the argument `small`; the vectors of the shipped model with `base`; the
    sequence with `video`, for which NEUROCODEC_WEIGHTS names the folder `model`."""
    if sys.argv[1:] == ["small"]:
        path = HERE / "model" / "small.safetensors"
        small_model().save(path)
        write_vectors(HERE / "valid", codec.network_of(model.load(path)), CASES)
    elif sys.argv[1:] == ["base"]:
        write_vectors(VECTORS, codec.network_of(model.load("base")), SOURCES)
    elif sys.argv[1:] == ["video"]:
        (HERE / "video").mkdir(exist_ok=True)
        (HERE / "video" / "moved.nicv").write_bytes(data := small_sequence())
        frames = np.stack(list(sequence.decode(data)))
        expected = {"shape": frames.shape, "sha256": hashlib.sha256(frames.tobytes()).hexdigest()}
        (HERE / "video" / "expected.json").write_text(json.dumps(expected) + "\n")
    else:
        sys.exit("usage: make.py small|base|video")


if __name__ == "__main__":
    main()
