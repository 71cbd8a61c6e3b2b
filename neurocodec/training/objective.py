"""What a run learns: an object that gives the loop its modules and, step by step, the losses of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neurocodec.training.config import RunConfig
from neurocodec.training.data import Rgb


class Loss(NamedTuple):
    """What one module learns from in a step. value: a scalar; log: further scalars for the log, by name."""

    module: str
    value: Tensor
    log: dict[str, Tensor]


class Objective(Protocol):
    """An objective of the training loop; its constructor takes the configuration and the processes.

    config: that of the run. modules: those that learn, by name; the first one ships, as the moving average of its
    weights, and runs in the precision of `training.precision`; the others, such as discriminators, run in float32.
    fixed: sections and settings that a resumed run cannot change; about: other facts that it must share, which the
    first row of the log holds too. result: the name of the file that the run is for.
    """

    modules: dict[str, nn.Module]
    fixed: tuple[str, ...]
    about: dict[str, str]
    result: str

    @property
    def config(self) -> RunConfig: ...

    def initialise(self, photographs: list[Rgb]) -> None:
        """Sets the weights that a new run starts from. Raises ConfigError."""

    def optimizers(self) -> dict[str, list[torch.optim.Optimizer]]:
        """The optimisers of each module; each group has its peak learning rate as "peak"."""

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        """The losses of a step, in turn. The loop takes a module's step before it asks for the next loss.

        modules: to call instead of the objective's own, so that processes share gradients. x: (B, 3, crop, crop) in
        [0, 1]; quality_index: (B,); fraction: the share of the run done before this step.
        """

    def validate(self, ema: Any, held_out: list[Rgb], fraction: float) -> list[dict[str, float]]:
        """A row for each setting that is validated: means over the held-out pictures."""

    def sheet(self, ema: Any, held_out: list[Rgb]) -> Rgb | None:
        """Samples of what the average weights make, as one picture; None if it has none."""

    def warnings(self) -> dict[str, str]:
        """What goes wrong at present, a sentence for each cause; all processes have to ask."""

    def finish(self, ema: Any, run: Path, photographs: list[Rgb]) -> None:
        """Writes what the run is for, from the average weights. Raises OutputError."""
