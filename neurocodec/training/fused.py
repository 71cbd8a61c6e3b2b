"""The base model's training pass on a CPU in bfloat16, with operations fused in C++ (fused.cpp).

In autocast most of a step goes to passes over memory between the matrix products, and bfloat16 sums and latents blur
its gradients. Here loops are fused, and sums, latents and the layers that see pixels are float32.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurocodec.entropy.grid import LOG_SCALE_STEP, PASSES, SCALE_LEVELS, SCALE_MIN
from neurocodec.errors import MissingPackageError
from neurocodec.models.hyperprior import INDEX_UNIT, Context, Hyperprior
from neurocodec.models.layers import Depthwise, Pointwise, QualityRows, ste_round

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp-simd", "-w"]


class Operations(Protocol):
    """What fused.cpp holds; its comments give shapes."""

    def block(self, x: Tensor, parameters: list[Tensor]) -> Tensor: ...
    def depthwise(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor: ...
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor: ...
    def scale(self, x: Tensor, gains: Tensor) -> Tensor: ...
    def context_input(self, y: Tensor) -> Tensor: ...
    def activation(self, x: Tensor, rows: Tensor, phases: Tensor) -> Tensor: ...
    def code(
        self, y: Tensor, y_hat: Tensor, parameters: Tensor, base: Tensor, correction: Tensor, step: int
    ) -> tuple[Tensor, Tensor]: ...
    def bits(
        self, residual: Tensor, index: Tensor, seed: int, log_scale_step: float, scale_min: float, index_max: float
    ) -> Tensor: ...


@cache
def operations() -> Operations:
    """The C++ operations, compiled for this machine at the first use. Raises MissingPackageError if that fails."""
    from torch.utils.cpp_extension import load

    try:
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])  # where torch looks for it
        return cast(Operations, load("neurocodec_fused", [str(SOURCE)], extra_cflags=FLAGS))
    except (ImportError, RuntimeError, OSError) as error:
        raise MissingPackageError(
            "training.fused compiles C++, which needs a C++ compiler with its Python headers, and ninja: "
            "pip install ninja"
        ) from error


class FusedHyperprior(Hyperprior):
    """A `Hyperprior` whose training pass is fused where autocast is on; in float32 it is the plain one.

    Its weights are those of a `Hyperprior`. Fake quantisation needs float32, and takes the plain pass.
    """

    def forward(self, x: Tensor, quality_index: Tensor) -> dict[str, Tensor]:
        if self.fake_quantise or not torch.is_autocast_enabled("cpu"):
            return super().forward(x, quality_index)
        y = _analysis(self, x, quality_index)
        z = _hyper_analysis(self, y, quality_index)
        z_bits = _bits(z, self.z_index(quality_index).permute(0, 2, 3, 1).expand_as(z))
        features = _hyper_synthesis(self, ste_round(z), quality_index)
        y_hat, means, indexes = _code(self, y, features, quality_index)
        y_bits = _bits(y - means, indexes)
        return {"x_hat": _synthesis(self, y_hat, quality_index), "y_bits": y_bits, "z_bits": z_bits}


# The parts of a Hyperprior, on channels-last tensors (B, H, W, C).


def _analysis(model: Hyperprior, x: Tensor, quality_index: Tensor) -> Tensor:
    g_a = model.g_a
    u = _precise(g_a.stem, F.pixel_unshuffle(x - 0.5, 8).permute(0, 2, 3, 1).contiguous())
    u = _blocks(g_a.blocks, u)
    u = _down(g_a.down, _scale(u, g_a.log_gain, quality_index), precise=True)
    u = _blocks(g_a.latent_blocks, u)
    return _scale(u, g_a.log_y_gain, quality_index)


def _synthesis(model: Hyperprior, y_hat: Tensor, quality_index: Tensor) -> Tensor:
    g_s = model.g_s
    u = _scale(y_hat, g_s.log_y_gain, quality_index)
    u = _blocks(g_s.latent_blocks, u)
    u = _scale(_up(g_s.up, u, precise=True), g_s.log_gain, quality_index)
    u = _blocks(g_s.blocks, u)
    u = _precise(g_s.head, operations().scale(u, g_s.log_head_gain.exp().expand(len(u), -1)))
    return F.pixel_shuffle(u.permute(0, 3, 1, 2), 8) + 0.5


def _hyper_analysis(model: Hyperprior, y: Tensor, quality_index: Tensor) -> Tensor:
    h_a = model.h_a
    u = _linear(h_a.conv_in, operations().context_input(y)) + h_a.bias(quality_index).permute(0, 2, 3, 1).bfloat16()
    u = F.leaky_relu(_down(h_a.down1, _depthwise(h_a.dw1, F.leaky_relu(u, 0.01))), 0.01)
    return _down(h_a.down2, _depthwise(h_a.dw2, u)).float()


def _hyper_synthesis(model: Hyperprior, z_hat: Tensor, quality_index: Tensor) -> Tensor:
    h_s = model.h_s
    u = _activation(_linear(h_s.conv_in, z_hat), rows=h_s.bias(quality_index))
    u = _activation(_up(h_s.up1, _depthwise(h_s.dw1, u)))
    u = _activation(_up(h_s.up2, _depthwise(h_s.dw2, u)))
    return _activation(_linear(h_s.conv_out, _depthwise(h_s.dw3, u)))


def _code(model: Hyperprior, y: Tensor, features: Tensor, quality_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y_hat, means, and scale indexes in units of INDEX_UNIT, from the four passes."""
    head = model.prediction
    base = _linear(head.head, _activation(_linear(head.conv, features))).float()
    base = base + head.bias(quality_index).permute(0, 2, 3, 1)
    y_hat, parameters = torch.zeros_like(y), torch.zeros_like(base)
    for step in range(PASSES):
        correction = y.new_empty(0)
        if step:
            correction = _correction(cast(Context, model.contexts[step - 1]), features, y_hat, quality_index)
        y_hat, parameters = operations().code(y, y_hat, parameters, base, correction, step)
    means, indexes = parameters.chunk(2, dim=-1)
    return y_hat, means, indexes


def _correction(context: Context, features: Tensor, known: Tensor, quality_index: Tensor) -> Tensor:
    inputs = _depthwise(context.dw_in, operations().context_input(known))
    u = _linear(context.conv_in, torch.cat([inputs, features], dim=-1))
    u = _activation(u, rows=context.bias(quality_index), phases=context.phase_bias)
    return _linear(context.head, _activation(_linear(context.conv, _depthwise(context.dw, u)))).float()


# Their layers.


def _blocks(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """Several layers.Block: their parameters come in the order of the layers, each weight before its bias."""
    for block in blocks:
        x = operations().block(x, list(block.parameters()))
    return x


def _depthwise(layer: Depthwise, x: Tensor) -> Tensor:
    return operations().depthwise(x, layer.weight, layer.bias)


def _activation(x: Tensor, *, rows: Tensor | None = None, phases: Tensor | None = None) -> Tensor:
    """rows: (B, C, 1, 1); phases: (2, 2, C)."""
    none = x.new_empty(0, dtype=torch.float32)
    return operations().activation(x, none if rows is None else rows.flatten(1), none if phases is None else phases)


def _scale(x: Tensor, log_gain: QualityRows, quality_index: Tensor) -> Tensor:
    return operations().scale(x, log_gain(quality_index).exp().flatten(1))


def _bits(residual: Tensor, index: Tensor) -> Tensor:
    seed = int(torch.randint(1 << 31, ()))
    return operations().bits(residual, index * INDEX_UNIT, seed, LOG_SCALE_STEP, SCALE_MIN, SCALE_LEVELS - 1.0)


def _linear(layer: Pointwise, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _precise(layer: Pointwise, x: Tensor) -> Tensor:
    """For the layers that see the largest values; see fused.cpp."""
    return operations().linear(x, layer.weight, layer.bias)


def _down(layer: Pointwise, x: Tensor, *, precise: bool = False) -> Tensor:
    multiply = operations().linear if precise else F.linear
    return multiply(_unshuffle(x), _columns_by_phase(layer.weight), layer.bias)


def _up(layer: Pointwise, x: Tensor, *, precise: bool = False) -> Tensor:
    multiply = operations().linear if precise else F.linear
    return _shuffle(multiply(x, _rows_by_phase(layer.weight), _rows_by_phase(layer.bias)))


# PixelUnshuffle(2) and PixelShuffle(2) with channels in order (row, column, channel), which copies whole pixels.
# torch orders them (channel, row, column), and so do the weights.


def _unshuffle(x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    pixels = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, height // 2, width // 2, 4 * channels)


def _shuffle(x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    pixels = x.view(batch, height, width, 2, 2, channels // 4).permute(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * height, 2 * width, channels // 4)


def _columns_by_phase(weight: Tensor) -> Tensor:
    return weight.view(len(weight), -1, 4).transpose(1, 2).reshape(len(weight), -1)


def _rows_by_phase(parameters: Tensor) -> Tensor:
    return parameters.view(len(parameters) // 4, 4, *parameters.shape[1:]).transpose(0, 1).reshape(parameters.shape)
