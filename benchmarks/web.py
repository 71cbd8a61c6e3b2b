"""Time to decode a picture in headless Chromium and with the native core, on one thread and on two; sizes.

    python benchmarks/web.py photo.png --quality 50 -o benchmarks/results/web.json
    python benchmarks/web.py photo.png --quality 50 --realism 1

The four take turns, so that whatever else the machine does slows all of them. cpu_ms is the processor time of a decode
over all threads, of this process or of Chromium's renderers: other programs change it little. Needs `make web`,
Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.server
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from neurocodec import codec, container, model
from neurocodec.bench.provenance import command_line, load_average, stamp
from neurocodec.bench.results import write_json
from neurocodec.errors import NeurocodecError
from neurocodec.integer.native import NativeNetwork

WEB = Path(__file__).parents[1] / "web"
SCRIPTS = ("nic.js", "container.js", "core.js", "worker.js", "png.js")
THREADS = (1, 2)

DECODE = """async () => {
  const start = performance.now();
  window.pixels = await nic.decode(file, { realism });
  return performance.now() - start;
}"""
DIGEST = """async () => {
  const rgb = pixels.data.filter((_, i) => i % 4 !== 3);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", rgb));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """web/, and the picture as /picture.nic; pages may use threads."""

    def __init__(self, *args: Any, picture: bytes, **kwargs: Any) -> None:
        self.picture = picture
        super().__init__(*args, directory=str(WEB), **kwargs)

    def do_GET(self) -> None:
        if self.path in ("/picture.nic", "/empty.html"):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(self.picture if self.path == "/picture.nic" else b"<!doctype html><title>empty</title>")
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def measure(data: bytes, chromium: str, repeats: int, realism: float) -> list[dict[str, Any]]:
    """A row for each program and thread count. Raises NeurocodecError if pixels differ."""
    nic = container.read(data)
    base = model.find(nic.header.model_id)
    networks = {threads: NativeNetwork(base, threads=threads) for threads in THREADS}
    rgb = codec.decode_picture(nic, networks[1], realism=realism).rgb
    expected = hashlib.sha256(np.ascontiguousarray(rgb)).hexdigest()
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for name in ("native", "chromium") for n in THREADS}
    cpu: dict[tuple[str, int], list[float]] = {key: [] for key in times}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, picture=data))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        version = browser.version
        pages = {threads: open_page(browser.new_page(), address, threads, realism) for threads in THREADS}
        session = browser.new_browser_cdp_session()

        def renderers() -> float:
            """Seconds of processor time so far."""
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            return float(sum(process["cpuTime"] for process in processes if process["type"] == "renderer"))

        for _ in range(repeats):
            for threads in THREADS:
                start, used = time.perf_counter(), time.process_time()
                codec.decode_picture(nic, networks[threads], realism=realism)
                times["native", threads].append(1e3 * (time.perf_counter() - start))
                cpu["native", threads].append(1e3 * (time.process_time() - used))
                used = renderers()
                times["chromium", threads].append(pages[threads].evaluate(DECODE))
                cpu["chromium", threads].append(1e3 * (renderers() - used))
                if pages[threads].evaluate(DIGEST) != expected:
                    raise NeurocodecError(f"Chromium's pixels differ with {threads} threads.")
        browser.close()
    server.shutdown()
    rows = []
    for (program, threads), values in times.items():
        kernel = networks[1].kernel if program == "native" else f"wasm, Chromium {version}"
        ratios = {
            name: statistics.median(measured[program, threads]) / statistics.median(measured["native", threads])
            for name, measured in (("times_native", times), ("cpu_times_native", cpu))
        }
        rows.append(
            {"program": program, "kernel": kernel, "threads": threads, "median_ms": round(statistics.median(values), 1)}
            | {"fastest_ms": round(min(values), 1), "cpu_ms": round(statistics.median(cpu[program, threads]), 1)}
            | {name: round(ratio, 2) for name, ratio in ratios.items()}
            | {"pixels_equal": True}
        )
    return rows


def open_page(page: Page, address: str, threads: int, realism: float) -> Page:
    """A page that has decoded the picture a few times: browsers compile what runs often once more."""
    page.set_default_timeout(300_000)
    page.goto(f"{address}/empty.html")
    page.evaluate(
        """async ([threads, realism]) => {
          window.realism = realism;
          if (!crossOriginIsolated) throw new Error("the page is not isolated");
          window.nic = await import("/nic.js");
          nic.configure({ threads });
          window.file = await (await fetch("/picture.nic")).arrayBuffer();
          for (let i = 0; i < 3; ++i) await nic.decode(file, { realism });
        }""",
        [threads, realism],
    )
    return page


def sizes() -> list[dict[str, Any]]:
    """Bytes of what a page fetches, as they are, and as a server sends them with gzip and, if installed, Brotli."""
    try:
        import brotli  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        brotli = None
    groups = {"nic.wasm": [WEB / "nic.wasm"], "scripts": [WEB / name for name in SCRIPTS]}
    weights = sorted((WEB / "weights").glob("*.safetensors"))
    groups["weights"] = [path for path in weights if not path.stem.endswith("-realism")]
    groups["weights for realism"] = [path for path in weights if path.stem.endswith("-realism")]
    rows = []
    for name, paths in groups.items():
        contents = [path.read_bytes() for path in paths]
        row = {"part": name, "bytes": sum(map(len, contents)), "gzip": sum(len(gzip.compress(c, 9)) for c in contents)}
        if brotli:
            row["brotli"] = sum(len(brotli.compress(content)) for content in contents)
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each row; with -o writes them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--quality", type=float, default=50.0)
    parser.add_argument("--realism", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or parser.error("there is no chromium on PATH")
    load = load_average()
    data = codec.encode(args.picture, quality=args.quality)
    rows, parts = measure(data, str(chromium), args.repeats, args.realism), sizes()
    for row in [*rows, *parts]:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    if args.output:
        about = stamp("web", command_line(["python", "benchmarks/web.py", *(arguments or sys.argv[1:])]))
        about["machine"]["load_before"] = load
        facts = container.describe(data)
        picture = {"name": args.picture.name, "width": facts.width, "height": facts.height, "bytes": facts.bytes}
        settings = {"picture": picture, "repeats": args.repeats, "realism": args.realism}
        written = {**about, **settings, "rows": rows, "sizes": parts}
        write_json(args.output, written, force=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NeurocodecError as error:
        sys.exit(str(error))
