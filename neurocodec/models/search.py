"""The encoder's search: stochastic Gumbel annealing of the latents of one picture.

g_a gives good latents for any picture; the search improves them for this picture, towards fewer bits and less error.
Each latent is rounded up or down at random by a relaxed (Gumbel softmax) choice with falling temperature, so that
gradients of bits + λ · 255² · squared error reach it through g_s and the context passes. z_hat does not change.

Source: Yang, Bamler and Mandt 2020, "Improving inference for neural image compression", section 3.2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocodec import tiling
from neurocodec.entropy.grid import MAX_LATENT, QUALITY_STEPS, UNIT
from neurocodec.entropy.tables import PRECISION, Tables
from neurocodec.model import Model
from neurocodec.models.freeze import thaw
from neurocodec.models.hyperprior import INDEX_UNIT, Hyperprior, pass_masks
from neurocodec.tiling import LATENT, Window

EDGE = 1024
"""Side of the windows that are searched at a time, in pixels; limits memory to about 1 GB."""
SEED = 0
"""Seed of the random choices in each window."""
STEPS = {2: 20, 3: 50, 4: 100, 5: 200, 6: 300, 7: 450, 8: 700, 9: 1000, 10: 1500}
"""Number of steps for each effort. A hundred take about 5 minutes per megapixel on one core."""
LEARNING_RATE = 0.01
"""Learning rate of Adam, in quantisation steps. From 0.02 on, latents move too fast for their contexts to follow."""
LAST, LAST_FACTOR = 0.3, 0.2
"""The last 30 % of the steps use a fifth of the learning rate."""
HOT, COLD, ANNEALED = 0.5, 0.1, 0.9
"""The temperature falls linearly from HOT to COLD over the first 90 % of the steps."""


def search(
    pixels: NDArray[np.uint8],
    y: NDArray[np.int32],
    z_hat: NDArray[np.int32],
    tile: Window,
    support: Window,
    model: Model,
    quality_index: int,
    steps: int,
    *,
    gray: bool = False,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.int32]:
    """Better latents for a tile, int32 (h, w, M) in units of 1/64, to encode with the same z_hat.

    They are the centres of the chosen bins, so that small differences between the float network's means and the exact
    ones do not change a symbol.

    tile: the window to search. support: the tile and the latents around it whose pixels it affects. pixels: of
    `support`, (H, W, 3), 0 to 255, cropped to the picture. y: of `support`, (h, w, M) in units of 1/64. z_hat: of the
    tile, (ceil(h / 4), ceil(w / 4), N). quality_index: 0 to 960. steps: per window of EDGE pixels. gray: only the mean
    of the channels counts. progress: called after each step with the fraction completed, up to 1.

    Runs on the CPU. The same input gives the same result on one machine with one thread count. torch's random state is
    not touched.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        latents = torch.from_numpy(y.astype(np.float32) / UNIT).permute(2, 0, 1)[None]
        z = torch.from_numpy(z_hat.copy()).permute(2, 0, 1)[None].float()
        work = _Search(x, latents, z, tile, support, _twin(model), costs_of(model.tables), quality_index, gray)
        parts = list(work.parts())
        for number, part in enumerate(parts):
            for step in work.anneal(part, steps):
                if progress is not None:
                    progress((number * steps + step) / (len(parts) * steps))
        centres = work.centres()[0].permute(1, 2, 0).numpy()
    chosen: NDArray[np.int32] = np.rint(np.clip(centres * UNIT, -MAX_LATENT, MAX_LATENT)).astype(np.int32)
    return chosen


class _Search:
    """The search of one tile. Tensors are (1, C, h, w); y covers the window `support` and changes inside `tile`."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        z_hat: Tensor,
        tile: Window,
        support: Window,
        twin: Hyperprior,
        costs: Tensor,
        quality_index: int,
        gray: bool,
    ) -> None:
        self.x, self.y, self.tile, self.support, self.twin, self.gray = x, y, tile, support, twin, gray
        self.row = torch.tensor([quality_index / QUALITY_STEPS], device=y.device)
        self.error_weight = float(twin.config.lmbda(quality_index / QUALITY_STEPS)) * 255**2 / 3
        self.costs = costs
        height, width = tile.shape
        self.masks = pass_masks(y.shape[1], height, width, y.device)
        with torch.no_grad():
            self.features = twin.h_s(z_hat, self.row)[:, :, :height, :width]
            self.base = twin.prediction(self.features, self.row)

    def parts(self) -> Iterator[Window]:
        """The windows to search, one after another."""
        for part in tiling.windows(*self.tile.shape, EDGE):
            top, left = self.tile.top, self.tile.left
            yield Window(part.top + top, part.left + left, part.bottom + top, part.right + left)

    def anneal(self, part: Window, steps: int) -> Iterator[int]:
        """Optimises the latents of a window; yields the number of completed steps."""
        halo = self.twin.config.synthesis_halo
        halo += halo % 2  # even: windows keep the phases of the lattice
        around = self._grown(part, halo)
        judged = self._grown(part, halo // 2)
        coded = around.intersect(self.tile) or part
        y = self.y[(..., *part.within(self.support))].clone().requires_grad_()
        generator = torch.Generator(y.device).manual_seed(SEED)
        optimizer = torch.optim.Adam([y], lr=LEARNING_RATE)
        for step in range(steps):
            if step >= (1 - LAST) * steps:
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * LAST_FACTOR
            temperature = HOT + (COLD - HOT) * min(1.0, step / (ANNEALED * steps))
            y_around = self.y[(..., *around.within(self.support))].clone()
            y_around[(..., *part.within(around))] = y
            y_hat, bits = self._code(
                y_around[(..., *coded.within(around))],
                coded,
                lambda residual, t=temperature: _round_at_random(residual, t, generator),  # type: ignore[misc]
            )
            y_around[(..., *coded.within(around))] = y_hat
            optimizer.zero_grad()
            (bits + self.error_weight * self._squared_error(y_around, around, judged)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield step + 1
        self.y[(..., *part.within(self.support))] = y.detach()

    def centres(self) -> Tensor:
        """The decoded latents of the tile, as the float network computes them."""
        with torch.no_grad():
            return self._code(self.y[(..., *self.tile.within(self.support))], self.tile, torch.round)[0]

    def _code(self, y: Tensor, window: Window, rounding: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """y_hat and the bits of a window of the tile, in four passes."""
        here = (..., *window.within(self.tile))
        features, base = self.features[here], self.base[here]
        y_hat, symbols, params = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(base)
        for step, whole_mask in enumerate(self.masks):
            mask = whole_mask[here]
            entropy = base if step == 0 else base + self.twin.contexts[step - 1](features, y_hat, self.row)
            means = entropy[:, : y.shape[1]]
            rounded = rounding(y - means)
            y_hat = torch.where(mask, rounded + means, y_hat)
            symbols = torch.where(mask, rounded, symbols)
            params = torch.where(mask.repeat(1, 2, 1, 1), entropy, params)
        return y_hat, _bits(symbols, params[:, y.shape[1] :] * INDEX_UNIT, self.costs)

    def _squared_error(self, y_hat: Tensor, buffer: Window, judged: Window) -> Tensor:
        """Summed over pixels and channels of the window `judged`. y_hat: the latents of the window `buffer`."""
        x = self.x[(..., *judged.within(self.support, LATENT))]
        x_hat = self.twin.g_s(y_hat, self.row)[(..., *judged.within(buffer, LATENT))]
        error: Tensor = x_hat[:, :, : x.shape[2], : x.shape[3]].clamp(0, 1) - x
        return 3 * error.mean(1).square().sum() if self.gray else error.square().sum()

    def _grown(self, window: Window, halo: int) -> Window:
        return window.grow(halo, self.support.bottom, self.support.right).intersect(self.support) or window


def _round_at_random(residual: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A relaxed choice between the two integers next to each residual, as in the source.

    With two choices, the softmax of logits with Gumbel noise is a sigmoid of their difference with logistic noise.
    """
    floor = residual.detach().floor()
    fraction = (residual - floor).clamp(1e-5, 1 - 1e-5)
    uniform = torch.rand(residual.shape, generator=generator, device=residual.device).clamp(1e-6, 1 - 1e-6)
    logits = (torch.atanh(fraction) - torch.atanh(1 - fraction)) / temperature
    return floor + torch.sigmoid((logits + torch.logit(uniform)) / temperature)


def costs_of(tables: Tables) -> Tensor:
    """Bits of the symbols -reach to reach in each row, float32 (rows, 2 · reach + 1); reach covers every row."""
    last = tables.offsets + tables.lengths - 2
    reach = int(max(-tables.offsets.min(), last.max(), 1)) + 1
    symbols = np.arange(-reach, reach + 1)
    rows = []
    for row, first in enumerate(tables.offsets):
        frequencies = tables.row(row)
        beyond = np.maximum(first - symbols, symbols - last[row])
        bits = PRECISION - np.log2(frequencies[np.where(beyond > 0, -1, symbols - first)].astype(np.float64))
        rows.append(bits + np.where(beyond > 0, 8 + 8 * (beyond > 64), 0))  # the bytes of escaped values
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _bits(symbols: Tensor, indexes: Tensor, costs: Tensor) -> Tensor:
    """The sum of the bits of symbols in the rows nearest to fractional indexes; gradients reach both.

    A symbol between two integers costs a weighted mean of both, the expected cost of a random choice between them.
    """
    rows, columns = costs.shape
    indexes = indexes.clamp(0, rows - 1)
    row = indexes.detach().floor().clamp(max=rows - 2)
    down = indexes - row
    down = down + (down.round() - down).detach()  # straight-through
    positions = (symbols + columns // 2).clamp(0, columns - 1)
    column = positions.detach().floor().clamp(max=columns - 2)
    right = positions - column
    corner = row.long() * columns + column.long()
    upper = torch.lerp(costs.take(corner), costs.take(corner + 1), right)
    lower = torch.lerp(costs.take(corner + columns), costs.take(corner + columns + 1), right)
    return torch.lerp(upper, lower, down).sum()


@functools.lru_cache(maxsize=2)
def _twin(model: Model) -> Hyperprior:
    """The float networks of a model, without gradients of their own."""
    twin = thaw(model).eval().requires_grad_(False)
    return twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
