"""Realism above 0 in a page: pixels are those of Python, and what cannot be done gives its sentence."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import PHOTO, ROOT
from web.pages import text_page
from web.test_browser import open_page
from web.test_node import NODE

import neurocodec
from neurocodec import conformance, container
from neurocodec.metrics.psnr import psnr
from neurocodec.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Case = tuple[str, list[int] | None, float, str]  # name, region, realism, SHA-256 of the pixels as RGBA
DECODE = """async ([url, region, options]) => {
  const [x, y, width, height] = region ?? [];
  const pixels = await nic.decode(await (await fetch(url)).arrayBuffer(),
    { ...options, ...(region ? { region: { x, y, width, height } } : {}) });
  return sha256(pixels.data);
}"""
REJECT = """async ([url, options]) => {
  try {
    await nic.decode(await (await fetch(url)).blob(), options);
  } catch (error) {
    return [error.name, error.message, error instanceof nic.NicError];
  }
}"""


@pytest.fixture(scope="module")
def files(photo: NDArray[np.uint8]) -> dict[str, bytes]:
    """Of the shipped model: a photograph with text, a picture of several tiles, and a lossless one."""
    wide = np.tile(photo[200:240], (1, 5, 1))[:, :2099]
    mixed = np.concatenate([text_page(64, 70, 64), photo[200:270, 100:166]], axis=1)
    return {
        "mixed": neurocodec.encode(mixed),
        "wide": neurocodec.encode(wide, quality=30),
        "exact": neurocodec.encode(photo[:30, :40], lossless=True),
    }


@pytest.fixture(scope="module")
def cases(files: dict[str, bytes]) -> list[Case]:
    plan: list[tuple[str, list[int] | None, Sequence[float]]] = [
        ("mixed", None, (0.0, 0.3, 0.5, 1.0)),
        ("wide", None, (0.3, 1.0)),
        ("wide", [1000, 9, 90, 20], (1.0,)),  # where two tiles meet
    ]
    result: list[Case] = []
    for name, region, amounts in plan:
        for realism in amounts:
            picture = neurocodec.decode(files[name], region=region, realism=realism)
            digest = hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest()
            result.append((name, region, realism, digest))
    assert container.PALETTE in container.read(files["mixed"]).chunks
    assert neurocodec.info(files["wide"]).tiles > 1
    assert len({digest for *_, digest in result}) == len(result)
    return result


@pytest.fixture
def page(browser: Browser, site: str, files: dict[str, bytes]) -> Iterator[Page]:
    page = new_page(browser, site, files)
    yield page
    page.close()


def new_page(browser: Browser, site: str, files: dict[str, bytes], folder: str = "", threads: int = 1) -> Page:
    """A page with nic.js, which finds the files as given/NAME."""
    page = open_page(browser, site, folder, threads)
    page.route("**/given/*", lambda route: route.fulfill(body=files[route.request.url.rpartition("/")[2]]))
    return page


@pytest.mark.skipif(not NODE, reason="no Node here")
def test_pixels_in_node(cases: list[Case], files: dict[str, bytes], weights: Path, tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    listing = [{"path": str(tmp_path / name), "region": region, "realism": r} for name, region, r, _ in cases]
    command = [NODE or "", str(Path(__file__).with_name("decode.mjs")), str(ROOT / "web"), str(weights)]
    done = subprocess.run(command, input=json.dumps(listing), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [result.get("sha256") for result in json.loads(done.stdout)] == [digest for *_, digest in cases]


@pytest.mark.parametrize(("folder", "threads"), [("", 1), ("isolated/", 2)])
def test_pixels_are_those_of_python(
    browser: Browser, site: str, files: dict[str, bytes], cases: list[Case], folder: str, threads: int
) -> None:
    page = new_page(browser, site, files, folder, threads)
    for name, region, realism, digest in cases:
        actual = page.evaluate(DECODE, [f"{site}/{folder}given/{name}", region, {"realism": realism}])
        assert actual == digest, (name, region, realism)
    page.close()


def test_the_generative_decoder_is_fetched_once_and_only_when_needed(page: Page, cases: list[Case]) -> None:
    urls: list[str] = []
    page.context.on("request", lambda request: urls.append(request.url))
    fetched = []
    for name, region, realism, digest in cases[:3]:
        assert page.evaluate(DECODE, [f"/given/{name}", region, {"realism": realism}]) == digest
        fetched.append(sum(url.endswith("-realism.safetensors") for url in urls))
    assert [realism for _, _, realism, _ in cases[:3]] == [0.0, 0.3, 0.5]
    assert fetched == [0, 1, 1]


@pytest.mark.parametrize("realism", [-0.1, 1.5, "much", None, float("nan")])
def test_a_realism_out_of_range_gives_a_sentence(page: Page, realism: Any) -> None:
    name, message, ours = page.evaluate(REJECT, ["/given/mixed", {"realism": realism}])
    assert (name, ours) == ("RangeError", True)
    assert message.endswith("; it must be a number from 0 to 1.")


def test_a_lossless_file_needs_its_lossy_picture(page: Page, files: dict[str, bytes]) -> None:
    name, message, ours = page.evaluate(REJECT, ["/given/exact", {"realism": 0.5}])
    assert (name, ours) == ("RangeError", True)
    assert message == "the file is lossless: realism above 0 needs lossless: false, the lossy picture."
    with pytest.raises(ValueError, match="realism above 0 needs lossless=False, the lossy picture"):
        neurocodec.decode(files["exact"], realism=0.5)
    lossy = neurocodec.decode(files["exact"], realism=0.5, lossless=False).convert("RGBA")
    actual = page.evaluate(DECODE, ["/given/exact", None, {"realism": 0.5, "lossless": False}])
    assert actual == hashlib.sha256(lossy.tobytes()).hexdigest()


def test_a_file_that_is_no_generative_decoder_for_the_model(
    page: Page, cases: list[Case], weights: Path, base_model: Model, small_model: Model
) -> None:
    whole = (weights / f"{base_model.model_id.hex()}-realism.safetensors").read_bytes()
    other = whole.replace(base_model.model_id.hex().encode(), small_model.model_id.hex().encode(), 1)
    narrow = whole.replace(rb"\"channels\": 256", rb"\"channels\": 240", 1)
    assert len({whole, other, narrow}) == 3
    damaged = "the generative decoder file is damaged ("
    bodies = {
        "other": (other, f"the generative decoder reads the latents of model {small_model.model_id.hex()}"),
        "cut": (whole[:-1000], damaged),
        "short": (whole[:7], damaged),
        "model": ((weights / f"{base_model.model_id.hex()}.safetensors").read_bytes(), damaged),
        "narrow": (narrow, damaged),
    }
    page.route("**/generators/*", lambda route: route.fulfill(body=bodies[route.request.url.rpartition("/")[2]][0]))
    for name, (_, sentence) in bodies.items():
        page.evaluate("(generator) => nic.configure({ generator })", f"/generators/{name}")
        error, message, ours = page.evaluate(REJECT, ["/given/mixed", {"realism": 1}])
        assert (error, ours, message.startswith(sentence)) == ("ModelMismatchError", True, True), (name, message)
    page.evaluate("nic.configure({ generator: '/nowhere' })")
    error, message, _ = page.evaluate(REJECT, ["/given/mixed", {"realism": 1}])
    assert error == "ModelNotFoundError"
    assert message.startswith("realism above 0 needs a generative decoder for model ")
    plain = cases[0]
    assert page.evaluate(DECODE, ["/given/mixed", None, {}]) == plain[3]


def test_the_element_decodes_again_when_its_realism_changes(page: Page, cases: list[Case]) -> None:
    digests = page.evaluate(
        """async () => {
          const image = document.createElement("nic-img");
          image.src = "/given/mixed";
          const shown = async (change) => {
            const loaded = new Promise((resolve, reject) => {
              image.addEventListener("load", resolve, { once: true });
              image.addEventListener("error", (event) => reject(new Error(event.message)), { once: true });
            });
            change();
            await loaded;
            const canvas = image.shadowRoot.querySelector("canvas");
            return sha256(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
          };
          const plain = await shown(() => document.body.append(image));
          const some = await shown(() => image.setAttribute("realism", "0.3"));
          return [plain, some, await shown(() => (image.realism = 1))];
        }"""
    )
    assert digests == [cases[0][3], cases[1][3], cases[3][3]]


@pytest.mark.parametrize("phone", [False, True])
def test_the_slider_of_the_example_page(browser: Browser, site: str, files: dict[str, bytes], phone: bool) -> None:
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
    context = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone, service_workers="block")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{site}/")
    data = next(vector.data for vector in conformance.load_vectors() if vector.name == "astronaut-q480")
    inputs = [("astronaut.nic", data), ("astronaut.png", PHOTO.read_bytes())]
    page.set_input_files("#file", [{"name": name, "mimeType": "", "buffer": body} for name, body in inputs])
    page.wait_for_selector("#facts:not([hidden])")
    box = page.locator("#amount").bounding_box()
    assert box is not None
    assert box["height"] >= 44  # for a finger
    x, y = box["x"] + box["width"] - 3, box["y"] + box["height"] / 2
    page.touchscreen.tap(x, y) if phone else page.mouse.click(x, y)
    page.wait_for_function("document.querySelector('canvas').dataset.name.endsWith(', realism 1')")
    assert page.inner_text("#value") == "1"
    facts = dict(line.split("\t")[:2] for line in page.inner_text("#facts tbody").splitlines())
    expected = psnr(np.asarray(neurocodec.decode(data, realism=1)), np.asarray(neurocodec.image.load(PHOTO).rgb))
    assert float(facts["PSNR, dB"]) == pytest.approx(expected, abs=0.006)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_input_files("#file", [{"name": "exact.nic", "mimeType": "", "buffer": files["exact"]}])
    page.wait_for_function("document.getElementById('status').textContent.startsWith('40 × 30 pixels')")
    assert page.locator("#realism").is_hidden()
    context.close()
