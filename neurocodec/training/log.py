"""The record of a run: log.jsonl and a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from neurocodec.errors import OutputError
from neurocodec.files import make_folder, write_bytes
from neurocodec.image import save_pil
from neurocodec.training.config import LoopConfig
from neurocodec.training.data import Rgb
from neurocodec.training.distributed import Processes

SHEETS = "sheets"
"""The folder of the sheets of samples within that of a run."""


def mean_psnr(mse: Tensor) -> Tensor:
    """The mean over pictures of -10 log10 of their mean squared errors, in dB. mse: (B,), of pixels in [0, 1]."""
    return -10.0 * mse.log10().mean()


def mean_row(setting: dict[str, float], points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """A row of validation: its setting, and the means over the points of the pictures."""
    means = {name: sum(point[name] for point in points) / len(points) for name in points[0]}
    return {key: round(value, 4) for key, value in (setting | means).items()}


class RunLog:
    """Rows of a run, one JSON object a line, written by the first process. step: where it starts.

    Rows after that step, which a crash undid, are removed: the run repeats their steps. Raises OutputError if the log
    cannot be written.
    """

    def __init__(self, run: Path, settings: LoopConfig, step: int, processes: Processes) -> None:
        self._processes, self._path = processes, run / "log.jsonl"
        if processes.first and step:
            _forget_after(self._path, step)
        self._bar = tqdm(
            total=settings.steps, initial=step, disable=not processes.first, smoothing=0.02, mininterval=5.0
        )
        self._start_window()

    def _start_window(self) -> None:
        self._rows: list[dict[str, Tensor]] = []  # the values of each step since the last row
        self._images, self._waited, self._started = 0, 0.0, time.monotonic()

    def step(self, values: dict[str, Tensor], images: int, waited: float, fraction: float, *, finite: bool) -> None:
        """Counts a step, and moves the progress bar to this fraction of the run.

        values: scalars; images: over all processes; waited: seconds that this process waited for its batch; finite:
        False leaves the values, of a skipped step, out of the means.
        """
        nan = torch.tensor(math.nan)
        self._rows.append({name: value.detach() if finite else nan.to(value) for name, value in values.items()})
        self._images += images
        self._waited += waited
        steps = self._bar.n + 1
        self._bar.total = max(steps, round(steps / fraction))  # so that the bar ends with the clock, if there is one
        self._bar.update()

    def training(self, step: int, about: dict[str, Any]) -> None:
        """Adds a row: the means since the last one of the values that a step has, or None; the speed; and `about`.

        All processes have to call it.
        """
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = [torch.stack([row[name].double() for row in self._rows if name in row]) for name in names]
        means = torch.stack([column.nanmean().cpu() for column in columns])
        seconds = time.monotonic() - self._started
        row = dict(zip(names, self._processes.mean(means).tolist(), strict=True))
        row |= {"images_per_second": self._images / seconds, "waiting": self._waited / seconds}
        rounded = {key: round(value, 5) if math.isfinite(value) else None for key, value in row.items()} | about
        self.write({"step": step, **rounded})
        shown = ("loss", "bpp", "psnr", "lpips", "real", "fake")
        self._bar.set_postfix({key: rounded[key] for key in shown if rounded.get(key) is not None})
        self._start_window()

    def validation(self, step: int, seconds: float, rows: list[dict[str, float]]) -> None:
        """Adds the rows of a validation, each with its quality_index, and realism where there is one."""
        for row in rows:
            self.write({"step": step, "seconds": round(seconds, 1), "validation": row})

    def sheet(self, step: int, samples: Rgb | None) -> None:
        """Writes a sheet of samples, if there is one, as sheets/STEP.png in the run's folder. Raises OutputError."""
        if samples is not None:
            folder = self._path.parent / SHEETS
            make_folder(folder)
            save_pil(Image.fromarray(samples), folder / f"{step:07d}.png", force=True)

    def warning(self, step: int, text: str) -> None:
        """Adds a warning, and prints it to stderr."""
        self.write({"step": step, "warning": text})
        if self._processes.first:
            tqdm.write(f"warning at step {step}: {text}", file=sys.stderr)

    def doing(self, text: str) -> None:
        """Shows before the progress bar what is going on, such as freezing."""
        self._bar.set_description(text)

    def write(self, row: dict[str, Any]) -> None:
        """Adds any row. Raises OutputError."""
        if self._processes.first:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise OutputError(f"{self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Ends the progress bar."""
        self._bar.close()


def _forget_after(path: Path, step: int) -> None:
    """Removes the rows after `step` from a log, and a last one that is incomplete."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    complete = [line for line in lines if line.endswith("\n")]
    kept = [line for line in complete if json.loads(line).get("step", 0) <= step]
    if len(kept) < len(lines):
        write_bytes(path, "".join(kept).encode(), force=True)
