"""Data sets: by name with checksums, from a folder, and downloaded from a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurocodec.bench import datasets, quality, rivals
from neurocodec.bench.datasets import Dataset, describe, load_dataset
from neurocodec.errors import ConfigError, ImageError, MissingWeightsError
from neurocodec.files import download

RGB = [rivals.synthetic_picture(12, 20, seed) for seed in (1, 2, 3)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder `server`."""
    (tmp_path / "server").mkdir()
    handler = functools.partial(SilentHandler, directory=str(tmp_path / "server"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/"
        http.shutdown()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server that has a data set named tiny, three PNG files."""
    folder = tmp_path / "server"
    for index, rgb in enumerate(RGB):
        Image.fromarray(rgb).save(folder / f"{index}.png")
    source = datasets.Source(
        "three tiny pictures",
        "no rights reserved",
        address,
        "",
        {
            f"{i}.png": {"pixels": sha256(rgb.tobytes()), "file": sha256((folder / f"{i}.png").read_bytes())}
            for i, rgb in enumerate(RGB)
        },
    )
    monkeypatch.setattr(datasets, "SOURCES", {"tiny": source})
    monkeypatch.setenv("NEUROCODEC_DATA", str(tmp_path / "data"))
    return folder


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, rgb in enumerate(RGB):
        Image.fromarray(rgb).save(folder / f"{index}.png")
    for name in ("notes.txt", "scan.pdf", "film.mpg", "._0.png", "a.nic"):
        (folder / name).write_text("no picture")
    (folder / "more.png").mkdir()
    assert list(load_dataset(str(folder)).pictures) == ["0.png", "1.png", "2.png"]
    dataset = load_dataset(str(folder), 2)
    assert dataset.name == "pictures"
    assert dataset.pictures == {f"{i}.png": folder / f"{i}.png" for i in range(2)}
    described = describe(dataset)
    assert (described["name"], described["folder"]) == ("pictures", True)
    digest = sha256((folder / "1.png").read_bytes())
    assert described["pictures"][1] == {"name": "1.png", "width": 20, "height": 12, "sha256": digest}
    with pytest.raises(ConfigError, match="expected --images from 1 to 3"):
        load_dataset(str(folder), 4)
    with pytest.raises(ConfigError, match="is not a folder: give one of kodak, clic2025-validation"):
        load_dataset(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no pictures"):
        load_dataset(str(tmp_path / "empty"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    Image.fromarray(RGB[0]).save(tmp_path / "0.png")
    os.rename(tmp_path / "0.png", os.fsencode(tmp_path) + b"/\xff.png")
    with pytest.raises(ConfigError, match=r"the name '.*udcff\.png' is not UTF-8: rename it"):
        load_dataset(str(tmp_path))


def test_downloads_are_checked_and_only_done_once(
    server: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"3 of 3 pictures of tiny, such as 0.png, are not in .*--download fetches"):
        load_dataset("tiny")
    dataset = load_dataset("tiny", download=True)
    assert list(dataset.pictures) == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(dataset.pictures["2.png"])), RGB[2])
    assert "3 files of three tiny pictures (no rights reserved)" in capsys.readouterr().err
    (server / "0.png").unlink()
    first = load_dataset("tiny", 2, download=True).pictures
    assert list(first.items()) == list(dataset.pictures.items())[:2]
    assert capsys.readouterr().err == ""
    assert len(describe(dataset)["pictures"]) == 3
    assert not describe(dataset)["folder"]


def test_downloads_that_are_something_else_leave_nothing(server: Path, tmp_path: Path, address: str) -> None:
    (server / "1.png").write_bytes(b"an error page")
    with pytest.raises(
        ConfigError, match=r"1.png cannot be downloaded: .* does not have the SHA-256 .*; put 1.png into"
    ):
        load_dataset("tiny", download=True)
    assert [path.name for path in (tmp_path / "data" / "tiny").iterdir()] == ["0.png"]
    (server / "1.png").unlink()
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        load_dataset("tiny", download=True)
    with pytest.raises(OSError, match="does not have the SHA-256"):
        download(f"{address}2.png", "0" * 64, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"data", server.name}


def test_a_name_is_a_promise_about_pixels(server: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    Image.fromarray(RGB[0]).save(folder / "0.webp", lossless=True)  # other bytes, the same pixels
    Image.fromarray(RGB[1]).save(folder / "1f00ba55.png")  # a longer name that begins in the same way
    Image.fromarray(RGB[1]).save(folder / "2.png")  # another picture under this name
    (folder / "0.nic").write_text("what was encoded beside it")
    (folder / "1.txt").write_text("notes")
    dataset = load_dataset("tiny")
    assert dataset.pictures == {"0.png": folder / "0.webp", "1.png": folder / "1f00ba55.png", "2.png": folder / "2.png"}
    assert [picture["name"] for picture in describe(load_dataset("tiny", 2))["pictures"]] == ["0.png", "1.png"]
    with pytest.raises(ConfigError, match=r"2.png does not hold the pixels of 2.png in tiny"):
        describe(dataset)
    with pytest.raises(ConfigError, match="a folder with another name"):
        describe(load_dataset(str(folder)))
    elsewhere = load_dataset(str(folder.rename(tmp_path / "mine")))
    assert [picture["name"] for picture in describe(elsewhere)["pictures"]] == ["0.webp", "1f00ba55.png", "2.png"]
    with pytest.raises(ConfigError, match="expected --images from 1 to 3"):
        load_dataset("tiny", 4)


def test_without_a_source_the_error_says_where_pictures_come_from(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        datasets.SOURCES, "tiny", replace(datasets.SOURCES["tiny"], url="", advice="ask the authors of tiny")
    )
    monkeypatch.delenv("NEUROCODEC_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"cache.*as NEUROCODEC_DATA is not set: ask the authors of tiny"):
        load_dataset("tiny", download=True)


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="give a picture that can be read"):
        describe(Dataset("x", {"a.png": tmp_path / "a.png"}))


def test_the_tables_are_complete() -> None:
    kodak, clic = (datasets.SOURCES[name].pictures for name in ("kodak", "clic2025-validation"))
    assert list(kodak) == [f"kodim{n:02}.png" for n in range(1, 25)]
    assert len(clic) == 12
    for table, kinds in ((kodak, ["pixels", "file"]), (clic, ["pixels"])):
        assert all(list(hashes) == kinds for hashes in table.values())
        values = [value for hashes in table.values() for value in hashes.values()]
        assert all(len(bytes.fromhex(value)) == 32 for value in values)
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", ["kodak", "clic2025-validation"])
def test_the_tables_are_those_of_the_pictures(data_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NEUROCODEC_DATA", str(data_folder))
    described = describe(load_dataset(name, 2))  # compares pixels
    assert not described["folder"]
    for picture in described["pictures"]:
        hashes = datasets.SOURCES[name].pictures[picture["name"]]
        assert hashes.get("file", picture["sha256"]) == picture["sha256"]


def test_inception_weights_are_checked(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "server" / "weights"
    published.write_bytes(b"weights")
    monkeypatch.setattr(quality, "INCEPTION_URL", f"{address}weights")
    monkeypatch.setattr(quality, "INCEPTION_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"put weights-inception-2015-12-05-6726825d\.pth into"):
        quality.inception_weights()
    cached = quality.inception_weights(download=True)
    assert cached.read_bytes() == b"weights"
    published.unlink()
    assert quality.inception_weights() == cached
    (tmp_path / quality.INCEPTION_FILE).write_bytes(b"others")
    with pytest.raises(MissingWeightsError, match="replace it"):
        quality.inception_weights()
    (tmp_path / quality.INCEPTION_FILE).unlink()
    cached.unlink()
    with pytest.raises(MissingWeightsError, match="cannot be downloaded"):
        quality.inception_weights(download=True)
