"""Compiles the CUDA range coder and reports what each kernel costs: `make cuda-check`.

For each architecture: registers, spills and shared memory as ptxas gives them, the occupancy that follows, and an
ESTIMATE of speed from the number of instructions in the loop over symbols. Fails if the kernels that decode spill.
Nothing here needs a GPU, and nothing here was measured on one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "csrc" / "cuda" / "range_coder.cu"
THREADS = 256  # of a block: kThreads
WARP = 32
TABLES_BYTES = 46_912
"""Shared memory for the tables of `base`."""
KERNELS = ("decode_kernel", "encode_kernel", "pack_kernel", "crc32_kernel")
SEARCH_STEPS = 3
"""Steps of bisection within a bucket: 1 for sharp rows, up to 5 for the flattest; a warp waits for its slowest lane."""
CYCLES_ALONE = 6
"""Cycles an instruction, of a warp that has a scheduler for itself: most depend on the one before."""


@dataclass(frozen=True)
class Gpu:
    """Limits of a multiprocessor, from the CUDA C++ programming guide, and of a product with such chips."""

    name: str
    registers: int
    threads: int
    blocks: int
    shared: int
    processors: int
    boost_hz: float


GPUS = {
    "sm_80": Gpu("A100", 65536, 2048, 32, 164 << 10, 108, 1.41e9),
    "sm_90": Gpu("H100 SXM", 65536, 2048, 32, 228 << 10, 132, 1.83e9),
}
SCHEDULERS = 4  # of a multiprocessor: each issues one instruction of a warp a cycle


@dataclass(frozen=True)
class Kernel:
    """What ptxas says, and what follows."""

    architecture: str
    name: str
    registers: int
    spills: int
    shared: int
    warps: int  # resident on a multiprocessor
    occupancy: float
    limit: str
    instructions: int | None  # of a warp, for a round of the loop over symbols: one symbol a lane


def find_nvcc() -> str:
    """nvcc as the packages nvidia-cuda-* of PyPI install it, in the environment of this Python."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for nvcc in sorted(Path(folder).glob("*/bin/nvcc")):
            return str(nvcc)
    raise SystemExit("cuda_report: nvcc is not installed in this environment.")


def compile_for(nvcc: str, architecture: str, out: Path) -> tuple[Path, str]:
    """The cubin of an architecture, and the report of ptxas."""
    cubin = out / f"range_coder.{architecture}.cubin"
    number = architecture.removeprefix("sm_")
    process = subprocess.run(
        [nvcc, "-std=c++17", "-O3", f"-gencode=arch=compute_{number},code={architecture}", "-cubin", "-Xptxas", "-v",
         "-I", str(ROOT / "csrc"), str(SOURCE), "-o", str(cubin)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        raise SystemExit(f"cuda_report: nvcc failed for {architecture}\n{process.stderr}")
    return cubin, process.stderr


def kernels(report: str, cubin: Path, disassembler: str, architecture: str) -> list[Kernel]:
    """The kernels of a cubin."""
    gpu, result = GPUS[architecture], []
    sass = subprocess.run([disassembler, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    pattern = r"function '(\S+)' for.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    for symbol, stores, loads, registers in re.findall(pattern, report, re.DOTALL):
        name = next(known for known in KERNELS if known in symbol)
        in_shared = "Lb1" in symbol
        shared = TABLES_BYTES if in_shared else 4096 if name == "crc32_kernel" else 0
        warps, limit = occupancy(gpu, int(registers), shared)
        where_tables = (", tables in shared memory" if in_shared else ", tables in global memory") * ("Lb" in symbol)
        loop = loop_of(sass, symbol) if name in ("decode_kernel", "encode_kernel") else None
        result.append(
            Kernel(
                architecture, name + where_tables, int(registers), int(stores) + int(loads), shared, warps,
                warps * WARP / gpu.threads, limit, loop,
            )
        )  # fmt: skip
    return sorted(result, key=lambda kernel: kernel.name)


def loop_of(sass: str, symbol: str) -> int:
    """Instructions of a warp for a round of its loop: no escapes, words enough, SEARCH_STEPS steps of bisection."""
    body = sass.split(f".text.{symbol}:", 1)[1].split("\t.section", 1)[0]
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            code.append(instruction[1].strip())
    jumps = [
        (i, labels[target[1]])
        for i, text in enumerate(code)
        if (target := re.search(r"\bBRA `\((\.L_x_\d+)\)", text)) and target[1] in labels
    ]

    def count(first: int, last: int, *operations: str) -> int:
        return sum(any(operation in text for operation in operations) for text in code[first:last])

    end = code.index("EXIT")  # what follows was moved out of line
    loops = [(target, i + 1) for i, target in jumps if target <= i < end]
    # The innermost loop with two ballots.
    first, last = min((span for span in loops if count(*span, "VOTE") >= 2), key=lambda span: span[1] - span[0])
    rare: set[int] = set()
    for i, target in jumps:
        if first <= i < target <= last and code[i].startswith("@") and count(i + 1, target, "VOTE", "SHFL"):
            rare.update(range(i + 1, target))
    instructions = last - first - len(rare)
    for begin, end in loops:
        if first < begin and end < last and begin not in rare:
            instructions += (SEARCH_STEPS - 1) * (end - begin)
    return instructions


def occupancy(gpu: Gpu, registers: int, shared: int) -> tuple[int, str]:
    """Resident warps of a multiprocessor, and what limits them. Registers are given to warps in units of 256."""
    per_warp = -(-registers * WARP // 256) * 256
    limits = {
        "threads": gpu.threads // THREADS,
        "registers": gpu.registers // (per_warp * THREADS // WARP),
        "shared memory": gpu.shared // (shared + 1024) if shared else gpu.blocks,  # 1 KiB is the system's
        "blocks": gpu.blocks,
    }
    limit = min(limits, key=lambda name: limits[name])
    return limits[limit] * THREADS // WARP, limit


def estimates(kernel: Kernel) -> dict[str, float] | None:
    """Symbols a second: at most, if every scheduler issues in every cycle, and with 128 warps (4,096 lanes) alone."""
    if kernel.instructions is None:
        return None
    gpu = GPUS[kernel.architecture]
    bound = gpu.processors * SCHEDULERS * gpu.boost_hz * WARP / kernel.instructions
    return {
        "bound": bound,
        "at_4096_lanes": min(bound, 128 * WARP * gpu.boost_hz / (kernel.instructions * CYCLES_ALONE)),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", metavar="FILE", help="by default that of the packages nvidia-cuda-* of this Python")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/cuda"), metavar="DIR", help="for the cubins")
    args = parser.parse_args()
    nvcc = args.nvcc or find_nvcc()
    args.output.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    print(
        "nvcc "
        + re.search(r"V([\d.]+)", version)[1]
        + "; speeds are ESTIMATES from instruction counts, not measurements"
    )
    print(f"{'':8}{'kernel':42}{'registers':>10}{'spills':>8}{'shared':>8}{'warps':>7}{'occupancy':>11}  limit")
    rows, failed = [], False
    for architecture in GPUS:
        cubin, report = compile_for(nvcc, architecture, args.output)
        for kernel in kernels(report, cubin, str(Path(nvcc).with_name("nvdisasm")), architecture):
            rows.append(asdict(kernel) | {"estimates": estimates(kernel)})
            failed |= kernel.spills > 0 and kernel.name.startswith("decode")
            print(
                f"{architecture:8}{kernel.name:42}{kernel.registers:10}{kernel.spills:8}{kernel.shared:8}{kernel.warps:7}"
                f"{kernel.occupancy:11.1%}  {kernel.limit}"
            )
    print(f"{'':8}{'kernel':42}{'instructions for 32 symbols':>30}{'bound, G/s':>12}{'4,096 lanes, G/s':>18}")
    for row in rows:
        if guess := row["estimates"]:
            print(
                f"{row['architecture']:8}{row['name']:42}{row['instructions']:30}{guess['bound'] / 1e9:12.0f}"
                f"{guess['at_4096_lanes'] / 1e9:18.1f}"
            )
    (args.output / "report.json").write_text(json.dumps(rows, indent=1) + "\n")
    if failed:
        sys.exit("cuda_report: a kernel that decodes spills registers to memory.")


if __name__ == "__main__":
    main()
