"""AlexNet and VGG16 up to their last convolution: the features of named layers.

torchvision trained both on ImageNet. Without the fully connected layers they accept pictures of any size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.errors import ImageError
from neurocodec.perceptual.weights import load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Pooling = Literal["max", "average", "l2"]


class FeatureNetwork(nn.Module):
    """A chain of named steps. Called with pictures, it returns the outputs of the chosen layers.

    x: (B, 3, H, W) in [0, 1], normalised here with ImageNet's mean and standard deviation. Returns a
    dictionary from layer name to (B, C, h, w), in the order of the chain. Steps after the last chosen layer are left
    out.
    Parameters are frozen, and random until `load`; gradients flow to x. Raises ImageError for tensors of other shapes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, steps: list[tuple[str, nn.Module]], layers: Iterable[str], min_side: int) -> None:
        super().__init__()
        names = [name for name, _ in steps]
        self.layers = tuple(layers)
        self.min_side = min_side
        if not self.layers or not set(self.layers) <= set(names):
            raise ValueError(f"layers {self.layers} of {type(self).__name__}, expected some of {', '.join(names)}")
        self.steps = nn.Sequential(OrderedDict(steps[: max(names.index(name) for name in self.layers) + 1]))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        check_pictures(x, self.min_side, type(self).__name__)
        y = (x - self.mean) / self.std
        features = {}
        for name, step in self.steps.named_children():
            y = step(y)
            if name in self.layers:
                features[name] = y
        return features

    def load(self, weights: dict[str, Tensor]) -> None:
        """Copies the weights of the chain's steps. weights: those of `load_weights` for this network."""
        self.steps.load_state_dict({name: weights[name] for name in self.steps.state_dict()})


class AlexNet(FeatureNetwork):
    """AlexNet (Krizhevsky 2014, "One weird trick"), as torchvision trained it. Sides of at least 31.

    Layers: conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv4 relu4 conv5 relu5; strides 4, 8 and 16.
    """

    def __init__(self, layers: Iterable[str] = ("relu1", "relu2", "relu3", "relu4", "relu5")) -> None:
        steps: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(3, 64, 11, stride=4, padding=2)),
            ("relu1", nn.ReLU()),
            ("pool1", nn.MaxPool2d(3, 2)),
            ("conv2", nn.Conv2d(64, 192, 5, padding=2)),
            ("relu2", nn.ReLU()),
            ("pool2", nn.MaxPool2d(3, 2)),
            ("conv3", nn.Conv2d(192, 384, 3, padding=1)),
            ("relu3", nn.ReLU()),
            ("conv4", nn.Conv2d(384, 256, 3, padding=1)),
            ("relu4", nn.ReLU()),
            ("conv5", nn.Conv2d(256, 256, 3, padding=1)),
            ("relu5", nn.ReLU()),
        ]
        super().__init__(steps, layers, min_side=31)


class VGG16(FeatureNetwork):
    """VGG16 (Simonyan and Zisserman 2015, configuration D), as torchvision trained it. Sides of at least 16.

    Layers: convS_I and reluS_I for I = 1, 2 in stages S = 1, 2 and I = 1, 2, 3 in stages 3, 4, 5, and pool1 to pool4.
    Stage S has stride 2^(S - 1). pooling: "max", as trained; "average", which Gatys et al. recommend for synthesis;
    or "l2", the root of a blurred square, for DISTS.
    """

    def __init__(
        self,
        layers: Iterable[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
        *,
        pooling: Pooling = "max",
    ) -> None:
        poolings = {"max": lambda _: nn.MaxPool2d(2), "average": lambda _: nn.AvgPool2d(2), "l2": L2Pooling}
        if pooling not in poolings:
            raise ValueError(f"pooling {pooling!r}, expected {', '.join(poolings)}")
        steps: list[tuple[str, nn.Module]] = []
        in_channels = 3
        for stage, (channels, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
            if stage > 1:
                steps.append((f"pool{stage - 1}", poolings[pooling](in_channels)))
            for i in range(1, depth + 1):
                steps.append((f"conv{stage}_{i}", nn.Conv2d(in_channels, channels, 3, padding=1)))
                steps.append((f"relu{stage}_{i}", nn.ReLU()))
                in_channels = channels
        super().__init__(steps, layers, min_side=16)


class L2Pooling(nn.Module):
    """sqrt(blur(x²)) at every second position, with a 3×3 Hann window (Hénaff and Simoncelli, ICLR 2016).

    x: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).
    """

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        side = torch.tensor([0.25, 0.5, 0.25])
        window = (side[:, None] * side[None, :]).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("window", window, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = F.conv2d(x.square(), self.window, stride=2, padding=1, groups=x.shape[1])
        return (mean + 1e-12).sqrt()


def load_alexnet(
    layers: Iterable[str] = ("relu1", "relu2", "relu3", "relu4", "relu5"),
    *,
    device: str | torch.device = "cpu",
    download: bool = True,
) -> AlexNet:
    """AlexNet with torchvision's weights. Raises MissingWeightsError; for `download` see `weights.load_weights`."""
    network = AlexNet(layers)
    network.load(load_weights("alexnet", download=download))
    return network.to(device)


def load_vgg16(
    layers: Iterable[str] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    *,
    pooling: Pooling = "max",
    device: str | torch.device = "cpu",
    download: bool = True,
) -> VGG16:
    """VGG16 with torchvision's weights. Raises MissingWeightsError; for `download` see `weights.load_weights`."""
    network = VGG16(layers, pooling=pooling)
    network.load(load_weights("vgg16", download=download))
    return network.to(device)


def check_pictures(x: Tensor, min_side: int, user: str) -> None:
    """Raises ImageError unless x is a float tensor (B, 3, H, W) with both sides at least min_side."""
    if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < min_side or not x.is_floating_point():
        raise ImageError(
            f"{user} got a tensor of shape {tuple(x.shape)} and type {x.dtype}, expected floats (B, 3, H, W) with both "
            f"sides at least {min_side}"
        )
