"""What the examples share: their options, pictures in and out, and L-BFGS on the pixels of a picture."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping

import torch
from PIL import Image
from torch import Tensor

from neurocodec import image
from neurocodec.errors import ImageError, NeurocodecError
from neurocodec.files import check_output
from neurocodec.models.pixels import from_tensor, to_tensor

MIN_SIDE = 32


def parser(name: str, doc: str | None, iterations: int) -> argparse.ArgumentParser:
    """The options that every example has. doc: its docstring; iterations: the default."""
    parser = argparse.ArgumentParser(prog=name, description=(doc or "").splitlines()[0])
    parser.add_argument("-o", "--output", required=True, help="the picture to write")
    parser.add_argument("--size", type=int, default=256, help="shorter side of the pictures in pixels (%(default)s)")
    parser.add_argument("--iterations", type=int, default=iterations, help="of L-BFGS (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    return parser


def run(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    make: Callable[[argparse.Namespace], tuple[Tensor, list[float]]],
) -> int:
    """Parses the arguments, makes the picture and writes it. Returns the exit status; errors are one line on stderr."""
    options = parser.parse_args(arguments)
    try:
        check(options.output, options.device, force=options.force)
        x, losses = make(options)
        write(x, options.output, force=options.force)
    except (NeurocodecError, ValueError) as error:  # ValueError: an unknown layer
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: loss from {losses[0]:.4g} to {losses[-1]:.4g}")
    return 0


def check(output: str, device: str, *, force: bool) -> None:
    """Raises a NeurocodecError, before minutes of work, if `write` would refuse the output or there is no GPU."""
    check_output(output, force=force)
    image.check_format(output)
    if device == "cuda" and not torch.cuda.is_available():
        raise ImageError("the device is cuda, but PyTorch finds no GPU: use cpu")


def read(path: str, size: int, device: str = "cpu") -> Tensor:
    """The picture in a file, (1, 3, H, W) in [0, 1], its shorter side scaled to `size` pixels. Raises ImageError."""
    if size < MIN_SIDE:
        raise ImageError(f"a size of {size} pixels, expected at least {MIN_SIDE}")
    picture = Image.fromarray(image.load(path).rgb)
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(image.load(picture).rgb).to(device)


def write(x: Tensor, path: str, *, force: bool) -> None:
    """Writes x, (1, 3, H, W), in the format of the suffix. Raises ImageError, and OutputError if the file exists."""
    image.save_pil(Image.fromarray(from_tensor(x)), path, force=force)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """White noise of standard deviation 1, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_weights(grams: Mapping[str, Tensor]) -> dict[str, float]:
    """Weights of the layers for `style_loss`, with which a picture without any features has a loss of 1."""
    return {layer: float(4 * gram.shape[1] ** 2 / gram.square().sum()) / len(grams) for layer, gram in grams.items()}


def minimise(loss_of: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> tuple[Tensor, list[float]]:
    """Minimises a loss over the pixels with L-BFGS: the picture, and the loss before each iteration and after the last.

    loss_of: from a picture (1, 3, H, W) in [0, 1] to a scalar. Logits are optimised, so pixels stay in that range.
    """
    logits = torch.logit(start.clamp(0.02, 0.98)).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=1,
        max_eval=25,  # for the line search
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
