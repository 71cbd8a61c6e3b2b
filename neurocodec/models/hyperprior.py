"""The base model: a variable-rate mean-scale hyperprior with four context passes, all at low resolution.

x ─PixelUnshuffle(8)→ g_a → y (M, 1/16) ─ h_a → z (N, 1/64)
z_hat ─ h_s → features ─┬ context pass 0 → means, scale indexes of a quarter of y
                        └ context passes 1..3, each seeing the quarters decoded before it
y_hat ─ g_s → PixelShuffle(8) → x_hat
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.entropy.grid import (
    ACTIVATION_BITS,
    HIDDEN_MAX,
    MEAN_BITS,
    PASSES,
    SCALE_MIN,
    index_of_scale,
    lattice,
)
from neurocodec.model import HyperpriorConfig
from neurocodec.models.layers import (
    Block,
    Depthwise,
    Pointwise,
    QualityRows,
    colour_dct_matrix,
    haar_matrix,
    on_grid,
    ste_round,
)
from neurocodec.models.rate import training_bits

ACTIVATION_MAX = HIDDEN_MAX / 2.0**ACTIVATION_BITS
"""Hidden activations of the entropy path are clamped to [0, 127], to fit 16 bits with 8 fractional bits."""
INDEX_UNIT = 8.0
"""Networks predict scale indexes in units of 8 rows (about 0.9 nats)."""
MEAN_INPUT = 1.0 / 8.0
"""Decoded latents enter the context networks divided by 8, next to log2(1 + |y_hat|)."""


class Analysis(nn.Module):
    """g_a: x (B, 3, H, W) in [0, 1], H and W multiples of 16 -> y (B, M, H/16, W/16) in quantisation steps."""

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        channels, latent = config.channels, config.latent_channels
        self.stem = Pointwise(192, channels)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(config.encoder_blocks)))
        self.log_gain = QualityRows(config.quality_rows, channels)
        self.down = Pointwise(4 * channels, latent)
        self.latent_blocks = nn.Sequential(*(Block(latent) for _ in range(config.latent_blocks)))
        self.log_y_gain = QualityRows(config.quality_rows, latent)

    def forward(self, x: Tensor, quality_index: Tensor) -> Tensor:
        u = self.stem(F.pixel_unshuffle(x - 0.5, 8))  # (B, C, H/8, W/8)
        u = self.blocks(u) * self.log_gain(quality_index).exp()
        u = self.down(F.pixel_unshuffle(u, 2))  # (B, M, H/16, W/16)
        y: Tensor = self.latent_blocks(u).float() * self.log_y_gain(quality_index).exp()
        return y


class Synthesis(nn.Module):
    """g_s: y_hat (B, M, H/16, W/16) in quantisation steps -> x_hat (B, 3, H, W), about [0, 1], not clamped."""

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        channels, latent = config.channels, config.latent_channels
        self.log_y_gain = QualityRows(config.quality_rows, latent)
        self.latent_blocks = nn.Sequential(*(Block(latent) for _ in range(config.latent_blocks)))
        self.up = Pointwise(latent, 4 * channels)
        self.log_gain = QualityRows(config.quality_rows, channels)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(config.decoder_blocks)))
        self.log_head_gain = nn.Parameter(torch.zeros(channels))
        self.head = Pointwise(channels, 192)

    def forward(self, y_hat: Tensor, quality_index: Tensor) -> Tensor:
        return self.picture(self.features(y_hat, quality_index))

    def features(self, y_hat: Tensor, quality_index: Tensor) -> Tensor:
        """The input of the head, (B, C, H/8, W/8)."""
        u = self.latent_blocks(y_hat * self.log_y_gain(quality_index).exp())
        u = F.pixel_shuffle(self.up(u), 2)  # (B, C, H/8, W/8)
        features: Tensor = self.blocks(u * self.log_gain(quality_index).exp())
        return features

    def picture(self, features: Tensor) -> Tensor:
        """The head: (B, C, H/8, W/8) -> (B, 3, H, W)."""
        u = self.head(features * self.log_head_gain.exp()[:, None, None])
        return F.pixel_shuffle(u, 8).float() + 0.5


class HyperAnalysis(nn.Module):
    """h_a: y (B, M, h, w) -> z (B, N, ceil(h/4), ceil(w/4)); y is extended to multiples of 4 by repeating its edge."""

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        hidden = config.hidden_channels
        self.conv_in = Pointwise(2 * config.latent_channels, hidden)
        self.bias = QualityRows(config.quality_rows, hidden)
        self.dw1, self.down1 = Depthwise(hidden), Pointwise(4 * hidden, hidden, gain=math.sqrt(2.0))
        self.dw2, self.down2 = Depthwise(hidden), Pointwise(4 * hidden, config.hyper_channels, gain=2.0)

    def forward(self, y: Tensor, quality_index: Tensor) -> Tensor:
        if y.shape[2] % 4 or y.shape[3] % 4:
            y = F.pad(y, (0, -y.shape[3] % 4, 0, -y.shape[2] % 4), mode="replicate")
        u = self.conv_in(context_input(y)) + self.bias(quality_index)
        u = self.dw1(F.leaky_relu(u, 0.01))
        u = F.leaky_relu(self.down1(F.pixel_unshuffle(u, 2)), 0.01)  # 1/32
        z: Tensor = self.down2(F.pixel_unshuffle(self.dw2(u), 2)).float()  # 1/64
        return z


class Exact(nn.Module):
    """A part of the entropy path, which coding runs in integers (`neurocodec.integer`).

    With `fake_quantise`, which the last part of training uses, the float network computes what the integers will:
    weights, activations, means and indexes are rounded to their grids, with straight-through gradients.
    """

    fake_quantise = False

    def activation(self, x: Tensor) -> Tensor:
        """The clamp of the entropy path: min(max(x, 0), 127)."""
        x = x.clamp(0.0, ACTIVATION_MAX)
        return on_grid(x, ACTIVATION_BITS) if self.fake_quantise else x

    def output(self, x: Tensor) -> Tensor:
        """The output of a head, float32."""
        return on_grid(x.float(), ACTIVATION_BITS) if self.fake_quantise else x.float()


class HyperSynthesis(Exact):
    """h_s: z_hat (B, N, h/4, w/4) integers -> features (B, hidden, h, w)."""

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        hidden = config.hidden_channels
        self.conv_in = Pointwise(config.hyper_channels, hidden, gain=math.sqrt(2.0))
        self.bias = QualityRows(config.quality_rows, hidden)
        self.dw1, self.up1 = Depthwise(hidden), Pointwise(hidden, 4 * hidden, gain=math.sqrt(2.0))
        self.dw2, self.up2 = Depthwise(hidden), Pointwise(hidden, 4 * hidden, gain=math.sqrt(2.0))
        self.dw3, self.conv_out = Depthwise(hidden), Pointwise(hidden, hidden, gain=math.sqrt(2.0))

    def forward(self, z_hat: Tensor, quality_index: Tensor) -> Tensor:
        u = self.activation(self.conv_in(z_hat) + self.bias(quality_index))  # 1/64
        u = self.activation(F.pixel_shuffle(self.up1(self.dw1(u)), 2))  # 1/32
        u = self.activation(F.pixel_shuffle(self.up2(self.dw2(u)), 2))  # 1/16
        return self.activation(self.conv_out(self.dw3(u)))


class Prediction(Exact):
    """First context pass: features -> the base prediction (B, 2 M, h, w): means, and indexes in units of INDEX_UNIT."""

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        hidden = config.hidden_channels
        self.conv = Pointwise(hidden, hidden, gain=math.sqrt(2.0))
        self.head = Pointwise(hidden, 2 * config.latent_channels, gain=0.02)
        self.bias = QualityRows(config.quality_rows, 2 * config.latent_channels)

    def forward(self, features: Tensor, quality_index: Tensor) -> Tensor:
        return self.output(self.head(self.activation(self.conv(features))) + self.bias(quality_index))


class Context(Exact):
    """A later context pass: features and the latents known so far -> a correction to the base, (B, 2 M, h, w).

    Unknown latents are zero; a bias for each phase of the 2×2 lattice tells the network which ones those are.
    """

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        hidden, latent = config.hidden_channels, config.latent_channels
        self.dw_in = Depthwise(2 * latent)
        self.conv_in = Pointwise(2 * latent + hidden, hidden, gain=math.sqrt(2.0))
        self.bias = QualityRows(config.quality_rows, hidden)
        self.phase_bias = nn.Parameter(torch.zeros(2, 2, hidden))
        self.dw, self.conv = Depthwise(hidden), Pointwise(hidden, hidden, gain=math.sqrt(2.0))
        self.head = Pointwise(hidden, 2 * latent, gain=0.02)

    def forward(self, features: Tensor, known: Tensor, quality_index: Tensor) -> Tensor:
        height, width = known.shape[2:]
        phase = self.phase_bias.permute(2, 0, 1).repeat(1, -(-height // 2), -(-width // 2))[:, :height, :width]
        inputs = context_input(known)
        if self.fake_quantise:
            inputs = on_grid(inputs, ACTIVATION_BITS)
        u = self.conv_in(torch.cat([self.dw_in(inputs), features.to(known.dtype)], dim=1))
        u = self.activation(u + self.bias(quality_index) + phase)
        return self.output(self.head(self.activation(self.conv(self.dw(u)))))


def context_input(y: Tensor) -> Tensor:
    """(B, M, h, w) -> (B, 2 M, h, w): y / 8 and log2(1 + |y|); the integer path uses a table for the latter."""
    return torch.cat([y * MEAN_INPUT, torch.log2(1.0 + y.abs())], dim=1)


def pass_masks(channels: int, height: int, width: int, device: torch.device) -> list[Tensor]:
    """For each pass, a mask, bool (1, channels, height, width), of the latents that it codes."""
    masks = torch.zeros(PASSES, channels, height, width, dtype=torch.bool)
    for step in range(PASSES):
        for rows, columns, group in lattice(step, channels):
            masks[step, group, rows, columns] = True
    return list(masks.to(device)[:, None])


class Hyperprior(nn.Module):
    """Variable-rate mean-scale hyperprior (Ballé et al. 2018; Minnen et al. 2018) with four context passes.

    The order of the passes follows the quadtree partition of DCVC-DC (Li et al., CVPR 2023); gains for a
    continuous rate follow Cui et al. (CVPR 2021); networks at 1/8 and 1/16 follow DCVC-RT (Jia et al., CVPR 2025).
    """

    def __init__(self, config: HyperpriorConfig | None = None) -> None:
        super().__init__()
        self.config = config or HyperpriorConfig()
        self.g_a = Analysis(self.config)
        self.g_s = Synthesis(self.config)
        self.h_a = HyperAnalysis(self.config)
        self.h_s = HyperSynthesis(self.config)
        self.prediction = Prediction(self.config)
        self.contexts = nn.ModuleList(Context(self.config) for _ in range(PASSES - 1))
        rows, fill = self.config.quality_rows, index_of_scale(1.5) / INDEX_UNIT
        self.z_index = QualityRows(rows, self.config.hyper_channels, fill=fill)
        self._fake_quantise = False

    @property
    def fake_quantise(self) -> bool:
        """Whether the entropy path rounds as coding does (see `Exact`)."""
        return self._fake_quantise

    @fake_quantise.setter
    def fake_quantise(self, on: bool) -> None:
        self._fake_quantise = on
        for part in (self.h_s, self.prediction, *self.contexts):
            for module in part.modules():
                if isinstance(module, Exact | Pointwise | Depthwise):
                    module.fake_quantise = on

    def forward(self, x: Tensor, quality_index: Tensor) -> dict[str, Tensor]:
        """Training pass.

        x: (B, 3, H, W) in [0, 1], H and W multiples of 64; quality_index: (B,) in [0, rows - 1].
        Returns x_hat (B, 3, H, W) and the bits of y and z, each (B,). Rates are those of the rounded
        latents (see `training_bits`); decoded latents are rounded straight-through.
        """
        latents = self.latents(x, quality_index)
        y_hat = latents.pop("y_hat")
        return {"x_hat": self.g_s(y_hat, quality_index), **latents}

    def latents(self, x: Tensor, quality_index: Tensor) -> dict[str, Tensor]:
        """`forward` without the synthesis: y_hat (B, M, H/16, W/16) in quantisation steps, and the same bits."""
        y = self.g_a(x, quality_index)
        z = self.h_a(y, quality_index)
        with torch.autocast(x.device.type, enabled=False):
            z_bits = training_bits(z, self.z_index(quality_index) * INDEX_UNIT)
        means, indexes, y_hat = self._predict(y, z, quality_index)
        with torch.autocast(x.device.type, enabled=False):
            y_bits = training_bits(y - means, indexes * INDEX_UNIT)
        return {
            "y_hat": y_hat,
            "y_bits": y_bits.sum((1, 2, 3)),
            "z_bits": z_bits.sum((1, 2, 3)),
        }

    def _predict(self, y: Tensor, z: Tensor, quality_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, scale indexes in units of INDEX_UNIT and y_hat, each (B, M, H/16, W/16), from the four passes.

        `fake_quantise` disables autocast, because bfloat16 is too coarse for the grids.
        """
        kind = y.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not self.fake_quantise):
            features = self.h_s(ste_round(z), quality_index)
            base = self.prediction(features, quality_index)

            y_hat = torch.zeros_like(y)
            params = torch.zeros_like(base)  # of every latent, gathered from the pass that codes it
            for step, mask in enumerate(pass_masks(y.shape[1], y.shape[2], y.shape[3], y.device)):
                entropy = base if step == 0 else base + self.contexts[step - 1](features, y_hat, quality_index)
                means = entropy[:, : y.shape[1]]
                if self.fake_quantise:
                    means = on_grid(means, MEAN_BITS)
                y_hat = torch.where(mask, ste_round(y - means) + means, y_hat)
                params = torch.where(mask.repeat(1, 2, 1, 1), entropy, params)
        means, indexes = params.chunk(2, dim=1)
        if self.fake_quantise:
            means, indexes = on_grid(means, MEAN_BITS), on_grid(indexes * INDEX_UNIT, 0) / INDEX_UNIT
        return means, indexes, y_hat

    @torch.no_grad()
    def start_as_transform_codec(self, images: Sequence[Tensor]) -> None:
        """Initialises the transforms as a colour DCT and a Haar step, with step sizes and scales measured on images.

        images: (1, 3, H, W) tensors in [0, 1], H and W multiples of 16. Features inside the networks are
        normalised by the spread of each coefficient; the gains hold the scale. Worth thousands of steps of training.
        """
        config = self.config
        dct = colour_dct_matrix().float()
        coefficients = [F.conv2d(F.pixel_unshuffle(x - 0.5, 8), dct[:, :, None, None]).flatten(2) for x in images]
        spread = (torch.cat(coefficients, dim=2).square().mean((0, 2)) + 0.01**2).sqrt()  # (192,)
        self.g_a.stem.weight[:192] = dct / spread[:, None]
        self.g_a.stem.bias.zero_()
        self.g_s.head.weight.zero_()
        self.g_s.head.weight[:, :192] = dct.T
        self.g_s.log_head_gain.zero_()
        self.g_s.log_head_gain[:192] = spread.log()

        quarter = config.latent_channels // PASSES
        strongest = spread.argsort(descending=True)[:quarter].tolist()
        haar = haar_matrix().float()
        self.g_a.down.weight.zero_()
        self.g_s.up.weight.zero_()
        frequency_of = torch.zeros(config.latent_channels, dtype=torch.long)
        for rank, frequency in enumerate(strongest):
            for band in range(4):
                group = (rank + band) % PASSES  # the four bands of a frequency go to four groups
                latent = group * quarter + rank
                self.g_a.down.weight[latent, 4 * frequency : 4 * frequency + 4] += haar[band]
                self.g_s.up.weight[4 * frequency : 4 * frequency + 4, latent] += haar[band]
                frequency_of[latent] = frequency

        units = []  # of the latents before their gain
        for x in images:
            u = self.g_a.blocks(self.g_a.stem(F.pixel_unshuffle(x - 0.5, 8)))
            units.append(self.g_a.latent_blocks(self.g_a.down(F.pixel_unshuffle(u, 2))).flatten(2))
        unit = torch.cat(units, dim=2).std((0, 2))
        for row in range(config.quality_rows):
            gain = (spread[frequency_of] / config.step_size(row)).log()
            self.g_a.log_y_gain.weight[row] = gain
            self.g_s.log_y_gain.weight[row] = -gain
            scale = unit * gain.exp() * 0.6  # local spread is below the global one
            index = torch.tensor([index_of_scale(max(s, SCALE_MIN)) for s in scale.tolist()])
            self.prediction.bias.weight[row, config.latent_channels :] = index / INDEX_UNIT
