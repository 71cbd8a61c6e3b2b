"""neurocodec compare: an HTML page with a slider between a picture, its .nic, and other codecs at about the same size.

Where a generative decoder for the model is installed, the page shows the .nic decoded with realism 0 and with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurocodec import collection, files
from neurocodec.cli import batch, options
from neurocodec.errors import ImageError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from neurocodec.model import Model

RIVAL_NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "heic": "HEIC"}
MS_SSIM_HINT = "MS-SSIM needs pytorch-msssim: pip install 'neurocodec[bench]'"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "compare", help="an HTML page to compare by eye", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("input", type=options.file_name, metavar="IN")
    parser.add_argument("-o", "--output", required=True, metavar="page.html")
    options.add_rate_options(parser)
    options.add_force_option(parser)
    options.add_model_option(parser)
    options.add_device_option(parser)
    options.add_limit_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the page. Raises NeurocodecError."""
    if os.path.splitext(args.output)[1].lower() not in (".html", ".htm"):
        raise OutputError(f"{args.output} does not end in .html: give the page a name that does")
    files.check_output(args.output, force=args.force)
    if collection.is_nic(args.input):
        raise ImageError(f"{args.input} is a .nic file, give the picture that it was made from")

    import neurocodec
    from neurocodec import model as model_files
    from neurocodec.image import load

    batch.leave_the_limit_to_the_codec()
    model = model_files.load(args.model)
    with files.reading(args.input) as file:  # once: it may be a pipe
        rgb = load(file, max_pixels=args.max_pixels).rgb
        file.seek(0)
        data = neurocodec.encode(file, **options.encode_options(args) | {"model": model})
    realisms: tuple[float | None, ...] = (None,)
    lpips, hint = False, ""
    if has_generator(model):
        from neurocodec.bench.quality import available

        metrics, missing = available()
        realisms, lpips, hint = (0.0, 1.0), metrics.lpips, missing.get("LPIPS", "")
    variants = []
    for realism in realisms:
        decoded = neurocodec.decode(
            data, model=model, realism=realism or 0, device=args.device, max_pixels=args.max_pixels
        )
        variants.append(nic_variant(rgb, data, decoded, realism=realism, lpips=lpips))
    variants += rival_variants(rgb, len(data), lpips=lpips)
    page = make_page(os.path.basename(args.input), rgb, variants)
    files.write_bytes(args.output, page.encode(errors="backslashreplace"), force=args.force)
    both = " (realism 0 and 1)" if len(realisms) > 1 else ""
    others = ", ".join(f"{v.name.partition(',')[0]} {len(v.data):,}" for v in variants[len(realisms) :])
    print(f"{args.output}: .nic {len(data):,} bytes{both}; {others}")
    if variants[0].ms_ssim is None and min(rgb.shape[:2]) > 160:
        print(MS_SSIM_HINT)
    if hint:
        print(f"no LPIPS: {hint.partition(';')[0]}")  # the first way to get weights is enough here
    return 0


@dataclass(frozen=True)
class Variant:
    """A picture as one codec decodes it. rgb: uint8 (H, W, 3). psnr: dB. ms_ssim: None if it cannot be computed. lpips:
    None if it was not asked for, or cannot be computed."""

    name: str
    data: bytes
    rgb: NDArray[np.uint8]
    psnr: float
    ms_ssim: float | None
    lpips: float | None

    @property
    def bpp(self) -> float:
        """File bits per pixel."""
        return 8 * len(self.data) / float(self.rgb.shape[0] * self.rgb.shape[1])


def nic_variant(
    original: NDArray[np.uint8], data: bytes, decoded: Image, *, realism: float | None = None, lpips: bool = False
) -> Variant:
    """A .nic file and its decoded picture as RGB (alpha is lossless and left out), compared with the original.

    realism: that of decoding, for the name; None leaves it out. lpips: whether to compute it.
    """
    import numpy as np

    import neurocodec

    rgb = np.asarray(decoded.convert("RGB"))
    name = f"neurocodec, quality {neurocodec.info(data).quality:.3g}"
    name += "" if realism is None else f", realism {realism:g}"
    return _measured(name, data, original, rgb, lpips)


def rival_variants(original: NDArray[np.uint8], size: int, *, lpips: bool = False) -> list[Variant]:
    """JPEG, and those of WebP, AVIF and HEIC that are installed, as `rival_variant` makes them."""
    from neurocodec.bench.rivals import RIVALS
    from neurocodec.errors import MissingPackageError

    variants = []
    for name in RIVAL_NAMES:
        with contextlib.suppress(MissingPackageError):
            RIVALS[name].check()
            variants.append(rival_variant(original, size, name, lpips=lpips))
    return variants


def rival_variant(original: NDArray[np.uint8], size: int, name: str = "jpeg", *, lpips: bool = False) -> Variant:
    """The smallest file of at least `size` bytes, or the one of quality 100 if that has fewer. name: of RIVAL_NAMES."""
    import bisect

    from neurocodec.bench.rivals import RIVALS

    codec = RIVALS[name]
    quality = bisect.bisect_left(range(1, 100), size, key=lambda q: len(codec.encode(original, q))) + 1
    data = codec.encode(original, quality)
    return _measured(f"{RIVAL_NAMES[name]}, quality {quality}", data, original, codec.decode(data), lpips)


def _measured(name: str, data: bytes, original: NDArray[np.uint8], decoded: NDArray[np.uint8], lpips: bool) -> Variant:
    from neurocodec.bench.quality import Metrics
    from neurocodec.metrics import ms_ssim_available, psnr

    values = Metrics(ms_ssim=ms_ssim_available(), lpips=lpips).of(original, decoded)
    return Variant(name, data, decoded, psnr(original, decoded), values["ms_ssim"], values["lpips"])


def has_generator(model: Model) -> bool:
    """Whether realism above 0 can be decoded here: whether there is a generative decoder for the model."""
    from neurocodec.errors import ModelNotFoundError
    from neurocodec.model import find_generator

    try:
        find_generator(model)
    except ModelNotFoundError:
        return False
    return True


def shown(value: float | None, digits: int) -> str:
    """A number for a table; - if there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def make_page(title: str, original: NDArray[np.uint8], variants: list[Variant]) -> str:
    """A self-contained HTML page; the pictures are in it as PNG."""
    from neurocodec.bench.pages import Html, fill, join, page, script

    names = ["Original", *(variant.name for variant in variants)]
    pictures = [_data_url(pixels) for pixels in (original, *(variant.rgb for variant in variants))]
    lpips = any(variant.lpips is not None for variant in variants)
    rows = []
    for v in variants:
        cells = [f"{len(v.data):,}", f"{v.bpp:.3f}", shown(v.psnr, 2), shown(v.ms_ssim, 4)]
        cells += [shown(v.lpips, 4)] * lpips
        rows.append(fill("<tr><th scope=row>$name$cells", name=v.name, cells=Html("<td>" + "<td>".join(cells))))
    return page(
        "compare.html",
        title=title,
        width=original.shape[1],
        height=original.shape[0],
        right=next(i for i, name in enumerate(names) if name.startswith("JPEG")),
        images=join(
            fill('<img data-name="$name" alt="$name" draggable="false" src="$source">', name=name, source=url)
            for name, url in zip(names, pictures, strict=True)
        ),
        script=script("slider.js"),
        heading=Html("<th scope=col>LPIPS" * lpips),
        rows=join(rows),
        note=" LPIPS: distance in features of AlexNet, 0 for equal pictures." * lpips,
    )


def _data_url(rgb: NDArray[np.uint8]) -> str:
    import io

    from PIL.Image import fromarray

    from neurocodec.bench.pages import data_url

    out = io.BytesIO()
    fromarray(rgb).save(out, format="PNG")
    return data_url("png", out.getvalue())
