"""Makes the small model and the conformance vectors: `python tests/golden/make.py`.

Run it only for a new format version: the committed files are a promise, and old ones must keep decoding.
small.safetensors is a tiny model with random weights, so that the vectors outlive the weights of `base`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neurocodec import checkpoint, codec, container, image
from neurocodec.models.hyperprior import Hyperprior, HyperpriorConfig
from neurocodec.tiling import Window

HERE = Path(__file__).parent
CASES = {
    "photo-64x48-q100": ((200, 100, 64, 48), 100, "RGB"),
    "photo-37x23-q500": ((220, 60, 37, 23), 500, "RGB"),
    "photo-70x65-q960": ((150, 150, 70, 65), 960, "RGB"),
    "pixel-1x1-q480": ((10, 10, 1, 1), 480, "RGB"),
    "gray-33x17-q480": ((200, 100, 33, 17), 480, "L"),
    "alpha-20x20-q480": ((200, 100, 20, 20), 480, "RGBA"),
}


def small_model() -> checkpoint.Model:
    """A model of 8 to 16 channels whose latents have a spread of scales. Its pictures look like nothing."""
    torch.manual_seed(1)
    model = Hyperprior(HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8))
    with torch.no_grad():
        gains = torch.linspace(0.0, 5.0, 16)[:, None] + torch.linspace(-2.0, 2.0, 16)[None]
        model.g_a.log_y_gain.weight.copy_(gains)
        model.g_s.log_y_gain.weight.copy_(-gains)
        model.prediction.bias.weight[:, 16:] = (gains / 0.112 + 20.0).clamp(0, 60) / 8.0
        model.prediction.head.weight.normal_(0.0, 0.1)
        for context in model.contexts:
            context.head.weight.normal_(0.0, 0.1)
            context.phase_bias.normal_(0.0, 0.1)
        model.h_a.down2.weight.mul_(10.0)
        model.g_s.head.weight.mul_(0.3)
    return checkpoint.freeze(model)


def picture(case: str) -> image.Picture:
    """The source picture of a case, cut from the photograph that ships with the package."""
    (x, y, width, height), _, mode = CASES[case]
    photo = Image.open(HERE.parents[1] / "neurocodec" / "cli" / "astronaut.png").convert("RGB")
    crop = photo.crop((x, y, x + width, y + height))
    if mode == "RGBA":
        crop.putalpha(Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)))
    return image.load(crop.convert(mode))


def latents_digest(data: bytes, model: checkpoint.Model) -> str:
    """SHA-256 of y_hat in sixteenths, little-endian int32 (row, column, channel), of a single-tile file."""
    nic = container.read(data)
    window = Window(0, 0, -(-nic.header.height // 16), -(-nic.header.width // 16))
    y_hat = codec._decode_latents(nic.tiles[0], window, model, nic.header.quality_index)
    return hashlib.sha256(np.ascontiguousarray(y_hat, "<i4").tobytes()).hexdigest()


def main() -> None:
    model_path = HERE / "model" / "small.safetensors"
    small_model().save(model_path)
    model = checkpoint.load(model_path, device="cpu")
    expected = {}
    for case, (_, index, _) in CASES.items():
        data = codec.encode_picture(picture(case), model, index)
        (HERE / "valid" / f"{case}.nic").write_bytes(data)
        decoded = codec.decode_picture(container.read(data), model)
        Image.fromarray(decoded.rgb).save(HERE / "valid" / f"{case}.png", optimize=True)
        expected[case] = {
            "nic_sha256": hashlib.sha256(data).hexdigest(),
            "y_hat_sha256": latents_digest(data, model),
            "model_id": model.model_id.hex(),
        }
    (HERE / "valid" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
