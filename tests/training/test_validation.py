"""The points of real files that validation gives beside its estimates."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from neurocodec import codec, container
from neurocodec.checkpoint import Model
from neurocodec.image import Picture
from neurocodec.metrics import psnr
from neurocodec.training.validation import real_file_points


def test_real_file_points(small_model: Model, photo: NDArray[np.uint8]) -> None:
    pictures = [photo[:64, :96], photo[100:140, 50:101]]
    found = real_file_points(small_model, pictures, 7.51)
    files = [codec.encode_picture(Picture(rgb), small_model, round(64 * 7.51)) for rgb in pictures]
    bpps = [8 * len(data) / (rgb.shape[0] * rgb.shape[1]) for data, rgb in zip(files, pictures, strict=True)]
    decoded = [codec.decode_picture(container.read(data), small_model).rgb for data in files]
    assert found == {
        "file_bpp": pytest.approx(np.mean(bpps)),
        "file_psnr": pytest.approx(np.mean([psnr(a, b) for a, b in zip(pictures, decoded, strict=True)])),
    }
    with pytest.raises(ValueError, match="no pictures"):
        real_file_points(small_model, [], 1.0)
