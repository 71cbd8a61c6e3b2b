"""Watches for the ways in which a GAN fails without an error."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from neurocodec.training.distributed import Processes

SURE = 0.97
"""A discriminator that scores originals above this, and generated pictures below 1 minus this, separates them."""
UNSURE = 0.02
"""A discriminator with both scores within this of 0.5 tells nothing."""
DIFFERENT = 1e-5
"""Pictures differ if their mean squared error, of pixels in [0, 1], is above this."""
CONSTANT = 0.01
"""Generated pictures with less than this share of the originals' variance are constant."""
SAME = 0.05
"""Generated pictures that vary from one to the next less than this share of what the originals do are the same."""


class Guard:
    """Judges generated pictures, and the discriminator's scores, over the last `window` steps.

    section: that of the configuration with discriminator_learning_rate, for advice.
    """

    def __init__(self, window: int, section: str = "realism") -> None:
        self._section = section
        self._rows: deque[Tensor] = deque(maxlen=window)

    def add(self, real: Tensor, fake: Tensor, real_score: Tensor, fake_score: Tensor) -> None:
        """Adds a step. real, fake: (B, 3, H, W) in [0, 1]; scores: the mean probabilities of being an original."""
        with torch.no_grad():
            variances = [x.var((2, 3)).mean() for x in (real, fake.float())]
            variances += [x.var(0, correction=0).mean() for x in (real, fake.float())]
            row = (real_score, fake_score, (fake - real).square().mean(), *variances)
            self._rows.append(torch.stack([value.detach().float() for value in row]))

    def warnings(self, processes: Processes) -> dict[str, str]:
        """What goes wrong, a sentence for each cause; all processes have to ask."""
        window = self._rows.maxlen
        if window is None or len(self._rows) < window:
            return {}
        rows = torch.stack(list(self._rows))
        means = processes.mean(rows[rows.isfinite().all(1)].mean(0))
        real, fake, difference, variance, fake_variance, variety, fake_variety = means.tolist()
        scores = f"over {window} steps the discriminator's mean scores are {real:.2f} on originals and {fake:.2f} on "
        causes = {}
        if real > SURE and fake < 1 - SURE:
            causes["separated"] = (
                f"{scores}generated pictures: it always tells them apart and teaches little; lower "
                f"{self._section}.discriminator_learning_rate."
            )
        if abs(real - 0.5) < UNSURE and abs(fake - 0.5) < UNSURE and difference > DIFFERENT:
            causes["blind"] = (
                f"{scores}generated pictures, which differ: it learns nothing, or not yet; if that lasts, raise "
                f"{self._section}.discriminator_learning_rate."
            )
        if fake_variance < CONSTANT * variance:
            causes["constant"] = (
                f"over {window} steps the generated pictures have {fake_variance / variance:.2%} of the originals' "
                "variance: the generator has collapsed; start again with a lower training.learning_rate or less weight "
                "on the discriminator's judgement."
            )
        elif fake_variety < SAME * variety:
            causes["same"] = (
                f"over {window} steps the generated pictures of a step differ by {fake_variety / variety:.2%} of what "
                "the originals do: the generator has collapsed to one picture; start again with another "
                "GAN loss or a lower training.learning_rate."
            )
        return causes
