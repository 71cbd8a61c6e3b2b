"""PSNR and MS-SSIM of arrays, and packages that are not installed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from neurocodec.errors import ImageError
from neurocodec.metrics import ms_ssim, ms_ssim_db, psnr

RNG = np.random.default_rng(3)


def test_psnr_is_of_the_joint_mse() -> None:
    a = np.zeros((1, 2, 3), np.uint8)
    b = a.copy()
    b[0, 0] = [3, 0, 0]
    b[0, 1] = [0, 0, 255]
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 * 6 / (9 + 255**2)))
    assert psnr(b, a) == psnr(a, b)
    assert psnr(a, a) == math.inf
    assert psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)) == 0.0


def test_psnr_of_strided_arrays() -> None:
    a, b = RNG.integers(0, 256, (2, 20, 31, 3), dtype=np.uint8)
    expected = 10 * math.log10(255**2 / np.mean((a[::2, ::-1].astype(float) - b[::2, ::-1]) ** 2))
    assert psnr(a[::2, ::-1], b[::2, ::-1]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.uint8)),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)),
        (np.zeros((0, 2, 3), np.uint8), np.zeros((0, 2, 3), np.uint8)),
    ],
)
def test_pairs_that_do_not_fit(a: Any, b: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        psnr(a, b)


def test_ms_ssim() -> None:
    pytest.importorskip("pytorch_msssim")
    a = np.repeat(np.repeat(RNG.integers(0, 256, (23, 25, 3), dtype=np.uint8), 7, 0), 7, 1)
    noisy, noisier = (
        np.clip(a + RNG.normal(0, sigma, a.shape), 0, 255).astype(np.uint8) for sigma in (5, 25)
    )  # fmt: skip
    assert ms_ssim(a, a) == pytest.approx(1.0)
    assert 1 > ms_ssim(a, noisy) > ms_ssim(a, noisier) > 0
    assert ms_ssim_db(0.99) == pytest.approx(20.0)
    assert ms_ssim_db(1.0) == math.inf


@pytest.mark.parametrize("shape", [(160, 400, 3), (400, 160, 3), (200, 200), (200, 200, 4)])
def test_ms_ssim_refuses_what_it_cannot_measure(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="above 160"):
        ms_ssim(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
