"""The objective of a generative decoder: a step of the discriminator, then one of the generator.

x ─base model→ y_hat ─generator, β→ x_hat; the discriminator sees y_hat with x or with x_hat of β = 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurocodec import model as model_files
from neurocodec.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from neurocodec.model import Model
from neurocodec.models import generators
from neurocodec.models.freeze import thaw
from neurocodec.models.hific import LEAST_LEARNED, Generator
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.perceptual.adversarial import HificDiscriminator, discriminator_loss
from neurocodec.perceptual.lpips import LPIPS, load_lpips
from neurocodec.training import checkpoint
from neurocodec.training.config import GenerativeConfig
from neurocodec.training.data import Rgb, as_tensor
from neurocodec.training.distributed import Processes
from neurocodec.training.guard import Guard
from neurocodec.training.log import mean_psnr, mean_row
from neurocodec.training.objective import Loss
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.realism_losses import (
    adversarial_terms,
    generator_objective,
    left_to_invent,
    picture_terms,
    probability,
    two_sided_lambda,
)
from neurocodec.training.run import check_settings, freeze_measured, is_run
from neurocodec.training.schedule import seed_of, stages

VALIDATION_ROWS = (2.0, 5.0, 8.0)
VALIDATION_REALISM = (0.0, 0.5, 1.0)
VALIDATION_SIDE = 256
"""Held-out pictures are cut to this side."""
SHAPES = ("generator", "realism.discriminator_channels", "realism.spectral_norm")
"""Settings that shape the two networks."""


class Realism:
    """Trains a generative decoder, run/realism.safetensors; see `training.objective.Objective`.

    It decodes the latents of the model that realism.model names; with realism.joint it is written at the end, and
    belongs to a new model, run/model.safetensors. Raises ConfigError if that model or the size of a batch does not fit,
    MissingWeightsError without the weights of LPIPS.
    """

    fixed: tuple[str, ...] = (*SHAPES, "realism.joint", "training.optimizer")
    result = "realism.safetensors"

    def __init__(self, config: GenerativeConfig, processes: Processes) -> None:
        realism = config.realism
        self.base = base_model(realism.model)
        self.config: GenerativeConfig = dataclasses.replace(config, model=self.base.config)
        check_batches(config, processes.world)
        self.processes, self.guard = processes, Guard(realism.guard_window)
        self.about = {"model_id": self.base.model_id.hex()}
        self.lpips: LPIPS = processes.first_alone(lambda: load_lpips(realism.lpips, processes.device))

        torch.manual_seed(config.training.seed)
        generator = generators.new(config.generator, self.base)
        self.discriminator = HificDiscriminator(
            self.base.config.latent_channels, channels=realism.discriminator_channels, spectral=realism.spectral_norm
        )
        self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.codec = GenerativeCodec(thaw(self.base), generator, joint=realism.joint)
        self.modules: dict[str, nn.Module] = {"codec": self.codec, "discriminator": self.discriminator}
        self.reference = frozen_base(self.base, processes.device) if realism.joint else None

    def initialise(self, photographs: list[Rgb]) -> None:
        """`training.init_from`: the file of a generator for this model; or a run, named by its folder, which provides
        both networks and may have used another base model, such as an earlier one: the trunk stays this model's."""
        source, generator = self.config.training.init_from, self.codec.generator
        if not source:
            return
        if not is_run(source):
            try:
                other = generators.load(source, self.base)
            except ModelMismatchError as error:
                raise ConfigError(f"cannot start from {source!r}: {error}") from error
            shape = {"generator": dataclasses.asdict(other.config)}
            check_settings(f"the generator {source!r}", shape, self.config, ["generator"])
            generator.load_state_dict(other.state_dict())
            return
        saved = checkpoint.read(source)
        try:
            check_settings(f"the run {source!r}", saved["config"], self.config, SHAPES)
            averages, prefix = saved["weights"]["ema"], "generator."
            own = {name.removeprefix(prefix): value for name, value in averages.items() if name.startswith(prefix)}
            generator.load_state_dict(own | generator.trunk.state_dict(prefix="trunk."))
            self.discriminator.load_state_dict(saved["weights"]["discriminator"])
        except (AttributeError, LookupError, TypeError) as error:
            raise ConfigError(f"{source!r} is not a run that trains a generative decoder.") from error
        except RuntimeError as error:
            raise ConfigError(f"{source!r} is a run with a base model of another shape.") from error

    def optimizers(self) -> dict[str, list[torch.optim.Optimizer]]:
        peak = self.config.realism.discriminator_learning_rate
        groups = [{"params": list(self.discriminator.parameters()), "peak": peak}]
        discriminator: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True)]
        return {"codec": make_optimizers(self.codec, self.config.training), "discriminator": discriminator}

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        config, realism = self.config, self.config.realism
        least = 0.0 if realism.joint else LEAST_LEARNED  # the base decoder, β = 0, learns only with `joint`
        beta = draw_realism(config.training.seed, step, len(x), self.processes, least=least).to(x.device)  # (B,)
        full = (beta == 1.0).nonzero()[:, 0]  # which pictures the discriminator learns from
        to_invent = left_to_invent(quality_index, config.model.quality_rows)

        output = modules["codec"](x, quality_index, beta)
        x_hat, condition = output["x_hat"], output["condition"]

        adversarial = fraction >= realism.gan_start
        if adversarial:  # the discriminator's step
            pictures, latents = torch.cat([x[full], x_hat[full].detach()]), condition[full]
            real, fake = modules["discriminator"](pictures, torch.cat([latents, latents])).chunk(2)
            share = to_invent[full] / to_invent[full].sum()  # of each picture in means over them
            pairs = zip(real, fake, strict=True)
            losses = torch.stack([discriminator_loss(r, f, realism.gan) for r, f in pairs])
            logits = {"real": real.detach(), "fake": fake.detach()}
            scores = {side: (share * probability(v, realism.gan).mean((1, 2, 3))).sum() for side, v in logits.items()}
            self.guard.add(x[full], x_hat[full], scores["real"], scores["fake"])
            yield Loss("discriminator", (share * losses).sum(), scores)

        log = {"bpp": output["bpp"].mean()}  # the generator's step
        terms = picture_terms(x, x_hat, output["detail"], self.lpips, realism)
        if adversarial:
            judged = adversarial_terms(self.discriminator, x, x_hat, condition, realism)
            terms |= {name: to_invent * term for name, term in judged.items()}
        if self.reference is not None:
            target_bpp = bits_per_pixel(self.reference, x, quality_index)
            lmbda = two_sided_lambda(output["bpp"], target_bpp, config.model.lmbda(quality_index), realism)
            terms["rate_loss"] = lmbda * output["bpp"]
            log["target_bpp"] = target_bpp.mean()
        log |= {name: term.mean() for name, term in terms.items() if name != "mse"}
        log["psnr"] = mean_psnr(terms["mse"].detach())
        yield Loss("codec", generator_objective(terms, beta, realism).mean(), log)

    @torch.no_grad()
    def validate(self, ema: GenerativeCodec, held_out: list[Rgb], fraction: float) -> list[dict[str, float]]:
        """Mean bpp, PSNR and LPIPS at three quality indexes and three values of β."""
        device, rows = self.processes.device, []
        pictures = [as_tensor(rgb, largest=VALIDATION_SIDE).to(device) for rgb in held_out]
        for index in VALIDATION_ROWS:
            for beta in VALIDATION_REALISM:
                points = []
                for x in pictures:
                    output = ema(x, torch.tensor([index], device=device), torch.tensor([beta], device=device))
                    x_hat = output["x_hat"].clamp(0.0, 1.0)
                    decibels = -10 * math.log10(max((x_hat - x).square().mean().item(), 1e-10))
                    lpips = self.lpips(x_hat, x).item()
                    points.append({"bpp": output["bpp"].item(), "psnr": decibels, "lpips": lpips})
                rows.append(mean_row({"quality_index": index, "realism": beta}, points))
        return rows

    def sheet(self, ema: GenerativeCodec, held_out: list[Rgb]) -> Rgb | None:
        return None

    def warnings(self) -> dict[str, str]:
        return self.guard.warnings(self.processes)

    def finish(self, ema: GenerativeCodec, run: Path, photographs: list[Rgb]) -> None:
        model = self.base
        if self.config.realism.joint:
            model = freeze_measured(ema.base.config, ema.base.state_dict(), photographs)
            model.save(run / "model.safetensors")
        generators.freeze(ema.generator, model).save(run / self.result)


class GenerativeCodec(nn.Module):
    """x and β → latents → a picture: a base model whose synthesis is a generator's trunk.

    joint: whether the base model learns too. If not, it is frozen and its latents are those of coding.
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


def draw_realism(seed: int, step: int, pictures: int, processes: Processes, *, least: float) -> Tensor:
    """β of this process's pictures, (B,), on the CPU: 1 for every second one, alternating with the step, the others
    uniform in [least, 1]. Pictures are sorted by quality, so both kinds see all of it."""
    members = range(processes.rank, pictures * processes.world, processes.world)
    drawn = [np.random.default_rng(seed_of(seed, step, k, "realism")).uniform(least, 1.0) for k in members]
    return torch.tensor([1.0 if (i + step) % 2 == 0 else beta for i, beta in enumerate(drawn)])


def frozen_base(model: Model, device: torch.device) -> Hyperprior:
    """The float twin of a frozen model, which rounds as the frozen one does."""
    base = thaw(model).to(device).requires_grad_(False)
    base.fake_quantise = True
    return base


@torch.no_grad()
def bits_per_pixel(base: Hyperprior, x: Tensor, quality_index: Tensor) -> Tensor:
    """The rate that a model spends on each picture, (B,)."""
    latents = base.latents(x, quality_index)
    return (latents["y_bits"] + latents["z_bits"]) / (x.shape[2] * x.shape[3])


def base_model(name: str) -> Model:
    """The frozen model whose latents are decoded. Raises ConfigError."""
    try:
        return model_files.load(name)
    except (ModelNotFoundError, ModelMismatchError) as error:
        raise ConfigError(f"realism.model is {name!r}: {error}") from error


def check_batches(config: GenerativeConfig, world: int) -> None:
    """Raises ConfigError unless each process has at least two pictures a step: one of realism 1, one of another."""
    for stage in stages(config, world):
        if stage.images < 2 * world:
            raise ConfigError(
                f"training.batch is {config.training.batch}, which at crops of {stage.crop} gives a process "
                f"{stage.images // world} picture a step, and realism needs at least 2."
            )
