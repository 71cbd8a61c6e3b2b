"""neurocodec encode: pictures, or whole folders of them, to .nic files."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import sys
import time
import warnings
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
    parser.add_argument(
        "--effort",
        type=int,
        choices=range(1, 11),
        default=1,
        metavar="E",
        help="1 to 10; above 1 the encoder searches for better latents: smaller files, minutes of work (1)",
    )
    options.add_force_option(parser)
    parser.add_argument(
        "-j", "--jobs", type=options.integer(1), default=1, metavar="N", help="processes, which share the cores (1)"
    )
    options.add_model_option(parser)
    options.add_device_option(parser)
    options.add_limit_option(parser)
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
        from neurocodec.integer.network import check_encodes

        # Now, so that a model that is missing or cannot encode is one error rather than one for each picture.
        check_encodes(model_files.load(args.model))

    encode = functools.partial(encode_file, keywords=_keywords(args))
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


def _keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `neurocodec.encode`. A search in this process shows a bar on a terminal, with tqdm."""
    keywords = options.encode_options(args) | {"effort": args.effort}
    if args.effort > 1 and args.jobs == 1 and sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
        keywords["progress"] = _SearchBar()
    return keywords


class _SearchBar:
    """A bar for each search; called with the share that is done."""

    _bar: Any = None

    def __call__(self, share: float) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=1, leave=False, bar_format="search {percentage:3.0f} %|{bar}| {elapsed}<{remaining}")
        self._bar.update(share - self._bar.n)
        if share >= 1:
            self._bar.close()
            self._bar = None


def encode_file(source: str, keywords: dict[str, Any]) -> tuple[bytes, float]:
    """The .nic file of a picture file, and the seconds that encoding took. keywords: as for `neurocodec.encode`.

    Writes nothing, so that a worker can be ended at any time. Raises what `neurocodec.encode` raises.
    """
    import neurocodec

    started = time.perf_counter()
    allow_large_pictures(keywords["max_pixels"])
    return neurocodec.encode(source, **keywords), time.perf_counter() - started


def allow_large_pictures(max_pixels: int) -> None:
    """Replaces Pillow's limit on pixels, and its warning, by the codec's: one limit for everything."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _set_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
