"""neurocodec compare: a page to compare a picture, its .nic and a JPEG of the same size by eye, with a slider.

If a generative decoder for the model is installed, the page shows the .nic decoded with realism 0 and with 1.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurocodec import collection, files
from neurocodec.cli import options
from neurocodec.cli.encode import allow_large_pictures
from neurocodec.errors import ImageError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from neurocodec.model import Model

MS_SSIM_HINT = "MS-SSIM needs pytorch-msssim: pip install 'neurocodec[bench]'"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "compare", help="an HTML page to compare by eye", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("input", metavar="IN")
    parser.add_argument("-o", "--output", required=True, metavar="page.html")
    options.add_rate_options(parser)
    options.add_force_option(parser)
    options.add_model_option(parser)
    options.add_device_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the page. Raises NeurocodecError."""
    if os.path.splitext(args.output)[1].lower() not in (".html", ".htm"):
        raise OutputError(f"{args.output} does not end in .html, as the name of a page must: give another name")
    files.check_output(args.output, force=args.force)
    if collection.is_nic(args.input):
        raise ImageError(f"{args.input} is a .nic file, expected the picture it was made from: give that one")

    import neurocodec
    from neurocodec import model as model_files
    from neurocodec.image import load

    allow_large_pictures()
    rgb = load(args.input).rgb
    model = model_files.load(args.model)
    data = neurocodec.encode(args.input, **options.encode_options(args) | {"model": model})
    realisms: tuple[float | None, ...] = (None,)
    lpips, hint = False, ""
    if has_generator(model):
        from neurocodec.bench.measures import available

        measures, missing = available()
        realisms, lpips, hint = (0.0, 1.0), measures.lpips, missing.get("LPIPS", "")
    variants = [
        nic_variant(rgb, data, neurocodec.decode(data, model=model, realism=realism or 0), realism=realism, lpips=lpips)
        for realism in realisms
    ]
    jpeg = jpeg_variant(rgb, len(data), lpips=lpips)
    page = make_page(os.path.basename(args.input), rgb, [*variants, jpeg])
    files.write_bytes(args.output, page.encode(errors="backslashreplace"), force=args.force)
    both = ", decoded with realism 0 and 1" if len(variants) > 1 else ""
    print(f"{args.output}: {len(data):,} bytes as .nic{both}, {len(jpeg.data):,} as JPEG")
    if jpeg.ms_ssim is None and min(rgb.shape[:2]) > 160:
        print(MS_SSIM_HINT)
    if hint:
        print(f"no LPIPS: {hint}")
    return 0


@dataclass(frozen=True)
class Variant:
    """A picture as one codec decodes it. rgb: uint8 (H, W, 3). psnr: dB. ms_ssim, lpips: None if not measured."""

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
    """A .nic file and its decoded picture as RGB (alpha, which is lossless, is dropped), compared with the original.

    realism: the decoder's, if the name should mention it. lpips: whether to measure it.
    """
    import numpy as np

    import neurocodec

    rgb = np.asarray(decoded.convert("RGB"))
    name = f"neurocodec, quality {neurocodec.info(data).quality:.3g}"
    name += "" if realism is None else f", realism {realism:g}"
    return _measured(name, data, original, rgb, lpips)


def jpeg_variant(original: NDArray[np.uint8], size: int, *, lpips: bool = False) -> Variant:
    """The smallest JPEG (4:2:0, optimised) of at least `size` bytes; quality 100 if all are smaller."""
    import bisect

    from neurocodec.bench.codecs import Jpeg

    codec = Jpeg()
    quality = bisect.bisect_left(range(1, 100), size, key=lambda q: len(codec.encode(original, q))) + 1
    data = codec.encode(original, quality)
    return _measured(f"JPEG, quality {quality}", data, original, codec.decode(data), lpips)


def _measured(name: str, data: bytes, original: NDArray[np.uint8], decoded: NDArray[np.uint8], lpips: bool) -> Variant:
    from neurocodec.bench.measures import Measures
    from neurocodec.metrics import ms_ssim_available, psnr

    values = Measures(ms_ssim=ms_ssim_available(), lpips=lpips).of(original, decoded)
    return Variant(name, data, decoded, psnr(original, decoded), values["ms_ssim"], values["lpips"])


def has_generator(model: Model) -> bool:
    """Whether realism above 0 can be decoded here: with torch, and a generative decoder for the model."""
    from neurocodec import codec
    from neurocodec.errors import MissingPackageError, ModelNotFoundError

    try:
        codec.synthesis_of(codec.network_of(model), 0, 1.0)
    except (MissingPackageError, ModelNotFoundError):
        return False
    return True


def shown(value: float | None, digits: int) -> str:
    """A number for a table, or - for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def make_page(title: str, original: NDArray[np.uint8], variants: list[Variant]) -> str:
    """A self-contained HTML page, with the pictures as PNG."""
    import html

    height, width = original.shape[:2]
    names = ["Original", *(variant.name for variant in variants)]
    sources = [_data_url(pixels) for pixels in (original, *(variant.rgb for variant in variants))]
    lpips = any(variant.lpips is not None for variant in variants)
    rows = "".join(
        f"<tr><th scope=row>{html.escape(v.name)}<td>{len(v.data):,}<td>{v.bpp:.3f}"
        f"<td>{shown(v.psnr, 2)}<td>{shown(v.ms_ssim, 4)}{f'<td>{shown(v.lpips, 4)}' if lpips else ''}\n"
        for v in variants
    )
    fields: dict[str, Any] = {
        "TITLE": html.escape(title),
        "WIDTH": width,
        "HEIGHT": height,
        "OPTIONS": "".join(f"<option value={i}>{html.escape(name)}" for i, name in enumerate(names)),
        "IMAGES": "".join(f'<img hidden draggable="false" alt="" src="{source}">\n' for source in sources),
        "MORE": "<th scope=col>LPIPS" if lpips else "",
        "ROWS": rows,
        "NOTE": _LPIPS_NOTE if lpips else "",
    }
    return re.sub("@([A-Z]+)@", lambda match: str(fields[match[1]]), _PAGE)


def _data_url(rgb: NDArray[np.uint8]) -> str:
    import base64
    import io

    from PIL.Image import fromarray

    out = io.BytesIO()
    fromarray(rgb).save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


_LPIPS_NOTE = " LPIPS: distance in features of AlexNet, 0 for equal pictures."

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@ - neurocodec</title>
<style>
  :root { color-scheme: light dark; --line: #8886; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1rem; }
  h1 { font-size: 1.25rem; }
  table { border-collapse: collapse; margin: 1rem 0; }
  th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right;
           font-variant-numeric: tabular-nums; }
  th:first-child { text-align: left; }
  .controls { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; margin: .5rem 0; }
  #slider { display: block; width: 100%; margin: .5rem 0; }
  #view { overflow: auto; max-height: 80vh; border: 1px solid var(--line); }
  #stage { position: relative; width: @WIDTH@px; aspect-ratio: @WIDTH@ / @HEIGHT@; max-width: 100%;
           cursor: ew-resize; touch-action: pan-y; }
  #stage.zoomed { max-width: none; }
  #stage.zoomed img { image-rendering: pixelated; }
  #stage img { position: absolute; inset: 0; width: 100%; height: 100%; user-select: none; }
  #edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff;
          box-shadow: 0 0 0 1px #000; pointer-events: none; }
</style>
<h1>@TITLE@, @WIDTH@ × @HEIGHT@</h1>
<div class="controls">
  <label>Left <select id="left">@OPTIONS@</select></label>
  <label>Right <select id="right">@OPTIONS@</select></label>
  <label>Size <select id="zoom"><option value="0">fit<option value="1">1×<option value="2">2×<option value="4">4×
  </select></label>
</div>
<input id="slider" type="range" min="0" max="1000" value="500" aria-label="Position of the edge">
<div id="view"><div id="stage">
@IMAGES@<div id="edge"></div></div></div>
<table>
<tr><th scope=col>Codec<th scope=col>Bytes<th scope=col>bpp<th scope=col>PSNR, dB<th scope=col>MS-SSIM@MORE@
@ROWS@</table>
<p>The JPEG (4:2:0, optimised) is the smallest that has at least as many bytes. bpp: bits of the file per pixel.
PSNR and MS-SSIM: 8-bit RGB.@NOTE@</p>
<script>
  const get = id => document.getElementById(id);
  const images = [...document.querySelectorAll("#stage img")];
  get("right").value = "1";
  function draw() {
    const share = get("slider").value / 10, left = images[get("left").value], right = images[get("right").value];
    for (const image of images) { image.hidden = image !== left && image !== right; image.style.clipPath = ""; }
    left.style.zIndex = 0; right.style.zIndex = 1;
    if (left !== right) right.style.clipPath = `inset(0 0 0 ${share}%)`;
    get("edge").style.left = share + "%";
    get("edge").style.zIndex = 2;
  }
  function resize() {
    const zoom = Number(get("zoom").value);
    get("stage").classList.toggle("zoomed", zoom > 0);
    get("stage").style.width = (zoom || 1) * @WIDTH@ + "px";
  }
  function drag(event) {
    if (event.type === "pointermove" && !(event.buttons & 1)) return;
    const box = get("stage").getBoundingClientRect();
    get("slider").value = 1000 * (event.clientX - box.left) / box.width;
    event.preventDefault();
    draw();
  }
  for (const id of ["slider", "left", "right"]) get(id).addEventListener("input", draw);
  get("zoom").addEventListener("input", resize);
  for (const type of ["pointerdown", "pointermove"]) get("stage").addEventListener(type, drag);
  draw();
</script>
</html>
"""
