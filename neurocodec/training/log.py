"""The record of a run: log.jsonl, a progress bar and, if asked for, TensorBoard."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from neurocodec.errors import MissingPackageError, OutputError
from neurocodec.files import write_bytes
from neurocodec.training.config import TrainingConfig
from neurocodec.training.distributed import Processes


class Window:
    """The steps since the last row of the log: means of named values, and the speed."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Tensor]] = []
        self.names: dict[str, None] = {}
        self.images, self.waited, self.started = 0, 0.0, time.monotonic()

    def add(self, values: dict[str, Tensor], images: int, waited: float, *, finite: bool) -> None:
        """Adds a step. values: scalars; images: over all processes; waited: seconds that this process waited for its
        batch; finite: False leaves the values, of a skipped step, out of the means."""
        self.names |= dict.fromkeys(values)
        if finite:
            self.rows.append({name: value.detach() for name, value in values.items()})
        self.images += images
        self.waited += waited

    def means(self, processes: Processes) -> dict[str, float | None]:
        """Means over the processes and over the steps that have the value, None if there are none; and the speed."""
        columns = [[row[name].double() for row in self.rows if name in row] for name in self.names]
        means = torch.stack([torch.stack(c).mean().cpu() if c else torch.tensor(math.nan).double() for c in columns])
        seconds = time.monotonic() - self.started
        row = dict(zip(self.names, processes.mean(means).tolist(), strict=True))
        row |= {"images_per_second": self.images / seconds, "waiting": self.waited / seconds}
        return {key: round(value, 5) if math.isfinite(value) else None for key, value in row.items()}


def mean_psnr(mse: Tensor) -> Tensor:
    """The mean over pictures of -10 log10 of their mean squared errors, in dB. mse: (B,), of pixels in [0, 1]."""
    return -10.0 * mse.log10().mean()


def mean_row(setting: dict[str, float], points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A row of validation: its setting, and the means over the points of the pictures."""
    means = {name: sum(point[name] for point in points) / len(points) for name in points[0]}
    return {key: round(value, 4) for key, value in (setting | means).items()}


class RunLog:
    """Rows of a run, one JSON object a line. step: where it starts; with `enabled` False it writes nothing.

    Rows after that step, which a crash undid, are removed: the run repeats their steps. Raises OutputError if the log
    cannot be written, MissingPackageError if the configuration asks for TensorBoard and it is not installed.
    """

    def __init__(self, run: Path, settings: TrainingConfig, step: int, *, enabled: bool) -> None:
        self._board = _summary_writer(run / "tensorboard", step) if enabled and settings.tensorboard else None
        if enabled and step:
            _forget_after(run / "log.jsonl", step)
        self._file = _open_to_append(run / "log.jsonl") if enabled else None
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
        """Adds the rows of a validation, each with its quality_index, and realism where there is one."""
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


def _open_to_append(path: Path) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _forget_after(path: Path, step: int) -> None:
    """Removes the rows after `step` from a log, and a last one that is incomplete."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    complete = [line for line in lines if line.endswith("\n")]
    kept = [line for line in complete if json.loads(line).get("step", 0) <= step]
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
