"""What the examples share: pictures in and out, and L-BFGS on the pixels of one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from neurocodec import image
from neurocodec.errors import ImageError
from neurocodec.files import check_output
from neurocodec.models.pixels import from_tensor, to_tensor

MIN_SIDE = 32


def check(output: str, device: str, *, force: bool) -> None:
    """Raises OutputError for an output that `write` would refuse, ImageError for a missing GPU; before the work."""
    check_output(output, force=force)
    image.check_format(output)
    if device == "cuda" and not torch.cuda.is_available():
        raise ImageError("the device is cuda, and PyTorch finds no GPU here: use cpu")


def read(path: str, size: int) -> Tensor:
    """The picture in a file, (1, 3, H, W) in [0, 1], its shorter side scaled to `size` pixels. Raises ImageError."""
    if size < MIN_SIDE:
        raise ImageError(f"a size of {size} pixels, expected at least {MIN_SIDE}")
    picture = Image.fromarray(image.load(path).rgb)
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    return to_tensor(image.load(picture.resize((width, height), Image.Resampling.LANCZOS)).rgb)


def write(x: Tensor, path: str, *, force: bool) -> None:
    """x: (1, 3, H, W), to a file in the format its suffix names. Raises OutputError."""
    image.save_pil(Image.fromarray(from_tensor(x)), path, force=force)


def minimise(loss_of: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> tuple[Tensor, list[float]]:
    """The picture that L-BFGS finds from `start`, and the loss before every iteration and after the last.

    loss_of: from a picture (1, 3, H, W) in [0, 1] to a scalar. Pixels stay in that range, for their logits are varied.
    """
    logits = torch.logit(start.clamp(0.02, 0.98)).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=1,
        max_eval=25,  # the line search may take some
        history_size=50,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(logits.sigmoid())
        loss.backward()
        return loss.detach()

    begin, losses = time.monotonic(), []
    for i in range(iterations):
        losses.append(float(optimiser.step(closure)))
        if i % 10 == 0:
            print(f"iteration {i:4d}  loss {losses[-1]:.5g}  {time.monotonic() - begin:.0f} s", file=sys.stderr)
    with torch.no_grad():
        x = logits.sigmoid()
        losses.append(float(loss_of(x)))
    print(f"iteration {iterations:4d}  loss {losses[-1]:.5g}  {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return x, losses
