"""`neurocodec install-desktop`: files that file managers read, and the command that they call for a thumbnail."""

from __future__ import annotations

import configparser
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

import neurocodec
from neurocodec import container
from neurocodec.cli.main import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="desktops of Linux alone")


def entries(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    (section,) = parser.sections()
    return parser[section]


def test_it_installs_for_a_user_and_removes_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(["install-desktop", "--user"]) == 0
    assert main(["install-desktop", "--user"]) == 0  # again, as after an update
    (kind,) = ET.parse(tmp_path / "mime" / "packages" / "neurocodec.xml").getroot()
    (glob,) = kind.findall("{*}glob")
    (magic,) = kind.findall("{*}magic/{*}match")
    assert glob.get("pattern") == "*.nic"
    assert magic.get("value", "").encode().decode("unicode_escape").encode("latin-1") == container.SIGNATURE
    for name in ("applications/neurocodec.desktop", "thumbnailers/neurocodec.thumbnailer"):
        assert entries(tmp_path / name)["MimeType"].strip(";") == kind.get("type") == Image.MIME["NIC"]

    assert main(["install-desktop", "--user", "--remove"]) == 0
    assert main(["install-desktop", "--user", "--remove"]) == 0
    assert not list(tmp_path.rglob("neurocodec*"))


def test_its_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    main(["install-desktop", "--user"])
    source, target = tmp_path / "a picture.nic", tmp_path / "thumbnail.png"
    source.write_bytes(neurocodec.encode(np.zeros((64, 96, 3), np.uint8)))
    fields = {"%i": str(source), "%o": str(target), "%s": "48"}
    command = shlex.split(entries(tmp_path / "thumbnailers" / "neurocodec.thumbnailer")["Exec"])
    words = [fields.get(word, word) for word in command]
    with open(target, "w+b") as held:  # as by a thumbnailer that reads the file that it has made
        assert subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout == b""
        im = Image.open(held)
        assert im.size == (48, 32)
    viewer = shlex.split(entries(tmp_path / "applications" / "neurocodec.desktop")["Exec"])
    assert viewer[:-2] == shlex.split(command[2])[: len(viewer) - 2]
    assert viewer[-2:] == ["view", "%f"]


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "share").write_text("a file in the way")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert main(["install-desktop", "--user"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
