"""The training loop: forward, backward, clip, step, log, save, on one screen. An objective provides the losses.

Randomness is a function of (seed, step, process or picture), so that N steps equal N/2 steps, a resume, and N/2 steps.
Several processes (torchrun) share a batch through DistributedDataParallel.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neurocodec.errors import ConfigError
from neurocodec.training.config import LoopConfig, RunConfig
from neurocodec.training.data import Batches, Pictures, open_pictures
from neurocodec.training.distributed import Processes, join_processes
from neurocodec.training.log import RunLog
from neurocodec.training.objective import Objective
from neurocodec.training.run import State, open_run, start
from neurocodec.training.schedule import fraction_done, learning_rate, seed_of, stages
from neurocodec.workers import ENDINGS

C = TypeVar("C", bound=RunConfig)

MAX_SKIPPED = 100
"""A run ends with an error after this many steps in a row with a gradient that was not finite."""


def train(
    config: C, run: str | Path, make_objective: Callable[[C, Processes], Objective], *, resume: bool = False
) -> Path:
    """Trains; writes run/log.jsonl, run/checkpoint.safetensors (to resume) and what the objective is for.

    make_objective: RateDistortion for a base model, Realism for a generative decoder, or a system of
    neurocodec.synthesis. Samples go into run/sheets, if the objective shows any. Returns the path of what was
    trained. Raises ConfigError if `run` already holds a run, or, with `resume`, holds none; if another process trains
    it; if a setting, the pictures or the model to start from do not fit; if the run diverges. Raises OutputError if a
    file cannot be written.
    """
    run, settings = Path(run), config.training
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with join_processes(settings.device) as processes, open_run(run, processes, resume=resume):
        stages(config, processes.world)  # raises early if they do not fit
        objective = make_objective(config, processes)
        cache = Path(config.data.cache or run / "cache")
        pictures = processes.first_alone(lambda: open_pictures(config.data, cache))
        state = start(objective, pictures.photographs, run if resume else None, processes.device)
        batches = Batches(pictures, objective.config, processes, state.step)
        first_step = state.step
        with closing(RunLog(run, settings, first_step, processes)) as log, stop_signals() as stop:
            if not resume:
                counts = {folder: len(photographs) for folder, photographs in pictures.training.items()}
                about = objective.about | {"pictures": counts, "processes": processes.world}
                log.write({"config": dataclasses.asdict(objective.config), **about})
            fraction = train_steps(objective, run, state, batches, pictures, log, processes, stop)
            if processes.first:
                if state.step > first_step:
                    state.save(run, objective)
                log.doing("freezing the model")
                objective.finish(state.ema, run, pictures.photographs)
                log.doing("validating")
                validate(objective, state, pictures, log, fraction)
                log.doing("done")
    return run / objective.result


def train_steps(
    objective: Objective,
    run: Path,
    state: State,
    batches: Batches,
    pictures: Pictures,
    log: RunLog,
    processes: Processes,
    stop: threading.Event,
) -> float:
    """Steps until the run is done, or `stop` is set in any of the processes; returns the share of the run done.

    Raises ConfigError if it diverges.
    """
    settings, device, main = objective.config.training, processes.device, next(iter(state.modules))
    modules: dict[str, Callable[..., Any]] = {n: processes.parallel(module) for n, module in state.modules.items()}
    modules[main] = accelerated(modules[main], settings, device)
    started, skipped_in_a_row = time.monotonic() - state.seconds, 0

    def progress() -> tuple[float, bool]:
        fraction, stopping = processes.largest(fraction_done(state.step, state.seconds, settings), float(stop.is_set()))
        return fraction, fraction >= 1.0 or stopping > 0.0

    fraction, last = progress()
    while not last:
        rate = learning_rate(fraction, settings)
        state.set_learning_rate(rate)

        before = time.monotonic()
        pixels, quality_index = batches.next(fraction)
        waited = time.monotonic() - before
        x = pixels.to(device, non_blocking=True).float() / 255.0  # (B, 3, crop, crop), channels-last
        quality_index = quality_index.to(device, non_blocking=True)

        torch.manual_seed(seed_of(settings.seed, state.step, processes.rank, "noise"))
        values, finite = dict[str, Tensor](), True
        for loss in objective.losses(modules, x, quality_index, state.step, fraction):
            optimizers, prefix = state.optimizers[loss.module], "" if loss.module == main else f"{loss.module}_"
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.value.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(state.modules[loss.module].parameters(), settings.clip)
            if norm.isfinite():
                for optimizer in optimizers:
                    optimizer.step()
            else:
                finite = False
            values |= {f"{prefix}loss": loss.value, **loss.log, f"{prefix}gradient": norm}

        skipped_in_a_row = 0 if finite else skipped_in_a_row + 1
        if skipped_in_a_row == MAX_SKIPPED:
            raise ConfigError(
                f"the gradients of {MAX_SKIPPED} steps in a row, up to step {state.step + 1}, were not finite: lower "
                f"the learning rates and resume {run}, or start again."
            )
        state.step += 1
        state.crops += len(x) * processes.world
        state.skipped += not finite
        state.average_weights(settings.ema)
        state.seconds = time.monotonic() - started

        trained_at, (fraction, last) = fraction, progress()
        log.step(values, len(x) * processes.world, waited, fraction, finite=finite)
        if last or state.step % settings.log_every == 0:
            about = {"seconds": round(state.seconds, 1), "rate": round(rate, 5), "crop": x.shape[2]}
            log.training(state.step, about | {"crops": state.crops, "skipped": state.skipped})
            for cause, text in objective.warnings().items():
                if cause not in state.warned:
                    log.warning(state.step, text)
                    state.warned.add(cause)
        if processes.first and state.step % settings.checkpoint_every == 0:
            state.save(run, objective)
        if processes.first and state.step % settings.validate_every == 0:
            validate(objective, state, pictures, log, trained_at)
    return fraction


def validate(objective: Objective, state: State, pictures: Pictures, log: RunLog, fraction: float) -> None:
    """Validates the average weights on the held-out pictures, and keeps samples of what they make."""
    log.validation(state.step, state.seconds, objective.validate(state.ema, pictures.held_out, fraction))
    log.sheet(state.step, objective.sheet(state.ema, pictures.held_out))


def accelerated(module: Callable[..., Any], settings: LoopConfig, device: torch.device) -> Callable[..., Any]:
    """The module in the run's precision and, with `training.compile`, compiled.

    DistributedDataParallel is compiled from outside, so that graphs end where its buckets do. Each size of crop is
    compiled for itself. Without CUDA graphs, which would keep memory for each of them.
    """
    bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    if settings.compile:
        mode = "max-autotune-no-cudagraphs" if device.type == "cuda" else None
        module = torch.compile(module, mode=mode, dynamic=False)

    def forward(*inputs: Tensor) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            return module(*inputs)

    return forward


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and SIGHUP set, instead of ending the process; a second Ctrl-C interrupts it.

    Python lets only the main thread handle signals: in another one, nothing sets the event. A signal that is ignored
    stays so: nohup ignores SIGHUP, and scripts start background jobs with SIGINT ignored.
    """
    event = threading.Event()
    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}

    def stop(number: int, _: object) -> None:
        event.set()
        if number == signal.SIGINT:
            signal.signal(number, handlers[number])

    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield event
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
