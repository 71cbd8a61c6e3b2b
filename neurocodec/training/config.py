"""Training configuration: TOML sections into dataclasses.

[model], [data] and [training] describe a run that trains a base model; [data], [training], [generator] and [realism]
one that trains a generative decoder. Any other run of the loop has [data], [training] and sections of its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from neurocodec import files
from neurocodec.errors import ConfigError
from neurocodec.model import GeneratorConfig, HyperpriorConfig
from neurocodec.perceptual.adversarial import GanLoss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

R = TypeVar("R", bound="RunConfig")

SHIPPED = Path(__file__).parent / "configs"
MAX_BYTES = 2**15
"""Of a configuration: a parser in Python may need a second for some kinds of ten times a usual one."""


class Range(NamedTuple):
    """Which values a setting may have, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Range:
    """From a number on."""
    return Range(f"at least {low}", lambda value: value >= low)


Whole = Annotated[int, at_least(0)]
Count = Annotated[int, at_least(1)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, Range("between 0 and 1", lambda value: 0 <= value <= 1)]
Positive = Annotated[float, Range("above 0", lambda value: value > 0)]
Side = Annotated[int, Range("a multiple of 64", lambda value: value > 0 and value % 64 == 0)]


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures are. Folders are read recursively; every `validation_every`-th picture is held out.

    Crops from the folders of `mix` stay as they are: only those from `folder` are magnified, recoloured and drawn on.
    """

    folder: str = ""
    shorter_side: Whole = 0  # larger pictures are scaled down to it when they are decoded; 0 keeps their size
    mix: dict[str, float] = field(default_factory=dict)  # further folders, and the share of the crops from each
    in_turn: bool = False  # the folders of `mix` and then `folder` take turns within a batch, whatever their shares
    cache: str = ""  # decoded pictures; default: inside the run folder
    validation_every: Annotated[int, at_least(2)] = 40
    validation_images: Count = 12
    crop: Side = 256  # smaller pictures are left out
    final_crop: Side = 384  # in the last part of a run, with fewer crops a step
    final_crop_share: Share = 0.0  # that part of the run
    magnified_share: Share = 0.25  # of the crops, magnified up to 4 times: large pictures are smoother than small ones
    drawn_share: Share = 0.05  # of the crops: flat colours, gradients, stripes, noise, shapes, text
    recoloured_share: Share = 0.15  # of the other crops: stronger or weaker colours, or exchanged channels
    workers: Count = 2  # threads that cut crops, each two batches ahead

    def __post_init__(self) -> None:
        if self.magnified_share + self.drawn_share > 1:
            raise ConfigError("data.magnified_share + data.drawn_share is above 1.")
        if 0 < self.shorter_side < self.crop:
            raise ConfigError(f"data.shorter_side is {self.shorter_side}, less than data.crop, {self.crop}.")
        shares_fit = all(isinstance(share, float) and share > 0.0 for share in self.mix.values())
        if not (shares_fit and sum(self.mix.values()) < 1.0 and self.folder not in self.mix):
            raise ConfigError(
                f"data.mix is {self.mix}, expected a table of other folders and their shares of the crops, together "
                "less than 1."
            )


@dataclass(frozen=True)
class LoopConfig:
    """What the loop reads. A run ends after `steps` steps or, if `minutes` is above 0, after that much wall clock."""

    steps: Count = 10_000
    minutes: NotNegative = 0.0
    batch: Count = 8  # over all processes
    seed: Annotated[int, Range("at least 0 and below 2^63", lambda value: 0 <= value < 1 << 63)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA
    threads: Whole = 0  # CPU threads a process; 0 leaves torch's choice
    compile: bool = False  # torch.compile of the network: for GPUs
    learning_rate: NotNegative = 1e-3
    warmup: Share = 0.01  # share of the run
    final_learning_rate: Share = 0.01  # of the peak, at the end of the cosine; 1.0 makes it flat
    clip: Positive = 1.0
    ema: Share = 0.999
    log_every: Count = 20
    checkpoint_every: Count = 500
    validate_every: Count = 2000


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """A run that trains a codec."""

    optimizer: Literal["adam", "soap"] = "adam"  # soap (pytorch-optimizer): on the 1×1 matrices only
    rows_learning_rate: NotNegative = 3e-3  # per-quality gains and biases
    integer_share: Share = 0.2  # the last part of a run, with fake quantisation of the entropy path
    init_from: str = ""  # a run's folder, a .safetensors file or the name of a model; default: a transform codec
    init_images: Whole = 40  # pictures that the transform start measures; 0: random weights
    validate_actual: bool = True  # also measures real files
    encoder_only: bool = False  # the decoder of `init_from`, a model, stays: files made with it stay readable
    fused: bool = False  # the training pass in C++, for bfloat16 on a CPU: `training.fused`

    def __post_init__(self) -> None:
        if self.fused and (self.precision != "bfloat16" or self.device == "cuda"):
            raise ConfigError('training.fused is for training.precision = "bfloat16" on a CPU.')


@dataclass(frozen=True)
class RealismConfig:
    """The objective of a generative decoder. Weights are those of HiFiC (Mentzer et al. 2020, appendix A)."""

    model: str = "base"  # name or .safetensors file of the model whose latents are decoded
    joint: bool = False  # trains that model too, into a new one
    gan_start: Share = 0.2  # share of the run, its first, without discriminator
    gan: GanLoss = "non-saturating"
    lpips: Literal["alex", "vgg"] = "alex"
    mse_weight: NotNegative = 0.075 * 2**-5  # k_M, of 255² · MSE
    lpips_weight: NotNegative = 1.0  # k_P
    gan_weight: NotNegative = 0.15  # β of the paper
    exponent: Positive = 3.0  # of β, which weighs all but the squared error
    matching_weight: NotNegative = 0.0  # of the discriminator's features
    style_weight: NotNegative = 0.0  # of the Gram matrices of the LPIPS network's features
    pattern_weight: NotNegative = 0.0  # k_R, of 255² · the mean square of what repeats every 8 pixels in the detail
    discriminator_channels: Count = 64
    spectral_norm: bool = True  # of the discriminator, as in the paper; without it, it learns sooner
    discriminator_learning_rate: NotNegative = 1e-4
    lambda_above: NotNegative = 2.0  # joint: of the rate where it is above its target, in units of k_M / λ
    lambda_below: NotNegative = 2**-6  # where it is below
    guard_window: Count = 300  # steps over which collapse is judged

    def __post_init__(self) -> None:
        if self.lambda_below > self.lambda_above:
            raise ConfigError("realism.lambda_below is above realism.lambda_above.")


@dataclass(frozen=True)
class RunConfig:
    """What every run of the loop has; a run of one kind adds sections."""

    data: DataConfig = field(default_factory=DataConfig)
    training: LoopConfig = field(default_factory=LoopConfig)

    @property
    def quality_rows(self) -> int:
        """The quality indexes of a batch spread over 0 to this, less 1: without a model's rows, over [0, 1]."""
        return 2


@dataclass(frozen=True)
class Config(RunConfig):
    """The configuration of a run that trains a codec."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    model: HyperpriorConfig = field(default_factory=HyperpriorConfig)

    @property
    def quality_rows(self) -> int:
        return self.model.quality_rows


@dataclass(frozen=True)
class GenerativeConfig(Config):
    """A configuration that trains a generative decoder; `model` is the shape of the model it names."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    realism: RealismConfig = field(default_factory=RealismConfig)


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a .toml file, or the configuration of that name that ships, and applies `section.key=value` overrides.

    Values of overrides are in TOML syntax; bare words are strings. Raises ConfigError for a missing file, unknown
    sections or keys, and values of the wrong type or out of range.
    """
    tables = read_tables(name, SHIPPED)
    if "realism" in tables and ("model" in tables or any(word.startswith("model.") for word in overrides)):
        raise ConfigError("[model] cannot stand beside [realism]: realism.model names a model, which has its shape.")
    return config_from_dict(tables, overrides)


def read_tables(name: str | Path, shipped: Path) -> dict[str, Any]:
    """The tables of a .toml file, or of the file of that name in the folder `shipped`. Raises ConfigError."""
    path = Path(name)
    if path.suffix != ".toml":
        path = shipped / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(other.stem for other in shipped.glob("*.toml")))
            raise ConfigError(f"no configuration {str(name)!r} ships; those that do are {known}; others end in .toml.")
    try:
        return tomllib.loads(files.read_text(path, MAX_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def config_from_dict(tables: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Builds a Config, or with [realism] a GenerativeConfig, from dictionaries; the inverse of `dataclasses.asdict`.

    Overrides are as for `load_config`. Raises ConfigError.
    """
    realism = "realism" in tables or any(word.strip().startswith("realism.") for word in overrides)
    kind: type[Config] = GenerativeConfig if realism else Config
    sections = (
        "[model], [data] and [training], and to train a generative decoder [data], [training], [generator] and "
        "[realism]"
    )
    return config_of(kind, tables, overrides, sections)


def config_of(kind: type[R], tables: dict[str, Any], overrides: Sequence[str], sections: str) -> R:
    """Builds a configuration of any kind of run. sections: those that it may have, in words. Raises ConfigError."""
    tables = {name: dict(_table(name, table)) for name, table in tables.items()}
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"override {override!r} is not of the form section.key=value.")
        tables.setdefault(section, {})[key] = toml_value(text)
    hints = get_type_hints(kind)
    if unknown := set(tables) - set(hints):
        raise ConfigError(f"unknown section [{sorted(unknown)[0]}]; the sections are {sections}.")
    return kind(**{name: section_of(name, part, tables.get(name, {})) for name, part in hints.items()})


def toml_value(text: str) -> Any:
    """The value that a text has in TOML syntax; bare words are strings."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _table(name: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} is {table!r}, and a section [{name}] is needed.")
    return table


def section_of(name: str, kind: Any, table: dict[str, Any]) -> Any:
    """The dataclass `kind` of a table, named [name] in errors. Raises ConfigError."""
    hints = get_type_hints(kind, include_extras=True)
    if unknown := set(table) - set(hints):
        raise ConfigError(f"unknown key {sorted(unknown)[0]!r} in [{name}]; known are {', '.join(hints)}.")
    try:
        return kind(**{key: _checked(f"{name}.{key}", value, hints[key]) for key, value in table.items()})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"[{name}]: {error}") from error


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value of a setting; whole numbers become floats where the type says so. Raises ConfigError."""
    hint, *ranges = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
        ranges = [Range(" or ".join(choices), lambda value: value in choices)]
    expected = get_origin(hint) or hint
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(f"{name} is {value!r}, and a value of type {expected.__name__} is needed.")
    if expected is float and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}, and a finite number is needed.")
    for text, holds in ranges:
        if not holds(value):
            raise ConfigError(f"{name} is {value!r}, expected {text}.")
    return value
