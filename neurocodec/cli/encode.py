"""neurocodec encode: pictures, or whole folders of them, to .nic files."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import time
from typing import Any

from neurocodec import collection
from neurocodec.cli import batch, options
from neurocodec.collection import Job
from neurocodec.container import describe
from neurocodec.workers import available_cores, map_in_order


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "encode",
        help="pictures to .nic files",
        description="Pictures, or whole folders of them, to .nic files. OUT mirrors the input folder; existing .nic "
        "files in it are skipped, so that a run can be continued.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="+", metavar="IN", help="pictures that Pillow can read, or folders of them")
    parser.add_argument(
        "-o",
        "--output",
        type=options.file_name,
        metavar="OUT",
        help="file, or folder for several inputs or a folder (next to IN)",
    )
    options.add_rate_options(parser)
    options.add_force_option(parser)
    parser.add_argument(
        "-j", "--jobs", type=options.integer(1), default=1, metavar="N", help="processes, which share the cores (1)"
    )
    options.add_model_option(parser)
    options.add_device_option(parser)
    parser.add_argument(
        "--layout", choices=("cpu", "gpu"), default="cpu", help="gpu: decodes faster on a GPU, 1 to 2 %% larger (cpu)"
    )
    parser.set_defaults(run=run, more="inputs")


def run(args: argparse.Namespace) -> int:
    """Encodes the inputs; a problem with one does not stop the others. Returns 1 if there was one, else 0.

    Raises NeurocodecError if nothing can be encoded.
    """
    jobs = collection.plan(args.inputs, args.output, force=args.force)
    sources = [job.source for job in jobs if not job.problem and not job.skip]
    processes = max(1, min(args.jobs, len(sources)))
    if sources:
        from neurocodec import model as model_files

        # Now, so that a missing model is one error rather than one for each picture.
        model_files.load(args.model)

    encode = functools.partial(encode_file, keywords=options.encode_options(args) | {"layout": args.layout})
    start = functools.partial(_set_threads, max(1, available_cores() // processes))

    def work(job: Job) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        data, seconds = outcome
        collection.write(job, data, force=args.force)
        info = describe(data)
        return f"{job.target}: {info.bytes:,} bytes, {info.bpp:.3f} bpp, {seconds:.2f} s"

    with contextlib.closing(map_in_order(encode, sources, processes, start)) as outcomes:
        problems = batch.run_jobs(jobs, work)
    if any(map(os.path.isdir, args.inputs)):
        skipped = sum(job.skip for job in jobs)
        print(f"{len(jobs) - skipped - problems:,} encoded, {skipped:,} skipped, {problems:,} failed", flush=True)
    return int(problems > 0)


def encode_file(source: str, keywords: dict[str, Any]) -> tuple[bytes, float]:
    """The .nic file of a picture file, and the seconds that encoding took. keywords: as for `neurocodec.encode`.

    Writes nothing, so that a worker can be ended at any time. Raises what `neurocodec.encode` raises.
    """
    import neurocodec

    started = time.perf_counter()
    allow_large_pictures()
    return neurocodec.encode(source, **keywords), time.perf_counter() - started


def allow_large_pictures() -> None:
    """Lets Pillow read pictures as large as the codec's limit; its own is a third of that.

    Pillow's limit guards against hostile files; whoever names files on a command line trusts them.
    """
    from PIL import Image

    from neurocodec.codec import MAX_PIXELS

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
