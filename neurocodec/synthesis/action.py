"""Actions in compressed video: networks on the frame that stands alone, on accumulated motion vectors and on residuals.

Wu et al., "Compressed video action recognition" (CoViAR), CVPR 2018: each network classifies by itself, and their
scores are added up. A fourth network, on decoded frames, is what they are compared with. `clips` makes the videos.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from neurocodec.errors import ImageError
from neurocodec.image import save_pil
from neurocodec.synthesis import frames, pictures
from neurocodec.synthesis.clips import CLASSES, FRAMES, Decoded, accumulate, compress, decompress, inputs_of, make_clip
from neurocodec.synthesis.system import Data, Options, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, Positive
from neurocodec.training.data import Rgb
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss

STREAMS = ("intra", "motion", "residual", "rgb")


@dataclass(frozen=True)
class Settings:
    """channels: of the first layer. rate: bit rate of the clips, in kilobits per second at 25 frames a second."""

    channels: Count = 16
    rate: Positive = 400.0


@dataclass(frozen=True)
class ActionConfig(SynthesisConfig):
    """The configuration of a run; clips have two thirds of the sides of crops."""

    data: Data = field(default_factory=lambda: Data(crop=144))
    action: Settings = field(default_factory=Settings)


def classifier(inputs: int, channels: int, halvings: int) -> nn.Sequential:
    """(N, inputs, H, W) -> scores of the classes, (N, 10): 3×3 convolutions of stride 2, the mean over positions."""
    layers: list[nn.Module] = []
    for k in range(halvings):
        outputs = channels * 2 ** min(k, 2)
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(4, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, len(CLASSES)))


class Networks(nn.Module):
    """The three networks of CoViAR, and one on frames stacked to 12 channels to compare them with."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        c = settings.channels
        self.intra, self.residual, self.rgb = classifier(3, c, 4), classifier(3, c, 4), classifier(12, c, 4)
        self.motion = classifier(2, c, 2)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores of the classes, (N, 10), of each stream; N clips have N or 3 N inputs, whose scores are averaged."""
        clips = len(inputs["intra"])
        return {name: getattr(self, name)(x).unflatten(0, (clips, -1)).mean(1) for name, x in inputs.items()}


def fused(scores: Mapping[str, Tensor]) -> Tensor:
    """CoViAR's decision: the sum of its three scores."""
    return scores["intra"] + scores["motion"] + scores["residual"]


class Action(TrainedSystem[Settings, Options]):
    """Learns the classes from clips that it makes of the crops; all four networks in one step, each by its own loss."""

    name = "action"
    config_type = ActionConfig
    betas = (0.9, 0.999)

    def __init__(self, config: ActionConfig, processes: Processes) -> None:
        check_crop(config, 48, 96)
        super().__init__(config, processes)

    @staticmethod
    def network(settings: Settings) -> nn.Module:
        return Networks(settings)

    def clips(self, x: Tensor, labels: Sequence[int], seed: int) -> tuple[dict[str, Tensor], list[Decoded]]:
        """Inputs of all networks, from clips of crops x, (N, 3, crop, crop) in [0, 1]; textures are the next crop's."""
        photos = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        rng = np.random.default_rng(seed)
        decoded = []
        for i, label in enumerate(labels):
            clip = make_clip(photos[i % len(x)], photos[(i + 1) % len(x)], CLASSES[label], rng)
            decoded.append(decompress(compress(clip, self.settings.rate)))
        parts = [inputs_of(d) for d in decoded]
        return {name: torch.cat([part[name] for part in parts]).to(x.device) for name in STREAMS}, decoded

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        labels = torch.randint(len(CLASSES), (len(x),))
        inputs, _ = self.clips(x, labels.tolist(), int(torch.randint(2**31, ())))
        scores = modules["generator"](inputs)
        values = {name: F.cross_entropy(scores[name], labels.to(x.device)) for name in STREAMS}
        yield Loss("generator", torch.stack(list(values.values())).sum(), values)

    @torch.no_grad()
    def validate(self, ema: Any, held_out: list[Rgb], fraction: float) -> list[dict[str, float]]:
        """Shares of held-out clips, one of each class for each picture, that each network and the sum get right."""
        x = pictures.centre_crops(held_out, self.config.data.crop).to(self.processes.device)
        labels = [label for label in range(len(CLASSES)) for _ in range(len(x))]
        inputs, _ = self.clips(x, labels, 0)
        scores = ema(inputs)
        truth = torch.tensor(labels, device=x.device)
        scores |= {"intra + motion": scores["intra"] + scores["motion"], "all three": fused(scores)}
        return [{name: float((value.argmax(1) == truth).float().mean()) for name, value in scores.items()}]

    def show(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        _, decoded = self.clips(x, [i % len(CLASSES) for i in range(len(x))], 0)
        return columns(decoded)

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: Options, *, force: bool) -> str:
        """Names the action in the first twelve frames; the output is a sheet of what the networks are given."""
        pictures.check(output, options.device, force=force)
        network, settings = cls.load(sources[0], options.device)
        read = list(itertools.islice(frames.read(sources[1])[0], FRAMES))
        if len(read) < FRAMES or len({frame.shape for frame in read}) > 1:
            raise ImageError(f"{sources[1]} holds {len(read)} frames, expected at least {FRAMES}, all of one size")
        height, width = (side // 16 * 16 for side in read[0].shape[:2])
        clip = np.stack([frame[:height, :width] for frame in read])
        decoded = decompress(compress(clip, settings.rate))
        with torch.no_grad():
            scores = network({name: x.to(options.device) for name, x in inputs_of(decoded).items()})
        chances = fused(scores).softmax(1)[0]
        best = int(chances.argmax())
        save_pil(Image.fromarray(pictures.sheet(columns([decoded]))), output, force=force)
        return f"{output}: {CLASSES[best]}, {100 * float(chances[best]):.0f} %"


def columns(decoded: Sequence[Decoded]) -> dict[str, Tensor]:
    """Of clips: the first frame, the last one, its accumulated vectors (red: from the right, green: from below, gray:
    none, 16 pixels to the limit) and its accumulated residual; each (N, 3, H, W) in [0, 1]."""
    vectors, residuals = [], []
    for clip in decoded:
        v = torch.from_numpy(accumulate(clip.vectors)[-1]).permute(2, 0, 1)[[1, 0, 0]].float()
        v[2] = 0
        vectors.append((0.5 + v / 32).clamp(0, 1))
        residuals.append(inputs_of(clip)["residual"][-1] + 0.5)
    ends = [np.stack([clip.frames[k] for clip in decoded]) for k in (0, -1)]
    first, last = (torch.from_numpy(end).permute(0, 3, 1, 2).float() / 255 for end in ends)
    return {"first": first, "last": last, "vectors": torch.stack(vectors), "residual": torch.stack(residuals)}
