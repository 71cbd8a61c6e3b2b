"""Measures of pictures and codecs: PSNR, MS-SSIM, Bjøntegaard deltas, Fréchet and kernel distances.

What goes beyond NumPy is imported when used.
"""

from neurocodec.errors import MissingPackageError
from neurocodec.metrics.bd_rate import BdResult, Interval, bd_psnr, bd_rate, bootstrap
from neurocodec.metrics.fid import frechet_distance, kernel_distance
from neurocodec.metrics.ms_ssim import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_available, ms_ssim_db
from neurocodec.metrics.psnr import psnr

__all__ = [
    "MS_SSIM_MIN_SIDE",
    "BdResult",
    "Interval",
    "MissingPackageError",
    "bd_psnr",
    "bd_rate",
    "bootstrap",
    "frechet_distance",
    "kernel_distance",
    "ms_ssim",
    "ms_ssim_available",
    "ms_ssim_db",
    "psnr",
]
