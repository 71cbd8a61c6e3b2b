"""Distortion measures: PSNR and MS-SSIM. What goes beyond NumPy is imported when used."""

from neurocodec.metrics.ms_ssim import MS_SSIM_MIN_SIDE, ms_ssim, ms_ssim_available, ms_ssim_db
from neurocodec.metrics.psnr import psnr

__all__ = ["MS_SSIM_MIN_SIDE", "ms_ssim", "ms_ssim_available", "ms_ssim_db", "psnr"]
