"""Fast style transfer: a network that paints in one pass (Johnson, Alahi and Fei-Fei, ECCV 2016).

x ─residual generator→ x_hat, whose VGG16 features stay near those of x, and whose Gram matrices near the painting's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neurocodec.errors import ConfigError
from neurocodec.perceptual.features import load_vgg16
from neurocodec.perceptual.style import feature_loss, gram_matrix, style_loss, total_variation_isotropic
from neurocodec.synthesis import pictures
from neurocodec.synthesis.blocks import ResidualGenerator
from neurocodec.synthesis.gatys import Size, relative_weights
from neurocodec.synthesis.system import Options, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative, Whole
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss

STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
CONTENT_LAYER = "relu2_2"


@dataclass(frozen=True)
class Settings:
    """painting: the file of the style; painting_size: its shorter side in pixels. Weights are of losses relative to the
    painting's Gram matrices and the photograph's features, as in `synthesis.gatys`, so that they suit any painting."""

    painting: str = ""
    painting_size: Size = 256
    channels: Count = 32
    blocks: Whole = 5
    content_weight: NotNegative = 0.1
    style_weight: NotNegative = 1.0
    tv_weight: NotNegative = 0.1


@dataclass(frozen=True)
class FastStyleConfig(SynthesisConfig):
    """The configuration of a run."""

    faststyle: Settings = field(default_factory=Settings)


class FastStyle(TrainedSystem[Settings, Options]):
    """Trains a network for one painting; `apply` paints a photograph."""

    name = "faststyle"
    config_type = FastStyleConfig
    betas = (0.9, 0.999)

    def __init__(self, config: SynthesisConfig, processes: Processes) -> None:
        super().__init__(config, processes)
        check_crop(config, 4, 32)
        if not self.settings.painting:
            raise ConfigError("faststyle.painting is '': name the file of a painting.")
        self.vgg = load_vgg16(STYLE_LAYERS, device=processes.device)
        painting = pictures.read(self.settings.painting, self.settings.painting_size, str(processes.device))
        with torch.no_grad():
            self.grams = {layer: gram_matrix(features) for layer, features in self.vgg(painting).items()}
        self.weights = relative_weights(self.grams)

    @staticmethod
    def network(settings: Settings) -> ResidualGenerator:
        return ResidualGenerator(settings.channels, settings.blocks, kernel=9, upsampling="nearest", affine=True)

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        terms = self.terms(x, modules["generator"](x))
        yield Loss("generator", torch.stack(list(terms.values())).sum(), terms)

    def terms(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """The three weighted losses (section 3.2 and eq. 5), means over the batch."""
        with torch.no_grad():
            target = self.vgg(x)[CONTENT_LAYER]
            scale = 1 / feature_loss(torch.zeros_like(target), target)
        features = self.vgg(x_hat)
        return {
            "content": self.settings.content_weight * (scale * feature_loss(features[CONTENT_LAYER], target)).mean(),
            "style": self.settings.style_weight * style_loss(features, self.grams, self.weights).mean(),
            "tv": self.settings.tv_weight * total_variation_isotropic(x_hat).mean(),
        }

    def show(self, network: ResidualGenerator, x: Tensor) -> dict[str, Tensor]:
        return {"photograph": x, "painted": network(x)}

    def figures(self, shown: dict[str, Tensor]) -> dict[str, float]:
        return {name: float(value) for name, value in self.terms(shown["photograph"], shown["painted"]).items()}

    @classmethod
    def transform(cls, network: ResidualGenerator, settings: Settings, x: Tensor, options: Options) -> Tensor:
        return pictures.padded(network, x, 4)
