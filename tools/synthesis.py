"""Data for the demonstrations of docs/synthesis.md, and what they are measured by. Needs LPIPS' weights.

    python tools/synthesis.py make-modes FOLDER              # pictures of eight known modes
    python tools/synthesis.py make-grades PHOTOGRAPHS FOLDER # FOLDER/warm and FOLDER/cold, of different photographs
    python tools/synthesis.py SYSTEM MODEL... --pictures KODAK --sheet sheet.webp

Each system prints a line of JSON. MODEL: one or, where two are compared, several.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from neurocodec.bench.quality import frechet_distance
from neurocodec.models.pixels import from_tensor
from neurocodec.perceptual.features import load_alexnet
from neurocodec.perceptual.lpips import load_lpips
from neurocodec.synthesis import gatys, pictures
from neurocodec.synthesis.artefacts import Artefacts, jpeg
from neurocodec.synthesis.cyclegan import CycleGan
from neurocodec.synthesis.dcgan import Dcgan
from neurocodec.synthesis.faststyle import FastStyle, FastStyleConfig
from neurocodec.synthesis.latent import PULSE_SCALE, Latent
from neurocodec.synthesis.pix2pix import Pix2Pix, edges
from neurocodec.synthesis.spade import SpadeSystem
from neurocodec.synthesis.superresolution import SuperResolution, enlarge, shrink
from neurocodec.training.data import find_images
from neurocodec.training.distributed import Processes

MODES = np.array([colorsys.hsv_to_rgb(k / 8, 0.9, 0.9) for k in range(8)], np.float32)
"""The colours of the eight modes, (8, 3)."""


def draw_mode(rng: np.random.Generator, mode: int, side: int = 32) -> NDArray[np.uint8]:
    """A disc in the colour of its mode on gray; its place, its radius and all brightnesses vary."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    dy, dx = rng.uniform(-3, 3, 2)
    disc = np.clip(rng.uniform(8, 11) - np.hypot(y - dy, x - dx), 0, 1)[:, :, None]
    picture = disc * MODES[mode] * rng.uniform(0.9, 1.1) + (1 - disc) * rng.uniform(0.2, 0.3)
    return np.clip(255 * picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def modes_of(x: Tensor) -> Tensor:
    """The mode of each picture, (N,), by the colour of its middle; -1 if none is nearer than half of what lies between
    the two nearest modes. x: (N, 3, 32, 32) in [0, 1]."""
    colours, middle = torch.from_numpy(MODES), x[:, :, 12:20, 12:20].mean((2, 3))
    apart = torch.cdist(colours, colours).fill_diagonal_(9).min() / 2
    distance, mode = torch.cdist(middle, colours).min(1)
    return torch.where(distance < apart, mode, -1)


def grade(x: Tensor, kind: str) -> Tensor:
    """A photograph in warm or cold light, which differ in the gains of red and blue and in contrast."""
    gains, power = ((1.1, 1.0, 0.7), 0.9) if kind == "warm" else ((0.7, 0.95, 1.1), 1.1)
    return (x.clamp(0, 1) ** power * x.new_tensor(gains).view(3, 1, 1)).clamp(0, 1)


def make_modes(args: argparse.Namespace) -> None:
    rng, folder = np.random.default_rng(0), Path(args.folder)
    folder.mkdir(parents=True)
    for i in range(1600):
        Image.fromarray(draw_mode(rng, i % 8)).save(folder / f"{i:04d}.png")


def make_grades(args: argparse.Namespace) -> None:
    for i, path in enumerate(find_images(Path(args.photographs))):
        kind = ("warm", "cold")[i % 2]
        target = Path(args.folder, kind, f"{path.stem}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        pictures.write(grade(pictures.read(str(path), 128), kind), str(target))


def load_pictures(args: argparse.Namespace, side: int = 0) -> list[Tensor]:
    """The pictures to measure on, (1, 3, H, W) each; side: cut from the middle of pictures scaled to twice that."""
    paths = find_images(Path(args.pictures))[: args.count]
    if not side:
        return [pictures.read(str(path)) for path in paths]
    return [
        pictures.centre_crops([np.asarray(from_tensor(pictures.read(str(path), 2 * side)))], side) for path in paths
    ]


def middle(x: Tensor, side: int) -> Tensor:
    """The middle of a picture, (1, 3, H, W) -> (1, 3, at most side, at most side)."""
    top, left = (max(0, (length - side) // 2) for length in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]


def rounded(x: Tensor) -> Tensor:
    """As in a file of 8 bits."""
    return (255 * x.clamp(0, 1)).round() / 255


def psnr(x: Tensor, y: Tensor) -> float:
    """Of 8-bit RGB, in dB."""
    return float(-10 * (rounded(x) - rounded(y)).square().mean().log10())


def report(figures: dict[str, Any]) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def save_sheet(args: argparse.Namespace, columns: dict[str, Tensor]) -> None:
    if args.sheet:
        im = Image.fromarray(pictures.sheet(columns))
        im.save(args.sheet, quality=85)


def compare(
    args: argparse.Namespace,
    results: dict[str, Callable[[Tensor], Tensor]],
    pairs: list[tuple[Tensor, Tensor]],
    *,
    side: int = 128,
) -> None:
    """Mean PSNR of each way to make a picture, and LPIPS of middles of up to 256²; and a sheet of middles. pairs:
    truths, and what it is made from."""
    lpips = load_lpips()
    figures: dict[str, Any] = {"pictures": len(pairs)}
    columns: dict[str, list[Tensor]] = {}
    sums = {name: np.zeros(3) for name in results}
    for x, y in pairs:
        for name, function in results.items():
            started = time.process_time()
            x_hat = rounded(function(y))
            seconds = time.process_time() - started
            sums[name] += (psnr(x_hat, x), float(lpips(middle(x_hat, 256), middle(x, 256))), seconds)
            columns.setdefault(name, []).append(middle(x_hat, side))
        columns.setdefault("truth", []).append(middle(x, side))
    for name, total in sums.items():
        figures[f"{name} psnr"], figures[f"{name} lpips"], figures[f"{name} seconds"] = map(float, total / len(pairs))
    report(figures)
    save_sheet(args, {name: torch.cat(xs[:4]) for name, xs in columns.items()})


@torch.no_grad()
def dcgan_modes(args: argparse.Namespace) -> None:
    network, settings = Dcgan.load(args.models[0])
    x = network(pictures.noise((1000, settings.latent), 0))
    seen = modes_of(x)
    counts = [int((seen == k).sum()) for k in range(8)]
    report({"modes": sum(count >= 10 for count in counts), "counts": counts, "none": int((seen < 0).sum())})
    save_sheet(args, {"samples": pictures.grid(x[:32], 8)})


@torch.no_grad()
def dcgan(args: argparse.Namespace) -> None:
    """Fréchet distance of AlexNet's features, of as many training pictures as samples; and their neighbours."""
    network, settings = Dcgan.load(args.models[0])
    side, alexnet = settings.size, load_alexnet(("relu5",))
    shrunk = [pictures.read(str(path), round(1.25 * side)) for path in find_images(Path(args.pictures))]
    real = torch.cat([pictures.centre_crops([from_tensor(x)], side) for x in shrunk])
    fake = network(pictures.noise((len(real), settings.latent), 0))

    def features(x: Tensor) -> NDArray[np.float32]:
        parts = [
            alexnet(torch.nn.functional.interpolate(part, size=64, mode="bilinear"))["relu5"].mean((2, 3))
            for part in x.split(64)
        ]
        return torch.cat(parts).numpy()

    half = len(real) // 2
    distances = {"frechet": frechet_distance(features(real), features(fake))}
    distances["frechet of noise"] = frechet_distance(features(real), features(torch.rand_like(real)))
    distances["frechet of halves"] = frechet_distance(features(real[:half]), features(real[half:]))
    distances["frechet of half, fake"] = frechet_distance(features(real[:half]), features(fake[:half]))
    report({"pictures": len(real), **distances})
    nearest = torch.cdist(fake[:32].flatten(1), real.flatten(1)).argmin(1)
    save_sheet(args, {"samples": pictures.grid(fake[:32], 4), "nearest": pictures.grid(real[nearest], 4)})


@torch.no_grad()
def superresolution(args: argparse.Namespace) -> None:
    loaded = [SuperResolution.load(model) for model in args.models]
    scale = loaded[0][1].scale
    truths = [x[:, :, : x.shape[2] // scale * scale, : x.shape[3] // scale * scale] for x in load_pictures(args)]
    results: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": lambda y: enlarge(y, scale)}
    results |= {("network", "gan")[i]: network for i, (network, _) in enumerate(loaded)}
    compare(args, results, [(x, shrink(x, scale)) for x in truths])


@torch.no_grad()
def artefacts(args: argparse.Namespace) -> None:
    """On middles of 256². models: of MSE alone and, if there is one, with a GAN."""
    loaded = [Artefacts.load(model) for model in args.models]
    networks = dict(zip(("network", "with GAN"), (network for network, _ in loaded), strict=False))
    truths = [middle(x, 256) for x in load_pictures(args)]
    results: dict[str, Callable[[Tensor], Tensor]]
    if loaded[0][1].damage == "jpeg":
        for quality in (10, 20, 30, 40, 50):
            print(f"quality {quality}", end=" ")
            results = {"jpeg": lambda y: y, **networks}
            compare(args, results, [(x, jpeg(x, [quality])) for x in truths])
            args.sheet = None  # it shows the lowest quality
        return
    from skimage.restoration import denoise_nl_means

    for sigma in (50, 25, 15):
        s = sigma / 255

        def nl_means(y: Tensor, s: float = s) -> Tensor:
            z = denoise_nl_means(
                y[0].permute(1, 2, 0).numpy(), h=0.8 * s, sigma=s, patch_size=5, patch_distance=6, channel_axis=2
            )
            return torch.from_numpy(z).permute(2, 0, 1)[None]

        print(f"sigma {sigma}", end=" ")
        results = {"noisy": lambda y: y, "non-local means": nl_means, **networks}
        compare(args, results, [(x, x + s * pictures.noise(tuple(x.shape), i)) for i, x in enumerate(truths)])
        args.sheet = None


@torch.no_grad()
def pix2pix(args: argparse.Namespace) -> None:
    """models: of L1 alone, and with the discriminator."""
    networks = [Pix2Pix.load(model)[0] for model in args.models]
    truths = load_pictures(args, args.side)
    results: dict[str, Callable[[Tensor], Tensor]] = {"edges": lambda y: y}
    results |= dict(zip(("L1", "cGAN"), networks, strict=False))
    compare(args, results, [(x, edges(x)) for x in truths], side=args.side)
    for name, network in zip(("L1", "cGAN"), networks, strict=False):
        report({f"{name} l1": float(np.mean([float((network(edges(x)) - x).abs().mean()) for x in truths]))})


@torch.no_grad()
def cyclegan(args: argparse.Namespace) -> None:
    """Against the truth, which training did not see, of photographs in warm light: the same in cold light."""
    network = CycleGan.load(args.models[0])[0]
    pairs = [(grade(x, "cold"), grade(x, "warm")) for x in load_pictures(args, args.side)]
    compare(args, {"warm": lambda y: y, "to cold": network.to_b}, pairs, side=args.side)


@torch.no_grad()
def spade(args: argparse.Namespace) -> None:
    """models: with SPADE, and with concatenation. The agreement of layouts: of what is made, and of what was asked."""
    loaded = [SpadeSystem.load(model)[0] for model in args.models]
    truths = torch.cat(load_pictures(args, args.side))
    lpips = load_lpips()
    columns = {"labels": loaded[0].painted(loaded[0].layout(truths))}
    figures: dict[str, Any] = {"pictures": len(truths)}
    for name, network in zip(("SPADE", "concatenation"), loaded, strict=False):
        layout = network.layout(truths)
        columns[name] = rounded(network(network.one_hot(layout)))
        figures[f"{name} agreement"] = float((network.layout(columns[name]) == layout).float().mean())
        figures[f"{name} lpips"] = float(lpips(columns[name], truths).mean())
    report(figures)
    save_sheet(args, {name: x[:4] for name, x in {**columns, "truth": truths}.items()})


def faststyle(args: argparse.Namespace) -> None:
    """Style and content loss, relative as in training, of the network and of Gatys' optimisation; seconds of both."""
    network, settings = FastStyle.load(args.models[0])
    system = FastStyle(FastStyleConfig(faststyle=settings), Processes(torch.device("cpu")))
    columns: dict[str, list[Tensor]] = {"photograph": [], "network": [], "Gatys": []}
    sums = {name: np.zeros(3) for name in columns}
    photographs = load_pictures(args, args.side)
    painting = pictures.read(settings.painting, settings.painting_size)
    for x in photographs:
        started = time.process_time()
        with torch.no_grad():
            painted = rounded(network(x))
        middle = time.process_time()
        optimised = gatys.transfer(x, painting, iterations=args.iterations)[0]
        seconds = (0.0, middle - started, time.process_time() - middle)
        for name, y, spent in zip(columns, (x, painted, optimised), seconds, strict=True):
            with torch.no_grad():
                terms = system.terms(x, y)
            sums[name] += (float(terms["style"]), float(terms["content"]), spent)
            columns[name].append(y.detach())
    keys = ("style", "content", "seconds")
    means = {name: dict(zip(keys, map(float, total / len(photographs)), strict=True)) for name, total in sums.items()}
    report({f"{name} {key}": value for name, row in means.items() for key, value in row.items()})
    save_sheet(args, {name: torch.cat(xs) for name, xs in columns.items()})


def latent(args: argparse.Namespace) -> None:
    """Recovery of the generator's own samples, and of photographs; consistency of PULSE at a quarter of the side."""
    network, settings = Latent.load(args.models[0])
    network.requires_grad_(False)
    count, side = args.count or 16, settings.size
    z = pictures.noise((count, settings.latent), 7)
    samples = network.generator(z)
    photographs = torch.cat(load_pictures(args, side))[:count]
    columns = {}
    for name, x in (("samples", samples), ("photographs", photographs)):
        coded, optimised = network.encode(x), network.invert(x, 200, 0.05, 0.1)
        columns |= {name: x[:8], "encoder": network.generator(coded)[:8], "optimised": network.generator(optimised)[:8]}
        figures: dict[str, Any] = {"of": name}
        for way, z_hat in (("encoder", coded), ("optimised", optimised)):
            figures[f"{way} psnr"] = float(
                np.mean([psnr(a[None], b[None]) for a, b in zip(network.generator(z_hat), x, strict=True)])
            )
            if name == "samples":
                figures[f"{way} z rmse"] = float((z_hat - z).square().mean().sqrt())
        report(figures)
    small = torch.nn.functional.interpolate(samples, scale_factor=1 / PULSE_SCALE, mode="area")
    enlarged = torch.cat([network.generator(network.pulse(y[None], 200, 0.05, 8, 1)) for y in small])
    again = torch.nn.functional.interpolate(enlarged, scale_factor=1 / PULSE_SCALE, mode="area")
    report({"pulse consistency psnr": psnr(again, small), "pulse psnr": psnr(enlarged, samples)})
    shown = {"samples": samples[:8], "small": small[:8], "PULSE": enlarged[:8], "photographs": photographs[:8]}
    shown |= {name: columns[name] for name in ("encoder", "optimised")}
    save_sheet(args, {name: torch.nn.functional.interpolate(x, scale_factor=2) for name, x in shown.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("make-modes")
    action.add_argument("folder")
    action.set_defaults(run=make_modes)
    action = actions.add_parser("make-grades")
    action.add_argument("photographs")
    action.add_argument("folder")
    action.set_defaults(run=make_grades)
    for function in (dcgan_modes, dcgan, superresolution, artefacts, pix2pix, cyclegan, spade, faststyle, latent):
        action = actions.add_parser(function.__name__.replace("_", "-"))
        action.add_argument("models", nargs="+", metavar="MODEL")
        action.add_argument("--pictures", help="a folder")
        action.add_argument("--count", type=int, help="of them (all)")
        action.add_argument("--side", type=int, default=64, help="of their middles, where they are cut (64)")
        action.add_argument("--iterations", type=int, default=40, help="of Gatys' optimisation (40)")
        action.add_argument("--sheet", help="a picture to write")
        action.set_defaults(run=function)
    args = parser.parse_args()
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
