"""GAN losses by hand and as cross-entropies; what discriminators see, how they start, how big their scores can get."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.errors import ImageError
from neurocodec.perceptual.adversarial import (
    HificDiscriminator,
    PatchDiscriminator,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)

KINDS: tuple[Any, ...] = ("minimax", "non-saturating", "least-squares", "hinge")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def log_sigmoid(t: float) -> float:
    return -math.log(1 + math.exp(-t))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [  # real logits 2 and 0.5, fake logits -3 and 1
        (
            "minimax",
            -(log_sigmoid(2) + log_sigmoid(0.5)) / 2 - (log_sigmoid(3) + log_sigmoid(-1)) / 2,
            (log_sigmoid(3) + log_sigmoid(-1)) / 2,
        ),
        (
            "non-saturating",
            -(log_sigmoid(2) + log_sigmoid(0.5)) / 2 - (log_sigmoid(3) + log_sigmoid(-1)) / 2,
            -(log_sigmoid(-3) + log_sigmoid(1)) / 2,
        ),
        ("least-squares", (1 + 0.25) / 4 + (9 + 1) / 4, (16 + 0) / 4),
        ("hinge", (0 + 0.5) / 2 + (0 + 2) / 2, (3 - 1) / 2),
    ],
)
def test_losses_by_hand(kind: Any, discriminator: float, generator: float) -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss(real, fake, kind).item() == pytest.approx(discriminator, rel=1e-6)
    assert discriminator_loss(real, fake, kind, weight=0.5).item() == pytest.approx(discriminator / 2, rel=1e-6)
    assert generator_loss(fake, kind).item() == pytest.approx(generator, rel=1e-6)


def test_minimax_is_binary_cross_entropy() -> None:
    real, fake = torch.randn(2, 1, 5, 4), torch.randn(2, 1, 3, 3)
    expected = F.binary_cross_entropy(real.sigmoid(), torch.ones_like(real))
    expected = expected + F.binary_cross_entropy(fake.sigmoid(), torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_loss(real, fake, "minimax"), expected)
    torch.testing.assert_close(
        generator_loss(fake, "minimax"), -F.binary_cross_entropy(fake.sigmoid(), torch.zeros_like(fake))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_side_wants_what_it_should(kind: Any) -> None:
    """One gradient step: the discriminator lifts real scores and lowers fake ones, the generator lifts fake ones."""
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    discriminator_loss(real, fake, kind).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (kind == "least-squares") == bool((fake.grad == 0).all())  # which wants 0 for fakes, and has it
    assert (fake.grad >= 0).all()
    fake.grad = None
    generator_loss(fake, kind).backward()
    assert (fake.grad < 0).all()


def test_where_the_generator_gets_no_gradient() -> None:
    """A discriminator that is sure of a fake leaves the minimax generator without gradient, and not the others."""
    for kind in KINDS:
        fake = torch.tensor([-30.0], requires_grad=True)
        generator_loss(fake, kind).backward()
        assert fake.grad is not None
        assert (abs(fake.grad.item()) < 1e-12) == (kind == "minimax")


@pytest.mark.parametrize("kind", KINDS)
def test_losses_stay_finite(kind: Any) -> None:
    real, fake = torch.tensor([-1e4], requires_grad=True), torch.tensor([1e4], requires_grad=True)
    (discriminator_loss(real, fake, kind) + generator_loss(fake, kind)).backward()
    for logits in (real, fake):
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: Any) -> None:
    real, fake = (torch.randn(2, 1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda r, f: discriminator_loss(r, f, kind, weight=0.5), (real, fake))
    assert torch.autograd.gradcheck(lambda f: generator_loss(f, kind), (fake,))


def test_unknown_loss() -> None:
    for call in (
        lambda k: discriminator_loss(torch.zeros(1), torch.zeros(1), k),
        lambda k: generator_loss(torch.zeros(1), k),
    ):
        with pytest.raises(ValueError, match="GAN loss 'wasserstein', expected minimax"):
            call("wasserstein")


def test_feature_matching_by_hand() -> None:
    real = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    fake = [torch.tensor([0.0, 4.0]), torch.tensor([[-1.0]])]
    assert feature_matching_loss(real, fake).item() == (1 + 2) / 2 + 4
    with pytest.raises(ImageError, match="expected the same shapes"):
        feature_matching_loss(real, fake[:1])
    with pytest.raises(ImageError, match="expected the same shapes"):
        feature_matching_loss([], [])


def test_feature_matching_gradient_is_of_the_fake_side_only() -> None:
    real, fake = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda f: feature_matching_loss([real.detach(), 2 * real.detach()], [f, f]), (fake,)
    )
    feature_matching_loss([real], [fake]).backward()
    assert real.grad is None
    assert fake.grad is not None


def support(scores: Tensor, x: Tensor) -> tuple[slice, slice]:
    """The rows and columns of x on which the score in the middle depends."""
    row, column = scores.shape[2] // 2, scores.shape[3] // 2
    (grad,) = torch.autograd.grad(scores[0, 0, row, column], x)
    seen = (grad != 0).any(1)[0].nonzero()
    low, high = seen.min(0).values.tolist(), (seen.max(0).values + 1).tolist()
    assert len(seen) == (high[0] - low[0]) * (high[1] - low[1]), "a full rectangle"
    return slice(low[0], high[0]), slice(low[1], high[1])


def test_a_patch_has_70_by_70_pixels() -> None:
    network = PatchDiscriminator(channels=8, normalisation="none").double()
    x = torch.rand(1, 3, 160, 152, dtype=torch.float64, requires_grad=True)
    scores = network(x)
    assert scores.shape == (1, 1, 18, 17)
    rows, columns = support(scores, x)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (70, 70)
    for i, expected in enumerate((4, 10, 22, 46)):  # and its layers fewer
        rows, columns = support(network.features(x)[i], x)
        assert rows.stop - rows.start == columns.stop - columns.start == expected


def test_instance_normalisation_sees_the_crop() -> None:
    network = PatchDiscriminator(channels=8).double()
    x = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    assert support(network(x), x) == (slice(0, 160), slice(0, 160))
    with pytest.raises(ValueError, match="normalisation 'batch', expected instance or none"):
        PatchDiscriminator(normalisation="batch")  # type: ignore[arg-type]


def test_patch_discriminator_is_c64_c128_c256_c512() -> None:
    network = PatchDiscriminator(condition_channels=2)
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convs] == [
        (5, 64, 2),
        (64, 128, 2),
        (128, 256, 2),
        (256, 512, 1),
        (512, 1, 1),
    ]
    assert sum(isinstance(module, nn.InstanceNorm2d) for module in network.modules()) == 3
    weights = torch.cat([c.weight.flatten() for c in convs])
    assert weights.mean().item() == pytest.approx(0, abs=1e-4)
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert all((c.bias == 0).all() for c in convs if c.bias is not None)


def test_condition_counts() -> None:
    network = PatchDiscriminator(condition_channels=2, channels=8)
    x, condition = torch.rand(2, 3, 48, 64), torch.randn(2, 2, 48, 64)
    scores = network(x, condition)
    assert scores.shape == (2, 1, 4, 6)
    assert not torch.allclose(scores, network(x, condition.flip(0)))
    assert not torch.allclose(scores, network(x.flip(0), condition))
    features = network.features(x, condition)
    assert [f.shape[1] for f in features] == [8, 16, 32, 64, 1]
    assert torch.equal(features[-1], scores)
    for wrong in (None, condition[:1], condition[:, :1], condition[..., 1:]):
        with pytest.raises(ImageError, match=r"expected shape \(2, 2, 48, 64\)"):
            network(x, wrong)
    with pytest.raises(ImageError, match=r"expected shape \(2, 0, 48, 64\)"):
        PatchDiscriminator(channels=8)(x, condition)


def test_smallest_pictures() -> None:
    assert PatchDiscriminator(channels=8)(torch.rand(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    for network, more in ((PatchDiscriminator(channels=8), ()), (HificDiscriminator(4), (torch.rand(1, 4, 2, 2),))):
        with pytest.raises(ImageError, match="sides at least 24"):
            network(torch.rand(1, 3, 23, 24), *more)


def test_hific_discriminator_is_the_papers() -> None:
    network = HificDiscriminator(20)
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs] == [
        (20, 12, 3, 1),
        (15, 64, 4, 2),
        (64, 128, 4, 2),
        (128, 256, 4, 2),
        (256, 512, 4, 1),
        (512, 1, 4, 1),
    ]
    x, y_hat = torch.rand(2, 3, 50, 70), torch.randn(2, 20, 4, 5)
    assert network(x, y_hat).shape == (2, 1, 6, 8)
    assert [f.shape[1] for f in network.features(x, y_hat)] == [64, 128, 256, 512, 1]
    with pytest.raises(ImageError, match=r"y_hat of shape \(2, 20, 4, 4\), expected \(2, 20, 4, 5\)"):
        network(x, y_hat[..., :4])


def test_hific_latents_count_and_get_no_gradient() -> None:
    network = HificDiscriminator(4, channels=8)
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    y_hat = torch.randn(1, 4, 4, 4, requires_grad=True)
    scores = network.eval()(x, y_hat)
    assert not torch.allclose(scores, network(x, 2 * y_hat))
    scores.sum().backward()
    assert x.grad is not None
    assert y_hat.grad is None


def test_hific_latents_lie_where_their_pixels_are() -> None:
    """Changing one latent changes scores around its own 16×16 pixels, and nothing far away."""
    network = HificDiscriminator(4, channels=8).double().eval()
    x, y_hat = torch.rand(1, 3, 320, 304, dtype=torch.float64), torch.randn(1, 4, 20, 19, dtype=torch.float64)
    changed = y_hat.clone()
    changed[:, :, 10, 4] += 1
    rows, columns = (network(x, changed) - network(x, y_hat))[0, 0].nonzero().unbind(1)
    # latent 10 of the rows reaches, by its 3×3 convolution, pixels 144 to 191, and with 70×70 patches 34 or 35 more
    assert 144 - 40 <= 8 * rows.min() <= 144 < 191 <= 8 * rows.max() + 8 <= 191 + 48
    assert 48 - 40 <= 8 * columns.min() <= 48 < 95 <= 8 * columns.max() + 8 <= 95 + 48


def test_hific_scores_do_not_depend_on_the_crop() -> None:
    """No statistics over positions: far from its border a crop has the scores of the whole picture."""
    network = HificDiscriminator(4, channels=8).double().eval()
    x, y_hat = torch.rand(1, 3, 256, 256, dtype=torch.float64), torch.randn(1, 4, 16, 16, dtype=torch.float64)
    whole, crop = network(x, y_hat), network(x[..., 32:, 48:], y_hat[..., 2:, 3:])
    torch.testing.assert_close(whole[..., 4 + 10 :, 6 + 10 :], crop[..., 10:, 10:])


def test_hific_without_spectral_norm_has_the_same_layers_and_free_norms() -> None:
    kinds = []
    for spectral in (True, False):
        network = HificDiscriminator(6, channels=8, spectral=spectral)
        convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        kinds.append([(conv.weight.shape, conv.stride) for conv in convs])
        norms = [torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() for conv in convs]
        assert spectral is all(norm == pytest.approx(1, rel=0.5) for norm in norms)
    assert kinds[0] == kinds[1]


def test_hific_convolutions_have_spectral_norm_one() -> None:
    network = HificDiscriminator(6, channels=8)
    x, y_hat = torch.rand(1, 3, 32, 32), torch.randn(1, 6, 2, 2)
    for _ in range(50):  # each forward pass in training takes a step of the power iteration
        network(x, y_hat)
    network.eval()
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for conv in convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("make", [lambda: PatchDiscriminator(channels=8), lambda: HificDiscriminator(4, channels=8)])
def test_a_discriminator_learns(make: Any) -> None:
    """Upright stripes are real, lying ones are not: a few dozen steps tell them apart."""
    network = make()
    more = (torch.zeros(2, 4, 2, 2),) if isinstance(network, HificDiscriminator) else ()
    optimiser = torch.optim.Adam(network.parameters(), 4e-3, betas=(0.5, 0.999))
    real = torch.zeros(2, 3, 32, 32)
    real[..., ::8] = 1.0
    losses = []
    for _ in range(30):
        loss = discriminator_loss(network(real, *more), network(real.transpose(2, 3), *more), "hinge", weight=0.5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.2)
    assert losses[-1] < 0.1
