"""Ends the long commands at random times and takes their disk away: what is there afterwards must be whole.

    python tools/disk_faults.py [--commands encode,train] [--faults SIGKILL,full] [--runs 5] [--seed 0] [--keep FOLDER]

Each command runs once undisturbed, then --runs times with each kind of fault: a signal to the command alone (SIGKILL,
SIGTERM, SIGINT or SIGHUP: twenty in all), a disk that is full after a random number of pages (a tmpfs; without the
right to mount one, a limit on the size of files), a folder that cannot be written (once), an output folder that is
removed meanwhile, and a second process that writes the same outputs. It needs Linux.

A run is a failure if a file under a final name is not whole, or not the one of the undisturbed run where bytes are the
same each time; if a file that was there before is gone; if a process or, but for SIGKILL, a temporary file is left; if
the exit status or stderr does not say what happened, or stderr has more than a sentence a file; or if the same command
does not finish the work afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from safetensors import safe_open

from neurocodec import container

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "golden" / "model" / "small.safetensors"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
FAULTS = (*SIGNALS, "full", "read-only", "vanishing", "two writers")
PAGE = 4096  # bytes; a tmpfs has whole pages
CONFIG = """
[data]
folder = "{pictures}"
validation_every = 4
crop = 64
workers = 1
[model]
channels = 8
latent_channels = 16
hyper_channels = 8
hidden_channels = 8
latent_blocks = 1
[training]
steps = 20
batch = 2
init_images = 0
log_every = 2
checkpoint_every = 3
validate_every = 1000
validate_actual = false
device = "cpu"
threads = 1
"""


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder.

    words: of the output folder. again: the words that finish the work, if they are others. same: whether the bytes of
    its outputs are the same each time.
    """

    words: Callable[[Path], Sequence[object]]
    again: Callable[[Path], Sequence[object]] | None = None
    same: bool = True


@dataclass
class Done:
    """A command that has ended."""

    status: int
    stderr: str
    problems: list[str] = field(default_factory=list)


def commands(data: Path) -> dict[str, Command]:
    """The long commands, on the pictures and files in `data`."""
    pictures, nics, photo = data / "pictures", data / "nic", data / "pictures" / "0.png"

    def train(out: Path) -> Sequence[object]:
        return ["train", data / "tiny.toml", "--run", out / "run"]

    def resume(out: Path) -> Sequence[object]:
        if (out / "run" / "checkpoint.safetensors").exists():
            return ["train", "--resume", out / "run"]
        shutil.rmtree(out / "run", ignore_errors=True)  # nothing to resume
        return train(out)

    def forced(words: Callable[[Path], Sequence[object]]) -> Callable[[Path], Sequence[object]]:
        return lambda out: [*words(out), "--force"]

    def compare(out: Path) -> Sequence[object]:
        return ["compare", photo, "-o", out / "page.html", "--model", MODEL]

    def decoder(out: Path) -> Sequence[object]:
        return ["model", "decoder", MODEL, "-o", out / "decoder.safetensors"]

    rd = ["--codecs", "nic,jpeg", "--qualities", "20,40", "--gallery", "1", "--model", MODEL]
    return {
        "encode": Command(lambda out: ["encode", pictures, "-o", out / "nic", "--model", MODEL]),
        "encode -j 2": Command(lambda out: ["encode", pictures, "-o", out / "nic", "--model", MODEL, "-j", 2]),
        "decode -j 2": Command(lambda out: ["decode", nics, "-o", out / "png", "-j", 2]),
        "model decoder": Command(decoder, forced(decoder), same=False),  # safetensors shuffles its header
        "compare": Command(compare, forced(compare)),
        "train": Command(train, resume, same=False),
        "bench rd -j 2": Command(
            lambda out: ["bench", "rd", "--dataset", data / "few", "-o", out / "rd", "-j", 2, *rd], same=False
        ),
    }


def make_data(data: Path) -> None:
    """Pictures, their .nic files and a configuration."""
    import neurocodec

    photo = Image.open(ROOT / "neurocodec" / "data" / "astronaut.png").convert("RGB")
    for folder in ("pictures", "few", "nic"):
        (data / folder).mkdir(parents=True)
    for i in range(8):
        part = photo.crop((30 * i, 20 * i, 30 * i + 200, 20 * i + 180))
        part.save(data / "pictures" / f"{i}.png")
        (data / "nic" / f"{i}.nic").write_bytes(neurocodec.encode(part, model=MODEL))
        if i < 2:
            part.save(data / "few" / f"{i}.png")
    (data / "tiny.toml").write_text(CONFIG.format(pictures=data / "pictures"))


def start(words: Sequence[object], *, file_bytes: int | None = None) -> subprocess.Popen[str]:
    """Starts a command in a session of its own; with file_bytes, no file may grow beyond that."""

    def prepare() -> None:
        for name in SIGNALS[1:]:  # nohup and background jobs of a shell ignore some
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "neurocodec", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NEUROCODEC_WEIGHTS": str(MODEL.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    )


def begun(process: subprocess.Popen[str]) -> float:
    """Waits until the command handles signals, before which Python itself starts; when that was."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
            if caught >> (signal.SIGTERM - 1) & 1:
                break
        time.sleep(0.002)
    return time.monotonic()


def end(process: subprocess.Popen[str]) -> Done:
    """Waits for a command and all processes that it started."""
    try:
        _, stderr = process.communicate(timeout=120)  # ends when the last process that holds stderr does
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, stderr = process.communicate()
        return Done(process.returncode, stderr, ["it, or a process that it started, did not end in two minutes"])
    done = Done(process.returncode, stderr)
    for _ in range(100):
        with contextlib.suppress(ChildProcessError):  # orphans become children of this process
            while os.waitpid(-process.pid, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return done
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    done.problems.append("a process is left")
    return done


def whole(path: Path, *, cut_log: bool) -> bool:
    """Whether a file can be read to its end. cut_log: whether the last line of a log may be incomplete."""
    try:
        data = path.read_bytes()
        if path.suffix == ".nic":
            container.describe(data)
        elif path.suffix == ".png":
            with Image.open(path) as im:
                im.load()
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                return all(file.get_slice(name).get_shape() is not None for name in file.keys())  # noqa: SIM118
        elif path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".jsonl":
            lines = data.split(b"\n")
            for line in lines[:-1]:
                json.loads(line)
            return cut_log or lines[-1] == b""
        else:
            ends = {".html": b"</html>\n", ".svg": b"</svg>\n", ".csv": b"\n", ".md": b"\n"}
            return data.endswith(ends.get(path.suffix, b""))
    except Exception:
        return False
    return True


def tree(folder: Path) -> dict[str, Path]:
    """The files below a folder, by their names in it. The lock of a run holds nothing."""
    paths = folder.rglob("*") if folder.is_dir() else []
    return {str(path.relative_to(folder)): path for path in paths if path.is_file() and path.suffix != ".lock"}


def is_part(name: str) -> bool:
    """Whether a file has the name of one that is being written."""
    return name.endswith(".part")


def check(
    done: Done, out: Path, reference: Path, command: Command, *, killed: bool, statuses: set[int], sentences: int
) -> None:
    """Adds the problems of what a run left. statuses: those that tell what happened. sentences: the most on stderr."""
    for name, path in tree(out).items():
        if is_part(name):
            if not killed:
                done.problems.append(f"{name} is left")
        elif not whole(path, cut_log=killed):
            done.problems.append(f"{name} is not whole")
        elif command.same and not (reference / name).is_file():
            done.problems.append(f"{name} is not expected")
        elif command.same and path.read_bytes() != (reference / name).read_bytes():
            done.problems.append(f"{name} has other bytes")
    if done.status not in statuses:
        done.problems.append(f"exit status {done.status}, expected one of {sorted(statuses)}")
    lines = [line for line in done.stderr.splitlines() if line.startswith("neurocodec: ")]
    about = [line for line in done.stderr.splitlines() if "Traceback" in line or "please report" in line]
    if about or len(lines) > sentences or (done.status == 1 and not lines):
        done.problems.append(f"stderr: {done.stderr.strip()[-300:]!r}")


def finish(done: Done, out: Path, reference: Path, command: Command) -> None:
    """Runs the command again, which must do what is left and keep what is there."""
    before = {name: path.stat().st_mtime_ns for name, path in tree(out).items() if not is_part(name)}
    again = end(start((command.again or command.words)(out)))
    names = {name for name in tree(out) if not is_part(name)}
    if again.status != 0 or again.problems:
        done.problems.append(f"run again, it ends with {again.status}: {again.stderr.strip()[-300:]!r}")
    elif missing := {name for name in tree(reference) if "cache" not in name} - names:
        done.problems.append(f"run again, it does not make {sorted(missing)}")
    elif command.same and command.again is None:
        changed = [name for name, time in before.items() if (out / name).stat().st_mtime_ns != time]
        if changed:
            done.problems.append(f"run again, it makes {changed[0]} again")


@contextlib.contextmanager
def disk(folder: Path, size: int, *, read_only: bool = False) -> Iterator[bool]:
    """A small file system at the folder; False if this user cannot mount one."""
    folder.mkdir(parents=True)
    mode = "ro" if read_only else "rw"
    made = ["mount", "-t", "tmpfs", "-o", f"size={size},{mode}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(made, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def disturbed(
    command: Command, fault: str, out: Path, reference: Path, seconds: float, rng: random.Random
) -> tuple[Done, bool]:
    """One run with a fault, and whether the fault came before its end. seconds: of the undisturbed run."""
    files = len(tree(reference))
    if fault in SIGNALS:
        number = getattr(signal, fault)
        out.mkdir()
        process = start(command.words(out))
        begun(process)
        time.sleep(rng.uniform(0, 1) * seconds)
        hit = process.poll() is None
        process.send_signal(number)
        done = end(process)
        # 0: it had done its work. Minus the number: it had, and no longer handled signals.
        check(
            done, out, reference, command, killed=fault == "SIGKILL", sentences=0, statuses={0, 128 + number, -number}
        )
        finish(done, out, reference, command)
        return done, hit and done.status != 0
    if fault == "full":
        sizes = [path.stat().st_size for path in tree(reference).values()]
        pages = rng.randint(1, max(1, sum(-(-size // PAGE) for size in sizes) - 1))
        with disk(out, pages * PAGE) as mounted:
            done = end(start(command.words(out), file_bytes=None if mounted else rng.randint(0, max(sizes) - 1)))
            check(done, out, reference, command, killed=False, statuses={0, 1}, sentences=files)
        return done, done.status != 0
    if fault == "read-only":
        with disk(out, PAGE, read_only=True) as mounted:
            if not mounted:
                out.chmod(0o500)
            done = end(start(command.words(out)))
            check(done, out, reference, command, killed=False, statuses={1}, sentences=files)
            if tree(out):
                done.problems.append("it wrote into the folder")
        return done, True
    if fault == "vanishing":
        out.mkdir()
        process = start(command.words(out))
        begun(process)
        time.sleep(rng.uniform(0, 1) * seconds)
        hit = process.poll() is None
        shutil.rmtree(out, ignore_errors=True)
        done = end(process)
        check(done, out, reference, command, killed=False, statuses={0, 1}, sentences=files)
        return done, hit
    out.mkdir()
    processes = [start(command.words(out))]
    time.sleep(rng.uniform(0, 0.3) * seconds)
    processes.append(start(command.words(out)))
    both = [end(process) for process in processes]
    for done in both:
        check(done, out, reference, command, killed=False, statuses={0, 1}, sentences=files)
    for done in both:
        sentences = [line for line in done.stderr.splitlines() if line.startswith("neurocodec: ")]
        if "Traceback" in done.stderr or any("exists" not in line and "another" not in line for line in sentences):
            done.problems.append(f"stderr: {done.stderr[-300:]!r}")
    if set(tree(reference)) - set(tree(out)):
        both[0].problems.append("outputs are missing")
    return Done(both[1].status, both[1].stderr, both[0].problems + both[1].problems), True


def main(argv: Sequence[str] | None = None) -> int:
    """Runs everything and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=lambda text: text.split(","), metavar="A,B", help="instead of all")
    parser.add_argument("--faults", type=lambda text: text.split(","), default=FAULTS, metavar="A,B")
    parser.add_argument("--runs", type=int, default=5, help="runs with each kind of fault (5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the folders of failures there")
    args = parser.parse_args(argv)

    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans stay visible
    failures = 0
    print("| command | fault | runs | hit | exit statuses | failures |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        make_data(base / "data")
        all_commands = commands(base / "data")
        for title in args.commands or all_commands:
            command, reference = all_commands[title], base / "reference" / title.replace(" ", "-")
            reference.mkdir(parents=True)
            began = begun(process := start(command.words(reference)))
            if (done := end(process)).status:
                print(f"{title} does not work: {done.stderr}", file=sys.stderr)
                return 2
            seconds = time.monotonic() - began
            for fault in args.faults:
                rng = random.Random(f"{args.seed} {title} {fault}")
                runs = 1 if fault == "read-only" else args.runs
                statuses: Counter[int] = Counter()
                hits = failed = 0
                for run in range(runs):
                    out = base / "out" / f"{title}-{fault}-{run}".replace(" ", "-")
                    out.parent.mkdir(exist_ok=True)
                    done, hit = disturbed(command, fault, out, reference, seconds, rng)
                    statuses[done.status] += 1
                    hits += hit
                    failed += bool(done.problems)
                    for problem in done.problems:
                        print(f"{title}, {fault}, run {run}: {problem}", file=sys.stderr, flush=True)
                    if done.problems and args.keep and out.exists():
                        shutil.copytree(out, args.keep / out.name, dirs_exist_ok=True)
                    shutil.rmtree(out, ignore_errors=True)
                shown = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
                print(f"| {title} | {fault} | {runs} | {hits} | {shown} | {failed} |", flush=True)
                failures += failed
    print(f"{failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
