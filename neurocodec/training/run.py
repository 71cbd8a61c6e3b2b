"""The folder of a run: what it takes to resume, and the model it leaves behind."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocodec.errors import ConfigError
from neurocodec.model import Model
from neurocodec.models.freeze import freeze
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.training.config import Config, config_from_dict
from neurocodec.training.data import Photographs
from neurocodec.training.measured_tables import measured_tables

LEFT_BEHIND = ("model.pt", "model.safetensors", "realism.safetensors")
"""What a run leaves for use, besides its checkpoint; a new run does not overwrite it."""


@dataclass
class State:
    """All that changes in a run: the networks, their optimisers, and how far it is.

    ema: the moving average of the weights, which is what ships. seconds: of training, over all its resumptions.
    skipped: steps whose gradients were not finite. crops: those seen, of any size.
    """

    model: Hyperprior
    ema: Hyperprior
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    crops: int = 0

    def __post_init__(self) -> None:
        self._averages: list[Tensor] = list(self.ema.requires_grad_(False).parameters())
        self._weights: list[Tensor] = list(self.model.parameters())

    def average_weights(self, decay: float) -> None:
        """Moves the average towards the weights."""
        move_average(self._averages, self._weights, decay, self.step)

    def fake_quantise(self, enabled: bool) -> None:
        """Switches the fake quantisation of the entropy path, in both copies."""
        for model in (self.model, self.ema):
            model.fake_quantise = enabled

    def save(self, run: Path, config: Config) -> None:
        """Writes model.pt (the average, to use) and checkpoint.pt (everything, to resume), each atomically."""
        progress = {"step": self.step, "seconds": self.seconds, "skipped": self.skipped, "crops": self.crops}
        about = {"config": dataclasses.asdict(config), "state": progress}
        ema, model = self.ema.state_dict(), self.model.state_dict()
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        save_atomically({"model": ema, **about}, run / "model.pt")
        save_atomically({"model": model, "ema": ema, "optimizers": optimizers, **about}, run / "checkpoint.pt")

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from what `save` wrote to checkpoint.pt; peak learning rates stay those of the configuration."""
        self.model.load_state_dict(saved["model"])
        self.ema.load_state_dict(saved["ema"])
        for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
            restore_optimizer(optimizer, values)
        progress = saved["state"]
        self.step, self.seconds, self.skipped = progress["step"], progress["seconds"], progress["skipped"]
        self.crops = progress.get("crops", 0)


@torch.no_grad()
def move_average(averages: list[Tensor], weights: list[Tensor], decay: float, step: int) -> None:
    """Moves averages towards weights; early in a run, when there is little to remember, faster."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(averages, weights, 1 - decay)


def restore_optimizer(optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Loads the state of an optimiser, all but the peak learning rates, which stay."""
    peaks = [group["peak"] for group in optimizer.param_groups]
    optimizer.load_state_dict(values)
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["peak"] = peak


def open_run(run: Path, *, resume: bool, generative: bool = False) -> dict[str, Any] | None:
    """Makes the folder of a new run, or reads the checkpoint of one to resume.

    generative: whether it is, or will be, a run that trains a generative decoder. Raises ConfigError.
    """
    path = run / "checkpoint.pt"
    if resume and not path.exists():
        raise ConfigError(f"the folder {run} holds no checkpoint to resume.")
    if path.exists() and not resume:
        raise ConfigError(f"the folder {run} already holds a run; use --resume to continue it.")
    left = [name for name in LEFT_BEHIND if (run / name).exists()]
    if left and not resume:
        raise ConfigError(f"the folder {run} holds the {left[0]} of another run: name another folder with --run.")
    if resume:
        return _checkpoint(path, generative)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {run} cannot be made: {error.strerror}.") from error
    return None


def _checkpoint(path: Path, generative: bool) -> dict[str, Any]:
    """What a checkpoint.pt of that kind of run holds. Raises ConfigError."""
    saved = read(path)
    if not {"state", "config", "optimizers"} <= set(saved):
        raise ConfigError(f"{path} is not the checkpoint of a run.")
    if ("discriminator" in saved) != generative:
        a, b = ("no", "has one") if generative else ("a", "has none")
        raise ConfigError(
            f"the run {path.parent} trains {a} generative decoder, and the configuration {b} to train ([realism])."
        )
    return saved


def load_run(path: str | Path) -> Hyperprior:
    """The model of a run's model.pt (EMA weights), in float, ready for `checkpoint.freeze`. Raises ConfigError."""
    saved = read(path)
    try:
        model = Hyperprior(config_from_dict({"model": saved["config"]["model"]}).model)
        model.load_state_dict(saved["model"])
    except (LookupError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{path} does not hold a model that this release can read.") from error
    return model.eval()


def freeze_run(path: str | Path, photographs: Photographs) -> Model:
    """Freezes a run's model.pt, with tables measured on twenty of its training pictures."""
    model = load_run(path)
    chosen = range(0, len(photographs), max(1, len(photographs) // 20))
    tables = measured_tables(freeze(model), (photographs[i] for i in chosen))
    return freeze(model, tables=tables)


def read(path: str | Path) -> dict[str, Any]:
    """What a .pt file of a run holds. Raises ConfigError if it is missing or is no such file."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    except Exception as error:  # the unpickler raises nearly any class
        raise ConfigError(f"{path} is no file that neurocodec train wrote.") from error
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is no file that neurocodec train wrote.")
    return saved


def save_atomically(value: dict[str, Any], path: Path) -> None:
    """Writes a .pt file under a temporary name and renames it."""
    temporary = path.with_suffix(".part")
    torch.save(value, temporary)
    temporary.replace(path)
