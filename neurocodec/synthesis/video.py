"""Video: .nicv files of frames, and the training of the networks that code what motion does not predict.

After Rippel et al. ("Learned video compression", ICCV 2019) and DVC (Lu et al., CVPR 2019). `sequence` is the codec.
The model of its residuals is a hyperprior that learns, from photographs in motion, on what is left of a frame once it
is predicted from the decoded frame before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from neurocodec import codec, files
from neurocodec import model as model_files
from neurocodec.errors import ConfigError, ModelMismatchError, ModelNotFoundError, OutputError
from neurocodec.models.freeze import thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.pixels import from_tensor
from neurocodec.synthesis import frames, motion, nicv, pictures
from neurocodec.synthesis.sequence import GOP, decode, encode
from neurocodec.synthesis.system import Data, Options, SynthesisConfig, TrainedSystem, check_crop
from neurocodec.training.config import Count, NotNegative, Range, Share, TrainingConfig
from neurocodec.training.data import Rgb
from neurocodec.training.distributed import Processes
from neurocodec.training.objective import Loss
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.rate_distortion import VALIDATION_ROWS, rate_distortion_loss
from neurocodec.training.run import freeze_measured
from neurocodec.training.schedule import in_last


@dataclass(frozen=True)
class Settings:
    """What the residual's networks start from, and the motion that they learn from."""

    init_from: str = "base"  # name or file of a model; its decoded pictures are what frames are predicted from
    shift: NotNegative = 12.0  # largest motion of the camera and of a rectangle in front of it, in pixels a frame
    zoom: Share = 0.03  # largest change of scale a frame, and of the angle, in radians
    noise: NotNegative = 3.0  # largest standard deviation of the camera's noise, of 255
    rows_learning_rate: NotNegative = 3e-3  # of gains and biases that belong to a quality
    integer_share: Share = 0.3  # the last part of a run, with fake quantisation of the entropy path


@dataclass(frozen=True)
class VideoConfig(SynthesisConfig):
    """The configuration of a run that trains the model of residuals."""

    data: Data = field(default_factory=lambda: Data(crop=128))
    video: Settings = field(default_factory=Settings)


def moving(x: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Still crops x, (B, 3, H, W), as the second of two frames: the first, and where its pixels are, (B, H, W, 2).

    The camera shifts, turns and zooms; in half of the crops a rectangle moves on its own.
    """
    b, _, h, w = x.shape
    y, x_at = torch.meshgrid(torch.arange(h) - h / 2, torch.arange(w) - w / 2, indexing="ij")
    places = torch.stack([x_at, y], -1).to(x)  # (H, W, 2), right and down, as grid_sample has it
    shift = settings.shift * (2 * torch.rand(b, 2, 1, 1, 2).to(x) - 1) * torch.rand(b, 1, 1, 1, 1).to(x)
    scale, angle = (settings.zoom * (2 * torch.rand(b, 1, 1).to(x) - 1) for _ in range(2))
    camera = torch.stack(
        [scale * places[..., 0] - angle * places[..., 1], angle * places[..., 0] + scale * places[..., 1]], -1
    )
    middle, size = (torch.rand(b, 1, 1, 2).to(x) for _ in range(2))
    inside = ((places / torch.tensor([w, h]).to(x) + 0.5 - middle).abs() < 0.1 + 0.2 * size).all(-1, keepdim=True)
    inside = inside & (torch.rand(b, 1, 1, 1) < 0.5).to(x.device)
    flow = camera + torch.where(inside, shift[:, 0] + shift[:, 1], shift[:, 0])
    return warp(x, flow), -flow


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """x, (B, 3, H, W), at each place plus flow, (B, H, W, 2) in pixels right and down; cubic, clamped to [0, 1]."""
    h, w = x.shape[2:]
    y, x_at = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at = torch.stack([x_at, y], -1).to(x) + flow
    grid = 2 * (at + 0.5) / torch.tensor([w, h]).to(x) - 1
    return F.grid_sample(x, grid, "bicubic", "border", align_corners=False).clamp(0, 1)


@dataclass(frozen=True)
class VideoOptions(Options):
    """quality, gop: those of `sequence.encode`; frames: the maximum number to encode; residual_model: a model file or
    the name of an installed model, "base" if empty. Coding runs on the CPU."""

    device: Literal["cpu"] = "cpu"
    quality: Annotated[float, Range("from 1 to 100", lambda value: 1 <= value <= 100)] = codec.QUALITY
    gop: Count = GOP
    frames: Count = 10_000
    residual_model: str = ""


class Video(TrainedSystem[Settings, VideoOptions]):
    """Codes frames to .nicv files and decodes them; trains the model of residuals, a model file like any other."""

    name = "video"
    config_type = VideoConfig
    options = VideoOptions

    def __init__(self, config: VideoConfig, processes: Processes) -> None:
        check_crop(config, 64, 64)
        super().__init__(config, processes)
        self.pictures_model = self.network(self.settings).requires_grad_(False).to(processes.device)

    @staticmethod
    def network(settings: Settings) -> Hyperprior:
        try:
            return thaw(model_files.load(settings.init_from))
        except (ModelNotFoundError, ModelMismatchError) as error:
            raise ConfigError(f"video.init_from is {settings.init_from!r}: {error}") from error

    def optimizers(self) -> dict[str, list[torch.optim.Optimizer]]:
        settings = TrainingConfig(
            learning_rate=self.config.training.learning_rate, rows_learning_rate=self.settings.rows_learning_rate
        )
        return {"generator": make_optimizers(self.modules["generator"], settings)}

    def residuals(self, x: Tensor, quality_index: Tensor) -> dict[str, Tensor]:
        """Crops as second frames: the frames, their predictions and their residuals, each (B, 3, H, W) in [0, 1]."""
        coder = self.pictures_model
        with torch.no_grad():
            previous, flow = moving(x, self.settings)
            deviation = self.settings.noise / 255 * torch.rand(len(x), 1, 1, 1).to(x)
            previous, frame = ((v + deviation * torch.randn_like(x)).clamp(0, 1) for v in (previous, x))
            decoded = coder.g_s(coder.g_a(previous, quality_index).round(), quality_index).clamp(0, 1)
            blocks = F.avg_pool2d(flow.permute(0, 3, 1, 2), motion.BLOCK)
            quarters = (blocks * motion.QUARTERS).round() / motion.QUARTERS
            blended = F.interpolate(quarters, scale_factor=motion.BLOCK, mode="bilinear", align_corners=False)
            predicted = warp(decoded, blended.permute(0, 2, 3, 1))
            residual = ((frame - predicted) * 255).round().clamp(-128, 127) / 255 + 128 / 255
        return {"truth": frame, "predicted": predicted, "residual": residual}

    def losses(
        self, modules: Mapping[str, Callable[..., Any]], x: Tensor, quality_index: Tensor, step: int, fraction: float
    ) -> Iterator[Loss]:
        network: Any = self.modules["generator"]
        network.fake_quantise = in_last(self.settings.integer_share, fraction)
        index = quality_index * (network.config.quality_rows - 1)
        residual = self.residuals(x, index)["residual"]
        losses = rate_distortion_loss(modules["generator"](residual, index), residual, network.config.lmbda(index))
        log = {name: losses[name].mean() for name in ("bpp", "z_bpp", "mse")}
        yield Loss("generator", losses["loss"], log)

    def show(self, network: Any, x: Tensor) -> dict[str, Tensor]:
        index = torch.full((len(x),), 7.0, device=x.device)
        shown = self.residuals(x, index)
        coded = network(shown["residual"], index)["x_hat"].clamp(0, 1)
        return shown | {"coded": coded, "output": (shown["predicted"] + coded - 128 / 255).clamp(0, 1)}

    @torch.no_grad()
    def validate(self, ema: Any, held_out: list[Rgb], fraction: float) -> list[dict[str, float]]:
        """Bits a pixel and PSNR of residuals at four qualities, of the model and of the one it started from."""
        x = pictures.centre_crops(held_out, self.config.data.crop).to(self.processes.device)
        ema.fake_quantise = in_last(self.settings.integer_share, fraction)
        rows = []
        for row in VALIDATION_ROWS:
            torch.manual_seed(0)
            index = torch.full((len(x),), row, device=x.device)
            residual = self.residuals(x, index)["residual"]
            figures = {"quality_index": row}
            for name, network in (("", ema), ("start_", self.pictures_model)):
                losses = rate_distortion_loss(network(residual, index), residual, network.config.lmbda(index))
                figures |= {f"{name}bpp": float(losses["bpp"].mean())}
                figures |= {f"{name}psnr": float(-10 * losses["mse"].log10().mean())}
            rows.append(figures)
        return rows

    def finish(self, ema: Any, run: Path, photographs: list[Rgb]) -> None:
        """Freezes the average weights, with tables measured on residuals of the photographs."""
        torch.manual_seed(0)
        x = pictures.centre_crops(photographs[:: max(1, len(photographs) // 20)], self.config.data.crop)
        rows = torch.linspace(1, 14, len(x))
        residuals = self.residuals(x.to(self.processes.device), rows.to(self.processes.device))["residual"]
        measured = [from_tensor(residual[None]) for residual in residuals]
        freeze_measured(ema.config, ema.state_dict(), measured).save(run / self.result)

    @classmethod
    def apply(cls, sources: Sequence[str], output: str, options: VideoOptions, *, force: bool) -> str:
        """Encodes frames to a .nicv file, or decodes a .nicv file to a lossless animation."""
        files.check_output(output, force=force)
        residual_model = model_files.load(options.residual_model) if options.residual_model else None
        if sources[0].lower().endswith(".nicv"):
            with files.reading(sources[0]) as file:
                data = file.read()
            header = nicv.read_header(data)
            rate = Fraction(*header.rate)
            count = frames.write(output, decode(data, residual_model=residual_model), rate, force=force)
            return f"{output}: {count} frames of {header.width}×{header.height}"
        if not output.lower().endswith(".nicv"):
            raise OutputError(
                f"neither {sources[0]} nor {output} ends in .nicv: name a .nicv file to decode, or one to write"
            )
        source, rate = frames.read(sources[0])
        chosen = itertools.islice(source, options.frames)
        model = residual_model or "base"
        data = encode(chosen, quality=options.quality, gop=options.gop, rate=rate, residual_model=model)
        files.write_bytes(output, data, force=force)
        header = nicv.read_header(data)
        bpp = 8 * len(data) / (header.width * header.height * header.frames)
        return f"{output}: {header.frames} frames, {len(data)} bytes, {bpp:.4f} bits a pixel"
