"""Discriminators, the losses of both sides of a GAN, and the feature-matching loss.

Discriminators give logits: a map of scores, positive where a patch looks real. They see whole training crops, never
tiles, so the instance normalisation of the papers does no harm; a generator that decodes tiles must not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.errors import ImageError
from neurocodec.perceptual.features import check_pictures

GanLoss = Literal["minimax", "non-saturating", "least-squares", "hinge"]

MIN_SIDE = 24
"""In pixels. On smaller pictures the last layer has no position."""


def discriminator_loss(real: Tensor, fake: Tensor, kind: GanLoss, *, weight: float = 1.0) -> Tensor:
    """What the discriminator minimises; a scalar. real, fake: its logits r and f for real and generated pictures.

    minimax, non-saturating   E[-log σ(r)] + E[-log(1 - σ(f))]     Goodfellow et al. 2014, eq. 1: binary cross-entropy
    least-squares             ½ E[(r - 1)²] + ½ E[f²]              Mao et al. 2017, eq. 9, with labels 0 and 1
    hinge                     E[max(0, 1 - r)] + E[max(0, 1 + f)]  Lim and Ye 2017; Miyato et al. 2018, eq. 16

    weight: 0.5 slows the discriminator relative to the generator, as in Isola et al. 2017, section 3.3.
    """
    if kind in ("minimax", "non-saturating"):
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
    elif kind == "least-squares":
        loss = 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()
    elif kind == "hinge":
        loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    else:
        raise _unknown(kind)
    return weight * loss


def generator_loss(fake: Tensor, kind: GanLoss) -> Tensor:
    """What the generator minimises; a scalar. fake: the discriminator's logits f for generated pictures.

    minimax           E[log(1 - σ(f))]    Goodfellow et al. 2014, eq. 1: at most 0, flat where the discriminator is sure
    non-saturating    E[-log σ(f)]        the same, section 3
    least-squares     ½ E[(f - 1)²]       Mao et al. 2017, eq. 9
    hinge             E[-f]               Lim and Ye 2017; Miyato et al. 2018, eq. 17
    """
    if kind == "minimax":
        return -F.softplus(fake).mean()
    if kind == "non-saturating":
        return F.softplus(-fake).mean()
    if kind == "least-squares":
        return 0.5 * (fake - 1).square().mean()
    if kind == "hinge":
        return -fake.mean()
    raise _unknown(kind)


def relativistic(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of being more real than the other side's average (Jolicoeur-Martineau 2019; ESRGAN, section 3.2).

    C(x_r) - E[C(x_f)] and C(x_f) - E[C(x_r)]. The discriminator's loss of these two is its own; that of the generator
    is the discriminator's with the sides exchanged, and depends on both.
    """
    return real - fake.mean(), fake - real.mean()


def _unknown(kind: str) -> ValueError:
    return ValueError(f"GAN loss {kind!r}, expected minimax, non-saturating, least-squares or hinge")


def feature_matching_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """sum over layers i of E[1/N_i · ‖D_i(real) - D_i(fake)‖₁] (Wang et al. 2018, pix2pixHD, eq. 4); a scalar.

    real, fake: a discriminator's `features` of real and of generated pictures, usually without the last (the logits).
    N_i is the number of elements of layer i. No gradient flows into `real`. Raises ImageError.
    """
    if not real or [f.shape for f in real] != [f.shape for f in fake]:
        raise ImageError("feature matching of no layers or of different shapes, expected the same shapes for both")
    return torch.stack([(f - r.detach()).abs().mean() for r, f in zip(real, fake, strict=True)]).sum()


class PatchDiscriminator(nn.Module):
    """The 70×70 PatchGAN, C64-C128-C256-C512 (Isola et al., CVPR 2017, appendix 6.1.2): each logit sees 70×70 pixels.

    4×4 convolutions, three of stride 2 and two of stride 1, leaky ReLU of slope 0.2; weights start as N(0, 0.02),
    biases as 0. x: (B, 3, H, W) in [0, 1], sides of at least 24, mapped to [-1, 1] as in the paper; condition:
    (B, condition_channels, H, W), concatenated with x as it is, or None if condition_channels is 0. Gives logits
    (B, 1, ⌊H/8⌋ - 2, ⌊W/8⌋ - 2).

    normalisation: "instance" (without scale and shift) in the second to fourth layer, which equals the paper's batch
    normalisation at its batch size of 1; or "none". With "instance" a logit also depends on the whole crop, through
    means and variances. Raises ImageError.
    """

    def __init__(
        self,
        condition_channels: int = 0,
        *,
        channels: int = 64,
        normalisation: Literal["instance", "none"] = "instance",
    ) -> None:
        super().__init__()
        if normalisation not in ("instance", "none"):
            raise ValueError(f"normalisation {normalisation!r}, expected instance or none")
        self.condition_channels = condition_channels
        widths = (3 + condition_channels, channels, 2 * channels, 4 * channels, 8 * channels)
        self.blocks = nn.ModuleList()
        for i in range(4):
            block: list[nn.Module] = [nn.Conv2d(widths[i], widths[i + 1], 4, 2 if i < 3 else 1, padding=1)]
            if i > 0 and normalisation == "instance":
                block.append(nn.InstanceNorm2d(widths[i + 1]))
            self.blocks.append(nn.Sequential(*block, nn.LeakyReLU(0.2)))
        self.blocks.append(nn.Conv2d(widths[4], 1, 4, padding=1))
        self.apply(_start_small)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.features(x, condition)[-1]

    def features(self, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """The outputs of the five layers; the last are the logits."""
        check_pictures(x, MIN_SIDE, "PatchDiscriminator")
        y = 2 * x - 1
        if self.condition_channels or condition is not None:
            expected = (x.shape[0], self.condition_channels, *x.shape[2:])
            if condition is None or condition.shape != expected:
                given = "no condition" if condition is None else f"a condition of shape {tuple(condition.shape)}"
                raise ImageError(f"PatchDiscriminator got {given}, expected shape {expected}")
            y = torch.cat((y, condition), 1)
        return _each(self.blocks, y)


class HificDiscriminator(nn.Module):
    """HiFiC's discriminator, which sees a picture and its decoded latents (Mentzer et al. 2020, fig. 2).

    y_hat goes through a 3×3 convolution to 12 channels and is upsampled to the picture by repeating each value; 4×4
    convolutions of stride 2, 2, 2, 1, 1 follow, with leaky ReLU of slope 0.2 and spectral normalisation (Miyato et al.
    2018) on every convolution, and no other normalisation: scores do not depend on the size of the crop. As in the
    authors' code, no gradient flows into y_hat and sides are padded with zeros.

    x: (B, 3, H, W) in [0, 1]; y_hat: (B, latent_channels, ceil(H/16), ceil(W/16)). Gives logits (B, 1, ⌊H/8⌋, ⌊W/8⌋).
    Weights start as N(0, 0.02), biases as 0. spectral: False omits spectral normalisation; the discriminator then
    learns about ten times faster, and can outrun the generator. Raises ImageError.
    """

    stride = 16

    def __init__(self, latent_channels: int, *, channels: int = 64, spectral: bool = True) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        widths = (3 + 12, channels, 2 * channels, 4 * channels, 8 * channels)
        prepare = _spectral if spectral else _small
        self.latent = nn.Sequential(prepare(nn.Conv2d(latent_channels, 12, 3, padding=1)), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList()
        for i in range(3):
            conv = nn.Conv2d(widths[i], widths[i + 1], 4, 2, padding=1)
            self.blocks.append(nn.Sequential(prepare(conv), nn.LeakyReLU(0.2)))
        pad = nn.ZeroPad2d((1, 2, 1, 2))  # keeps the size, as padding does in the authors' code
        self.blocks.append(nn.Sequential(pad, prepare(nn.Conv2d(widths[3], widths[4], 4)), nn.LeakyReLU(0.2)))
        self.blocks.append(nn.Sequential(pad, prepare(nn.Conv2d(widths[4], 1, 4))))

    def forward(self, x: Tensor, y_hat: Tensor) -> Tensor:
        return self.features(x, y_hat)[-1]

    def features(self, x: Tensor, y_hat: Tensor) -> list[Tensor]:
        """The outputs of the five layers; the last are the logits."""
        check_pictures(x, MIN_SIDE, "HificDiscriminator")
        height, width = x.shape[2:]
        expected = (x.shape[0], self.latent_channels, -(-height // self.stride), -(-width // self.stride))
        if y_hat.shape != expected:
            raise ImageError(f"HificDiscriminator got y_hat of shape {tuple(y_hat.shape)}, expected {expected}")
        latent = F.interpolate(self.latent(y_hat.detach()), scale_factor=self.stride, mode="nearest")
        return _each(self.blocks, torch.cat((x, latent[:, :, :height, :width]), 1))


def _each(blocks: nn.ModuleList, y: Tensor) -> list[Tensor]:
    outputs = []
    for block in blocks:
        y = block(y)
        outputs.append(y)
    return outputs


def _start_small(module: nn.Module) -> None:
    """N(0, 0.02) for the weights of a convolution, 0 for its bias."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def _small(conv: nn.Conv2d) -> nn.Module:
    _start_small(conv)
    return conv


def _spectral(conv: nn.Conv2d) -> nn.Module:
    wrapped: nn.Module = nn.utils.parametrizations.spectral_norm(_small(conv))
    return wrapped
