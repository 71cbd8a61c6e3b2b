"""The objective of the base model: rate plus λ times distortion."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurocodec import codec, container
from neurocodec import model as model_files
from neurocodec.errors import ConfigError, ModelMismatchError, ModelNotFoundError
from neurocodec.image import Picture
from neurocodec.metrics import psnr
from neurocodec.model import Model
from neurocodec.models.freeze import freeze, thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.training import checkpoint
from neurocodec.training.config import Config, config_from_dict
from neurocodec.training.data import Rgb, as_tensor
from neurocodec.training.distributed import Processes
from neurocodec.training.fused import FusedHyperprior
from neurocodec.training.log import mean_psnr, mean_row
from neurocodec.training.objective import Loss
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.run import check_settings, freeze_measured, is_run
from neurocodec.training.schedule import in_last

TRANSFORM_CHANNELS = 192
"""An 8×8 DCT of three channels has this many coefficients."""
GROWABLE = ("encoder_blocks", "decoder_blocks", "latent_blocks")
"""Counts of residual blocks that may be larger than those of the model to start from: new blocks are the identity."""
MOVABLE = ("lambda_min", "lambda_max")
"""What may differ from the model to start from: training moves the quality rows to other λ."""
ENCODERS = ("g_a", "h_a")
"""The parts of a `Hyperprior` that decoding does not run."""
VALIDATION_ROWS = (2.0, 5.0, 8.0, 11.0)
VALIDATION_SIDE = 768
"""Held-out pictures are cut to this side, except for real files."""


class RateDistortion:
    """Trains a model, run/model.safetensors; see `training.objective.Objective`.

    At the end its EMA weights are frozen, with tables measured on training pictures. With `training.encoder_only`, g_a
    and h_a alone learn, and the model is the one that the run started from with another encoder.
    """

    fixed: tuple[str, ...] = ("model", "training.optimizer", "training.encoder_only")
    result = "model.safetensors"

    def __init__(self, config: Config, processes: Processes) -> None:
        torch.manual_seed(config.training.seed)
        self.config = config
        self.model = FusedHyperprior(config.model) if config.training.fused else Hyperprior(config.model)
        self.decoder = decoder_that_stays(config) if config.training.encoder_only else None
        if self.decoder:
            for name, part in self.model.named_children():
                part.requires_grad_(name in ENCODERS)
        self.modules: dict[str, nn.Module] = {"model": self.model}
        self.about: dict[str, str] = {}

    def initialise(self, photographs: list[Rgb]) -> None:
        settings, channels = self.config.training, self.config.model.channels
        if settings.init_from:
            load_weights(self.model, settings.init_from)
        elif settings.init_images:
            if channels < TRANSFORM_CHANNELS:
                raise ConfigError(
                    f"model.channels is {channels}, and the transform start needs at least {TRANSFORM_CHANNELS}: with "
                    "fewer, set training.init_images to 0."
                )
            chosen = photographs[:: max(1, len(photographs) // settings.init_images)]
            self.model.start_as_transform_codec([as_tensor(rgb, largest=1024) for rgb in chosen])

    def optimizers(self) -> dict[str, list[torch.optim.Optimizer]]:
        return {"model": make_optimizers(self.model, self.config.training)}

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        self.model.fake_quantise = in_last(self.config.training.integer_share, fraction)
        output = modules["model"](x, quality_index)
        losses = rate_distortion_loss(output, x, self.config.model.lmbda(quality_index))
        log = {"bpp": losses["bpp"].mean(), "z_bpp": losses["z_bpp"].mean(), "psnr": mean_psnr(losses["mse"])}
        yield Loss("model", losses["loss"], log | {"fake_quantise": torch.tensor(float(self.model.fake_quantise))})

    @torch.no_grad()
    def validate(self, ema: Hyperprior, held_out: list[Rgb], fraction: float) -> list[dict[str, float]]:
        """Mean bpp and PSNR at four quality indexes; with `validate_actual`, also of real files."""
        ema.fake_quantise = in_last(self.config.training.integer_share, fraction)
        frozen = freeze(ema) if self.config.training.validate_actual else None
        rows = []
        for index in VALIDATION_ROWS:
            points = [estimate(ema, as_tensor(rgb, largest=VALIDATION_SIDE), index) for rgb in held_out]
            if frozen is not None:
                points = [point | measure(frozen, rgb, index) for point, rgb in zip(points, held_out, strict=True)]
            rows.append(mean_row({"quality_index": index}, points))
        return rows

    def sheet(self, ema: Hyperprior, held_out: list[Rgb]) -> Rgb | None:
        return None

    def warnings(self) -> dict[str, str]:
        return {}

    def finish(self, ema: Hyperprior, run: Path, photographs: list[Rgb]) -> None:
        freeze_measured(ema.config, ema.state_dict(), photographs, self.decoder).save(run / self.result)


def rate_distortion_loss(output: dict[str, Tensor], x: Tensor, lmbda: Tensor) -> dict[str, Tensor]:
    """bpp + λ · 255² · MSE of each image (Ballé et al. 2017).

    output: that of `Hyperprior.forward`; x: (B, 3, H, W) in [0, 1]; lmbda: (B,).
    Returns bpp, z_bpp and mse, each (B,), and `loss`: the mean over images of the cost divided by sqrt(1000 λ), so
    that no quality dominates.
    """
    pixels = x.shape[2] * x.shape[3]
    bpp = (output["y_bits"] + output["z_bits"]) / pixels
    mse = (output["x_hat"].float() - x).square().mean((1, 2, 3))
    cost = bpp + lmbda * 255**2 * mse
    return {"loss": (cost / (1000.0 * lmbda).sqrt()).mean(), "bpp": bpp, "z_bpp": output["z_bits"] / pixels, "mse": mse}


def estimate(model: Hyperprior, x: Tensor, quality_index: float) -> dict[str, float]:
    """The model's own bpp and PSNR of a picture, (1, 3, H, W) in [0, 1], H and W multiples of 64."""
    x = x.to(next(model.parameters()).device)
    index = torch.tensor([quality_index], device=x.device)
    losses = rate_distortion_loss(model(x, index), x, model.config.lmbda(index))
    return {"bpp": losses["bpp"].item(), "psnr": -10 * math.log10(losses["mse"].item())}


def measure(model: Model, rgb: NDArray[Any], quality_index: float) -> dict[str, float]:
    """file_bpp and file_psnr of a picture, (H, W, 3) uint8, as a .nic file; files hold quality_index in 1/64."""
    data = codec.encode_picture(Picture(rgb), model, round(64 * quality_index))
    decoded = codec.decode_picture(container.read(data), model)
    return {"file_bpp": 8.0 * len(data) / (rgb.shape[0] * rgb.shape[1]), "file_psnr": psnr(rgb, decoded.rgb)}


def decoder_that_stays(config: Config) -> Model:
    """The model of `training.init_from`. Raises ConfigError if it is none, or has a decoder of another shape."""
    source = config.training.init_from
    if not source:
        raise ConfigError("training.encoder_only needs training.init_from, the model whose decoder stays.")
    if is_run(source):
        raise ConfigError(
            f"training.encoder_only needs a model, and {source!r} is a run: name its {RateDistortion.result}."
        )
    try:
        model = model_files.load(source)
    except (ModelNotFoundError, ModelMismatchError) as error:
        raise ConfigError(f"cannot start from {source!r}: {error}") from error
    there = {"model": dataclasses.asdict(model.config)}
    check_settings(f"the model {source!r}", there, config, ["model"], growable=("encoder_blocks",))
    return model


def load_weights(model: Hyperprior, source: str) -> None:
    """Gives `model` the weights of a run, of a .safetensors file or of an installed model's name.

    source: for a run, its folder. `model` may have more residual blocks; the additional ones do nothing until they are
    trained, so it computes what the source computes. Its λ may differ: training then moves the quality rows. Raises
    ConfigError if the source cannot be read or has another shape.
    """
    if is_run(source):
        saved = checkpoint.read(source)
        try:
            other = Hyperprior(config_from_dict({"model": saved["config"]["model"]}).model)
            other.load_state_dict(saved["weights"]["ema"])
        except (AttributeError, LookupError, TypeError, RuntimeError) as error:
            raise ConfigError(f"the run {source!r} does not hold a base model that this release can read.") from error
    else:
        try:
            other = thaw(model_files.load(source))
        except (ModelNotFoundError, ModelMismatchError) as error:
            raise ConfigError(f"cannot start from {source!r}: {error}") from error
    there, here = {"model": dataclasses.asdict(other.config)}, Config(model=model.config)
    check_settings(f"the model {source!r}", there, here, ["model"], growable=GROWABLE, movable=MOVABLE)
    model.load_state_dict(other.state_dict(), strict=False)  # only additional blocks are missing: the rest was compared
