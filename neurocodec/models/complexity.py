"""Counts multiply-accumulates per pixel from the layers that run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from neurocodec.entropy.grid import PASSES
from neurocodec.models.hific import Generator
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.layers import Depthwise, Pointwise

SIDE = 256


@torch.no_grad()
def count_macs(model: Hyperprior) -> dict[str, float]:
    """MAC per pixel of g_a, h_a, g_s and the entropy path (h_s and all passes), and their sums `encoder` and `decoder`.

    1×1 and depthwise 3×3 layers are counted; elementwise operations are not. The encoder runs the entropy path too. Its
    heads count for a quarter, because each pass computes only the channels that it codes.
    """
    heads = {context.get_submodule("head") for context in model.contexts}
    counts: dict[str, float] = {}
    quality_index = torch.zeros(1)
    x = torch.zeros(1, 3, SIDE, SIDE)
    with _counting(model, heads) as count:
        y = model.g_a(x, quality_index)
        counts["g_a"] = count()
        z = model.h_a(y, quality_index)
        counts["h_a"] = count()
        features = model.h_s(z, quality_index)
        model.prediction(features, quality_index)
        for step in range(PASSES - 1):
            model.contexts[step](features, y, quality_index)
        counts["entropy"] = count()
        model.g_s(y, quality_index)
        counts["g_s"] = count()
    counts["encoder"] = counts["g_a"] + counts["h_a"] + counts["entropy"]
    counts["decoder"] = counts["entropy"] + counts["g_s"]
    return counts


@torch.no_grad()
def count_generator_macs(generator: Generator) -> dict[str, float]:
    """MAC per pixel of the generative decoder, including its trunk, as `generator`."""
    y_hat = torch.zeros(1, generator.trunk.up.weight.shape[1], SIDE // 16, SIDE // 16)
    with _counting(generator, set()) as count:
        generator(y_hat, torch.zeros(1), torch.ones(1))
        return {"generator": count()}


@contextmanager
def _counting(model: nn.Module, heads: set[nn.Module]) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the MAC per pixel of the layers that ran since its last call."""
    total = 0.0

    def hook(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        each = int(module.weight.shape[1]) if isinstance(module, Pointwise) else 9
        total += output.numel() / (PASSES if module in heads else 1) * each / SIDE**2

    def count() -> float:
        nonlocal total
        counted, total = total, 0.0
        return counted

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, (Pointwise, Depthwise))]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()
