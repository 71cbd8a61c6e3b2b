"""Shared fixtures: the small golden model, a photograph, and pictures from the data folder if there is one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: tests run on all cores

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from paths import PHOTO, ROOT, SMALL_MODEL
from PIL import Image

from neurocodec import model as model_files
from neurocodec.model import Model

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
# Shells start background jobs with SIGINT ignored, nohup ignores SIGHUP, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def small_model() -> Model:
    """The committed model of a few tens of kilobytes: its files are exact, its pictures unrecognisable."""
    return model_files.load(SMALL_MODEL)


@pytest.fixture(scope="session")
def base_model() -> Model:
    """The shipped model."""
    return model_files.load("base")


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """The bundled photograph, (512, 512, 3)."""
    return np.asarray(Image.open(PHOTO).convert("RGB"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of test pictures (NEUROCODEC_DATA, or shared/data beside the checkout); skips if there is none."""
    for candidate in (os.environ.get("NEUROCODEC_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "kodak").is_dir():
            return Path(candidate)
    pytest.skip("no picture data sets here: set NEUROCODEC_DATA to a folder that holds kodak/")
