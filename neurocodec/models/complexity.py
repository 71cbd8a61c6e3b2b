"""Multiply-accumulates per pixel, counted from the layers that run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neurocodec.entropy.integer import PASSES
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.layers import Depthwise, Pointwise

SIDE = 256


@torch.no_grad()
def count_macs(model: Hyperprior) -> dict[str, float]:
    """MAC a pixel of g_a, h_a, g_s and the entropy path (h_s and all passes), and their sums `encoder` and `decoder`.

    1×1 and depthwise 3×3 layers are counted; elementwise operations are not. The encoder runs the entropy path too.
    Of its heads, coding computes in each pass only the channels that the pass codes: a quarter.
    """
    counts: dict[str, float] = {}
    heads = {context.get_submodule("head") for context in model.contexts}
    current = ""

    def hook(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        each = module.weight.shape[1] if isinstance(module, Pointwise) else 9
        outputs = output.numel() / (PASSES if module in heads else 1)
        counts[current] = counts.get(current, 0.0) + outputs * int(each) / SIDE**2

    layers = [m for m in model.modules() if isinstance(m, (Pointwise, Depthwise))]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    quality_index = torch.zeros(1)
    x = torch.zeros(1, 3, SIDE, SIDE)
    current = "g_a"
    y = model.g_a(x, quality_index)
    current = "h_a"
    z = model.h_a(y, quality_index)
    current = "entropy"
    features = model.h_s(z, quality_index)
    model.prediction(features, quality_index)
    for step in range(PASSES - 1):
        model.contexts[step](features, y, quality_index)
    current = "g_s"
    model.g_s(y, quality_index)
    for handle in handles:
        handle.remove()
    counts["encoder"] = counts["g_a"] + counts["h_a"] + counts["entropy"]
    counts["decoder"] = counts["entropy"] + counts["g_s"]
    return counts
