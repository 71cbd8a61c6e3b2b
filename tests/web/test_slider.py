"""<picture-slider> in headless Chromium: what it shows, by mouse, keys and touch."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT
from PIL import Image

from neurocodec.bench import curves, datasets, gallery, rate_distortion, report, rivals
from neurocodec.bench.pages import Html, data_url, fill, join, script
from neurocodec.bench.quality import Metrics
from neurocodec.cli import compare

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RED, GREEN, BLUE = (200, 0, 0), (0, 150, 0), (20, 0, 180)
WIDTH, HEIGHT = 300, 200
PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><style>body { margin: 0 }</style>
<picture-slider width="300" height="200" left="0" right="1">$images</picture-slider>$script"""


def document() -> str:
    images = []
    for name, colour in (("red", RED), ("green", GREEN), ("blue, of a long name that a phone cannot show whole", BLUE)):
        out = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(out, "PNG")
        images.append(fill('<img data-name="$name" alt="" src="$url">', name=name, url=data_url("png", out.getvalue())))
    return fill(PAGE, images=join(images), script=Html(script("slider.js")))


def open_page(browser: Browser, **options: object) -> Page:
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.set_content(document())
    page.wait_for_selector(".stage")
    return page


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """At the size of a desktop."""
    page = open_page(browser, viewport={"width": 1280, "height": 800})
    yield page
    page.context.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    page = open_page(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    yield page
    page.context.close()


def row(page: Page) -> NDArray[np.int64]:
    """Colours of a line across the view, below its labels and its thumb, (n, 3)."""
    shown = np.asarray(Image.open(io.BytesIO(page.locator(".view").screenshot())).convert("RGB")).astype(int)
    return shown[len(shown) * 9 // 10]


def share_of(page: Page, colour: tuple[int, int, int]) -> float:
    """The share of that line which has a colour, in percent."""
    return 100 * float((np.abs(row(page) - colour).max(axis=1) < 8).mean())


def scrolled(page: Page) -> list[int]:
    return [round(value) for value in page.locator(".scroll").evaluate("(e) => [e.scrollLeft, e.scrollTop]")]


def swipe(page: Page, start: tuple[float, float], by: tuple[float, float], steps: int = 20) -> None:
    """A finger moves over the page."""
    session = page.context.new_cdp_session(page)
    for step in range(steps + 1):
        x, y = (s + b * step / steps for s, b in zip(start, by, strict=True))
        kind = "touchMove" if step else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def test_it_shows_the_left_picture_on_the_left(page: Page) -> None:
    assert page.locator(".name:visible").all_inner_texts() == ["red", "green"]
    assert share_of(page, RED) == pytest.approx(50, abs=1)
    assert share_of(page, GREEN) == pytest.approx(50, abs=1)
    box = page.locator(".view").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (2 * WIDTH, 2 * HEIGHT)  # twice as large at most
    page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 100)
    page.mouse.up()
    assert share_of(page, RED) == pytest.approx(20, abs=1)
    page.select_option("select.right", index=2)
    assert share_of(page, BLUE) == pytest.approx(80, abs=1)
    assert share_of(page, GREEN) == 0


def test_the_keys(page: Page) -> None:
    page.locator(".stage").focus()
    page.keyboard.press("Home")
    assert share_of(page, GREEN) > 99
    assert page.locator(".name:visible").all_inner_texts() == ["green"]
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".stage", "aria-valuenow") == "12"
    for colour, name in ((GREEN, "green"), (RED, "red"), (GREEN, "green")):
        page.keyboard.press("f")
        assert share_of(page, colour) > 99
        assert page.locator(".name:visible").all_inner_texts() == [name]
    page.keyboard.press("d")
    difference = np.minimum(6 * np.abs(np.subtract(RED, GREEN)), 255)
    assert share_of(page, tuple(difference)) > 99
    assert page.locator(".name:visible").all_inner_texts() == ["Difference of red and green, 6 times as bright"]
    page.keyboard.press("d")
    assert share_of(page, RED) == pytest.approx(12, abs=1)
    for _ in range(4):
        page.keyboard.press("+")
    assert page.input_value("select.zoom") == "8"
    middle = [(8 * WIDTH - 1280) / 2, (8 * HEIGHT - 640) / 2]
    assert scrolled(page) == pytest.approx(middle, abs=12)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert scrolled(page) == pytest.approx([middle[0] + 160, middle[1] - 80], abs=12)
    for _ in range(9):
        page.keyboard.press("-")
    assert page.input_value("select.zoom") == "0"


def test_a_finger_moves_the_edge_and_a_zoomed_picture(phone: Page) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    box = phone.locator(".view").bounding_box()
    assert box is not None
    assert box["width"] == 390
    y = box["y"] + box["height"] / 2
    swipe(phone, (195, y), (117, 0))
    assert share_of(phone, RED) == pytest.approx(80, abs=3)
    before = phone.get_attribute(".stage", "aria-valuenow")
    phone.select_option("select.zoom", "4")
    start = scrolled(phone)
    swipe(phone, (150, y), (-60, -30))
    assert scrolled(phone) == pytest.approx([start[0] + 60, start[1] + 30], abs=3)
    assert phone.get_attribute(".stage", "aria-valuenow") == before
    assert phone.evaluate("document.documentElement.scrollWidth") == 390


def test_a_finger_that_scrolls_the_page_leaves_the_edge_alone(phone: Page) -> None:
    phone.evaluate("document.body.style.height = '3000px'")
    swipe(phone, (60, 300), (0, -200))
    phone.wait_for_function("scrollY > 50")
    assert phone.get_attribute(".stage", "aria-valuenow") == "50"


def test_pictures_can_be_exchanged(page: Page) -> None:
    page.select_option("select.right", index=2)
    page.evaluate("document.querySelector('picture-slider').lastElementChild.remove()")
    assert page.locator(".name:visible").all_inner_texts() == ["red", "green"]
    assert not page.locator("select.left").is_visible()  # with two, there is nothing to choose
    page.evaluate("document.querySelector('picture-slider').replaceChildren()")
    assert page.locator(".name:visible").count() == 0


def test_the_pages_of_compare_and_of_the_report_have_it(browser: Browser, tmp_path: Path) -> None:
    picture = rivals.synthetic_picture(300, 400)
    Image.fromarray(picture).save(tmp_path / "a.png")
    names = ("neurocodec, quality 50, realism 0", "neurocodec, quality 50, realism 1", "JPEG, quality 22")
    variants = [compare.Variant(name, b"x" * 12_345, picture // 2, 31.5, 0.95, 0.123) for name in names]
    dataset, chosen = datasets.load_dataset(str(tmp_path)), [rivals.RIVALS["jpeg"]]
    measured = rate_distortion.run(
        dataset, chosen, tmp_path / "results.json", settings={"jpeg": [5.0, 50.0]}, metrics=Metrics()
    )
    results = curves.summarise(measured, resamples=10)
    pages = {
        compare.make_page("a picture", picture, variants): [names[0], names[2]],
        report.page(results, gallery.html(results, dataset, chosen, 1)): ["jpeg, ", "original", "jpeg, ", "original"],
    }
    for width, (text, expected) in itertools.product((390, 1280), pages.items()):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_content(text)
        labels = page.locator(".name:visible").all_inner_texts()
        assert len(labels) == len(expected)
        assert all(label.startswith(name) for label, name in zip(labels, expected, strict=True)), labels
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.close()


def test_one_file_serves_all_pages() -> None:
    assert "cp neurocodec/bench/templates/slider.js web/" in (ROOT / "Makefile").read_text()
    assert 'import "./slider.js"' in (ROOT / "web" / "demo.js").read_text()
    assert 'define("picture-slider"' in script("slider.js")
