"""The folder of a run: the state it resumes from, and the models it leaves."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurocodec import files
from neurocodec.errors import ConfigError
from neurocodec.model import Model
from neurocodec.models.freeze import freeze
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.scales import measure_scales
from neurocodec.training.config import Config, config_from_dict
from neurocodec.training.data import Photographs
from neurocodec.training.measured_tables import measured_tables
from neurocodec.training.objective import Objective

LEFT_BEHIND = ("model.pt", "model.safetensors", "realism.safetensors")
"""Models of a run; a new run does not overwrite them."""

PROGRESS = ("step", "seconds", "skipped", "crops")


@dataclass
class State:
    """All that changes in a run: the modules, their optimisers, and its progress.

    modules: by name; the first ships. ema: the moving average of its weights. seconds: of training, over all
    resumptions. skipped: steps with a gradient that was not finite. crops: those seen, of any size. warned: causes of
    warnings that were given.
    """

    modules: dict[str, nn.Module]
    ema: nn.Module
    optimizers: dict[str, list[torch.optim.Optimizer]]
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    crops: int = 0
    warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        weights = next(iter(self.modules.values())).parameters()
        learned = [(a, w) for a, w in zip(self.ema.parameters(), weights, strict=True) if w.requires_grad]
        self._averages: list[Tensor] = [average for average, _ in learned]
        self._weights: list[Tensor] = [weight for _, weight in learned]
        self.ema.requires_grad_(False)

    @torch.no_grad()
    def average_weights(self, decay: float) -> None:
        """Moves the average towards the weights; early in a run, when there is little to remember, faster."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    def set_learning_rate(self, rate: float) -> None:
        """Sets every learning rate to `rate` times its peak."""
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate

    def save(self, run: Path, objective: Objective) -> None:
        """Writes checkpoint.pt, to resume, and what the objective exports, for use. Raises OutputError."""
        progress = {name: getattr(self, name) for name in PROGRESS} | {"warned": sorted(self.warned)}
        about = {"config": dataclasses.asdict(objective.config), "state": progress | objective.about}
        objective.export(self.ema, run, about)
        weights = {name: module.state_dict() for name, module in {**self.modules, "ema": self.ema}.items()}
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers()]
        save_tensors(run / "checkpoint.pt", {**weights, "optimizers": optimizers, **about})

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continues from a checkpoint.pt; peak learning rates stay those of the configuration. Raises ConfigError."""
        try:
            for name, module in {**self.modules, "ema": self.ema}.items():
                module.load_state_dict(saved[name])
            for optimizer, values in zip(self._optimizers(), saved["optimizers"], strict=True):
                peaks = [group["peak"] for group in optimizer.param_groups]
                optimizer.load_state_dict(values)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["peak"] = peak
        except (LookupError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "the checkpoint does not fit the networks of this release: start a new run with --init-from."
            ) from error
        for name in PROGRESS:
            setattr(self, name, saved["state"].get(name, 0))  # earlier releases did not count crops
        self.warned = set(saved["state"].get("warned", ()))

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizers in self.optimizers.values() for optimizer in optimizers]


def start(
    objective: Objective, photographs: Photographs, saved: Mapping[str, Any] | None, device: torch.device
) -> State:
    """The state of a run before its next step. saved: its checkpoint, if it is resumed. Raises ConfigError."""
    if saved is None:
        objective.initialise(photographs)
    for module in objective.modules.values():
        module.to(device)
    ema = copy.deepcopy(next(iter(objective.modules.values())))
    state = State(objective.modules, ema, objective.optimizers())
    if saved is not None:
        state.restore(saved)
    return state


def open_run(run: Path, objective: Objective, *, resume: bool) -> dict[str, Any] | None:
    """Makes the folder of a new run, or reads the checkpoint of one to resume.

    Raises ConfigError if the folder holds another run, or none to resume, or one that the objective cannot continue;
    OutputError if it cannot be made.
    """
    path = run / "checkpoint.pt"
    if resume:
        if not path.exists():
            raise ConfigError(f"the folder {run} holds no checkpoint to resume.")
        saved = read(path)
        _check_resumable(path, saved, objective)
        return saved
    if path.exists():
        raise ConfigError(f"the folder {run} already holds a run; use --resume to continue it.")
    left = [name for name in LEFT_BEHIND if (run / name).exists()]
    if left:
        raise ConfigError(f"the folder {run} holds the {left[0]} of another run: name another folder with --run.")
    files.make_folder(run)
    return None


def _check_resumable(path: Path, saved: Mapping[str, Any], objective: Objective) -> None:
    """Raises ConfigError unless a checkpoint is of a run with this objective and the same fixed settings."""
    if not {"state", "config", "optimizers"} <= set(saved):
        raise ConfigError(f"{path} is not the checkpoint of a run.")
    there, here = (sorted(config) for config in (saved["config"], dataclasses.asdict(objective.config)))
    if there != here:
        raise ConfigError(
            f"the run {path.parent} trains something else: its sections are {', '.join(there) or 'none'}, those of the "
            f"configuration {', '.join(here)}."
        )
    check_settings("the run to resume", saved["config"], objective.config, objective.fixed)
    for name, value in objective.about.items():
        if saved["state"].get(name) != value:
            raise ConfigError(f"the {name} is {value}, and the run to resume has {saved['state'].get(name)}.")


def check_settings(
    source: str,
    there: Mapping[str, Mapping[str, Any]],
    config: Config,
    names: Iterable[str],
    *,
    growable: Iterable[str] = (),
    movable: Iterable[str] = (),
) -> None:
    """Raises ConfigError if a setting of the source differs from the configuration.

    there: the source's settings by section; one that it lacks does not differ. names: the sections, or single settings
    as section.key, to compare. growable: keys that may be larger in the configuration; movable: keys that may differ.
    """
    here = dataclasses.asdict(config)
    for name in names:
        section, _, single = name.partition(".")
        for key in [single] if single else here[section]:
            value = here[section][key]
            other = there[section].get(key, value)
            if value != other and key not in movable and not (key in growable and value > other):
                more = " or more" if key in growable else ""
                raise ConfigError(
                    f"{section}.{key} is {value!r}, and {source} has {other!r}: set it to {other!r}{more}."
                )


def load_run(path: str | Path) -> Hyperprior:
    """The model of a run's model.pt (EMA weights), in float, ready for `freeze`. Raises ConfigError."""
    saved = read(path)
    try:
        model = Hyperprior(config_from_dict({"model": saved["config"]["model"]}).model)
        model.load_state_dict(saved["model"])
    except (LookupError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{path} does not hold a model that this release can read.") from error
    return model.eval()


def freeze_run(path: str | Path, photographs: Photographs) -> Model:
    """Freezes a run's model.pt, with scales and tables measured on twenty of its training pictures."""
    model = load_run(path)
    chosen = range(0, len(photographs), max(1, len(photographs) // 20))
    scales = measure_scales(model, (photographs.tensor(i, largest=768) for i in chosen))
    tables = measured_tables(freeze(model, scales=scales), (photographs[i] for i in chosen))
    return freeze(model, tables=tables, scales=scales)


def read(path: str | Path) -> dict[str, Any]:
    """The contents of a run's .pt file. Raises ConfigError if it is missing or no such file."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    except Exception as error:  # the unpickler raises nearly any class
        raise ConfigError(f"{path} is not a file that neurocodec train wrote.") from error
    if not isinstance(saved, dict):
        raise ConfigError(f"{path} is not a file that neurocodec train wrote.")
    return saved


def save_tensors(path: Path, value: dict[str, Any]) -> None:
    """Writes a .pt file, whole or not at all. Raises OutputError."""
    buffer = io.BytesIO()  # torch turns an error of a real file into one of its own
    torch.save(value, buffer)
    files.write_bytes(path, buffer.getvalue(), force=True)
