"""Pictures with a colour profile in screenshots of headless Chromium: their colours are those that LittleCMS gives."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from web.profiles import gray_profile, rgb_profile

import neurocodec
from neurocodec.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROFILES = {
    "p3": rgb_profile("Display P3", 2.2),
    "adobe": rgb_profile("Adobe RGB", 563 / 256),
    "gray": gray_profile(1.0),
    "srgb": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "none": None,
}
PATCHES = [(200, 90, 80), (90, 170, 90), (70, 90, 180), (190, 180, 100), (128, 128, 128), (230, 230, 230)]
"""Inside the gamut of sRGB, whatever the profile."""
SIDE = 48


def picture(name: str) -> Image.Image:
    """A row of PATCHES, in the colours of a profile."""
    pixels = np.repeat(np.repeat(np.array([PATCHES], np.uint8), SIDE, axis=0), SIDE, axis=1)
    im = Image.fromarray(pixels)
    im = im.convert("L") if name == "gray" else im
    if icc := PROFILES[name]:
        im.info["icc_profile"] = icc
    return im


def middles(im: Image.Image) -> NDArray[np.int64]:
    """The colour in the middle of each patch, (n, 3), whatever the size of the picture."""
    rgb = np.asarray(im.convert("RGB")).astype(int)
    count = len(PATCHES)
    return rgb[len(rgb) // 2, [rgb.shape[1] * (2 * i + 1) // (2 * count) for i in range(count)]]


def in_srgb(im: Image.Image) -> Image.Image:
    """The picture with its colours converted."""
    icc = im.info.get("icc_profile")
    if icc is None:
        return im
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(im, source, srgb, renderingIntent=intent, outputMode="RGB")
    assert converted is not None
    return converted


@pytest.mark.parametrize("name", PROFILES)
def test_colours_are_those_of_the_profile(browser: Browser, site: str, name: str) -> None:
    data = neurocodec.encode(picture(name), quality=90)
    decoded = neurocodec.decode(data)
    expected, unmanaged = middles(in_srgb(decoded)), middles(decoded)
    page = browser.new_page(viewport={"width": SIDE * len(PATCHES), "height": SIDE})
    page.set_default_timeout(60_000)
    page.route("**/picture.nic", lambda route: route.fulfill(body=data))
    page.goto(f"{site}/files/empty.html")
    page.evaluate(
        """async (weights) => {
          const { configure } = await import("/nic.js");
          configure({ weights });
          document.body.style.margin = 0;
          document.body.innerHTML = '<nic-img src="/picture.nic" style="display: block"></nic-img>';
          const image = document.querySelector("nic-img");
          await new Promise((resolve, reject) => {
            image.addEventListener("load", resolve);
            image.addEventListener("error", ({ message }) => reject(new Error(message)));
          });
        }""",
        f"{site}/files/",
    )
    shown = middles(Image.open(io.BytesIO(page.screenshot())))
    page.close()
    assert np.abs(shown - expected).max() <= 2, (shown, expected)
    if name in ("p3", "adobe", "gray"):
        assert np.abs(expected - unmanaged).max() > 10  # the profile matters


@pytest.mark.parametrize("name", ["p3", "gray"])
def test_the_example_page_shows_the_file_and_its_original_so(browser: Browser, site: str, name: str) -> None:
    original = io.BytesIO()
    picture(name).save(original, "PNG", icc_profile=PROFILES[name])
    data = neurocodec.encode(picture(name), quality=100)
    expected = middles(in_srgb(picture(name)))
    page = browser.new_page(viewport={"width": 800, "height": 700}, service_workers="block")
    page.set_default_timeout(60_000)
    page.goto(f"{site}/")
    files = [("a.nic", data), ("a.png", original.getvalue())]
    page.set_input_files("#file", [{"name": n, "mimeType": "", "buffer": buffer} for n, buffer in files])
    page.wait_for_selector("#facts:not([hidden])")
    assert "the same colour profile" in page.inner_text("#note")
    assert float(page.inner_text("#facts tbody tr:last-child td:nth-child(2)")) > 40  # PSNR of the file's own values
    page.select_option("select.right", label="original")
    for side, tolerance in (("right", 2), ("left", 4)):  # the original, then the .nic
        page.click(".flip")
        page.wait_for_selector(f".name.{side}:visible")
        shown = middles(Image.open(io.BytesIO(page.locator(".stage").screenshot())))
        assert np.abs(shown - expected).max() <= tolerance, (side, shown, expected)
    page.close()


def test_a_png_holds_the_pixels_and_the_profile(browser: Browser, site: str, small_model: Model) -> None:
    pixels = np.asarray(Image.effect_mandelbrot((70, 50), (-2, -1.5, 1, 1.5), 100))
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{site}/files/empty.html")
    setup = "async (weights) => { window.nic = await import('/nic.js'); nic.configure({ weights }); }"
    page.evaluate(setup, f"{site}/files/")
    for mode in ("L", "LA", "RGB", "RGBA"):
        im = Image.merge(mode, [Image.fromarray(np.roll(pixels, 9 * i)) for i in range(len(mode))])
        icc = im.info["icc_profile"] = gray_profile(1.8) if mode[0] == "L" else rgb_profile("Adobe RGB", 2.2)
        data = neurocodec.encode(im, model=small_model)
        png = page.evaluate("async (bytes) => [...await (await nic.toPng(Uint8Array.from(bytes))).bytes()]", list(data))
        opened = Image.open(io.BytesIO(bytes(png)))
        expected = neurocodec.decode(data, model=small_model)
        assert (opened.format, opened.mode, opened.info["icc_profile"]) == ("PNG", expected.mode, icc)
        np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))
    page.close()
