"""What changes in the course of a run: learning rate, size of the crops, fake quantisation, randomness.

All are functions of the share of the run that is done, or of the step, and of nothing else: a resumed run continues as
if it had never stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neurocodec.errors import ConfigError
from neurocodec.training.config import LoopConfig, RunConfig


@dataclass(frozen=True)
class Stage:
    """A part of the run: the side of its crops in pixels, and how many of them a step takes over all processes."""

    crop: int
    images: int


def fraction_done(step: int, seconds: float, settings: LoopConfig) -> float:
    """The share of the run that is done, by steps or by the clock, whichever is further; 1 or more at its end."""
    by_clock = seconds / (60.0 * settings.minutes) if settings.minutes > 0 else 0.0
    return max(step / settings.steps, by_clock)


def in_last(share: float, fraction: float) -> bool:
    """Whether the run is in its last `share`."""
    return share > 0 and fraction >= 1.0 - share


def learning_rate(fraction: float, settings: LoopConfig) -> float:
    """The learning rate as a share of its peak: a linear warm-up, then a cosine down to `final_learning_rate`.

    With a `final_learning_rate` of 1 the cosine is flat.
    """
    warm = min(1.0, (fraction + 1e-4) / settings.warmup) if settings.warmup > 0 else 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
    return warm * (settings.final_learning_rate + (1.0 - settings.final_learning_rate) * cosine)


def stages(config: RunConfig, world: int) -> list[Stage]:
    """The stages of a run on `world` processes, one or two; the second has fewer, larger crops, about as many pixels.

    Raises ConfigError if the processes cannot share a batch evenly.
    """
    data, batch = config.data, config.training.batch
    if batch % world:
        raise ConfigError(f"training.batch is {batch}, which {world} processes cannot share evenly.")
    final_share = max(1, round(batch / world * data.crop**2 / data.final_crop**2))
    both = [Stage(data.crop, batch), Stage(data.final_crop, final_share * world)]
    return both if data.final_crop_share > 0 else both[:1]


def seed_of(seed: int, step: int, member: int, stream: str) -> int:
    """The seed of a stream of randomness at a step. member: the process for "noise", the picture for "crop" and
    "realism", 0 for "quality"."""
    entropy = [seed, step, member, ("crop", "noise", "quality", "realism").index(stream)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
