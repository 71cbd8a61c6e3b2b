"""The record of a run: log.jsonl, a progress bar and, if asked for, TensorBoard."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from neurocodec.errors import MissingPackageError
from neurocodec.files import write_bytes
from neurocodec.training.config import TrainingConfig
from neurocodec.training.distributed import Processes


class Steps:
    """The steps since the last row of the log: means of named values, and the speed."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Tensor]] = []
        self.images, self.waited, self.started = 0, 0.0, time.monotonic()

    def count(self, values: dict[str, Tensor], images: int, waited: float) -> None:
        """Counts a step. values: scalars, among them "gradient", its norm; images: over all processes; waited: seconds
        this process waited for its batch."""
        self.rows.append({name: value.detach() for name, value in values.items()})
        self.images += images
        self.waited += waited

    def means(self, processes: Processes) -> dict[str, float | None]:
        """Means over the steps that have the value and the processes, skipped steps left out, and the speed."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        kept = [row for row in self.rows if row["gradient"].isfinite()]
        columns = [[row[name].double() for row in kept if name in row] for name in names]
        means = torch.stack([torch.stack(c).mean().cpu() if c else torch.tensor(math.nan).double() for c in columns])
        seconds = time.monotonic() - self.started
        row = dict(zip(names, processes.mean(means).tolist(), strict=True))
        row |= {"images_per_second": self.images / seconds, "waiting": self.waited / seconds}
        return {key: round(value, 5) if math.isfinite(value) else None for key, value in row.items()}


class Window(Steps):
    """The steps of the base model's loop."""

    def add(self, losses: dict[str, Tensor], norm: Tensor, images: int, waited: float) -> None:
        """Counts a step. losses: those of `rate_distortion_loss`."""
        values = {"loss": losses["loss"], "bpp": losses["bpp"].mean(), "z_bpp": losses["z_bpp"].mean()}
        values |= {"psnr": mean_psnr(losses["mse"]), "gradient": norm}
        self.count(values, images, waited)


def mean_psnr(mse: Tensor) -> Tensor:
    """The mean over pictures of -10 log10 of their mean squared errors, in dB. mse: (B,), of pixels in [0, 1]."""
    return -10.0 * mse.log10().mean()


class RunLog:
    """Rows of a run, one JSON object a line. step: where it starts; with `enabled` False it writes nothing.

    Rows after that step, of steps that a crash undid, are taken out: the run takes these steps again.
    Raises MissingPackageError if the configuration asks for TensorBoard and it is not installed.
    """

    def __init__(self, run: Path, settings: TrainingConfig, step: int, *, enabled: bool) -> None:
        self._board = _summary_writer(run / "tensorboard", step) if enabled and settings.tensorboard else None
        if enabled and step:
            _forget_after(run / "log.jsonl", step)
        self._file = open(run / "log.jsonl", "a", buffering=1) if enabled else None  # noqa: SIM115 (as long as the run)
        self._bar = tqdm(total=settings.steps, initial=step, disable=not enabled, smoothing=0.02, mininterval=5.0)

    def step(self) -> None:
        """Moves the progress bar."""
        self._bar.update()

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        if self._file:
            self._file.write(json.dumps(row) + "\n")

    def training(self, step: int, row: dict[str, Any]) -> None:
        """Adds a row of training."""
        self.write({"step": step, **row})
        shown = ("loss", "bpp", "psnr", "lpips", "real", "fake")
        self._bar.set_postfix({key: row[key] for key in shown if row.get(key) is not None})
        self._scalars("training", row, step)

    def validation(self, step: int, seconds: float, rows: list[dict[str, float]]) -> None:
        """Adds a row for each quality index, and each realism if rows tell it, that was validated."""
        for row in rows:
            self.write({"step": step, "seconds": round(seconds, 1), "validation": row})
            realism = f"/realism_{row['realism']:g}" if "realism" in row else ""
            self._scalars(f"validation/row_{row['quality_index']:g}{realism}", row, step)

    def warning(self, step: int, text: str) -> None:
        """Adds a warning, and prints it to stderr."""
        self.write({"step": step, "warning": text})
        if self._file:
            tqdm.write(f"warning at step {step}: {text}", file=sys.stderr)

    def close(self) -> None:
        """Ends the log."""
        self._bar.close()
        for output in (self._file, self._board):
            if output:
                output.close()

    def _scalars(self, group: str, row: dict[str, Any], step: int) -> None:
        for key, value in row.items():
            if self._board and value is not None and key not in ("quality_index", "realism"):
                self._board.add_scalar(f"{group}/{key}", value, step)


def _forget_after(path: Path, step: int) -> None:
    """Takes the rows after `step` out of a log, and a last one that is not whole."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line).get("step", 0) <= step]
    if len(kept) < len(lines):
        write_bytes(path, "".join(kept).encode(), force=True)


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError(
            "training.tensorboard needs tensorboard, which is not installed: pip install 'neurocodec[train]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)  # type: ignore[no-untyped-call]
