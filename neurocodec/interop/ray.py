"""Large collections on a cluster, with Ray Data: every worker loads the model once and writes its own files.

    from neurocodec.interop import ray
    summary = ray.encode_folder("/shared/photos", "/shared/nic", quality=50)

All machines mount the file system of source and output under the same path, and have neurocodec and the model
installed. The rules are those of `neurocodec encode DIR`: the output mirrors the input folder, and existing .nic files
are skipped, so that the same call continues an interrupted run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurocodec import collection
from neurocodec.errors import ConfigError, ImageError, MissingPackageError, NeurocodecError

if TYPE_CHECKING:
    from types import ModuleType

_MOST_BLOCKS = 10_000
"""In collections of up to this many pictures, a worker takes one at a time."""


@dataclass(frozen=True)
class Summary:
    """The result for a collection. there_already: skipped because they exist. failed: source -> one sentence.
    bytes, seconds: of the pictures encoded by this call, summed over all workers."""

    encoded: int = 0
    there_already: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0


def encode_folder(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    workers: int | None = None,
    cpus_per_worker: int = 1,
    force: bool = False,
    model: str | os.PathLike[str] = "base",
    device: str = "cpu",
    quality: float = 50,
    target_bpp: float | None = None,
    target_bytes: int | None = None,
    target_psnr: float | None = None,
) -> Summary:
    """Encodes every picture below a folder into the same tree of .nic files below `output`.

    workers: processes in the cluster; by default as many as it has processors for (GPUs, for device cuda).
    cpus_per_worker: processors and threads of each worker. quality, target_bpp, target_bytes, target_psnr: as for
    `neurocodec.encode`. Uses the cluster that `ray.init` joined before the call, else the one that Ray finds or
    starts.

    A picture that fails does not stop the others. Raises MissingPackageError without Ray Data, ConfigError for numbers
    out of range and for a source that is not a folder, what `neurocodec.checkpoint.load` raises where the model is
    not installed, and NeurocodecError if Ray itself gives up, after which the same call goes on.
    """
    source, output = os.path.abspath(source), os.path.abspath(output)
    if not os.path.isdir(source):
        raise ConfigError(f"{source} is not a folder, expected a folder of pictures: check the name")
    if cpus_per_worker < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"found {workers} workers of {cpus_per_worker} processors, expected at least 1 of each")
    if not 1 <= quality <= 100 or sum(t is not None for t in (target_bpp, target_bytes, target_psnr)) > 1:
        raise ConfigError(f"found the quality {quality} or several targets, expected 1 to 100, or one target")
    ray = _package()
    jobs = collection.plan([source], output, force=force)
    waiting = [job for job in jobs if not job.problem and not job.done]
    failed = {job.source: job.problem for job in jobs if job.problem}
    encoded, size, seconds = 0, 0, 0.0
    if waiting:
        from neurocodec import checkpoint

        if os.fspath(model).endswith(".safetensors"):
            model = os.path.abspath(model)
        checkpoint.load(os.fspath(model), device="cpu")  # one error now, not one for each worker
        options = {
            "quality": quality,
            "target_bpp": target_bpp,
            "target_bytes": target_bytes,
            "target_psnr": target_psnr,
        }
        needs = {"num_cpus": cpus_per_worker} | ({"num_gpus": 1} if device == "cuda" else {})
        count = min(workers or _capacity(ray, needs), len(waiting))
        unknown = {job.source for job in waiting}
        with _lost_blocks_allowed(ray):
            rows = (
                ray.data.from_items(
                    [{"source": job.source, "target": job.target} for job in waiting],
                    override_num_blocks=min(len(waiting), _MOST_BLOCKS),
                )
                .map(
                    _Encoder,
                    fn_constructor_args=(os.fspath(model), device, cpus_per_worker, options, force),
                    compute=ray.data.ActorPoolStrategy(size=count),
                    max_task_retries=1,  # after a worker ended; by default Ray retries forever
                    **needs,
                )
                .iter_rows()
            )
            try:
                for row in rows:
                    unknown.discard(row["source"])
                    if row["problem"]:
                        failed[row["source"]] = row["problem"]
                    else:
                        encoded, size, seconds = encoded + 1, size + row["bytes"], seconds + row["seconds"]
            except ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[-300:]
                raise NeurocodecError(
                    f"Ray stopped after {encoded} pictures ({reason}): the same call continues"
                ) from error
        failed |= {
            name: f"{name}: its worker ended, perhaps for lack of memory: try it on a machine with more"
            for name in sorted(unknown)
        }
    return Summary(encoded, sum(job.done for job in jobs), failed, size, seconds)


class _Encoder:
    """A worker: loads the model once, then encodes one picture per row of source and target, and returns a row about it."""

    def __init__(self, model: str, device: str, threads: int, options: dict[str, Any], force: bool) -> None:
        import torch

        from neurocodec import checkpoint

        torch.set_num_threads(threads)
        self._model = checkpoint.load(model, device=device)
        self._options, self._force = options, force

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import neurocodec

        source, started, size, problem = row["source"], time.perf_counter(), 0, ""
        try:
            if collection.is_nic(source):
                raise ImageError(f"{source} is already a .nic file, expected a picture: decode it first")
            if not self._force and collection.is_nic(
                row["target"]
            ):  # by a worker that ended before it reported the file
                size = os.path.getsize(row["target"])
            else:
                data = neurocodec.encode(source, model=self._model, **self._options)
                collection.write(collection.Job(source, row["target"]), data, force=self._force)
                size = len(data)
        except Exception as error:  # the other pictures go on
            text = " ".join(str(error).split()) or type(error).__name__
            problem = text if source in text else f"{source}: {text}"
        return {"source": source, "bytes": size, "seconds": time.perf_counter() - started, "problem": problem}


@contextlib.contextmanager
def _lost_blocks_allowed(ray: ModuleType) -> Iterator[None]:
    """Lets the run continue without the rows of workers that ended."""
    context = ray.data.DataContext.get_current()
    before = context.max_errored_blocks
    context.max_errored_blocks = -1
    try:
        yield
    finally:
        context.max_errored_blocks = before


def _capacity(ray: ModuleType, needs: dict[str, int]) -> int:
    """The number of workers that the cluster has room for, at least 1."""
    if not ray.is_initialized():
        ray.init()
    resources = ray.cluster_resources()
    keys = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return max(1, min(int(resources.get(keys[need], 0) // count) for need, count in needs.items()))


def _package() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(f"Ray Data cannot be imported ({error}): pip install 'neurocodec[ray]'") from error
    module: ModuleType = ray
    return module
