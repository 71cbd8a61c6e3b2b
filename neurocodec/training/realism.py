"""Training of the generative decoder: one step of the discriminator, one of the generator, on one screen.

x ─base model→ y_hat ─generator, β→ x_hat; the discriminator sees y_hat with x or with x_hat of β = 1. As in the loop of
the base model, N steps equal N/2 steps, a resume, and N/2 steps.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurocodec.errors import ConfigError
from neurocodec.model import Model
from neurocodec.models.freeze import thaw
from neurocodec.models.hific import LEAST_LEARNED
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.perceptual.adversarial import GanLoss, discriminator_loss
from neurocodec.perceptual.lpips import LPIPS, load_lpips
from neurocodec.training.config import GenerativeConfig
from neurocodec.training.data import Batches, Photographs, open_pictures
from neurocodec.training.distributed import Processes, join_processes
from neurocodec.training.guard import Guard
from neurocodec.training.log import RunLog, Steps, mean_psnr
from neurocodec.training.loop import MAX_SKIPPED, accelerated, stop_signals
from neurocodec.training.optimizers import set_learning_rate
from neurocodec.training.realism_losses import (
    adversarial_terms,
    generator_objective,
    left_to_invent,
    picture_terms,
    probability,
    two_sided_lambda,
)
from neurocodec.training.realism_run import GanState, GenerativeCodec, base_model, check_batches, start_gan
from neurocodec.training.run import open_run
from neurocodec.training.schedule import fraction_done, learning_rate, seed_of

VALIDATION_ROWS = (2.0, 5.0, 8.0)
VALIDATION_REALISM = (0.0, 0.5, 1.0)
VALIDATION_SIDE = 256
"""Held-out pictures are cut to this side."""


def train_realism(config: GenerativeConfig, run: str | Path, *, resume: bool = False) -> Path:
    """Trains a generative decoder; writes run/log.jsonl, run/checkpoint.pt (to resume), run/realism.safetensors.

    The last one, EMA weights, is a generator for the model that realism.model names; with realism.joint it is written
    at the end, and belongs to a new model, run/model.safetensors. Returns its path. Raises ConfigError if `run` already
    holds a run, or, with `resume`, holds none; if a setting, the model or the pictures do not fit; if the run diverges.
    Raises MissingWeightsError without the weights of LPIPS.
    """
    run, settings = Path(run), config.training
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with join_processes(settings.device) as processes:
        model = base_model(config)
        config = dataclasses.replace(config, model=model.config)
        check_batches(config, processes.world)
        net = cast("Literal['alex', 'vgg']", config.realism.lpips)
        lpips = processes.in_turns(lambda: load_lpips(net, processes.device))
        saved = processes.from_first(lambda: open_run(run, resume=resume, generative=True))
        state = start_gan(config, model, saved, processes.device)
        pictures = processes.in_turns(lambda: open_pictures(config.data, run))
        photographs, held_out = pictures.photographs, pictures.held_out
        batches = Batches(pictures, config, processes, state.step)
        log = RunLog(run, settings, state.step, enabled=processes.first)
        if not resume:
            about = {"model_id": model.model_id.hex(), "pictures": len(photographs), "processes": processes.world}
            log.write({"config": dataclasses.asdict(config), **about})
        with stop_signals() as stop:
            train_steps(config, run, state, batches, lpips, held_out, log, processes, stop)
            if processes.first:
                state.finish(run, config, photographs)
                log.validation(state.step, state.seconds, validate(state.ema, held_out, lpips))
        log.close()
    return run / "realism.safetensors"


def train_steps(
    config: GenerativeConfig,
    run: Path,
    state: GanState,
    batches: Batches,
    lpips: LPIPS,
    held_out: Photographs,
    log: RunLog,
    processes: Processes,
    stop: threading.Event,
) -> None:
    """Steps until the run is done, or `stop` is set in any of the processes. Raises ConfigError if it diverges."""
    settings, realism, device, kind = (
        config.training,
        config.realism,
        processes.device,
        cast("GanLoss", config.realism.gan),
    )
    codec, discriminator = accelerated(state.codec, settings, processes), processes.parallel(state.discriminator)
    reference = frozen_base(state.model, device) if realism.joint else None
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    started, steps, guard = time.monotonic() - state.seconds, Steps(), Guard(realism.guard_window, state.warned)
    skipped_in_a_row = 0
    least = 0.0 if realism.joint else LEAST_LEARNED  # the base decoder, β = 0, learns only with `joint`

    while True:
        fraction = fraction_done(state.step, state.seconds, settings)
        fraction, stopping = processes.largest(fraction, float(stop.is_set()))
        if fraction >= 1.0 or stopping:
            break
        rate = learning_rate(fraction, settings)
        set_learning_rate([*state.optimizers, state.discriminator_optimizer], rate)

        before = time.monotonic()
        pixels, quality_index = batches.next(fraction)
        waited = time.monotonic() - before
        x = pixels.to(device, non_blocking=True).float() / 255.0  # (B, 3, crop, crop), channels-last
        quality_index = quality_index.to(device, non_blocking=True)
        beta = draw_realism(settings.seed, state.step, len(x), processes, least=least)  # (B,)
        full = (beta == 1.0).nonzero()[:, 0].to(device)  # which pictures the discriminator learns from
        beta = beta.to(device)
        to_invent = left_to_invent(quality_index, config.model.quality_rows)

        torch.manual_seed(seed_of(settings.seed, state.step, processes.rank, "noise"))
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = codec(x, quality_index, beta)
        x_hat, condition = output["x_hat"], output["condition"]
        values: dict[str, Tensor] = {}

        adversarial = fraction >= realism.gan_start
        if adversarial:  # the discriminator's step; in float32, because spectral norms know no autocast
            pictures, latents = torch.cat([x[full], x_hat[full].detach()]), condition[full]
            real, fake = discriminator(pictures, torch.cat([latents, latents])).chunk(2)
            share = to_invent[full] / to_invent[full].sum()  # of each picture in means over them
            each = zip(real, fake, strict=True)
            losses = torch.stack([discriminator_loss(r, f, kind, weight=realism.discriminator_weight) for r, f in each])
            loss = (share * losses).sum()
            norm = descend(loss, [state.discriminator_optimizer], state.discriminator, settings.clip)
            values |= {"discriminator_loss": loss, "discriminator_gradient": norm}
            scores = {"real": real.detach(), "fake": fake.detach()}
            values |= {side: (share * probability(v, kind).mean((1, 2, 3))).sum() for side, v in scores.items()}

        terms = picture_terms(x, x_hat, output["detail"], lpips, realism)  # the generator's step
        if adversarial:
            found = adversarial_terms(state.discriminator, x, x_hat, condition, realism)
            terms |= {name: to_invent * term for name, term in found.items()}
        if reference is not None:
            target_bpp = bits_per_pixel(reference, x, quality_index)
            lmbda = two_sided_lambda(output["bpp"], target_bpp, config.model.lmbda(quality_index), realism)
            terms["rate_loss"] = lmbda * output["bpp"]
            values["target_bpp"] = target_bpp.mean()
        loss = generator_objective(terms, beta, realism).mean()
        norm = descend(loss, state.optimizers, state.codec, settings.clip)

        if all(value.isfinite() for name, value in values.items() if "gradient" in name) and norm.isfinite():
            skipped_in_a_row = 0
            if adversarial:
                guard.add(x[full], x_hat[full], values["real"], values["fake"])
        else:
            state.skipped += 1
            skipped_in_a_row += 1
        if skipped_in_a_row == MAX_SKIPPED:
            raise ConfigError(_diverged(state, run))
        state.step += 1
        state.average_weights(settings.ema)
        state.seconds = time.monotonic() - started

        means = {name: term.mean() for name, term in terms.items() if name != "mse"}
        means |= {"psnr": mean_psnr(terms["mse"].detach()), "bpp": output["bpp"].mean()}
        steps.count({"loss": loss, **means, **values, "gradient": norm}, len(x) * processes.world, waited)
        log.step()
        if state.step % settings.log_every == 0:
            about = {"seconds": round(state.seconds, 1), "rate": round(rate, 5), "crop": x.shape[2]}
            log.training(state.step, steps.means(processes) | about | {"skipped": state.skipped})
            for text in guard.warnings(processes):
                log.warning(state.step, text)
            steps = Steps()
        if processes.first and state.step % settings.checkpoint_every == 0:
            state.save(run, config)
        if processes.first and state.step % settings.validate_every == 0:
            log.validation(state.step, state.seconds, validate(state.ema, held_out, lpips))


def descend(loss: Tensor, optimizers: Iterable[torch.optim.Optimizer], network: nn.Module, clip: float) -> Tensor:
    """One step of the network down the loss. Returns the norm of its gradient; if that is not finite, nothing moves."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip)
    if norm.isfinite():
        for optimizer in optimizers:
            optimizer.step()
    return norm


def draw_realism(seed: int, step: int, pictures: int, processes: Processes, *, least: float) -> Tensor:
    """β of this process's pictures, (B,), on the CPU: 1 for every second one, in turn at every second step, the others
    uniform in [least, 1]. Pictures are sorted by quality, so both kinds see all of it."""
    members = range(processes.rank, pictures * processes.world, processes.world)
    drawn = [np.random.default_rng(seed_of(seed, step, k, "realism")).uniform(least, 1.0) for k in members]
    return torch.tensor([1.0 if (i + step) % 2 == 0 else beta for i, beta in enumerate(drawn)])


def frozen_base(model: Model, device: torch.device) -> Hyperprior:
    """The float twin of a frozen model, which rounds as that does."""
    base = thaw(model).to(device).requires_grad_(False)
    base.fake_quantise = True
    return base


@torch.no_grad()
def bits_per_pixel(base: Hyperprior, x: Tensor, quality_index: Tensor) -> Tensor:
    """The rate that a model spends on each picture, (B,)."""
    latents = base.latents(x, quality_index)
    return (latents["y_bits"] + latents["z_bits"]) / (x.shape[2] * x.shape[3])


@torch.no_grad()
def validate(codec: GenerativeCodec, held_out: Photographs, lpips: LPIPS) -> list[dict[str, float]]:
    """Mean bpp, PSNR and LPIPS of held-out pictures at three quality indexes and three values of β."""
    rows = []
    device = next(codec.parameters()).device
    for index in VALIDATION_ROWS:
        found: dict[float, list[tuple[float, float, float]]] = {beta: [] for beta in VALIDATION_REALISM}
        quality_index = torch.tensor([min(index, codec.base.config.quality_rows - 1.0)], device=device)
        for i in range(len(held_out)):
            x = held_out.tensor(i, largest=VALIDATION_SIDE).to(device)
            latents = codec.base.latents(x, quality_index)
            bpp = (latents["y_bits"] + latents["z_bits"]).item() / (x.shape[2] * x.shape[3])
            for beta in VALIDATION_REALISM:
                x_hat = codec.generator(latents["y_hat"], quality_index, torch.tensor([beta], device=device))
                x_hat = x_hat.clamp(0.0, 1.0)
                psnr = -10 * math.log10(max((x_hat - x).square().mean().item(), 1e-10))
                found[beta].append((bpp, psnr, lpips(x_hat, x).item()))
        for beta, measured in found.items():
            bpp, psnr, distance = np.mean(measured, axis=0).tolist()
            row = {"quality_index": quality_index.item(), "realism": beta, "bpp": bpp, "psnr": psnr, "lpips": distance}
            rows.append({key: round(value, 4) for key, value in row.items()})
    return rows


def _diverged(state: GanState, run: Path) -> str:
    return (
        f"the gradients of {MAX_SKIPPED} steps in a row, up to step {state.step + 1}, were not finite: lower "
        f"training.learning_rate or realism.discriminator_learning_rate and resume {run}, or start again."
    )
