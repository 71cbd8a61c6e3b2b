"""Training configuration: TOML sections into dataclasses.

[model], [data] and [training] describe a run that trains a base model; [data], [training], [generator] and [realism]
one that trains a generative decoder.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from neurocodec.errors import ConfigError
from neurocodec.model import GeneratorConfig, HyperpriorConfig
from neurocodec.perceptual.adversarial import GanLoss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures are. Folders are read recursively; every `validation_every`-th picture is held out.

    Crops from the folders of `mix` stay as they are: only those from `folder` are magnified, recoloured and drawn on.
    """

    folder: str = ""
    mix: dict[str, float] = field(default_factory=dict)  # further folders, and the share of the crops from each
    cache: str = ""  # decoded pictures; default: inside the run folder
    validation_every: int = 40
    validation_images: int = 12
    crop: int = 256  # side, a multiple of 64; smaller pictures are left out
    final_crop: int = 384  # side in the last part of a run, with fewer crops a step
    final_crop_share: float = 0.0  # that part of the run
    magnified_share: float = 0.25  # of the crops, magnified up to 4 times: large pictures are smoother than small ones
    drawn_share: float = 0.05  # of the crops: flat colours, gradients, stripes, noise, shapes, text
    recoloured_share: float = 0.15  # of the other crops: stronger or weaker colours, or exchanged channels
    workers: int = 2  # threads that cut crops, each two batches ahead

    def __post_init__(self) -> None:
        for name in ("crop", "final_crop"):
            _require(getattr(self, name) > 0 and getattr(self, name) % 64 == 0, f"data.{name}", "a multiple of 64")
        _require(self.validation_every >= 2, "data.validation_every", "at least 2")
        _require(self.validation_images >= 1, "data.validation_images", "at least 1")
        _require(0.0 <= self.final_crop_share <= 1.0, "data.final_crop_share", "between 0 and 1")
        fits = min(self.magnified_share, self.drawn_share) >= 0 and self.magnified_share + self.drawn_share <= 1
        _require(fits, "data.magnified_share + data.drawn_share", "between 0 and 1")
        _require(0.0 <= self.recoloured_share <= 1.0, "data.recoloured_share", "between 0 and 1")
        _require(self.workers >= 1, "data.workers", "at least 1")
        shares_fit = all(isinstance(share, float) and share > 0.0 for share in self.mix.values())
        fits = shares_fit and sum(self.mix.values()) < 1.0 and self.folder not in self.mix
        _require(fits, "data.mix", "a table of other folders and their shares of the crops, together less than 1")


@dataclass(frozen=True)
class TrainingConfig:
    """One run. It ends after `steps` steps or, if `minutes` is above zero, after that much wall clock."""

    steps: int = 10_000
    minutes: float = 0.0
    batch: int = 8  # over all processes
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "auto"  # auto (bfloat16 on CUDA), float32, bfloat16
    threads: int = 0  # CPU threads a process; 0 leaves torch's choice
    compile: bool = False  # torch.compile of the network: for GPUs
    optimizer: str = "adam"  # or, on the 1×1 matrices only: muon (torch >= 2.9), soap (pytorch-optimizer)
    learning_rate: float = 1e-3
    rows_learning_rate: float = 3e-3  # per-quality gains and biases
    warmup: float = 0.01  # share of the run
    final_learning_rate: float = 0.01  # of the peak, at the end of the cosine; 1.0 makes it flat
    clip: float = 1.0
    ema: float = 0.999
    integer_share: float = 0.2  # the last part of a run, with fake quantisation of the entropy path
    init_from: str = ""  # model.pt, .safetensors or the name of a model to start from; default: a transform codec
    init_images: int = 40  # pictures that the transform start measures; 0: random weights
    log_every: int = 20
    checkpoint_every: int = 500
    validate_every: int = 2000
    validate_actual: bool = True  # also measures real files
    tensorboard: bool = False  # writes RUN/tensorboard

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "checkpoint_every", "validate_every"):
            _require(getattr(self, name) >= 1, f"training.{name}", "at least 1")
        for name in ("minutes", "threads", "learning_rate", "rows_learning_rate", "init_images"):
            _require(getattr(self, name) >= 0, f"training.{name}", "at least 0")
        for name in ("warmup", "final_learning_rate", "ema", "integer_share"):
            _require(0.0 <= getattr(self, name) <= 1.0, f"training.{name}", "between 0 and 1")
        _require(0 <= self.seed < 1 << 63, "training.seed", "at least 0 and below 2^63")
        _require(self.clip > 0, "training.clip", "above 0")
        _require(self.device in ("auto", "cpu", "cuda"), "training.device", "auto, cpu or cuda")
        _require(self.precision in ("auto", "float32", "bfloat16"), "training.precision", "auto, float32 or bfloat16")
        _require(self.optimizer in ("adam", "muon", "soap"), "training.optimizer", "adam, muon or soap")


@dataclass(frozen=True)
class RealismConfig:
    """The objective of a generative decoder. Weights are those of HiFiC (Mentzer et al. 2020, appendix A)."""

    model: str = "base"  # name or .safetensors file of the model whose latents are decoded
    joint: bool = False  # trains that model too, into a new one
    gan_start: float = 0.2  # share of the run, its first, without discriminator
    gan: str = "non-saturating"  # minimax, non-saturating, least-squares, hinge
    lpips: str = "alex"  # alex, vgg
    mse_weight: float = 0.075 * 2**-5  # k_M, of 255² · MSE
    lpips_weight: float = 1.0  # k_P
    gan_weight: float = 0.15  # β of the paper
    exponent: float = 3.0  # of β, which weighs all but the squared error
    matching_weight: float = 0.0  # of the discriminator's features
    style_weight: float = 0.0  # of the Gram matrices of the LPIPS network's features
    pattern_weight: float = 0.0  # k_R, of 255² · the mean square of what repeats every 8 pixels in the detail
    discriminator_channels: int = 64
    spectral_norm: bool = True  # of the discriminator, as in the paper; without it, it learns sooner
    discriminator_weight: float = 1.0  # of its loss; 0.5 slows it down
    discriminator_learning_rate: float = 1e-4
    lambda_above: float = 2.0  # joint: of the rate where it is above its target, in units of k_M / λ
    lambda_below: float = 2**-6  # where it is below
    guard_window: int = 300  # steps over which collapse is judged

    def __post_init__(self) -> None:
        _require(0.0 <= self.gan_start <= 1.0, "realism.gan_start", "between 0 and 1")
        _require(self.gan in get_args(GanLoss), "realism.gan", " or ".join(get_args(GanLoss)))
        _require(self.lpips in ("alex", "vgg"), "realism.lpips", "alex or vgg")
        _require(self.exponent > 0, "realism.exponent", "above 0")
        for kind in ("mse", "lpips", "gan", "matching", "style", "pattern", "discriminator"):
            _require(getattr(self, f"{kind}_weight") >= 0, f"realism.{kind}_weight", "at least 0")
        _require(self.discriminator_learning_rate >= 0, "realism.discriminator_learning_rate", "at least 0")
        for name in ("discriminator_channels", "guard_window"):
            _require(getattr(self, name) >= 1, f"realism.{name}", "at least 1")
        _require(0 <= self.lambda_below <= self.lambda_above, "realism.lambda_below", "between 0 and lambda_above")


@dataclass(frozen=True)
class Config:
    """A whole training configuration."""

    model: HyperpriorConfig = field(default_factory=HyperpriorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class GenerativeConfig(Config):
    """A configuration that trains a generative decoder; `model` is the shape of the model it names."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    realism: RealismConfig = field(default_factory=RealismConfig)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a TOML file and applies `section.key=value` overrides (values in TOML syntax; bare words are strings).

    Raises ConfigError for a missing file, unknown sections or keys, and values of the wrong type or out of range.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"override {override!r} is not of the form section.key=value.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        _table(section, tables.setdefault(section, {}))[key] = value
    if "realism" in tables and "model" in tables:
        raise ConfigError("[model] cannot stand beside [realism]: realism.model names a model, which has its shape.")
    return config_from_dict(tables)


def config_from_dict(tables: dict[str, Any]) -> Config:
    """Builds a Config, or with [realism] a GenerativeConfig, from dictionaries; the inverse of `dataclasses.asdict`."""
    kind, sections = Config, {"model": HyperpriorConfig, "data": DataConfig, "training": TrainingConfig}
    if "realism" in tables:
        kind, sections = GenerativeConfig, {**sections, "generator": GeneratorConfig, "realism": RealismConfig}
    unknown = set(tables) - set(sections)
    if unknown:
        raise ConfigError(
            f"unknown section [{sorted(unknown)[0]}]; the sections are [model], [data] and [training], and to train a "
            "generative decoder [data], [training], [generator] and [realism]."
        )
    return kind(**{name: _section(name, part, tables.get(name, {})) for name, part in sections.items()})


def _require(fits: bool, name: str, expected: str) -> None:
    if not fits:
        raise ConfigError(f"{name} is not {expected}.")


def _table(name: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} is {table!r}, and a section [{name}] is needed.")
    return table


def _section(name: str, kind: Any, table: Any) -> Any:
    defaults, values = dataclasses.asdict(kind()), {}
    for key, value in _table(name, table).items():
        if key not in defaults:
            raise ConfigError(f"unknown key {key!r} in [{name}]; known are {', '.join(defaults)}.")
        expected = type(defaults[key])
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not expected:
            raise ConfigError(f"{name}.{key} is {value!r}, and a value of type {expected.__name__} is needed.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}.{key} is {value}, and a finite number is needed.")
        values[key] = value
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"[{name}]: {error}") from error
