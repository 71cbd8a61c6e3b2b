"""Shared fixtures: the small golden model, a photograph, and pictures from the data folder where there is one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run on all cores already; read when numpy and torch are imported

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import PHOTO, ROOT, SMALL_MODEL
from PIL import Image

from neurocodec import checkpoint

# Shells start background jobs with SIGINT ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_model() -> checkpoint.Model:
    """The committed model of a few tens of kilobytes: its files are exact, its pictures look like nothing."""
    return checkpoint.load(SMALL_MODEL, device="cpu")


@pytest.fixture(scope="session")
def base_model() -> checkpoint.Model:
    """The shipped model."""
    return checkpoint.load("base", device="cpu")


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """The bundled photograph, (512, 512, 3)."""
    return np.asarray(Image.open(PHOTO).convert("RGB"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of test pictures (NEUROCODEC_DATA, or shared/data beside the checkout); skips where there is none."""
    for candidate in (os.environ.get("NEUROCODEC_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "kodak").is_dir():
            return Path(candidate)
    pytest.skip("no picture data sets here: set NEUROCODEC_DATA to a folder that holds kodak/")
