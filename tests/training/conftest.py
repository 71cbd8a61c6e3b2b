"""Fixtures of tiny runs: of the base model, unless a test asks for another kind."""

from __future__ import annotations

import pytest
import torch
from training.runs import OBJECTIVES, tiny_lpips, write_config, write_pictures

from neurocodec.training import realism


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(realism, "load_lpips", lambda *_: tiny_lpips())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory, photo):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "photographs", photo)


@pytest.fixture(params=["rate-distortion"])
def kind(request):
    """The objective of the configuration, a key of OBJECTIVES; tests set it by indirect parameters."""
    assert request.param in OBJECTIVES
    return request.param


@pytest.fixture
def config_file(tmp_path, pictures, kind):
    """The configuration of a tiny run of six steps."""
    return write_config(tmp_path / "tiny.toml", kind, pictures)
