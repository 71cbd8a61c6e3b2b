"""The record of a run: log.jsonl, a progress bar and, if asked for, TensorBoard."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from neurocodec.errors import MissingPackageError
from neurocodec.training.config import TrainingConfig
from neurocodec.training.processes import Processes


class Window:
    """The steps since the last row of the log."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.images, self.waited, self.started = 0, 0.0, time.monotonic()

    def add(self, losses: dict[str, Tensor], norm: Tensor, images: int, waited: float) -> None:
        """Counts a step. images: over all processes; waited: seconds this process waited for its batch."""
        log_mse = losses["mse"].log10().mean()
        means = (losses["loss"], losses["bpp"].mean(), losses["z_bpp"].mean(), log_mse, norm)
        self.rows.append(torch.stack(means).detach())
        self.images += images
        self.waited += waited

    def means(self, processes: Processes) -> dict[str, float | None]:
        """Means over the steps and the processes, skipped steps left out, and the speed."""
        rows = torch.stack(self.rows)
        rows = rows[rows[:, -1].isfinite()]
        loss, bpp, z_bpp, log_mse, norm = processes.mean(rows.mean(0)).tolist()
        seconds = time.monotonic() - self.started
        row = {"loss": loss, "bpp": bpp, "z_bpp": z_bpp, "psnr": -10 * log_mse, "gradient": norm}
        row |= {"images_per_second": self.images / seconds, "waiting": self.waited / seconds}
        return {key: round(value, 5) if math.isfinite(value) else None for key, value in row.items()}


class RunLog:
    """Rows of a run, one JSON object a line. step: where it starts; with `enabled` False it writes nothing.

    Raises MissingPackageError if the configuration asks for TensorBoard and it is not installed.
    """

    def __init__(self, run: Path, settings: TrainingConfig, step: int, *, enabled: bool) -> None:
        self._board = _summary_writer(run / "tensorboard", step) if enabled and settings.tensorboard else None
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
        self._bar.set_postfix({key: row[key] for key in ("loss", "bpp", "psnr")})
        self._scalars("training", row, step)

    def validation(self, step: int, seconds: float, rows: list[dict[str, float]]) -> None:
        """Adds a row for each quality index that was validated."""
        for row in rows:
            self.write({"step": step, "seconds": round(seconds, 1), "validation": row})
            self._scalars(f"validation/row_{row['quality_index']:g}", row, step)

    def close(self) -> None:
        """Ends the log."""
        self._bar.close()
        for output in (self._file, self._board):
            if output:
                output.close()

    def _scalars(self, group: str, row: dict[str, Any], step: int) -> None:
        for key, value in row.items():
            if self._board and value is not None and key != "quality_index":
                self._board.add_scalar(f"{group}/{key}", value, step)


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError(
            "training.tensorboard needs tensorboard, which is not installed: pip install 'neurocodec[train]'"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)  # type: ignore[no-untyped-call]
