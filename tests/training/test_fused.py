"""The fused training pass against the plain one in float32."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from training.runs import rows, train

from neurocodec import model as model_files
from neurocodec.conformance import Source
from neurocodec.errors import ConfigError
from neurocodec.models.freeze import thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.training.config import load_config
from neurocodec.training.fused import FusedHyperprior
from neurocodec.training.rate_distortion import rate_distortion_loss

pytest.importorskip("ninja", reason="ninja is not installed: pip install '.[train]'")
if not shutil.which("c++"):
    pytest.skip("no C++ compiler here", allow_module_level=True)


@pytest.fixture(scope="module")
def plain() -> Hyperprior:
    return thaw(model_files.load("base"))


def losses(model: Hyperprior, *, bfloat16: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The losses of two crops at two qualities, and the gradient of each parameter."""
    crops = [Source(480, (left, 60, 128, 128)).picture().rgb for left in (180, 300)]
    x = torch.stack([torch.from_numpy(rgb.copy()).permute(2, 0, 1) / 255 for rgb in crops])
    index = torch.tensor([4.3, 9.0])
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        output = model(x.contiguous(memory_format=torch.channels_last), index)
    parts = rate_distortion_loss(output, x, model.config.lmbda(index))
    parts["loss"].backward()
    return parts, {name: parameter.grad for name, parameter in model.named_parameters()}


def test_losses_and_gradients_are_those_of_float32(plain):
    fused = FusedHyperprior(plain.config)
    fused.load_state_dict(plain.state_dict())
    expected, slopes = losses(plain, bfloat16=False)
    actual, fused_slopes = losses(fused, bfloat16=True)
    _, half_slopes = losses(copy.deepcopy(plain), bfloat16=True)
    for part in ("loss", "bpp", "z_bpp", "mse"):
        torch.testing.assert_close(actual[part], expected[part], rtol=0.01, atol=0.0)

    def agreement(gradients: dict[str, torch.Tensor], part: str) -> float:
        names = [name for name in slopes if name.startswith(part)]
        cosines = [F.cosine_similarity(gradients[n].flatten(), slopes[n].flatten(), dim=0) for n in names]
        return float(torch.stack(cosines).mean())

    # Residuals, and so g_a, h_a and the contexts, get the gradient of random noise, which differs between the two.
    for part, least in {"g_s": 0.85, "h_s": 0.95, "z_index": 0.99, "g_a": 0.6, "h_a": 0.6, "contexts": 0.6}.items():
        assert agreement(fused_slopes, part) > least
    assert agreement(fused_slopes, "g_s") > agreement(half_slopes, "g_s")


def test_float32_takes_the_plain_pass(plain):
    fused = FusedHyperprior(plain.config)
    fused.load_state_dict(plain.state_dict())
    assert torch.equal(losses(fused, bfloat16=False)[0]["loss"], losses(plain, bfloat16=False)[0]["loss"])


def test_a_run_learns(config_file, tmp_path):
    overrides = ["training.steps=60", "training.log_every=10", "training.fused=true", "training.precision=bfloat16"]
    train(config_file, tmp_path, [*overrides, "training.learning_rate=5e-3", "training.rows_learning_rate=2e-2"])
    losses = [row["loss"] for row in rows(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("override", ["training.precision=float32", "training.device=cuda"])
def test_only_bfloat16_on_a_cpu(config_file, override):
    overrides = ["training.precision=bfloat16", override, "training.fused=true"]
    with pytest.raises(ConfigError, match=r"training\.fused is for"):
        load_config(config_file, overrides)
