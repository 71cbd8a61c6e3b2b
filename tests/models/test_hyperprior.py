"""The base model: shapes, the transform start, complexity, receptive field."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurocodec.model import HyperpriorConfig
from neurocodec.models.complexity import count_macs
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.layers import QualityRows, colour_dct_matrix, haar_matrix, lower_bound, ste_round

TINY = HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8)


def test_transforms_start_orthonormal():
    for matrix in (colour_dct_matrix(), haar_matrix()):
        assert torch.allclose(matrix @ matrix.T, torch.eye(matrix.shape[0], dtype=torch.float64), atol=1e-12)


def test_transform_start_reconstructs_a_photograph(photo):
    torch.manual_seed(0)
    model = Hyperprior()
    x = torch.from_numpy(photo[:256, :256].copy()).permute(2, 0, 1)[None].float() / 255
    model.start_as_transform_codec([x])
    with torch.no_grad():
        mses = []
        for row in (3.0, 9.0, 15.0):
            q = torch.tensor([row])
            mses.append((model(x, q)["x_hat"] - x).square().mean().item())
    psnrs = [-10 * np.log10(m) for m in mses]
    assert psnrs == sorted(psnrs)
    assert psnrs[0] > 26
    assert psnrs[2] > 33


def test_shapes_and_gradients():
    torch.manual_seed(0)
    model = Hyperprior(TINY)
    x = torch.rand(2, 3, 64, 128)
    output = model(x, torch.tensor([0.0, 14.9]))
    assert output["x_hat"].shape == x.shape
    assert output["y_bits"].shape == output["z_bits"].shape == (2,)
    (output["x_hat"].square().sum() + output["y_bits"].sum() + output["z_bits"].sum()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing


def test_quality_rows_interpolate_and_include_the_ends():
    rows = QualityRows(3, 1)
    with torch.no_grad():
        rows.weight.copy_(torch.tensor([[0.0], [1.0], [4.0]]))
        assert rows(torch.tensor([0.0, 0.5, 1.5, 2.0])).flatten().tolist() == [0.0, 0.5, 2.5, 4.0]


def test_rounding_and_bound_gradients():
    x = torch.tensor([0.4, 1.6], requires_grad=True)
    ste_round(x).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    (-lower_bound(x, 0.0)).sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0]  # a gradient that raises x passes below the bound
    x.grad = None
    lower_bound(x, 0.0).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0]


def test_complexity_of_a_known_layer_and_of_the_base_model():
    macs = count_macs(Hyperprior())
    assert macs["decoder"] <= 20_000  # MAC a pixel: the design's limits
    assert macs["encoder"] <= 40_000
    assert macs["decoder"] == pytest.approx(macs["g_s"] + macs["entropy"], rel=1e-9)
    config = HyperpriorConfig(
        channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8, encoder_blocks=0, latent_blocks=0
    )
    assert count_macs(Hyperprior(config))["g_a"] == pytest.approx(192 * 8 / 64 + 32 * 16 / 256)


@torch.no_grad()
@pytest.mark.parametrize("part", ["analysis", "synthesis"])
def test_halos_cover_the_receptive_field(part):
    torch.manual_seed(0)
    model = Hyperprior(TINY)
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.05)
    q = torch.tensor([3.0])
    if part == "analysis":
        network, x, border, scale = model.g_a, torch.rand(1, 3, 224, 224), (7 - TINY.analysis_halo) * 16, 1
    else:
        network, x, border, scale = model.g_s, torch.randn(1, 16, 14, 14), 7 - TINY.synthesis_halo, 16
    outside = x.clone()
    outside[..., :border] = 0.0
    a, b = network(x, q), network(outside, q)
    assert torch.allclose(a[..., 7 * scale :], b[..., 7 * scale :], atol=1e-5)
    assert not torch.allclose(a[..., : 7 * scale], b[..., : 7 * scale], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels is 0; it must be from 1 to 1024"),
        ({"latent_blocks": -1}, "latent_blocks is -1; it must be from 0 to 16"),
        ({"latent_channels": 18}, "multiple of 4"),  # the last two would never be coded
        ({"quality_rows": 8}, "files count qualities on 16 rows"),  # quality 100 would be far beyond the last
        ({"lambda_min": 0.0}, "lambda_min must be above 0"),
        ({"lambda_max": 0.0001}, "lambda_max no less"),
    ],
)
def test_impossible_shapes(change, message):
    with pytest.raises(ValueError, match=message):
        HyperpriorConfig(**change)
