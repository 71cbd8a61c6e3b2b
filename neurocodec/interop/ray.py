"""Large collections on a cluster, with Ray Data: every worker loads the model once and writes its own files.

    from neurocodec.interop import ray
    summary = ray.encode_folder("/shared/photos", "/shared/nic", quality=50)

Source and output lie on a file system that all machines mount under the same path; neurocodec, and the model, are
installed on all of them. The rules are those of `neurocodec encode DIR`: the output mirrors the source, and existing
.nic files are skipped, so that the same call continues a run that stopped.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neurocodec import collection
from neurocodec.errors import ConfigError, MissingPackageError, NeurocodecError, OutputError, one_line, sentence
from neurocodec.workers import limit_threads

if TYPE_CHECKING:
    from types import ModuleType

_MOST_BLOCKS = 10_000
"""In collections up to this size, a worker takes one picture at a time."""


@dataclass(frozen=True)
class Summary:
    """What happened to a collection.

    encoded, skipped: number of pictures. failed: one sentence for each source. bytes, seconds: total size of the files
    that were encoded, and the time it took all workers together.
    """

    encoded: int = 0
    skipped: int = 0
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
    """Encodes every picture in a folder and its subfolders to .nic files in `output`, which mirrors the folder.

    workers: number of processes in the cluster; by default as many as its CPUs (GPUs, for device cuda) allow.
    cpus_per_worker: CPUs, and threads, of each. model, device, quality, target_bpp, target_bytes, target_psnr: as for
    `neurocodec.encode`; a target replaces the quality. The cluster is the one that `ray.init` has joined, or the one
    that Ray finds or starts.

    A picture that fails does not stop the others. Raises MissingPackageError without Ray Data, ConfigError for an
    argument out of range or a source that is not a folder, what `neurocodec.model.load` raises, and
    NeurocodecError if Ray itself fails; the same call then continues.
    """
    source, output = os.path.abspath(source), os.path.abspath(output)
    if not os.path.isdir(source):
        raise ConfigError(f"{source} is not a folder, expected a folder of pictures: check the name")
    if cpus_per_worker < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"found {workers} workers of {cpus_per_worker} processors, expected at least 1 of each")
    options = _rate_options(quality, target_bpp=target_bpp, target_bytes=target_bytes, target_psnr=target_psnr)
    ray = _package()
    jobs = collection.plan([source], output, force=force)
    waiting = [job for job in jobs if not job.problem and not job.skip]
    failed = {job.source: job.problem for job in jobs if job.problem}
    encoded, size, seconds = 0, 0, 0.0
    if waiting:
        from neurocodec import model as model_files

        if os.fspath(model).endswith(".safetensors"):
            model = os.path.abspath(model)
        model_files.load(os.fspath(model))  # one error now, not one for each worker
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
                    compute=ray.data.ActorPoolStrategy(  # one at a time: others would be lost with a worker that dies
                        size=count, max_tasks_in_flight_per_actor=1
                    ),
                    max_task_retries=1,  # of a worker that died; Ray's default is unlimited
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
                reason = one_line(error)[-300:]
                raise NeurocodecError(
                    f"Ray stopped after {encoded} pictures ({reason}): the same call continues"
                ) from error
        failed |= {
            name: f"{name}: its worker died, perhaps for lack of memory: try a machine with more"
            for name in sorted(unknown)
        }
    return Summary(encoded, sum(job.skip for job in jobs), failed, size, seconds)


def _rate_options(quality: float, **targets: float | None) -> dict[str, float]:
    """Keyword arguments of `neurocodec.encode`: the target, if one is given, else the quality. Raises ConfigError."""
    given = {name: target for name, target in targets.items() if target is not None}
    if not 1 <= quality <= 100 or len(given) > 1:
        raise ConfigError(f"found the quality {quality} or several targets, expected 1 to 100, or one target")
    return given or {"quality": quality}


class _Encoder:
    """A worker: loads the model once; then, for each row of source and target, writes the file and returns a report."""

    def __init__(self, model: str, device: str, threads: int, options: dict[str, Any], force: bool) -> None:
        from neurocodec import model as model_files

        limit_threads(threads)
        self._options, self._force = options | {"model": model_files.load(model), "device": device}, force

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import neurocodec

        source, started, size, problem = row["source"], time.perf_counter(), 0, ""
        try:
            if not self._force and collection.is_nic(row["target"]):  # by a worker that died before it could report it
                size = os.path.getsize(row["target"])
            else:
                data = neurocodec.encode(source, **self._options)
                collection.write(collection.Job(source, row["target"]), data, force=self._force)
                size = len(data)
        except Exception as error:  # the other pictures go on
            problem = sentence(error, "" if isinstance(error, OutputError) else source)
        return {"source": source, "bytes": size, "seconds": time.perf_counter() - started, "problem": problem}


@contextlib.contextmanager
def _lost_blocks_allowed(ray: ModuleType) -> Iterator[None]:
    """Pictures whose worker died are missing from the rows, and do not stop the others."""
    context = ray.data.DataContext.get_current()
    before = context.max_errored_blocks
    context.max_errored_blocks = -1
    try:
        yield
    finally:
        context.max_errored_blocks = before


def _capacity(ray: ModuleType, needs: dict[str, int]) -> int:
    """The number of workers that the cluster has room for, at least one."""
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
