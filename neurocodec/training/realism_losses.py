"""The objectives of a generative decoder and its discriminator.

Every term is (B,), a value for each picture, because each picture of a batch has its own realism β.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neurocodec.perceptual.adversarial import HificDiscriminator, feature_matching_loss, generator_loss
from neurocodec.perceptual.lpips import LPIPS
from neurocodec.perceptual.style import gram_matrix, style_loss
from neurocodec.training.config import RealismConfig

REPEATED = 8
"""Pixels: the step of the features before PixelShuffle, which makes a grid of this period.

Grids of 16 would include it, but a window has a quarter of their cells, and LPIPS was 8 % worse for it.
"""
WINDOW = 64
"""Pixels: the side of the windows in which a repeated pattern is sought."""


def picture_terms(x: Tensor, x_hat: Tensor, detail: Tensor, lpips: LPIPS, realism: RealismConfig) -> dict[str, Tensor]:
    """mse and lpips of x_hat from x, both (B, 3, H, W), x in [0, 1]; style and pattern if they have a weight.

    detail: what β added to x_hat, (B, 3, H, W), H and W multiples of 64 if pattern has a weight.
    """
    terms = {"mse": (x_hat - x).square().mean((1, 2, 3)), "lpips": lpips(x_hat, x)}
    if realism.pattern_weight > 0:
        terms["pattern"] = 255**2 * repeated_energy(detail.float())
    if realism.style_weight > 0:
        with torch.no_grad():
            grams = {layer: gram_matrix(features) for layer, features in lpips.network(x).items()}
        terms["style"] = style_loss(lpips.network(x_hat), grams)
    return terms


def repeated_energy(detail: Tensor) -> Tensor:
    """The mean square of what repeats every 8 pixels within windows of 64², (B,), of detail (B, C, H, W).

    That is, of a window's average over its cells of 8², each less its mean; less what chance leaves of noise and
    texture in such an average, and at least 0 in each window.
    """
    b, c, height, width = detail.shape
    cells = WINDOW // REPEATED
    windows = detail.reshape(b, c, height // WINDOW, cells, REPEATED, width // WINDOW, cells, REPEATED)
    windows = windows - windows.mean((4, 7), keepdim=True)
    average = windows.mean((3, 6), keepdim=True)
    with torch.no_grad():  # or the generator would be paid for noise
        chance = (windows - average).square().mean((1, 3, 4, 6, 7)) / (cells**2 - 1)
    return (average.square().mean((1, 3, 4, 6, 7)) - chance).clamp(min=0.0).mean((1, 2))


def adversarial_terms(
    discriminator: HificDiscriminator, x: Tensor, x_hat: Tensor, condition: Tensor, realism: RealismConfig
) -> dict[str, Tensor]:
    """gan, and matching if it has a weight: what the discriminator makes of x_hat. No gradient flows into its weights.

    condition: what the discriminator takes as y_hat, (B, M, H/16, W/16).
    """
    with frozen(discriminator):
        features = discriminator.features(x_hat, condition)
        terms = {"gan": torch.stack([generator_loss(logits, realism.gan) for logits in features[-1]])}
        if realism.matching_weight > 0:
            with torch.no_grad():
                originals = discriminator.features(x, condition)[:-1]
            pairs = zip(zip(*originals, strict=True), zip(*features[:-1], strict=True), strict=True)
            terms["matching"] = torch.stack([feature_matching_loss(real, fake) for real, fake in pairs])
    return terms


def left_to_invent(quality_index: Tensor, rows: int) -> Tensor:
    """The weight of each picture in the adversarial game, (B,): (1 - q / (rows - 1))², and never quite 0.

    HiFiC trains at low rates only. Near the highest quality the pictures of both sides are the same, and a
    discriminator that has to tell them apart learns nothing from them but noise.
    """
    return (1.0 - quality_index / (rows - 1)).square().clamp(min=1e-3)


def generator_objective(terms: dict[str, Tensor], beta: Tensor, realism: RealismConfig) -> Tensor:
    """k_M · 255² · mse + β^n · (k_P · lpips + k_G · gan + k_F · matching + k_S · style + k_R · pattern) + rate_loss.

    HiFiC's objective (Mentzer et al. 2020, section 3), with all but MSE and rate times a power of each picture's β: n
    is 1 in multi-realism compression (Agustsson et al. 2023), but then half of β has nearly all of the effect. beta and
    each term: (B,), as is what is returned. Terms that are missing count as 0.
    """
    weights = {name: getattr(realism, f"{name}_weight") for name in ("lpips", "gan", "matching", "style", "pattern")}
    loss = realism.mse_weight * 255**2 * terms["mse"]
    for name, weight in weights.items():
        if name in terms:
            loss = loss + beta**realism.exponent * weight * terms[name]
    return loss + terms.get("rate_loss", 0.0)


def two_sided_lambda(bpp: Tensor, target_bpp: Tensor, lmbda: Tensor, realism: RealismConfig) -> Tensor:
    """The weight of each picture's rate: large above its target, small below; (B,), without gradient.

    λ_a or λ_b of HiFiC (Mentzer et al. 2020, section 3), times k_M / λ, which is what a bit was worth when the base
    model was trained: lmbda is its λ at the picture's quality index.
    """
    side = torch.where(bpp.detach() > target_bpp, realism.lambda_above, realism.lambda_below)
    return side * realism.mse_weight / lmbda


def probability(logits: Tensor, kind: str) -> Tensor:
    """Scores as probabilities of being an original: 0 and 1 are the discriminator's goals for either side."""
    if kind == "hinge":
        return (0.5 + 0.5 * logits).clamp(0.0, 1.0)
    return logits.clamp(0.0, 1.0) if kind == "least-squares" else logits.sigmoid()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Graphs that are built inside give the network's parameters no gradient."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
