"""Measures of pictures and codecs: PSNR, MS-SSIM, Bjøntegaard deltas. What goes beyond NumPy is imported when used."""

from neurocodec.errors import MissingPackageError
from neurocodec.metrics.bd_rate import BdResult, bd_psnr, bd_rate
from neurocodec.metrics.ms_ssim import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_available, ms_ssim_db
from neurocodec.metrics.psnr import psnr

__all__ = [
    "MS_SSIM_MIN_SIDE",
    "BdResult",
    "MissingPackageError",
    "bd_psnr",
    "bd_rate",
    "ms_ssim",
    "ms_ssim_available",
    "ms_ssim_db",
    "psnr",
]
