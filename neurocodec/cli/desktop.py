"""neurocodec install-desktop: registers .nic files with file managers: type, thumbnails, viewer (Linux)."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from string import Template

from neurocodec import files
from neurocodec.errors import OutputError

PLACES = {
    "neurocodec.xml": "mime/packages",
    "neurocodec.desktop": "applications",
    "neurocodec.thumbnailer": "thumbnailers",
}
"""The folder of each file below the folder of shared data."""
UPDATES = {"update-mime-database": "mime", "update-desktop-database": "applications"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "install-desktop",
        help="thumbnails and a file type for file managers (Linux)",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--user", action="store_true", help="for this user alone, without administrator rights")
    parser.add_argument("--remove", action="store_true", help="remove what was installed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Installs or removes the three files. Raises OutputError."""
    shared = Path("/usr/local/share")
    if args.user:
        shared = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    for name, text in _texts():
        path = shared / PLACES[name] / name
        if args.remove:
            try:
                path.unlink()
            except FileNotFoundError:
                print(f"{path} was not installed")
                continue
            except OSError as error:
                raise OutputError(f"{path} cannot be removed: {error.strerror}") from error
        else:
            files.make_folder(path.parent)
            files.write_bytes(path, text.encode(), force=True)
        print(f"{path} {'removed' if args.remove else 'installed'}")
    for program, folder in UPDATES.items():
        if (shared / folder).is_dir() and shutil.which(program):
            with contextlib.suppress(OSError):  # the desktop notices the files by itself, later
                subprocess.run([program, shared / folder], stderr=subprocess.DEVNULL)
    return 0


def _texts() -> Iterator[tuple[str, str]]:
    """The name and the text of each file; commands call this Python."""
    command = f'"{sys.executable}" -m neurocodec'
    for name in PLACES:
        text = (resources.files("neurocodec") / "data" / "desktop" / name).read_text(encoding="utf-8")
        yield name, Template(text).safe_substitute(command=command)
