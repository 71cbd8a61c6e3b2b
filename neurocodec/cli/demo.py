"""neurocodec demo: the bundled photograph to .nic and back, beside JPEG: a table, both files, a comparison, a page."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from neurocodec import files
from neurocodec.cli import options

if TYPE_CHECKING:
    from PIL.Image import Image

    from neurocodec.cli.compare import Variant

QUALITIES = (10, 20, 30, 40, 50, 60, 70, 80)
SHOWN = 30  # the quality of the files: low enough to see the differences
CROP = (150, 10, 390, 250)
NIC, DECODED, COMPARISON, PAGE = "photo.nic", "photo-decoded.png", "comparison.png", "compare.html"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "demo", help="the bundled photograph, end to end", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", default="demo-output", metavar="DIR", help="folder (demo-output)")
    options.add_force_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes the files. Raises NeurocodecError."""
    targets = {name: os.path.join(args.output, name) for name in (NIC, DECODED, COMPARISON, PAGE)}
    files.make_folder(args.output)
    for target in targets.values():
        files.check_output(target, force=args.force)

    from importlib import resources

    import neurocodec
    from neurocodec import model as model_files
    from neurocodec.cli.compare import MS_SSIM_HINT, has_generator, make_page, nic_variant, rival_variant, shown
    from neurocodec.image import load, save_pil

    with resources.as_file(resources.files("neurocodec") / "data" / "astronaut.png") as path:
        original = load(path).rgb
    height, width = original.shape[:2]
    print(
        f"A photograph of {width} x {height} pixels, as .nic and as JPEG (4:2:0, optimised) of at least as many bytes\n"
    )
    print("             neurocodec                          JPEG")
    print("quality   bytes    bpp  PSNR dB  MS-SSIM    bytes    bpp  PSNR dB  MS-SSIM")
    variants: list[Variant] = []
    encoding = decoding = 0.0
    for quality in QUALITIES:
        started = time.perf_counter()
        data = neurocodec.encode(original, quality=quality)
        encoded = time.perf_counter()
        im = neurocodec.decode(data)
        encoding, decoding = encoded - started, time.perf_counter() - encoded
        nic, jpeg = nic_variant(original, data, im), rival_variant(original, len(data))
        cells = "  ".join(
            f"{len(v.data):>7,} {v.bpp:>6.3f} {shown(v.psnr, 2):>8} {shown(v.ms_ssim, 4):>8}" for v in (nic, jpeg)
        )
        print(f"{quality:>7} {cells}", flush=True)
        if quality == SHOWN:
            variants, decoded = [nic, jpeg], im
            if has_generator(model_files.load("base")):
                variants.insert(1, nic_variant(original, data, neurocodec.decode(data, realism=1.0), realism=1.0))
    print(f"\nAt the last quality, encoding took {encoding:.2f} s and decoding {decoding:.2f} s.")
    if variants[0].ms_ssim is None:
        print(MS_SSIM_HINT)

    files.write_bytes(targets[NIC], variants[0].data, force=args.force)
    save_pil(decoded, targets[DECODED], force=args.force)
    from PIL import Image

    save_pil(side_by_side(Image.fromarray(original), variants), targets[COMPARISON], force=args.force)
    page = make_page("astronaut.png", original, variants)
    files.write_bytes(targets[PAGE], page.encode(), force=args.force)
    print(f"Files, at quality {SHOWN}: {', '.join(targets.values())}")
    return 0


def side_by_side(original: Image, variants: list[Variant]) -> Image:
    """The same part of the original and of each variant, enlarged twice, with labels."""
    from PIL import Image, ImageDraw, ImageFont

    labels = ["Original", *(f"{v.name}: {len(v.data):,} bytes, {v.psnr:.2f} dB" for v in variants)]
    pictures = [original, *(Image.fromarray(v.rgb) for v in variants)]
    width, height = 2 * (CROP[2] - CROP[0]), 2 * (CROP[3] - CROP[1])
    gap, bar = 8, 36
    sheet = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + bar), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for i, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        left = i * (width + gap)
        part = picture.crop(CROP).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(part, (left, bar))
        draw.text((left + 4, bar // 2), label, fill="black", font=font, anchor="lm")
    return sheet
