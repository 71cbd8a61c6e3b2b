"""Layers that several systems share: norms, residual blocks, the residual generator, small random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "instance", "none"]


def norm(kind: Norm, channels: int, *, affine: bool = True) -> nn.Module:
    """A norm over `channels`. affine: with a learned gain and offset, which batch normalisation always has here."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels, affine=affine) if kind == "instance" else nn.Identity()


class ResidualBlock(nn.Module):
    """x + f(x), with f: 3×3 convolution, norm, activation, 3×3 convolution, norm (He et al. 2016, without the last
    ReLU, as Gross and Wilber recommend and as all systems here have it)."""

    def __init__(
        self,
        channels: int,
        kind: Norm,
        *,
        affine: bool = True,
        activation: Callable[[], nn.Module] = nn.ReLU,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding_mode, bias=bias),
            norm(kind, channels, affine=affine),
            activation(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding_mode, bias=bias),
            norm(kind, channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


class ResidualGenerator(nn.Module):
    """(B, 3, H, W) in [0, 1] -> the same: two halvings, residual blocks, two doublings (Johnson et al. 2016; Zhu et al.
    2017, appendix 7.2: c7s1-64, d128, d256, R256 × 9, u128, u64, c7s1-3).

    H, W: multiples of 4. kernel: of the first and the last layer; upsampling: transposed convolutions, or nearest
    neighbours and a convolution, which leave no checkerboard. Reflection padding and instance normalisation, with gain
    and offset if affine; the last layer ends in tanh, here scaled to [0, 1].
    """

    def __init__(
        self,
        channels: int,
        blocks: int,
        *,
        kernel: int,
        upsampling: Literal["transposed", "nearest"],
        affine: bool,
    ) -> None:
        super().__init__()

        def layer(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, padding_mode="reflect")
            return [conv, norm("instance", after, affine=affine), nn.ReLU()]

        layers = layer(3, channels, kernel)
        for width in (channels, 2 * channels):
            layers += layer(width, 2 * width, 3, 2)
        layers += [
            ResidualBlock(4 * channels, "instance", affine=affine, padding_mode="reflect") for _ in range(blocks)
        ]
        for width in (4 * channels, 2 * channels):
            if upsampling == "nearest":
                layers += [nn.Upsample(scale_factor=2), *layer(width, width // 2, 3)]
            else:
                doubled = nn.ConvTranspose2d(width, width // 2, 3, 2, padding=1, output_padding=1)
                layers += [doubled, norm("instance", width // 2, affine=affine), nn.ReLU()]
        layers += [nn.Conv2d(channels, 3, kernel, padding=kernel // 2, padding_mode="reflect"), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(2 * x - 1)
        return 0.5 * y + 0.5


def start_small(module: nn.Module) -> None:
    """N(0, 0.02) for convolutions, N(1, 0.02) for the gains of norms, 0 for biases (Radford et al. 2016, section 4)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)) and module.weight is not None:
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def start_at_zero(layer: nn.Module) -> None:
    """A convolution that gives 0 until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
