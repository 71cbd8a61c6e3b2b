"""Tensors <-> 8-bit pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurocodec.errors import ImageError
from neurocodec.models.pixels import from_tensor, to_tensor


def test_tensor_round_trip_is_exact() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = to_tensor(levels)
    assert (x.shape, x.dtype, float(x.min()), float(x.max())) == ((1, 3, 16, 16), torch.float32, 0.0, 1.0)
    np.testing.assert_array_equal(from_tensor(x), levels)
    np.testing.assert_array_equal(from_tensor(to_tensor(levels[:, ::-1])), levels[:, ::-1])


def test_from_tensor_clamps_and_rounds_halves_up() -> None:
    x = torch.tensor([-9.0, 0.5 / 255, 2.5 / 255, 0.49 / 255, 9.0, float("inf")]).reshape(1, 3, 1, 2)
    assert from_tensor(x).transpose(2, 0, 1).reshape(-1).tolist() == [0, 1, 3, 0, 255, 255]
    with pytest.raises(ImageError, match="NaN"):
        from_tensor(torch.full((1, 3, 1, 1), float("nan")))
