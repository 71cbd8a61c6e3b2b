"""Files that a page decodes and what Python makes of them, a server for the page, and headless Chromium."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import GOLDEN, PHOTO, ROOT
from PIL import Image
from web.pages import text_page

import neurocodec
from neurocodec import conformance
from neurocodec.model import Model, find_generator

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COPIES = {
    "/slider.js": ROOT / "neurocodec" / "bench" / "templates" / "slider.js",
    "/example.nic": conformance.VECTORS / "astronaut-q480.nic",
    "/example.png": PHOTO,
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A file, and what it decodes to in Python: SHA-256 of the pixels as RGBA. region: x, y, width, height, or None."""

    name: str
    data: bytes
    region: tuple[int, int, int, int] | None
    rgba_sha256: str


@pytest.fixture(scope="session")
def samples(small_model: Model, base_model: Model, photo: NDArray[np.uint8]) -> list[Sample]:
    """Every conformance file of both models, and pictures of several tiles, with and without alpha."""
    files = [
        (f"small-{path.stem}", path.read_bytes(), small_model) for path in sorted((GOLDEN / "valid").glob("*.nic"))
    ]
    files += [(vector.name, vector.data, base_model) for vector in conformance.load_vectors()]
    wide = np.tile(photo[200:240], (1, 5, 1))[:, :2099]
    deep = np.concatenate([wide, wide[:, :, :1]], axis=2).astype(np.uint16) * 257
    gray = np.ascontiguousarray(wide[:, :, 1].T)
    rgba = np.concatenate([wide[:30, :50], wide[:30, :50, :1]], axis=2)
    files += [
        ("tiles", neurocodec.encode(wide, quality=60, model=small_model), small_model),
        ("tiles-alpha-16-bit", neurocodec.encode(deep, quality=60, model=small_model), small_model),
        ("tiles-gray", neurocodec.encode(gray, model=small_model), small_model),
        ("tiles-palette", neurocodec.encode(text_page(2099, 40, 1000), model=small_model), small_model),
        ("lossless", neurocodec.encode(photo[:90, :110], lossless=True, model=small_model), small_model),
        ("lossless-tiles", neurocodec.encode(wide[:20], lossless=True, model=small_model), small_model),
        ("lossless-tiles-gray", neurocodec.encode(gray[:, :20], lossless=True, model=small_model), small_model),
        ("lossless-alpha", neurocodec.encode(rgba, lossless=True, model=small_model), small_model),
        ("turned", neurocodec.encode(_turned(photo[:70, :90]), model=small_model), small_model),
    ]
    samples = []
    for name, data, model in files:
        info = neurocodec.info(data)
        inner = (info.width // 2, info.height // 3, info.width // 4 + 1, info.height // 2 + 1)
        for region in (None, inner) if info.width > 100 or info.tiles > 1 else (None,):
            picture = neurocodec.decode(data, region=region, model=model)
            digest = hashlib.sha256(picture.convert("RGBA").tobytes()).hexdigest()
            samples.append(Sample(name, data, region, digest))
    return samples


def _turned(pixels: NDArray[np.uint8]) -> Image.Image:
    """A picture whose EXIF says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", exif=exif)
    return Image.open(out)


@pytest.fixture(scope="session")
def weights(small_model: Model, base_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model files for decoding alone, and the generative decoder of `base`, as a page needs them."""
    folder = tmp_path_factory.mktemp("weights")
    for model in (small_model, base_model):
        model.decoder().save(folder / f"{model.model_id.hex()}.safetensors")
    find_generator(base_model).save(folder / f"{base_model.model_id.hex()}-realism.safetensors")
    return folder


class _Handler(http.server.SimpleHTTPRequestHandler):
    """web/ as /, /neurocodec/ and /isolated/, whose pages may use threads; in each, `files` as files/ and weights/, and
    what `make web` copies."""

    def __init__(self, *args: Any, files: Path, **kwargs: Any) -> None:
        self.files = files
        super().__init__(*args, directory=str(ROOT / "web"), **kwargs)

    def translate_path(self, path: str) -> str:
        path = path.partition("?")[0].removeprefix("/isolated").removeprefix("/neurocodec")
        for name in ("/files/", "/weights/"):
            if path.startswith(name):
                return str(self.files / path.removeprefix(name))
        if path in COPIES:
            return str(COPIES[path])
        return super().translate_path(path)

    def end_headers(self) -> None:
        if self.path.startswith("/isolated"):
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def site(weights: Path, samples: list[Sample]) -> Iterator[str]:
    """The address of a server of web/, the weights and the samples."""
    (weights / "empty.html").write_text("<!doctype html><title>empty</title>")
    documented = re.findall(r"```html\n(.*?)```", (ROOT / "docs" / "web.md").read_text(), re.DOTALL)[0]
    (weights / "documented.html").write_text(documented.replace('src="neurocodec/', 'src="/neurocodec/'))
    (weights / "photo.nic").write_bytes((conformance.VECTORS / "gray-90x50-q333.nic").read_bytes())
    (weights / "another.nic").write_bytes((conformance.VECTORS / "drawing-130x70-q601.nic").read_bytes())
    for sample in samples:
        (weights / f"{sample.name}.nic").write_bytes(sample.data)
    (weights / "damaged.nic").write_bytes((GOLDEN / "container" / "invalid" / "tile-stream-damaged.nic").read_bytes())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, files=weights))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    if not CHROMIUM:
        pytest.skip("no Chromium here: install Debian's chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install 'neurocodec[web]'")
    if not (ROOT / "web" / "nic.wasm").is_file():
        pytest.skip("web/nic.wasm is missing: make web")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
