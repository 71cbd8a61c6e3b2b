"""The entropy path in integers: from z_hat to means and table rows, the same on every machine.

It is built from the layers of `integer.reference`, with 8 fractional bits for activations: no division, no exp, no
rounding mode. docs/arithmetic.md is the specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocodec.entropy.grid import (
    ACTIVATION_BITS,
    HIDDEN_MAX,
    INDEX_SHIFT,
    LIMIT,
    LOG_TABLE_SIZE,
    MAX_LATENT,
    MEAN_BITS,
    OUTPUT_LIMIT,
    PASSES,
    SCALE_LEVELS,
    UNIT,
    lattice,
    scatter,
)
from neurocodec.integer.reference import Arithmetic, Arrays, IntArray, QualityIndex, interpolate_rows
from neurocodec.model import HyperpriorConfig


@dataclass
class Stage:
    """One call of the range coder: z, or the quarter of y that a context pass codes (see `entropy.grid.lattice`).

    step: the pass, 0 to 3, or None for z. rows: table rows, uint8. means: int32 in units of 1/64. symbols: int32; the
    caller sets them before it asks for the next stage. All three have the shape (ceil(h / 4), ceil(w / 4), N) for z and
    (h, w, M / 4) for a pass, with a batch axis in front for batches. They are what the arithmetic's `store` returns.
    """

    step: int | None
    rows: Any
    means: Any
    symbols: Any = field(init=False, repr=False)

    def decoded(self) -> Any:
        """y_hat in units of 1/64: symbol · 64 + mean, clamped because a forged stream may hold any symbol."""
        limit = 1 << 20
        return (self.symbols.clip(-limit, limit) * UNIT + self.means).clip(-MAX_LATENT, MAX_LATENT)


class EntropyNetwork:
    """h_s and the context passes of one model, as integers.

    arrays: the frozen integers by name, as in a model file. Raises ModelMismatchError if one is missing or has the
    wrong type or shape, or if a sum could leave the range in which it is exact.
    """

    def __init__(self, config: HyperpriorConfig, arrays: Mapping[str, NDArray[Any]], arithmetic: Arithmetic) -> None:
        self.config = config
        self.arithmetic = arithmetic
        checked = Arrays(arrays)
        m, n, hidden = config.latent_channels, config.hyper_channels, config.hidden_channels
        shapes: dict[str, tuple[int, ...]] = {
            "h_s.conv_in": (hidden, n), "h_s.dw1": (hidden, 3, 3), "h_s.up1": (4 * hidden, hidden),
            "h_s.dw2": (hidden, 3, 3), "h_s.up2": (4 * hidden, hidden), "h_s.dw3": (hidden, 3, 3),
            "h_s.conv_out": (hidden, hidden), "prediction.conv": (hidden, hidden), "prediction.head": (2 * m, hidden),
        }  # fmt: skip
        rows: dict[str, tuple[int, ...]] = {
            "h_s.bias": (config.quality_rows, hidden), "prediction.bias": (config.quality_rows, 2 * m),
            "z_index": (config.quality_rows, n),
        }  # fmt: skip
        for i in range(PASSES - 1):
            shapes |= {
                f"contexts.{i}.dw_in": (2 * m, 3, 3), f"contexts.{i}.conv_in": (hidden, 2 * m + hidden),
                f"contexts.{i}.dw": (hidden, 3, 3), f"contexts.{i}.conv": (hidden, hidden),
                f"contexts.{i}.head": (2 * m, hidden),
            }  # fmt: skip
            rows |= {
                f"contexts.{i}.bias": (config.quality_rows, hidden), f"contexts.{i}.phase_bias": (2, 2, hidden),
            }  # fmt: skip
        self._rows = {name: checked.take(name, np.int32, shape).astype(np.int64) for name, shape in rows.items()}
        self._layers = {name: checked.layer(name, *shape, extra=extra_biases(name)) for name, shape in shapes.items()}
        # At each position, a pass needs only the head's means and indexes for the group that it codes there.
        quarter = m // PASSES
        self._groups = [
            np.r_[g * quarter : (g + 1) * quarter, m + g * quarter : m + (g + 1) * quarter] for g in range(PASSES)
        ]
        self._heads = {
            name: [self._layers[name].outputs(group) for group in self._groups]
            for name in ("prediction.head", *(f"contexts.{i}.head" for i in range(PASSES - 1)))
        }
        self._log_table = checked.take("log_table", np.int16, (LOG_TABLE_SIZE,))

    def stages(self, quality_index: QualityIndex, y_hat: Any) -> Iterator[Stage]:
        """Yields the stages of a tile in coding order, for encoder and decoder: z, then the four passes over y.

        Each stage has the means and table rows for its symbols; the caller sets the symbols and then asks for the next
        stage:

            for stage in network.stages(quality_index, y_hat):
                stage.symbols = decoder.decode(stage.rows)

        y_hat: zeros, int32 (h, w, M); filled with the decoded latents in units of 1/64.
        """
        do = self.arithmetic
        *batch, height, width, channels = y_hat.shape
        z_zeros = do.zeros((*batch, -(-height // 4), -(-width // 4), self.config.hyper_channels))
        rows = z_zeros + do.load(z_rows(self._rows["z_index"], quality_index))
        z = Stage(None, do.store(rows, np.uint8), do.store(z_zeros))
        yield z
        features = self._h_s(z.symbols, quality_index)[..., :height, :width, :]
        base = self._hidden(features, "prediction.conv", quality_index)
        context = do.zeros((*batch, height, width, 2 * channels))
        for step in range(PASSES):
            stage = self._predict(step, base, features, context, quality_index)
            yield stage
            latents = stage.decoded()
            scatter(latents, step, y_hat)
            if step < PASSES - 1:
                self._add_to_context(latents, step, context)

    def _h_s(self, z_hat: Any, quality_index: QualityIndex) -> Any:
        """z_hat, int32 (h / 4, w / 4, N) -> features, (h, w, hidden)."""
        do = self.arithmetic
        x = do.clamp(do.load(z_hat) * (1 << ACTIVATION_BITS), -LIMIT, LIMIT - 1)
        x = self._hidden(x, "h_s.conv_in", quality_index)
        for dw, up in (("h_s.dw1", "h_s.up1"), ("h_s.dw2", "h_s.up2")):
            x = do.shuffle(self._hidden(do.depthwise(x, self._layers[dw]), up, quality_index))
        return self._hidden(do.depthwise(x, self._layers["h_s.dw3"]), "h_s.conv_out", quality_index)

    def _predict(self, step: int, base: Any, features: Any, context: Any, quality_index: QualityIndex) -> Stage:
        """Means and table rows for the latents of a pass."""
        do = self.arithmetic
        hidden = [("prediction.head", base)]
        if step > 0:
            name = f"contexts.{step - 1}."
            x = do.concatenate([do.depthwise(context, self._layers[name + "dw_in"]), features])
            x = self._hidden(x, name + "conv_in", quality_index)
            x = self._hidden(do.depthwise(x, self._layers[name + "dw"]), name + "conv", quality_index)
            hidden.append((name + "head", x))
        *position, channels = context.shape
        quarter = channels // 2 // PASSES
        values = do.zeros((*position, 2 * quarter))
        for group, (rows, columns, _) in enumerate(lattice(step, channels // 2)):
            values[..., rows, columns, :] = sum(
                do.pointwise(
                    x[..., rows, columns, :],
                    self._heads[head][group],
                    self._bias(head, quality_index)[..., self._groups[group]],
                    -OUTPUT_LIMIT,
                    OUTPUT_LIMIT - 1,
                )
                for head, x in hidden
            )
        means = do.shift(values[..., :quarter], ACTIVATION_BITS - MEAN_BITS)
        table_rows = do.clamp(do.shift(values[..., quarter:], INDEX_SHIFT), 0, SCALE_LEVELS - 1)
        return Stage(step, do.store(table_rows, np.uint8), do.store(means))

    def _add_to_context(self, latents: Any, step: int, context: Any) -> None:
        """Adds the latents of a pass to the input of later passes."""
        inputs = context_input(self.arithmetic, self.arithmetic.load(latents), self._log_table)
        part, channels = inputs.shape[-1] // 2, self.config.latent_channels
        scatter(inputs[..., :part], step, context[..., :channels])
        scatter(inputs[..., part:], step, context[..., channels:])

    def _hidden(self, x: Any, name: str, quality_index: QualityIndex) -> Any:
        return self.arithmetic.pointwise(x, self._layers[name], self._bias(name, quality_index), 0, HIDDEN_MAX)

    def _bias(self, name: str, quality_index: QualityIndex) -> IntArray:
        """The extra biases of a layer for this quality and, in context passes, for each phase of the lattice."""
        bias = np.zeros(self._layers[name].bias.shape, np.int64)
        for extra in extra_biases(name):
            rows = self._rows[extra]
            bias = bias + (rows if rows.ndim == 3 else interpolate_rows(rows, quality_index))
        return bias


def z_rows(z_index: NDArray[Any], quality_index: QualityIndex) -> IntArray:
    """Table rows of z, (N,), the same at each position. z_index: the model's array of this name."""
    values = interpolate_rows(z_index.astype(np.int64), quality_index)
    rows: IntArray = np.clip((values + (1 << (INDEX_SHIFT - 1))) >> INDEX_SHIFT, 0, SCALE_LEVELS - 1)
    return rows


def context_input(do: Arithmetic, y: Any, log_table: NDArray[np.int16]) -> Any:
    """Latents as the entropy networks read them: y / 8 and log2(1 + |y|) with 8 fractional bits, (h, w, 2 M).

    y: (h, w, M) in units of 1/64, as the arithmetic's `load` returns it.
    """
    linear = do.clamp(do.shift(y, MEAN_BITS + 3 - ACTIVATION_BITS), -LIMIT, LIMIT - 1)
    return do.concatenate([linear, do.lookup(log_table, abs(y))])


def extra_biases(layer: str) -> tuple[str, ...]:
    """Names of the arrays that are added to a layer's sums besides its own bias."""
    prefix, _, kind = layer.rpartition(".")
    if layer in ("h_s.conv_in", "prediction.head"):
        return (f"{prefix}.bias",)
    return (f"{prefix}.bias", f"{prefix}.phase_bias") if prefix.startswith("contexts.") and kind == "conv_in" else ()
