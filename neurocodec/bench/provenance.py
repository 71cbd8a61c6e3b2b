"""Where a result comes from: command, date, commit, machine and versions."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from neurocodec.workers import available_cores

PACKAGES = (
    *("neurocodec", "numpy", "pillow", "torch", "pytorch-msssim", "scipy", "pillow-heif", "imagecodecs"),
    *("pyvips-binary", "compressai", "torch-fidelity"),
)


def stamp(kind: str, command: str) -> dict[str, Any]:
    """What every results file says about its run. kind: of results; command: the command line."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    about = {"kind": kind, "date": date, "command": command, "commit": commit()}
    return about | {"machine": machine(), "versions": versions()}


def command_line(words: Sequence[str]) -> str:
    """A command line that can be published: absolute paths are cut to their last part."""
    words = [re.sub(r"(^|[,:=])/(?:[^,:=]*/)*([^,:=/]+)/?", r"\1\2", word) for word in words]
    return shlex.join(["neurocodec" if words[0] == "__main__.py" else words[0], *words[1:]])


def machine() -> dict[str, Any]:
    """Processor, cores, GPU and system, but not the machine's name."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):  # not on Linux
        cpu = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)[0].strip()
    torch: Any = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": available_cores(), "gpu": gpu, "system": f"{platform.system()} {platform.machine()}"}


def load_average() -> float | None:
    """Processes that kept the machine busy in the last minute; above 0, times are upper bounds. None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, where installed."""
    known = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | {name: number for name, number in known.items() if number}


def version(package: str) -> str:
    """The version of an installed package, else an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit() -> str | None:
    """The git commit of this package's source, with "-dirty" if files were changed since; None outside a checkout."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails within the repository of another project
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD").strip() + ("-dirty" if changed.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
