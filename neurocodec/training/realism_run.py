"""The networks of a run that trains a generative decoder, how it starts, and what its folder holds."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurocodec import model as model_files
from neurocodec.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from neurocodec.model import GeneratorConfig, Model
from neurocodec.models import generators
from neurocodec.models.freeze import thaw
from neurocodec.models.hific import Generator
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.perceptual.adversarial import HificDiscriminator
from neurocodec.training.config import GenerativeConfig, config_from_dict
from neurocodec.training.data import Photographs
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.run import freeze_run, move_average, read, restore_optimizer, save_atomically
from neurocodec.training.schedule import stages

GENERATOR_FILE = "realism.safetensors"


class GenerativeCodec(nn.Module):
    """x and β → latents → a picture: a base model whose synthesis is a generator's trunk.

    joint: whether the base model learns too. If not, it is frozen and makes the latents that coding makes.
    """

    def __init__(self, base: Hyperprior, generator: Generator, *, joint: bool) -> None:
        super().__init__()
        base.g_s = generator.trunk
        base.fake_quantise = True
        self.base, self.generator, self.joint = base.requires_grad_(joint), generator, joint

    def forward(self, x: Tensor, quality_index: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """x: (B, 3, H, W) in [0, 1], H and W multiples of 64; quality_index, beta: (B,).

        Returns x_hat and its detail, which is what β adds, both (B, 3, H, W), not clamped; bpp (B,); and condition
        (B, M, H/16, W/16), without gradient: y_hat times the trunk's gains, which bring latents of every quality to the
        same size, of order 1.
        """
        with torch.autocast(x.device.type, enabled=self.joint and torch.is_autocast_enabled(x.device.type)):
            latents = self.base.latents(x, quality_index)
        y_hat, bits = latents["y_hat"], latents["y_bits"] + latents["z_bits"]
        gain = self.generator.trunk.log_y_gain(quality_index).exp()
        picture, detail = self.generator.parts(y_hat, quality_index, beta)
        return {
            "x_hat": picture + detail,
            "detail": detail,
            "bpp": bits / (x.shape[2] * x.shape[3]),
            "condition": (y_hat * gain).detach(),
        }


@dataclass
class GanState:
    """All that changes in a run: the networks of both sides, their optimisers, and how far it is.

    ema: the moving average of the codec's weights, which ships. seconds: of training, over all resumptions. skipped:
    steps in which a gradient was not finite. warned: causes of collapse that were reported.
    """

    codec: GenerativeCodec
    ema: GenerativeCodec
    discriminator: HificDiscriminator
    optimizers: list[torch.optim.Optimizer]
    discriminator_optimizer: torch.optim.Optimizer
    model: Model
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        pairs = zip(self.ema.parameters(), self.codec.parameters(), strict=True)
        learned = [(average, weight) for average, weight in pairs if weight.requires_grad]
        self._averages: list[Tensor] = [average for average, _ in learned]
        self._weights: list[Tensor] = [weight for _, weight in learned]
        self.ema.requires_grad_(False)

    def average_weights(self, decay: float) -> None:
        """Moves the average towards the weights."""
        move_average(self._averages, self._weights, decay, self.step)

    def save(self, run: Path, config: GenerativeConfig) -> None:
        """Writes checkpoint.pt (everything, to resume) and the average, to use, each atomically.

        The average is a generator's file for the model that was frozen, or else model.pt, a new model to freeze.
        """
        progress = {"step": self.step, "seconds": self.seconds, "skipped": self.skipped, "warned": sorted(self.warned)}
        about = {"config": dataclasses.asdict(config), "state": progress | {"model_id": self.model.model_id.hex()}}
        if config.realism.joint:
            save_atomically({"model": self.ema.base.state_dict(), **about}, run / "model.pt")
        else:
            generators.file_of(self.ema.generator, self.model).save(run / GENERATOR_FILE)
        modules = {name: getattr(self, name).state_dict() for name in ("codec", "ema", "discriminator")}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        both = {"optimizers": optimizers, "discriminator_optimizer": self.discriminator_optimizer.state_dict()}
        save_atomically({**modules, **both, **about}, run / "checkpoint.pt")

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from what `save` wrote to checkpoint.pt; peak learning rates stay those of the configuration."""
        for name in ("codec", "ema", "discriminator"):
            getattr(self, name).load_state_dict(saved[name])
        for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
            restore_optimizer(optimizer, values)
        restore_optimizer(self.discriminator_optimizer, saved["discriminator_optimizer"])
        progress = saved["state"]
        self.step, self.seconds, self.skipped = progress["step"], progress["seconds"], progress["skipped"]
        self.warned |= set(progress["warned"])

    def finish(self, run: Path, config: GenerativeConfig, photographs: Photographs) -> Path:
        """Saves, and freezes a model that was trained too, as model.safetensors. Returns the generator's file."""
        self.save(run, config)
        if config.realism.joint:
            model = freeze_run(run / "model.pt", photographs)
            model.save(run / "model.safetensors")
            generators.file_of(self.ema.generator, model).save(run / GENERATOR_FILE)
        return run / GENERATOR_FILE


def base_model(config: GenerativeConfig) -> Model:
    """The frozen model whose latents are decoded. Raises ConfigError."""
    try:
        return model_files.load(config.realism.model)
    except (ModelNotFoundError, ModelMismatchError) as error:
        raise ConfigError(f"realism.model is {config.realism.model!r}: {error}") from error


def start_gan(config: GenerativeConfig, model: Model, saved: dict[str, Any] | None, device: torch.device) -> GanState:
    """The state of a run before its next step. saved: its checkpoint, if it is resumed. Raises ConfigError."""
    settings, realism = config.training, config.realism
    if saved is not None:
        _check_fit(config, model, saved)
    torch.manual_seed(settings.seed)
    generator = generators.new(config.generator, model)
    discriminator = HificDiscriminator(
        model.config.latent_channels, channels=realism.discriminator_channels, spectral=realism.spectral_norm
    )
    if saved is None and settings.init_from:
        start_from(settings.init_from, config, model, generator, discriminator)
    codec = GenerativeCodec(thaw(model), generator, joint=realism.joint).to(device)
    discriminator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [{"params": list(discriminator.parameters()), "peak": realism.discriminator_learning_rate}]
    state = GanState(
        codec,
        copy.deepcopy(codec),
        discriminator,
        make_optimizers(codec, settings),
        torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True),
        model,
    )
    if saved is not None:
        state.restore(saved)
    return state


def start_from(
    path: str,
    config: GenerativeConfig,
    model: Model,
    generator: Generator,
    discriminator: HificDiscriminator,
) -> None:
    """Gives the generator the weights of a file for this model, or both networks those of a run's checkpoint.pt.

    That run may have been upon another base model, such as an earlier one; the trunk stays this model's. Raises
    ConfigError.
    """
    if Path(path).suffix != ".pt":
        generator.load_state_dict(_generator_to_start_from(path, config.generator, model).state_dict())
        return
    saved = read(path)
    if "discriminator" not in saved:
        raise ConfigError(f"{path} is not the checkpoint of a run that trains a generative decoder.")
    _check_networks(f"the run of {path!r}", config, saved)
    prefix, trunk = "generator.", "generator.trunk."
    averages = {name.removeprefix(prefix): value for name, value in saved["ema"].items() if name.startswith(prefix)}
    own = {name: value for name, value in averages.items() if not (prefix + name).startswith(trunk)}
    try:
        generator.load_state_dict(own, strict=False)
        discriminator.load_state_dict(saved["discriminator"])
    except RuntimeError as error:
        raise ConfigError(f"{path} is of a run upon a base model of another shape.") from error


def check_batches(config: GenerativeConfig, world: int) -> None:
    """Raises ConfigError unless each process has at least two pictures a step: one of realism 1, one of another."""
    used = stages(config, world)[: 2 if config.data.final_crop_share > 0 else 1]
    for stage in used:
        if stage.images < 2 * world:
            raise ConfigError(
                f"training.batch is {config.training.batch}, which at crops of {stage.crop} gives a process "
                f"{stage.images // world} picture a step, and realism needs 2 at least."
            )


def _generator_to_start_from(path: str, wanted: GeneratorConfig, model: Model) -> Generator:
    try:
        found = generators.load(path, model)
    except ModelMismatchError as error:
        raise ConfigError(f"cannot start from {path!r}: {error}") from error
    _check_shape(f"the generator {path!r}", found.config, wanted)
    return found


def _check_fit(config: GenerativeConfig, model: Model, saved: dict[str, Any]) -> None:
    """Whether a checkpoint is of a run with this configuration's networks, optimiser and base model."""
    _check_networks("the run to resume", config, saved, "realism.joint", "training.optimizer")
    if saved["state"]["model_id"] != model.model_id.hex():
        raise ConfigError(
            f"realism.model is {config.realism.model!r}, whose id is {model.model_id.hex()}, and the run to resume "
            f"decodes latents of {saved['state']['model_id']}."
        )


def _check_networks(source: str, config: GenerativeConfig, saved: dict[str, Any], *others: str) -> None:
    """Whether a checkpoint has this configuration's generator and discriminator, and the same of other settings."""
    there = config_from_dict(saved["config"])
    assert isinstance(there, GenerativeConfig)
    _check_shape(source, there.generator, config.generator)
    for setting in ("realism.discriminator_channels", "realism.spectral_norm", *others):
        section, name = setting.split(".")
        found, wanted = (getattr(getattr(c, section), name) for c in (there, config))
        if found != wanted:
            raise ConfigError(f"{setting} is {wanted!r}, and {source} has {found!r}.")


def _check_shape(source: str, found: GeneratorConfig, wanted: GeneratorConfig) -> None:
    for name, value in dataclasses.asdict(wanted).items():
        there = getattr(found, name)
        if value != there:
            raise ConfigError(f"generator.{name} is {value}, and {source} has {there}: set it to {there}.")
