"""The training loop: forward, backward, clip, step, log, save, on one screen.

Randomness is a function of (seed, step, process), so that N steps equal N/2 steps, a resume, and N/2 steps.
Several processes (torchrun) share a batch through DistributedDataParallel.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from neurocodec import checkpoint, codec
from neurocodec.errors import ConfigError
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.layers import Pointwise, QualityRows
from neurocodec.training.config import Config, TrainingConfig, config_from_dict
from neurocodec.training.data import Photographs, find_images, random_crops
from neurocodec.training.losses import rate_distortion_loss

VALIDATION_ROWS = (2.0, 5.0, 8.0, 11.0)


def train(config: Config, run: str | Path, *, resume: bool = False) -> Path:
    """Trains a model; writes run/log.jsonl, run/checkpoint.pt (to resume), run/model.pt (EMA weights, as they go).

    At the end the model is frozen, its tables measured on training pictures, and written to run/model.safetensors,
    which encode and decode take. Returns that path. Raises ConfigError if `run` already holds a run, or, with
    `resume`, holds none.
    """
    run = Path(run)
    rank, world = _join_processes()
    saved_run = run / "checkpoint.pt"
    if saved_run.exists() != resume:
        problem = "already holds a run; use --resume to continue it" if not resume else "holds no checkpoint to resume"
        raise ConfigError(f"the folder {run} {problem}.")
    run.mkdir(parents=True, exist_ok=True)
    settings = config.training
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = _device(settings.device)
    precision = (
        settings.precision if settings.precision != "auto" else ("bfloat16" if device.type == "cuda" else "float32")
    )

    paths = find_images(config.data.folder)
    cache = config.data.cache or run / "cache"
    every = config.data.validation_every
    if rank > 0:
        dist.barrier()  # the first process decodes
    held_out = Photographs(paths[::every][: config.data.validation_images], cache, min_side=config.data.crop)
    photographs = Photographs([p for i, p in enumerate(paths) if i % every], cache, min_side=config.data.crop)
    if rank == 0 and world > 1:
        dist.barrier()

    torch.manual_seed(settings.seed)
    model = Hyperprior(config.model)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "skipped": 0}
    if resume:
        saved = torch.load(saved_run, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        state = saved["state"]
    elif settings.init_from:
        model.load_state_dict(torch.load(settings.init_from, map_location="cpu", weights_only=True)["model"])
    elif settings.init_images:
        chosen = range(0, len(photographs), max(1, len(photographs) // settings.init_images))
        model.start_as_transform_codec([photographs.tensor(i) for i in chosen])
    model.to(device=device)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizers = _optimizers(model, settings)
    if resume:
        ema.load_state_dict(saved["ema"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
    network: nn.Module = nn.parallel.DistributedDataParallel(model) if world > 1 else model

    stop = _stop_on_signal()
    log = open(run / "log.jsonl", "a", buffering=1) if rank == 0 else None  # noqa: SIM115 (open for the whole run)
    if log and not resume:
        log.write(
            json.dumps({"config": dataclasses.asdict(config), "pictures": len(photographs), "processes": world}) + "\n"
        )
    share = settings.batch // world
    batches = _batches(
        photographs, settings.seed, state["step"], rank, share, config.data.crop, config.model.quality_rows
    )
    progress = tqdm(total=settings.steps, initial=state["step"], disable=rank > 0, smoothing=0.02, mininterval=5.0)
    started, logged, waited = time.monotonic() - state["seconds"], time.monotonic(), 0.0
    window: list[Tensor] = []

    while state["step"] < settings.steps:
        fraction = _agree(_fraction(state, settings, time.monotonic() - started), world)
        if fraction >= 1.0 or _agree(float(stop["requested"]), world) > 0:
            break
        rate = _learning_rate(fraction, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate

        before = time.monotonic()
        x, quality_index = (t.to(device) for t in next(batches))
        waited += time.monotonic() - before
        torch.manual_seed(_seed(settings.seed, state["step"], rank, stream=1))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(x, quality_index)
        losses = rate_distortion_loss(output, x, config.model.lmbda(quality_index))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        if torch.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
        else:
            state["skipped"] += 1
        state["step"] += 1
        decay = min(settings.ema, (1 + state["step"]) / (10 + state["step"]))
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)

        window.append(
            torch.stack(
                [losses["loss"], losses["bpp"].mean(), losses["z_bpp"].mean(), losses["mse"].log10().mean(), norm]
            ).detach()
        )
        progress.update()
        state["seconds"] = time.monotonic() - started
        if log and state["step"] % settings.log_every == 0:
            loss, bpp, z_bpp, log_mse, gradient = torch.stack(window).mean(0).tolist()
            now = time.monotonic()
            row = {
                "step": state["step"],
                "seconds": round(state["seconds"], 1),
                "loss": round(loss, 5),
                "bpp": round(bpp, 5),
                "z_bpp": round(z_bpp, 5),
                "psnr": round(-10 * log_mse, 3),
                "gradient": round(gradient, 4),
                "rate": round(rate, 5),
                "images_per_second": round(len(window) * settings.batch / (now - logged), 2),
                "waiting": round(waited / (now - logged), 4),
                "skipped": state["skipped"],
            }
            log.write(json.dumps(row) + "\n")
            progress.set_postfix(loss=f"{loss:.4f}", bpp=f"{bpp:.3f}", psnr=f"{-10 * log_mse:.2f}")
            window, logged, waited = [], now, 0.0
        if rank == 0 and state["step"] % settings.checkpoint_every == 0:
            _save(run, config, model, ema, optimizers, state)
        if log and state["step"] % settings.validate_every == 0:
            for row in validate(ema, held_out, actual=settings.validate_actual):
                log.write(
                    json.dumps({"step": state["step"], "seconds": round(state["seconds"], 1), "validation": row}) + "\n"
                )

    progress.close()
    if rank == 0:
        _save(run, config, model, ema, optimizers, state)
        if log:
            for row in validate(ema, held_out, actual=settings.validate_actual):
                log.write(
                    json.dumps({"step": state["step"], "seconds": round(state["seconds"], 1), "validation": row}) + "\n"
                )
            log.close()
        freeze_run(run / "model.pt", photographs).save(run / "model.safetensors")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    return run / "model.safetensors"


@torch.no_grad()
def validate(model: Hyperprior, held_out: Photographs, *, actual: bool) -> list[dict[str, float]]:
    """Mean bpp and PSNR of held-out pictures at four quality indexes; if `actual`, of real files besides."""
    rows: list[dict[str, float]] = []
    device = next(model.parameters()).device
    if actual:
        from neurocodec.evaluation.quick import real_file_points

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


def load_run(path: str | Path) -> Hyperprior:
    """The model of a run's model.pt (EMA weights), in float, ready for `checkpoint.freeze`."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = Hyperprior(config_from_dict(saved["config"]).model)
    model.load_state_dict(saved["model"])
    return model.eval()


def freeze_run(path: str | Path, photographs: Photographs) -> checkpoint.Model:
    """Freezes a run's model.pt, with tables measured on twenty of its training pictures."""
    model = load_run(path)
    chosen = range(0, len(photographs), max(1, len(photographs) // 20))
    tables = codec.measured_tables(checkpoint.freeze(model), (photographs[i] for i in chosen))
    return checkpoint.freeze(model, tables=tables)


def _join_processes() -> tuple[int, int]:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _optimizers(model: nn.Module, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    rows = {id(p) for m in model.modules() if isinstance(m, QualityRows) for p in m.parameters()}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, Pointwise) and settings.optimizer == "muon"}
    named = list(model.parameters())
    groups = [
        {"params": [p for p in named if id(p) not in rows | matrices], "peak": settings.learning_rate},
        {"params": [p for p in named if id(p) in rows], "peak": settings.rows_learning_rate},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True)]
    if settings.optimizer == "muon":
        group = {"params": [p for p in named if id(p) in matrices], "peak": settings.learning_rate}
        optimizers.append(torch.optim.Muon([group], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    elif settings.optimizer != "adam":
        raise ConfigError(f"training.optimizer is {settings.optimizer!r}; known are 'adam' and 'muon'.")
    return optimizers


def _fraction(state: dict[str, Any], settings: TrainingConfig, seconds: float) -> float:
    by_time = seconds / (60.0 * settings.minutes) if settings.minutes > 0 else 0.0
    return max(float(state["step"]) / settings.steps, by_time)


def _learning_rate(fraction: float, settings: TrainingConfig) -> float:
    warm = min(1.0, (fraction + 1e-4) / settings.warmup) if settings.warmup > 0 else 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
    return warm * (settings.final_learning_rate + (1.0 - settings.final_learning_rate) * cosine)


def _agree(value: float, world: int) -> float:
    """The largest value over all processes, so that clocks and signals stop them at the same step."""
    if world == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor.item())


def _seed(seed: int, step: int, rank: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank, stream]).generate_state(1, np.uint64)[0]) >> 1


def _batches(
    photographs: Photographs, seed: int, step: int, rank: int, count: int, crop: int, rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Crops and quality indexes of step, step + 1, ..., prepared one ahead in a thread."""

    def make(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(_seed(seed, step, rank, stream=0))
        quality = (np.arange(count) + rng.random()) / count * (rows - 1)  # stratified: every batch spans the qualities
        return random_crops(photographs, rng, count, crop), torch.from_numpy(quality.astype(np.float32))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, step)
        while True:
            batch = ahead.result()
            step += 1
            ahead = pool.submit(make, step)
            yield batch


def _stop_on_signal() -> dict[str, bool]:
    """SIGTERM ends the run at the next step, with a checkpoint."""
    flag = {"requested": False}
    signal.signal(signal.SIGTERM, lambda *_: flag.update(requested=True))
    return flag


def _save(
    run: Path,
    config: Config,
    model: nn.Module,
    ema: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    about = {"config": dataclasses.asdict(config), "state": dict(state)}
    _save_atomically({"model": ema.state_dict(), **about}, run / "model.pt")
    resumable = {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    _save_atomically({**resumable, **about}, run / "checkpoint.pt")


def _save_atomically(value: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".part")
    torch.save(value, temporary)
    temporary.replace(path)
