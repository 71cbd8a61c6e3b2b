"""CycleGAN: from pictures of one kind to those of another, without pairs (Zhu, Park, Isola and Efros, ICCV 2017).

a ─G→ b' ─F→ a'' ≈ a and b ─F→ a' ─G→ b'' ≈ b; a discriminator of each kind sees its pictures and what is made for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neurocodec.errors import ConfigError
from neurocodec.perceptual.adversarial import PatchDiscriminator, discriminator_loss, generator_loss
from neurocodec.synthesis import pictures
from neurocodec.synthesis.blocks import ResidualGenerator, start_small
from neurocodec.synthesis.system import Options, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative, Whole
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss
from neurocodec.training.realism_losses import frozen, probability


@dataclass(frozen=True)
class Settings:
    """channels, blocks: 64 and 9 in the paper, 6 for 128². Weights are those of the authors' code, of pictures in
    [-1, 1]. pool: generated pictures that a discriminator remembers (Shrivastava et al. 2017)."""

    channels: Count = 64
    blocks: Whole = 9
    cycle_weight: NotNegative = 10.0
    identity_weight: NotNegative = 5.0
    pool: Count = 50
    discriminator_channels: Count = 64
    discriminator_learning_rate: NotNegative = 2e-4
    guard_window: Count = 200


@dataclass(frozen=True)
class CycleGanConfig(SynthesisConfig):
    """The configuration of a run."""

    cyclegan: Settings = field(default_factory=Settings)


class Generators(nn.Module):
    """Both directions: a, b -> b', a', a'', b'', and what each generator makes of its own kind."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.to_b, self.to_a = (
            ResidualGenerator(
                settings.channels, settings.blocks, kernel=7, upsampling="transposed", affine=False
            ).apply(start_small)
            for _ in range(2)
        )

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        fake_b, fake_a = self.to_b(a), self.to_a(b)
        return {
            "fake_a": fake_a,
            "fake_b": fake_b,
            "cycle_a": self.to_a(fake_b),
            "cycle_b": self.to_b(fake_a),
            "same_a": self.to_a(a),
            "same_b": self.to_b(b),
        }


class Pool(nn.Module):
    """The last pictures that a generator made. A buffer, so that a resumed run remembers them."""

    pictures: Tensor
    count: Tensor

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        self.register_buffer("pictures", torch.zeros(size, 3, side, side))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, fake: Tensor) -> Tensor:
        """Each picture of fake, (B, 3, side, side), or with probability ½ one from the pool, which it replaces.

        Until the pool is full, each picture itself.
        """
        shown = []
        for picture in fake.detach():
            filled = int(self.count)
            if filled < len(self.pictures):
                self.pictures[filled] = picture
                self.count += 1
            elif float(torch.rand(())) < 0.5:
                i = int(torch.randint(filled, ()))
                shown.append(self.pictures[i].clone())
                self.pictures[i] = picture
                continue
            shown.append(picture)
        return torch.stack(shown)


class Discriminators(nn.Module):
    """One for each kind, each with its pool: a, b or what was made for them -> logits of both."""

    def __init__(self, settings: Settings, side: int) -> None:
        super().__init__()
        self.a, self.b = (PatchDiscriminator(channels=settings.discriminator_channels) for _ in range(2))
        self.pool_a, self.pool_b = (Pool(settings.pool, side) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(a), self.b(b)


@dataclass(frozen=True)
class CycleGanOptions(Options):
    """back: from the second kind to the first."""

    back: bool = False


class CycleGan(TrainedSystem[Settings, CycleGanOptions]):
    """Trains between data.folder, a, and the one folder of data.mix, b; `apply` makes b of a."""

    name = "cyclegan"
    config_type = CycleGanConfig
    options = CycleGanOptions

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        check_crop(config, 4, 24)
        if len(config.data.mix) != 1 or not config.data.in_turn or config.training.batch % (2 * processes.world):
            raise ConfigError(
                "cyclegan needs data.folder, one other folder in data.mix, data.in_turn=true, and an even batch for "
                "each process."
            )

    @staticmethod
    def network(settings: Settings) -> Generators:
        return Generators(settings)

    def critics(self) -> dict[str, nn.Module]:
        return {"discriminator": Discriminators(self.settings, self.config.data.crop)}

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        settings, critics = self.settings, self.modules["discriminator"]
        assert isinstance(critics, Discriminators)
        b, a = x[::2], x[1::2]  # in turn, those of data.mix first
        made = modules["generator"](a, b)

        real_a, real_b = modules["discriminator"](a, b)
        pooled = critics.pool_a.exchange(made["fake_a"]), critics.pool_b.exchange(made["fake_b"])
        fake_a, fake_b = modules["discriminator"](*pooled)
        value = sum(discriminator_loss(*pair, "least-squares") for pair in ((real_a, fake_a), (real_b, fake_b)))
        real, fake = torch.cat([real_a, real_b]), torch.cat([fake_a, fake_b])
        scores = {side: probability(v, "least-squares").mean() for side, v in (("real", real), ("fake", fake))}
        self.guard.add(b, made["fake_b"], scores["real"], scores["fake"])
        assert isinstance(value, Tensor)
        yield Loss("discriminator", value, scores)

        with frozen(critics):
            judged = critics(made["fake_a"], made["fake_b"])
        terms = {
            "gan": 2 * torch.stack([generator_loss(logits, "least-squares") for logits in judged]).sum(),  # without ½
            "cycle": settings.cycle_weight * 2 * (_distance(made["cycle_a"], a) + _distance(made["cycle_b"], b)),
            "identity": settings.identity_weight * 2 * (_distance(made["same_a"], a) + _distance(made["same_b"], b)),
        }
        yield Loss("generator", torch.stack(list(terms.values())).sum(), terms)

    def show(self, network: Generators, x: Tensor) -> dict[str, Tensor]:
        made = network(x, x)
        return {"a": x, "a to b": made["fake_b"], "a to b to a": made["cycle_a"]}

    @classmethod
    def transform(cls, network: Generators, settings: Settings, x: Tensor, options: CycleGanOptions) -> Tensor:
        return pictures.padded(network.to_a if options.back else network.to_b, x, 4)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs().mean()
