"""The folder of a run: the state it resumes from, and the model it leaves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from neurocodec import files
from neurocodec.errors import ConfigError
from neurocodec.model import HyperpriorConfig, Model
from neurocodec.models.freeze import freeze
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.scales import measure_scales
from neurocodec.training import checkpoint
from neurocodec.training.config import RunConfig
from neurocodec.training.data import Rgb, as_tensor
from neurocodec.training.distributed import Processes
from neurocodec.training.measured_tables import measured_tables
from neurocodec.training.objective import Objective

LEFT_BEHIND = (checkpoint.NAME, "model.safetensors", "realism.safetensors")
"""Files of a run; a new run does not overwrite them."""
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

    @torch.no_grad()
    def average_weights(self, decay: float) -> None:
        """Moves the average towards the weights; early in a run, when there is little to remember, faster.

        Buffers, such as the statistics of batch normalisation, are copied: they are averages already.
        """
        decay = min(decay, (1 + self.step) / (10 + self.step))
        main = next(iter(self.modules.values()))
        learned = [(a, w) for a, w in zip(self.ema.parameters(), main.parameters(), strict=True) if w.requires_grad]
        torch._foreach_lerp_([average for average, _ in learned], [weight for _, weight in learned], 1 - decay)
        for average, buffer in zip(self.ema.buffers(), main.buffers(), strict=True):
            average.copy_(buffer)

    def set_learning_rate(self, rate: float) -> None:
        """Sets every learning rate to `rate` times its peak."""
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate

    def save(self, run: Path, objective: Objective) -> None:
        """Writes the checkpoint. Raises OutputError."""
        progress = {name: getattr(self, name) for name in PROGRESS} | {"warned": sorted(self.warned)}
        tree = {
            "config": dataclasses.asdict(objective.config),
            "state": progress | objective.about,
            "weights": {name: module.state_dict() for name, module in self._modules().items()},
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
        }
        checkpoint.write(run, tree)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continues from a checkpoint; peak learning rates stay those of the configuration. Raises ConfigError."""
        try:
            for name, module in self._modules().items():
                module.load_state_dict(saved["weights"][name])
            for optimizer, values in zip(self._optimizers(), saved["optimizers"], strict=True):
                peaks = [group["peak"] for group in optimizer.param_groups]
                states = {int(number): state for number, state in values["state"].items()}
                optimizer.load_state_dict({**values, "state": states})
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["peak"] = peak
            self.warned = set(saved["state"]["warned"])
            for name in PROGRESS:
                setattr(self, name, saved["state"][name])
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "the checkpoint does not fit the networks of this release: start a new run with --init-from."
            ) from error

    def _modules(self) -> dict[str, nn.Module]:
        return {**self.modules, "ema": self.ema}

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [optimizer for optimizers in self.optimizers.values() for optimizer in optimizers]


def start(objective: Objective, photographs: list[Rgb], resumed: Path | None, device: torch.device) -> State:
    """The state of a run before its next step. resumed: the folder of the run that goes on. Raises ConfigError."""
    if resumed is None:
        objective.initialise(photographs)
    for module in objective.modules.values():
        module.to(device)
    ema = copy.deepcopy(next(iter(objective.modules.values()))).requires_grad_(False)
    state = State(objective.modules, ema, objective.optimizers())
    if resumed is not None:
        saved = checkpoint.read(resumed)
        try:
            if set(saved["config"]) != set(dataclasses.asdict(objective.config)):
                raise LookupError("other sections")
            check_settings("the run to resume", saved["config"], objective.config, objective.fixed)
            for name, value in objective.about.items():
                if saved["state"][name] != value:
                    raise ConfigError(f"the {name} is {value}, and the run to resume has {saved['state'][name]}.")
        except (LookupError, TypeError) as error:
            raise ConfigError(f"{resumed} holds a checkpoint of another kind of run.") from error
        state.restore(saved)
    return state


@contextmanager
def open_run(run: Path, processes: Processes, *, resume: bool) -> Iterator[None]:
    """Makes the folder of a new run, and keeps other processes from training in it; a failed start leaves no folder.

    Raises ConfigError if the folder holds another run, or with `resume` none, or if another process trains there;
    OutputError if it cannot be made.
    """
    if not processes.first:
        yield
        return
    files_of_a_run = [name for name in LEFT_BEHIND if (run / name).exists()]
    if resume and checkpoint.NAME not in files_of_a_run:
        raise ConfigError(f"the folder {run} holds no {checkpoint.NAME} to resume.")
    if files_of_a_run and not resume:
        raise ConfigError(
            f"the folder {run} holds the {files_of_a_run[0]} of another run: continue it with --resume, or name "
            "another folder with --run."
        )
    missing = [folder for folder in (run / "cache", run, *run.parents) if not folder.exists()]
    files.make_folder(run)
    lock = FileLock(run / ".lock", blocking=False)
    try:
        with lock:
            yield
    except Timeout as error:
        raise ConfigError(f"another process trains in {run}: wait for its end, or stop it.") from error
    except BaseException:
        Path(lock.lock_file).unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def check_settings(
    source: str,
    there: Mapping[str, Mapping[str, Any]],
    config: RunConfig,
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


def is_run(source: str) -> bool:
    """Whether a model to start from is the folder of a run."""
    return (Path(source) / checkpoint.NAME).is_file()


def freeze_measured(
    config: HyperpriorConfig, weights: Mapping[str, Tensor], photographs: list[Rgb], decoder: Model | None = None
) -> Model:
    """Freezes float weights, with scales and tables measured on twenty of the training pictures.

    decoder: a model whose decoder and tables replace those of the weights.
    """
    model = Hyperprior(config)
    model.load_state_dict(weights)
    model.eval()
    chosen = photographs[:: max(1, len(photographs) // 20)]
    scales = measure_scales(model, (as_tensor(rgb, largest=768) for rgb in chosen))
    if decoder:
        return freeze(model, scales=scales).with_decoder(decoder)
    tables = measured_tables(freeze(model, scales=scales), chosen)
    return freeze(model, tables=tables, scales=scales)
