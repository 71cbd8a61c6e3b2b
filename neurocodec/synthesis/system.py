"""What all systems share: how one is applied to files, and how one that learns plugs into the training loop.

A system is a class. `System` turns files into a file; `TrainedSystem` is also an objective of `training.loop`, and
writes a model file: safetensors, with the name of the system and its settings as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from neurocodec import files
from neurocodec.errors import ConfigError, ModelMismatchError
from neurocodec.synthesis import pictures
from neurocodec.training import checkpoint
from neurocodec.training.config import (
    DataConfig,
    LoopConfig,
    NotNegative,
    Positive,
    Range,
    RunConfig,
    Share,
    Whole,
    config_of,
    read_tables,
    section_of,
    toml_value,
)
from neurocodec.training.data import Rgb
from neurocodec.training.distributed import Processes
from neurocodec.training.guard import Guard
from neurocodec.training.log import mean_row
from neurocodec.training.objective import Loss

FORMAT = "neurocodec-synthesis-1"
SHIPPED = Path(__file__).parent / "configs"
SHOWN = 8
"""Maximum number of held-out pictures on a sheet."""


@dataclass(frozen=True)
class Options:
    """What can be set when a system is applied. device: where its networks run."""

    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class SeededOptions(Options):
    """Options of a system that draws random numbers. seed: theirs; the same seed gives the same picture."""

    seed: Whole = 1


@dataclass(frozen=True)
class Data(DataConfig):
    """The pictures of a system: crops are unchanged by default, and may be small."""

    crop: Annotated[int, Range("a multiple of 4", lambda value: value > 0 and value % 4 == 0)] = 64
    magnified_share: Share = 0.0
    drawn_share: Share = 0.0
    recoloured_share: Share = 0.0


@dataclass(frozen=True)
class Training(LoopConfig):
    """A run of a system: Adam at a constant learning rate, without clipping, as in most papers on GANs."""

    learning_rate: NotNegative = 2e-4
    warmup: Share = 0.0
    final_learning_rate: Share = 1.0
    clip: Positive = 1e6  # no gradient is as large as that


@dataclass(frozen=True)
class SynthesisConfig(RunConfig):
    """The configuration of a run; each system adds a section of its own name."""

    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)


S = TypeVar("S")
"""The settings of a system: the dataclass of its section."""
O = TypeVar("O", bound=Options)  # noqa: E741
"""Its options when it is applied."""


class System(ABC, Generic[S, O]):
    """Turns files into a file. options: the dataclass of its options."""

    name: ClassVar[str]
    options: ClassVar[type[Any]] = Options

    @classmethod
    @abstractmethod
    def apply(cls, sources: Sequence[str], output: str, options: O, *, force: bool) -> str:
        """Writes the file `output` and returns a line about it. sources: the inputs that the registry lists for the
        system, in that order; force: overwrite. Raises NeurocodecError."""


class TrainedSystem(System[S, O]):
    """A system that learns: an objective of the loop, whose first module is its network.

    config_type: the dataclass of its configuration. `network` and `critics` make its modules, `losses` is its step,
    `show` is what a sheet and the figures of a validation are made from.
    """

    config_type: ClassVar[type[SynthesisConfig]]
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)
    """Adam's, as in DCGAN and most GANs since."""
    result = "model.safetensors"

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.settings: S = getattr(config, self.name)
        self.fixed: tuple[str, ...] = (self.name, "data.crop")
        self.about = {"system": self.name}
        torch.manual_seed(config.training.seed)
        self.modules: dict[str, nn.Module] = {"generator": self.network(self.settings), **self.critics()}
        self.guard = Guard(getattr(self.settings, "guard_window", 1), self.name)

    @staticmethod
    @abstractmethod
    def network(settings: Any) -> nn.Module:
        """The network that model files hold, with random weights."""

    def critics(self) -> dict[str, nn.Module]:
        """The modules that learn beside the network, such as a discriminator, by name."""
        return {}

    def initialise(self, photographs: list[Rgb]) -> None:
        """Nothing: networks start from the random weights of their papers."""

    def optimizers(self) -> dict[str, list[torch.optim.Optimizer]]:
        """Adam for each module; critics learn at the section's discriminator_learning_rate, if it has one."""
        rate = self.config.training.learning_rate
        peaks = dict.fromkeys(self.modules, getattr(self.settings, "discriminator_learning_rate", rate))
        peaks["generator"] = rate
        return {
            name: [torch.optim.Adam([{"params": learning(m), "peak": peaks[name]}], betas=self.betas, fused=True)]
            for name, m in self.modules.items()
        }

    @abstractmethod
    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        """The losses of a step, see `training.objective.Objective`; quality_index is spread over [0, 1]."""

    @abstractmethod
    def show(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        """What the network makes of held-out crops x, (N, 3, crop, crop): columns of (N, 3, H, W) in [0, 1]."""

    def figures(self, shown: dict[str, Tensor]) -> dict[str, float]:
        """Figures of a validation, from what `show` returns: the PSNR of "output" from "truth", where both are."""
        if not {"output", "truth"} <= set(shown):
            return {}
        mse = (shown["output"].clamp(0, 1) - shown["truth"]).square().mean((1, 2, 3))
        return {"psnr": float(-10 * mse.clamp(min=1e-10).log10().mean())}

    @torch.no_grad()
    def validate(self, ema: Any, held_out: list[Rgb], fraction: float) -> list[dict[str, float]]:
        """One row: the means over the held-out pictures."""
        x = pictures.centre_crops(held_out, self.config.data.crop).to(self.processes.device)
        torch.manual_seed(0)  # the next step has a seed of its own
        figures = self.figures(self.show(ema.eval(), x))
        return [mean_row({}, [figures])] if figures else []

    @torch.no_grad()
    def sheet(self, ema: Any, held_out: list[Rgb]) -> Rgb | None:
        x = pictures.centre_crops(held_out[:SHOWN], self.config.data.crop).to(self.processes.device)
        torch.manual_seed(0)
        return pictures.sheet(self.show(ema.eval(), x))

    def warnings(self) -> dict[str, str]:
        return self.guard.warnings(self.processes)

    def finish(self, ema: Any, run: Path, photographs: list[Rgb]) -> None:
        save_model(run / self.result, self.name, self.settings, ema)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> tuple[Any, S]:
        """The network and the settings of a model file. Raises ModelMismatchError if it is not one of this system."""
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("format") != FORMAT or about.get("system") != cls.name:
                what = about.get("system") or about.get("format") or "no system"
                raise ModelMismatchError(f"{path} holds {what}, expected a model of {cls.name}")
            settings: S = section_of(cls.name, get_type_hints(cls.config_type)[cls.name], json.loads(about["config"]))
            network = cls.network(settings)
            network.load_state_dict(tensors)
        except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
            if isinstance(error, ModelMismatchError):
                raise
            raise ModelMismatchError(
                f"{path} is not a model that neurocodec synth train wrote, or is damaged"
            ) from error
        return network.to(device).eval(), settings

    @classmethod
    def transform(cls, network: Any, settings: S, x: Tensor, options: O) -> Tensor:
        """The output for a picture x, (1, 3, H, W) in [0, 1]: a picture of any size, which `apply` clamps to [0, 1]."""
        output: Tensor = network(x)
        return output

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: O, *, force: bool) -> str:
        pictures.check(output, options.device, force=force)
        network, settings = cls.load(sources[0], options.device)
        x = pictures.read(sources[1], device=options.device)
        with torch.no_grad():
            y = cls.transform(network, settings, x, options)
        pictures.write(y, output, force=force)
        return f"{output}: {y.shape[3]}×{y.shape[2]}"


def load_config(kind: type[TrainedSystem[Any, Any]], name: str, overrides: Sequence[str]) -> SynthesisConfig:
    """The configuration of a .toml file, or of that name that ships, with overrides. Raises ConfigError."""
    return _config(kind, read_tables(name, SHIPPED), overrides)


def resumed_config(kind: type[TrainedSystem[Any, Any]], run: str, overrides: Sequence[str]) -> SynthesisConfig:
    """The configuration of a run that is continued, with overrides. Raises ConfigError."""
    return _config(kind, checkpoint.read(run)["config"], overrides)


def _config(kind: type[TrainedSystem[Any, Any]], tables: dict[str, Any], overrides: Sequence[str]) -> SynthesisConfig:
    return config_of(kind.config_type, tables, overrides, f"[data], [training] and [{kind.name}]")


def options_of(kind: type[System[Any, Any]], words: Sequence[str]) -> Any:
    """The options of a system from words key=value. Raises ConfigError."""
    pairs = (word.partition("=") for word in words)
    return section_of("options", kind.options, {key.strip(): toml_value(text) for key, _, text in pairs})


def learning(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are not frozen."""
    return [p for p in module.parameters() if p.requires_grad]


def save_model(path: Path, system: str, settings: Any, network: nn.Module) -> None:
    """Writes a model file. Raises OutputError."""
    about = {"format": FORMAT, "system": system, "config": json.dumps(dataclasses.asdict(settings))}
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    files.write_bytes(path, save(tensors, about), force=True)


def check_crop(config: SynthesisConfig, multiple: int, least: int) -> None:
    """Raises ConfigError unless crops have sides of a multiple, and of at least `least`."""
    crop = config.data.crop
    if crop % multiple or crop < least:
        raise ConfigError(f"data.crop is {crop}, expected a multiple of {multiple} and at least {least}.")
