"""Seconds and peak memory of whole commands, from start to end, run in turn so that all meet the same machine.

    python benchmarks/processes.py -o FILE.json --repeats 7 "import=python -c 'import numpy, PIL.Image'" \\
        "encode=neurocodec encode kodim01.png -o a.nic --force" "decode=neurocodec decode a.nic -o a.png --force"

On a busy machine only the seconds of CPU can be compared.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run(command: str) -> tuple[float, float, float]:
    """CPU seconds of all threads, seconds, and the peak of resident memory in 10^6 bytes. Raises SystemExit."""
    start = time.perf_counter()
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command} failed")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return usage.ru_utime + usage.ru_stime, seconds, peak / 1e6


def summary(name: str, command: str, runs: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Medians and minima of the runs of a command."""
    cpu, wall, peaks = zip(*runs, strict=True)
    return {
        "name": name,
        "command": command,
        "cpu_s": round(statistics.median(cpu), 3),
        "cpu_min_s": round(min(cpu), 3),
        "wall_s": round(statistics.median(wall), 3),
        "wall_min_s": round(min(wall), 3),
        "peak_mb": round(max(peaks)),
        "runs": len(runs),
    }


def main() -> int:
    """Prints a line for each command and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    commands = dict(each.split("=", 1) for each in args.commands)
    load = round(os.getloadavg()[0], 2)
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(args.repeats):
        for name, command in commands.items():
            runs[name].append(run(command))

    # Only now: a process counts the memory of the one that started it as its own until it runs its program.
    from neurocodec.bench import provenance
    from neurocodec.bench.results import write_json

    rows = [summary(name, provenance.command_line(shlex.split(commands[name])), runs[name]) for name in commands]
    for each in rows:
        print(each)
    about = provenance.stamp(
        "processes", f"python benchmarks/processes.py --repeats {args.repeats} -o {args.output.name}"
    )
    about["machine"]["load_before"] = load
    about["machine"]["threads"] = os.environ.get("OMP_NUM_THREADS", "all cores")
    timing = "whole processes in turn; medians and minima; CPU: of all threads; MB: peak of resident memory, 10^6 bytes"
    write_json(args.output, about | {"timing": timing, "rows": rows}, force=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
