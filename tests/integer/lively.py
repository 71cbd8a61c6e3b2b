"""Random networks whose parts all matter, and every way to run the integers on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import NativeNetwork, kernels
from neurocodec.integer.network import LayerwiseNetwork, Network
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.model import HyperpriorConfig, Model
from neurocodec.models.hyperprior import Hyperprior

REFERENCE = NumpyArithmetic()
CONFIG = HyperpriorConfig(
    channels=20, latent_channels=16, hyper_channels=8, hidden_channels=16, encoder_blocks=2, latent_blocks=2
)


def lively_network(config: HyperpriorConfig = CONFIG) -> Hyperprior:
    """Random weights whose blocks, gates, gains, contexts and scales really matter."""
    torch.manual_seed(0)
    network = Hyperprior(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("g_a.", "h_a.", "g_s.")):
                if name.endswith(("conv_out.weight", "gate_out.weight")):  # they start as zeros
                    parameter.normal_(0.0, 0.5 * parameter.shape[1] ** -0.5)
                elif name.endswith(".bias"):
                    parameter.normal_(0.0, 0.2)
                elif "log_" in name:
                    parameter.normal_(0.0, 0.4)
        network.h_a.bias.weight.normal_(0.0, 0.5)
        network.h_a.down2.weight.mul_(3.0)
        network.g_a.log_y_gain.weight.add_(torch.linspace(0.0, 3.0, 16)[:, None])
        network.g_s.log_y_gain.weight.add_(-torch.linspace(0.0, 3.0, 16)[:, None])
        network.g_s.head.weight.mul_(0.2)
        for parameter in [network.prediction.head.weight, *(c.head.weight for c in network.contexts)]:
            parameter.normal_(0.0, 0.1)
        network.prediction.bias.weight.normal_(2.0, 1.0)
        for context in network.contexts:
            context.phase_bias.normal_(0.0, 0.3)
            context.bias.weight.normal_(0.0, 0.3)
    return network


def fast_networks(model: Model) -> Iterator[tuple[str, Network]]:
    """All but the definition, by name."""
    yield "torch", LayerwiseNetwork(model, TorchArithmetic())
    for kernel in kernels():
        for threads in (1, 3):
            yield f"{kernel}-{threads}", NativeNetwork(model, kernel, threads)
