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
    versions = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    return {
        "kind": kind,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": {package: number for package, number in versions.items() if number},
    }


def command_line(words: Sequence[str]) -> str:
    """A command line that can be published: of an absolute path only the last part is left, after an ellipsis."""
    words = [re.sub(r"(^|[,:=])/(?:[^,:=]*/)*([^,:=/]+)/?", r"\1.../\2", word) for word in words]
    program = Path(words[0]).name
    line = shlex.join(["neurocodec" if program == "__main__.py" else program, *words[1:]])
    return line.encode(errors="backslashreplace").decode()


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


def version(package: str) -> str:
    """The version of an installed package, else an empty string."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def commit() -> str | None:
    """The git commit of this package's source, with "-dirty" if files were changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails within the repository of another project
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
