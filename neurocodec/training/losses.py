"""The objective of the base model: rate plus λ times distortion."""

from __future__ import annotations

from torch import Tensor


def rate_distortion_loss(output: dict[str, Tensor], x: Tensor, lmbda: Tensor) -> dict[str, Tensor]:
    """bpp + λ · 255² · MSE of each image (Ballé et al. 2017).

    output: what `Hyperprior.forward` returns; x: (B, 3, H, W) in [0, 1]; lmbda: (B,).
    Returns bpp, z_bpp and mse, each (B,), and `loss`: the mean over images of the cost divided by sqrt(1000 λ), so
    that no quality dominates.
    """
    pixels = x.shape[2] * x.shape[3]
    bpp = (output["y_bits"] + output["z_bits"]) / pixels
    mse = (output["x_hat"].float() - x).square().mean((1, 2, 3))
    cost = bpp + lmbda * 255**2 * mse
    return {"loss": (cost / (1000.0 * lmbda).sqrt()).mean(), "bpp": bpp, "z_bpp": output["z_bits"] / pixels, "mse": mse}
