"""The decoder in headless Chromium: pixels are those of Python, and what is damaged gives its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from paths import PHOTO
from PIL import Image

import neurocodec
from neurocodec import conformance
from neurocodec.metrics.psnr import psnr

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.web.conftest import Sample

SETUP = """async ([weights, threads]) => {
  window.nic = await import(location.pathname.startsWith("/isolated") ? "/isolated/nic.js" : "/nic.js");
  nic.configure({ weights, threads });
  window.hex = (bytes) => Array.from(new Uint8Array(bytes), (b) => b.toString(16).padStart(2, "0")).join("");
  window.sha256 = async (data) => hex(await crypto.subtle.digest("SHA-256", data));
}"""
DECODE = """async ([url, region]) => {
  const [x, y, width, height] = region ?? [];
  const options = region ? { region: { x, y, width, height } } : {};
  const pixels = await nic.decode(await (await fetch(url)).arrayBuffer(), options);
  return sha256(pixels.data);
}"""
REJECT = """async (url) => {
  try {
    await nic.decode(await (await fetch(url)).blob());
  } catch (error) {
    return [error.name, error.message, error instanceof nic.NicError];
  }
}"""
SHOW = """(url) => new Promise((resolve) => {
  const image = document.createElement("nic-img");
  const events = [];
  const report = (event) => {
    const box = image.getBoundingClientRect();
    resolve({ event: event.type, sizes, box: [box.width, box.height], role: image.getAttribute("role"),
      label: image.getAttribute("aria-label"), text: image.shadowRoot.querySelector("span").textContent,
      message: event.message ?? "", natural: [image.naturalWidth, image.naturalHeight], complete: image.complete });
  };
  const sizes = [];
  new ResizeObserver(() => sizes.push(`${image.naturalWidth} ${image.complete}`)).observe(image);
  image.addEventListener("load", report);
  image.addEventListener("error", report);
  image.alt = "an astronaut";
  image.src = url;
  document.body.append(image);
})"""


def open_page(browser: Browser, site: str, folder: str = "", threads: int = 1) -> Page:
    """A page with nic.js; its threads run if the folder is "isolated"."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{site}/{folder}files/empty.html")
    page.evaluate(SETUP, [f"{site}/{folder}files/", threads])
    return page


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    page = open_page(browser, site)
    yield page
    page.close()


@pytest.mark.parametrize(("folder", "threads"), [("", 1), ("isolated/", 2)])
def test_pixels_are_those_of_python(
    browser: Browser, site: str, samples: list[Sample], folder: str, threads: int
) -> None:
    page = open_page(browser, site, folder, threads)
    assert page.evaluate("crossOriginIsolated") is (folder != "")
    for sample in samples:
        region = list(sample.region) if sample.region else None
        actual = page.evaluate(DECODE, [f"{site}/{folder}files/{sample.name}.nic", region])
        assert actual == sample.rgba_sha256, (sample.name, sample.region)
    page.close()


def test_a_damaged_file_gives_a_sentence_and_the_next_one_decodes(page: Page, samples: list[Sample]) -> None:
    name, message, ours = page.evaluate(REJECT, "/files/damaged.nic")
    assert (name, ours) == ("ChecksumError", True)
    assert message.startswith("the checksum of tile ")
    assert page.evaluate(DECODE, [f"/files/{samples[0].name}.nic", None]) == samples[0].rgba_sha256


def test_missing_weights_give_a_sentence(page: Page) -> None:
    page.evaluate("nic.configure({ weights: '/nowhere/' })")
    name, message, _ = page.evaluate(REJECT, "/files/astronaut-q480.nic")
    assert name == "ModelNotFoundError"
    assert "which this page lacks" in message
    assert "404" in message


def test_weights_are_fetched_once(browser: Browser, site: str, samples: list[Sample]) -> None:
    context = browser.new_context()
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    for _ in range(2):
        page = context.new_page()
        page.goto(f"{site}/files/empty.html")
        page.evaluate(SETUP, [f"{site}/files/", 1])
        page.evaluate(DECODE, [f"{site}/files/{samples[0].name}.nic", None])
        page.close()
    context.close()
    assert sum(url.endswith(".safetensors") for url in requests) <= 1, requests


def test_the_page_stays_alive_while_a_picture_is_decoded(page: Page) -> None:
    frames = page.evaluate(
        """async () => {
          const bytes = await (await fetch("/files/astronaut-q480.nic")).arrayBuffer();
          let frames = 0, going = true;
          const count = () => { frames += 1; if (going) setTimeout(count, 0); };
          count();
          await nic.decode(bytes);
          going = false;
          return frames;
        }"""
    )
    assert frames > 5


def test_the_element_behaves_like_an_image(page: Page) -> None:
    shown: dict[str, Any] = page.evaluate(SHOW, "/files/astronaut-q480.nic")
    assert shown["event"] == "load"
    assert shown["natural"] == shown["box"] == [512, 512]
    assert shown["complete"]
    assert (shown["role"], shown["label"], shown["text"]) == ("img", "an astronaut", "")
    assert "512 false" in shown["sizes"]  # it had its size before it was decoded


def test_the_element_shows_its_text_for_a_damaged_file(page: Page) -> None:
    shown: dict[str, Any] = page.evaluate(SHOW, "/files/damaged.nic")
    assert (shown["event"], shown["text"], shown["natural"]) == ("error", "an astronaut", [0, 0])
    assert shown["message"].startswith("the checksum of tile ")


def test_a_lazy_element_waits_until_it_is_near(page: Page, samples: list[Sample]) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.evaluate(
        """([url]) => {
          const image = `<nic-img loading="lazy" src="${url}"></nic-img>`;
          document.body.innerHTML = `<div style="height: 20000px"></div>${image}`;
          return new Promise((resolve) => setTimeout(resolve, 300));
        }""",
        [f"/files/{samples[0].name}.nic"],
    )
    assert not urls
    loaded = page.evaluate(
        """() => new Promise((resolve) => {
          document.querySelector("nic-img").addEventListener("load", () => resolve(true));
          scrollTo(0, 20000);
        })"""
    )
    assert loaded
    assert urls


def test_the_page_of_the_documentation(browser: Browser, site: str) -> None:
    page = browser.new_page()
    page.goto(f"{site}/files/documented.html")
    page.wait_for_function("[...document.querySelectorAll('nic-img')].every((image) => image.complete)")
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("nic-img")].map((image) => {
          const box = image.getBoundingClientRect();
          return [image.naturalWidth, image.naturalHeight, box.width, Math.round(box.height)];
        })"""
    )
    assert boxes == [[90, 50, 90, 50], [130, 70, 300, 162]]
    page.close()


def share(page: Page) -> float:
    """Where the edge of the slider is, in percent."""
    return float(page.get_attribute("picture-slider .stage", "aria-valuenow") or "nan")


def test_the_example_page(browser: Browser, site: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, service_workers="block")
    page.set_default_timeout(120_000)
    page.goto(f"{site}/")
    original = {"name": "astronaut.png", "mimeType": "image/png", "buffer": PHOTO.read_bytes()}
    nic = {"name": "astronaut.nic", "mimeType": "", "buffer": (conformance.VECTORS / "astronaut-q480.nic").read_bytes()}
    page.set_input_files("#file", [nic, original])
    page.wait_for_selector("#facts:not([hidden])")
    rows = [line.split("\t") for line in page.inner_text("#facts tbody").splitlines()]
    facts = {name: values for name, *values in rows}
    expected = psnr(np.asarray(neurocodec.decode(nic["buffer"])), np.asarray(Image.open(PHOTO).convert("RGB")))
    assert float(facts["PSNR, dB"][0]) == pytest.approx(expected, abs=0.006)
    assert float(facts["PSNR, dB"][1]) < expected
    assert facts["Bytes"][0] == f"{len(nic['buffer']):,}"
    assert int(facts["Bytes"][1].replace(",", "")) >= len(nic["buffer"])
    assert page.inner_text(".name.left") == f"nic, {facts['Bytes'][0]} bytes"
    assert page.inner_text(".name.right") == f"JPEG, {facts['Bytes'][1]} bytes"
    assert page.locator("select.right option").all_inner_texts()[2] == "original"
    assert "made from the original" in page.inner_text("#note")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert share(page) == pytest.approx(25, abs=1)
    page.keyboard.press("ArrowRight")
    assert share(page) == pytest.approx(27, abs=1)
    page.select_option("select.right", label="original")
    assert page.inner_text(".name.right") == "original"

    damaged = {"name": "damaged.nic", "mimeType": "", "buffer": nic["buffer"][:-1]}
    page.set_input_files("#file", [damaged])
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("damaged.nic: tile 0 claims")
    page.set_input_files("#file", [original | {"buffer": (conformance.VECTORS / "gray-90x50-q333.nic").read_bytes()}])
    page.wait_for_function("document.getElementById('status').textContent.startsWith('90 × 50 pixels, L')")
    assert "drop the original too" in page.inner_text("#note")
    assert page.inner_text(".name.right").startswith("JPEG, ")  # the original is gone
    page.close()


def test_the_example_page_works_without_a_network(browser: Browser, site: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{site}/")
    page.evaluate("navigator.serviceWorker.ready.then(() => undefined)")
    page.reload()
    page.tap("#example")
    page.wait_for_selector("#facts:not([hidden])")
    context.set_offline(True)
    page.goto(f"{site}/")
    assert page.evaluate("crossOriginIsolated")
    page.tap("#example")
    page.wait_for_selector("#facts:not([hidden])")
    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert share(page) == pytest.approx(25, abs=1)
    context.close()
