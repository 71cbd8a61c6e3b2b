"""The training loop: forward, backward, clip, step, log, save, on one screen.

Randomness is a function of (seed, step, process or picture), so that N steps equal N/2 steps, a resume, and N/2 steps.
Several processes (torchrun) share a batch through DistributedDataParallel.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from neurocodec import checkpoint
from neurocodec.errors import ConfigError
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.training.config import Config, TrainingConfig
from neurocodec.training.data import Batches, Photographs, open_pictures
from neurocodec.training.distributed import Processes, join_processes
from neurocodec.training.log import RunLog, Window
from neurocodec.training.losses import rate_distortion_loss
from neurocodec.training.optimizers import set_learning_rate
from neurocodec.training.run import State, freeze_run, open_run
from neurocodec.training.schedule import fraction_done, in_last, learning_rate, seed_of, stages
from neurocodec.training.start import start

VALIDATION_ROWS = (2.0, 5.0, 8.0, 11.0)
MAX_SKIPPED = 100
"""A run ends with an error after this many steps in a row whose gradients were not finite."""


def train(config: Config, run: str | Path, *, resume: bool = False) -> Path:
    """Trains a model; writes run/log.jsonl, run/checkpoint.pt (to resume), run/model.pt (EMA weights, as they go).

    At the end the model is frozen, its tables measured on training pictures, and written to run/model.safetensors,
    which encode and decode take. Returns that path. Raises ConfigError if `run` already holds a run, or, with
    `resume`, holds none; if a setting, the pictures or the model to start from do not fit; if the run diverges.
    """
    run, settings = Path(run), config.training
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with join_processes(settings.device) as processes:
        stages(config, processes.world)  # raises early if they do not fit
        saved = processes.from_first(lambda: open_run(run, resume=resume))
        pictures = processes.in_turns(lambda: open_pictures(config.data, run))
        photographs, held_out = pictures.photographs, pictures.held_out
        state = start(config, photographs, saved, processes.device)
        batches = Batches(pictures, config, processes, state.step)
        log = RunLog(run, settings, state.step, enabled=processes.first)
        if not resume:
            about = {"pictures": len(photographs), "processes": processes.world}
            log.write({"config": dataclasses.asdict(config), **about})
        with stop_signals() as stop:
            train_steps(config, run, state, batches, held_out, log, processes, stop)
            if processes.first:
                state.save(run, config)
                freeze_run(run / "model.pt", photographs).save(run / "model.safetensors")
                log.validation(state.step, state.seconds, validate(state.ema, held_out, settings.validate_actual))
        log.close()
    return run / "model.safetensors"


def train_steps(
    config: Config,
    run: Path,
    state: State,
    batches: Batches,
    held_out: Photographs,
    log: RunLog,
    processes: Processes,
    stop: threading.Event,
) -> None:
    """Steps until the run is done, or `stop` is set in any of the processes. Raises ConfigError if it diverges."""
    settings, device = config.training, processes.device
    network = accelerated(state.model, settings, processes)
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    started, window, skipped_in_a_row = time.monotonic() - state.seconds, Window(), 0

    while True:
        fraction = fraction_done(state.step, state.seconds, settings)
        fraction, stopping = processes.largest(fraction, float(stop.is_set()))
        quantised = in_last(settings.integer_share, fraction)
        state.fake_quantise(quantised)
        if fraction >= 1.0 or stopping:
            break
        rate = learning_rate(fraction, settings)
        set_learning_rate(state.optimizers, rate)

        before = time.monotonic()
        pixels, quality_index = batches.next(fraction)
        waited = time.monotonic() - before
        x = pixels.to(device, non_blocking=True).float() / 255.0  # (B, 3, crop, crop), channels-last
        quality_index = quality_index.to(device, non_blocking=True)

        torch.manual_seed(seed_of(settings.seed, state.step, processes.rank, "noise"))
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = network(x, quality_index)
        losses = rate_distortion_loss(output, x, config.model.lmbda(quality_index))
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip)
        if norm.isfinite():
            for optimizer in state.optimizers:
                optimizer.step()
            skipped_in_a_row = 0
        else:
            state.skipped += 1
            skipped_in_a_row += 1
        if skipped_in_a_row == MAX_SKIPPED:
            raise ConfigError(_diverged(state, run))
        state.step += 1
        state.crops += len(x) * processes.world
        state.average_weights(settings.ema)
        state.seconds = time.monotonic() - started

        window.add(losses, norm, len(x) * processes.world, waited)
        log.step()
        if state.step % settings.log_every == 0:
            means = window.means(processes)
            about = {
                "seconds": round(state.seconds, 1),
                "rate": round(rate, 5),
                "crop": x.shape[2],
                "crops": state.crops,
            }
            about |= {"fake_quantise": quantised, "skipped": state.skipped}
            log.training(state.step, means | about)
            window = Window()
        if processes.first and state.step % settings.checkpoint_every == 0:
            state.save(run, config)
        if processes.first and state.step % settings.validate_every == 0:
            log.validation(state.step, state.seconds, validate(state.ema, held_out, settings.validate_actual))


def accelerated(model: nn.Module, settings: TrainingConfig, processes: Processes) -> Callable[..., dict[str, Tensor]]:
    """The model as a loop calls it: with gradients averaged over the processes and, if asked for, compiled.

    DistributedDataParallel is compiled from outside, so that graphs end where its buckets do. Each size of crop is
    compiled for itself. Without CUDA graphs, which would keep memory for each of them.
    """
    network = processes.parallel(model)
    if settings.compile:
        mode = "max-autotune-no-cudagraphs" if processes.device.type == "cuda" else None
        return cast("Callable[..., dict[str, Tensor]]", torch.compile(network, mode=mode, dynamic=False))
    return network


@torch.no_grad()
def validate(model: Hyperprior, held_out: Photographs, actual: bool) -> list[dict[str, float]]:
    """Mean bpp and PSNR of held-out pictures at four quality indexes; if `actual`, of real files besides."""
    rows: list[dict[str, float]] = []
    device = next(model.parameters()).device
    if actual:
        from neurocodec.training.validation import real_file_points

        frozen = checkpoint.freeze(model)
    for index in VALIDATION_ROWS:
        bpps, psnrs = [], []
        quality_index = torch.tensor([index], device=device)
        for i in range(len(held_out)):
            x = held_out.tensor(i, largest=768).to(device)
            losses = rate_distortion_loss(model(x, quality_index), x, model.config.lmbda(quality_index))
            bpps.append(losses["bpp"].item())
            psnrs.append(-10 * math.log10(losses["mse"].item()))
        row = {"quality_index": index, "bpp": float(np.mean(bpps)), "psnr": float(np.mean(psnrs))}
        if actual:
            pictures = [held_out[i] for i in range(len(held_out))]
            row |= real_file_points(frozen, pictures, index)
        rows.append({key: round(value, 4) for key, value in row.items()})
    return rows


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, instead of ending the process; a second Ctrl-C interrupts it as usual.

    Python lets only the main thread set signals: in another one, nothing sets the event.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def interrupt(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous[signal.SIGINT])

    signal.signal(signal.SIGTERM, lambda *_: event.set())
    if previous[signal.SIGINT] is not signal.SIG_IGN:  # as in jobs of a script's background, which Ctrl-C is not for
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _diverged(state: State, run: Path) -> str:
    return (
        f"the gradients of {MAX_SKIPPED} steps in a row, up to step {state.step + 1}, were not finite: lower "
        f"training.learning_rate or training.rows_learning_rate and resume {run}, or start again."
    )
