"""The processes that share a run: one, or those that torchrun started on one machine or several.

Gradients travel through DistributedDataParallel (NCCL on GPUs); all other messages are small and go through gloo on the
CPU, where they do not hold up a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neurocodec.errors import ConfigError

T = TypeVar("T")

PATIENCE = timedelta(hours=4)
"""Maximum time that processes wait for the first one, which decodes pictures and validates."""


@dataclass(frozen=True)
class Processes:
    """This process, of number `rank`, among the `world` processes of the run."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.rank == 0

    def largest(self, *values: float) -> list[float]:
        """The maximum of each value over the processes, so that clocks and signals have the same effect in all."""
        return self._reduced(torch.tensor(values, dtype=torch.float64), dist.ReduceOp.MAX).tolist()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, on the CPU."""
        return self._reduced(values.cpu(), dist.ReduceOp.SUM) / self.world

    def wait(self) -> None:
        """Waits until all processes have called it."""
        self.largest(0.0)

    def first_alone(self, work: Callable[[], T]) -> T:
        """Does work that writes files in the first process, and then in the others, which find them."""
        if not self.first:
            self.wait()
        result = work()
        if self.first:
            self.wait()
        return result

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over the processes."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.world > 1:
            dist.all_reduce(values, operation)
        return values


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone. All leave together at the end.

    device: auto, cpu or cuda; each process takes the GPU of its local rank. Raises ConfigError.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device is 'cuda', and PyTorch finds no GPU here; set it to 'cpu' or 'auto'.")
    cuda = device != "cpu" and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} GPU(s), so the process of local rank {local_rank} has "
            "none: start one process per GPU, or set training.device to 'cpu'."
        )
    own = torch.device("cuda", local_rank) if cuda else torch.device("cpu")  # threads choose their GPU by its index
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(own)
        return
    if cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    processes = Processes(own, dist.get_rank(), dist.get_world_size())
    yield processes
    processes.wait()
    dist.destroy_process_group()
