"""Bits and PSNR of real files, which validation gives beside the estimates of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from neurocodec import codec, container
from neurocodec.image import Picture
from neurocodec.metrics import psnr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neurocodec.checkpoint import Model


def real_file_points(model: Model, pictures: Sequence[NDArray[np.uint8]], quality_index: float) -> dict[str, float]:
    """Encodes and decodes each picture as a .nic file: {"file_bpp": mean, "file_psnr": mean of per-image dB}.

    model: frozen. pictures: uint8 (H, W, 3), at least one. quality_index: row of the model, fractional; files hold it
    in 1/64. Raises ValueError without pictures.
    """
    if not pictures:
        raise ValueError("found no pictures, expected at least one")
    bpps, psnrs = [], []
    for rgb in pictures:
        data = codec.encode_picture(Picture(rgb), model, round(64 * quality_index))
        decoded = codec.decode_picture(container.read(data), model)
        bpps.append(8.0 * len(data) / (rgb.shape[0] * rgb.shape[1]))
        psnrs.append(psnr(rgb, decoded.rgb))
    return {"file_bpp": float(np.mean(bpps)), "file_psnr": float(np.mean(psnrs))}
