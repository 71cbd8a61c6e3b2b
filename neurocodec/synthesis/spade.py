"""SPADE, or GauGAN: pictures from label maps (Park, Liu, Wang and Zhu, CVPR 2019).

Labels ─small→ features ─blocks and doublings, whose norms get gain and offset from the labels→ x_hat. Labels here are
the nearest of a few colours, which k-means chooses, of a blurred picture: a layout needs no annotation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.perceptual.adversarial import (
    PatchDiscriminator,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from neurocodec.perceptual.features import load_vgg16
from neurocodec.synthesis import pictures
from neurocodec.synthesis.system import Options, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative, Range
from neurocodec.training.data import Rgb
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability

BLUR = 5
"""Pixels: the side of the window whose mean colour decides about a label."""
VGG_LAYERS = {"relu1_1": 1 / 32, "relu2_1": 1 / 16, "relu3_1": 1 / 8, "relu4_1": 1 / 4, "relu5_1": 1.0}
"""Weights of the feature loss (pix2pixHD, Wang et al. 2018, and the authors' code)."""


@dataclass(frozen=True)
class Settings:
    """labels: in a map; levels: doublings, 5 for 256²; channels: of the last block, 64 in the paper; hidden: of the
    layer from labels to gain and offset. conditioning: "concatenation" joins the labels to the features instead, to
    compare with. Weights and rates are the paper's."""

    labels: Annotated[int, Range("from 2 to 64", lambda value: 2 <= value <= 64)] = 8
    levels: Annotated[int, Range("from 2 to 5", lambda value: 2 <= value <= 5)] = 5
    channels: Count = 64
    hidden: Count = 128
    conditioning: Literal["spade", "concatenation"] = "spade"
    matching_weight: NotNegative = 10.0
    feature_weight: NotNegative = 10.0
    discriminator_channels: Count = 64
    discriminator_learning_rate: NotNegative = 4e-4
    guard_window: Count = 200


@dataclass(frozen=True)
class SpadeConfig(SynthesisConfig):
    """The configuration of a run."""

    spade: Settings = field(default_factory=Settings)


class Spade(nn.Module):
    """norm(x) · (1 + gain) + offset, both from 3×3 convolutions of the labels (eq. 1 and fig. 2)."""

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Sequential(nn.Conv2d(settings.labels, settings.hidden, 3, padding=1), nn.ReLU())
        self.gain = nn.Conv2d(settings.hidden, channels, 3, padding=1)
        self.offset = nn.Conv2d(settings.hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        hidden = self.shared(F.interpolate(labels, x.shape[2:]))
        y: Tensor = self.norm(x) * (1 + self.gain(hidden)) + self.offset(hidden)
        return y


class Concatenation(nn.Module):
    """norm(x), with gain and offset of its own, and the labels, mixed by a 1×1 convolution."""

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels + settings.labels, channels, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y: Tensor = self.mix(torch.cat((self.norm(x), F.interpolate(labels, x.shape[2:])), 1))
        return y


class Block(nn.Module):
    """Two times norm, leaky ReLU, 3×3 convolution; around them norm and 1×1 convolution if channels change (fig. 3)."""

    def __init__(self, before: int, after: int, settings: Settings) -> None:
        super().__init__()
        kind = Spade if settings.conditioning == "spade" else Concatenation
        middle = min(before, after)
        self.norms = nn.ModuleList((kind(before, settings), kind(middle, settings)))
        self.convs = nn.ModuleList((_spectral(before, middle, 3), _spectral(middle, after, 3)))
        self.around = nn.ModuleList()
        if before != after:
            self.around.extend((kind(before, settings), _spectral(before, after, 1, bias=False)))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.leaky_relu(norm(y, labels), 0.2))
        if self.around:
            norm, conv = self.around
            x = conv(norm(x, labels))
        return x + y


class Generator(nn.Module):
    """Labels (B, labels, H, W), one 1 a pixel, -> (B, 3, H, W) in [0, 1]; H, W: multiples of 2^levels.

    Without noise: the features start as a 3×3 convolution of the small labels (the authors' code without its VAE).
    palette: the colour of each label, (labels, 3).
    """

    palette: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.register_buffer("palette", torch.rand(settings.labels, 3))
        self.levels, n = settings.levels, settings.channels << (settings.levels - 1)
        self.start = nn.Conv2d(settings.labels, n, 3, padding=1)
        widths = [n, n, n, *(n >> i for i in range(settings.levels))]
        self.blocks = nn.ModuleList(Block(a, b, settings) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(settings.channels, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, 0.02 if module is self.last else 1.0)

    def forward(self, labels: Tensor) -> Tensor:
        x = self.start(F.interpolate(labels, scale_factor=0.5**self.levels))
        for i, block in enumerate(self.blocks):
            if i != 0 and i != 2:  # two blocks at the second size
                x = F.interpolate(x, scale_factor=2.0)
            x = block(x, labels)
        return 0.5 * torch.tanh(self.last(F.leaky_relu(x, 0.2))) + 0.5

    def layout(self, x: Tensor) -> Tensor:
        """The label of each pixel of (B, 3, H, W), (B, H, W): the nearest colour to the mean around it."""
        blurred = F.avg_pool2d(F.pad(x, 4 * (BLUR // 2,), mode="replicate"), BLUR, 1)
        distances = [(blurred - colour.view(3, 1, 1)).square().sum(1) for colour in self.palette]
        return torch.stack(distances).argmin(0)

    def one_hot(self, layout: Tensor) -> Tensor:
        """(B, H, W) -> (B, labels, H, W)."""
        return F.one_hot(layout, len(self.palette)).permute(0, 3, 1, 2).float()

    def painted(self, layout: Tensor) -> Tensor:
        """A layout in the colours of its labels, (B, 3, H, W)."""
        return self.palette[layout].permute(0, 3, 1, 2)


class Discriminators(nn.Module):
    """PatchGANs with spectral normalisation of the picture and of half its size: features of both, logits last."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            PatchDiscriminator(settings.labels, channels=settings.discriminator_channels) for _ in range(2)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.utils.parametrizations.spectral_norm(module)

    def forward(self, x: Tensor, labels: Tensor) -> list[list[Tensor]]:
        half = F.avg_pool2d(x, 2), F.interpolate(labels, scale_factor=0.5)
        pairs = zip(self.scales, ((x, labels), half), strict=True)
        return [scale.features(*inputs) for scale, inputs in pairs]  # type: ignore[operator, misc]


def _spectral(before: int, after: int, kernel: int, *, bias: bool = True) -> nn.Module:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias)
    nn.init.xavier_normal_(conv.weight)
    wrapped: nn.Module = nn.utils.parametrizations.spectral_norm(conv)
    return wrapped


class SpadeSystem(TrainedSystem[Settings, Options]):
    """Trains photographs from their layouts; `apply` paints the layout of a picture, such as a drawing."""

    name = "spade"
    config_type = SpadeConfig
    betas = (0.0, 0.999)

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        check_crop(config, 1 << self.settings.levels, 48)
        self.vgg = load_vgg16(VGG_LAYERS, device=processes.device) if self.settings.feature_weight else None

    @staticmethod
    def network(settings: Settings) -> Generator:
        return Generator(settings)

    def critics(self) -> dict[str, nn.Module]:
        return {"discriminator": Discriminators(self.settings)}

    def initialise(self, photographs: list[Rgb]) -> None:
        """Chooses the palette: k-means of pixels of the training pictures."""
        network = self.modules["generator"]
        assert isinstance(network, Generator)
        step = max(1, len(photographs) // 200)
        pixels = torch.cat([torch.from_numpy(rgb[::16, ::16].reshape(-1, 3)) for rgb in photographs[::step]])
        network.palette.copy_(k_means(pixels.float() / 255, self.settings.labels, self.config.training.seed))

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        settings, network, critics = self.settings, self.modules["generator"], self.modules["discriminator"]
        assert isinstance(network, Generator)
        labels = network.one_hot(network.layout(x))
        x_hat = modules["generator"](labels)

        critic = modules["discriminator"]
        pairs = list(zip(critic(x, labels), critic(x_hat.detach(), labels), strict=True))
        means = [torch.stack([probability(pair[i][-1], "hinge").mean() for pair in pairs]).mean() for i in range(2)]
        self.guard.add(x, x_hat, *means)
        value = torch.stack([discriminator_loss(real[-1], fake[-1], "hinge") for real, fake in pairs]).mean()
        yield Loss("discriminator", value, {"real": means[0], "fake": means[1]})

        with frozen(critics):
            judged = critics(x_hat, labels)
            with torch.no_grad():
                originals = critics(x, labels)
        matching = [feature_matching_loss(r[:-1], f[:-1]) for r, f in zip(originals, judged, strict=True)]
        terms = {
            "gan": torch.stack([generator_loss(f[-1], "hinge") for f in judged]).mean(),
            "matching": settings.matching_weight * torch.stack(matching).mean(),
        }
        if self.vgg is not None:
            with torch.no_grad():
                target = self.vgg(x)
            features = self.vgg(x_hat)
            distances = [w * (features[layer] - target[layer]).abs().mean() for layer, w in VGG_LAYERS.items()]
            terms["feature"] = settings.feature_weight * torch.stack(distances).sum()
        yield Loss("generator", torch.stack(list(terms.values())).sum(), terms)

    def show(self, network: Generator, x: Tensor) -> dict[str, Tensor]:
        layout = network.layout(x)
        return {"labels": network.painted(layout), "output": network(network.one_hot(layout)), "truth": x}

    @classmethod
    def transform(cls, network: Generator, settings: Settings, x: Tensor, options: Options) -> Tensor:
        return pictures.padded(lambda y: network(network.one_hot(network.layout(y))), x, 1 << settings.levels)


def k_means(points: Tensor, count: int, seed: int) -> Tensor:
    """The centres of clusters, (count, d), from dark to bright (Lloyd's algorithm, 20 rounds). points: (N, d)."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    points = points[order[:20_000]]
    centres = points[:count].clone()
    for _ in range(20):
        nearest = torch.cdist(points, centres).argmin(1)
        for k in range(count):
            if bool((nearest == k).any()):
                centres[k] = points[nearest == k].mean(0)
    return centres[centres.sum(1).argsort()]
