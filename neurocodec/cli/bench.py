"""neurocodec bench: rate and distortion, or speed, beside other codecs; measured on real files only."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from neurocodec.cli import files


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "bench", help="measure against other codecs", description=__doc__, allow_abbrev=False
    )
    kinds = parser.add_subparsers(title="measurements", metavar="KIND", dest="kind", required=True)
    rd = kinds.add_parser(
        "rd",
        help="rate and distortion: results.json, table.md, rd.png, rd.svg",
        description="Rate and distortion of real files. What DIR/results.json holds already is not measured again.",
        allow_abbrev=False,
    )
    add_rd_options(rd)
    speed = kinds.add_parser(
        "speed",
        help="seconds to encode and to decode",
        description="Seconds to encode and to decode in a warm process, all codecs near the same bits per pixel.",
        allow_abbrev=False,
    )
    add_speed_options(speed)


def add_rd_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench rd`."""
    parser.add_argument(
        "--dataset", required=True, metavar="NAME|DIR", help="kodak or clic2025-validation, or a folder of pictures"
    )
    parser.add_argument("--codecs", type=_words, default=["nic", "jpeg", "webp"], metavar="A,B", help="nic,jpeg,webp")
    parser.add_argument("--images", type=files.integer(1), metavar="N", help="only the first N pictures")
    parser.add_argument(
        "--qualities", type=_numbers, metavar="Q,Q", help="for all codecs, instead of each one's own list"
    )
    parser.add_argument(
        "--anchors", nargs="+", default=[], type=Path, metavar="FILE", help="curves measured elsewhere, JSON"
    )
    files.add_model_option(parser)
    parser.add_argument("-j", "--jobs", type=files.integer(1), default=1, metavar="N", help="processes (1)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run_rd)


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench speed`."""
    parser.add_argument("--codecs", type=_words, default=["nic", "jpeg", "webp"], metavar="A,B", help="nic,jpeg,webp")
    parser.add_argument(
        "--sizes", type=_sizes, default=[(768, 512)], metavar="WxH,WxH", help="width by height in pixels (768x512)"
    )
    parser.add_argument("--threads", type=_counts, default=[1], metavar="N,N", help="numbers of threads (1)")
    parser.add_argument(
        "--bpp", type=files.number(0, above=True), default=0.7, metavar="B", help="bits per pixel (0.7)"
    )
    parser.add_argument("--repeats", type=files.integer(1), default=5, metavar="N", help="runs of each (5)")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="pixels to fill each size with (the bundled photograph)"
    )
    files.add_model_option(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write the results there")
    files.add_force_option(parser)
    parser.set_defaults(run=run_speed)


def run(args: argparse.Namespace) -> int:
    """Measures what `args.kind` says. Raises NeurocodecError."""
    return run_rd(args) if args.kind == "rd" else run_speed(args)


def run_rd(args: argparse.Namespace) -> int:
    """Measures, writes results.json, table.md, rd.png and rd.svg, and prints the BD-rates. Raises NeurocodecError."""
    from neurocodec.errors import ConfigError
    from neurocodec.evaluation import codecs, rate_distortion, report
    from neurocodec.metrics.packages import require

    chosen = codecs.create(args.codecs, model=args.model)
    dataset = rate_distortion.load_dataset(args.dataset, args.images)
    for module, package in (("matplotlib", "Matplotlib"), ("scipy", "SciPy")):
        require(module, package, "the report")  # now, rather than after the work
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file, expected a folder for the results: name another with -o")
    for anchor in args.anchors:
        if not anchor.is_file():
            raise ConfigError(f"{anchor}: there is no such anchor file: check the name")

    results = rate_distortion.run(
        dataset,
        chosen,
        args.output / "results.json",
        settings=args.qualities,
        processes=args.jobs,
        command=_command(),
    )
    text = report.write(results, args.output, args.anchors)
    sections = [section for section in text.split("## ") if section.startswith(("BD-rate", "Notes"))]
    print("\n".join(["## " + section.rstrip() + "\n" for section in sections]) or text)
    print(f"{args.output}: results.json, table.md, rd.png, rd.svg")
    return 0


def run_speed(args: argparse.Namespace) -> int:
    """Measures and prints a table, and writes the results where -o says. Raises NeurocodecError."""
    if args.output is not None:
        files.check_output(str(args.output), force=args.force)

    import json
    from importlib import resources

    from neurocodec.evaluation import codecs, speed
    from neurocodec.image import write_bytes_atomic

    with resources.as_file(resources.files("neurocodec.cli") / "astronaut.png") as photo:
        results = speed.run(
            codecs.create(args.codecs, model=args.model),
            args.sizes,
            threads=args.threads,
            bpp=args.bpp,
            repeats=args.repeats,
            picture=args.picture or photo,
            command=_command(),
        )
    print(speed.table(results))
    if args.output is not None:
        write_bytes_atomic(args.output, (json.dumps(results, indent=1) + "\n").encode(), force=args.force)
    return 0


def _command() -> str:
    """The command line as it can be published: of an absolute path only the last part."""
    words = [os.path.basename(word.rstrip("/")) if os.path.isabs(word) else word for word in sys.argv]
    return shlex.join(["neurocodec" if words[0] == "__main__.py" else words[0], *words[1:]])


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list with commas between its words")
    return words


def _numbers(text: str) -> list[float]:
    number = files.number(0)
    return [number(word) for word in _words(text)]


def _counts(text: str) -> list[int]:
    count = files.integer(1)
    return [count(word) for word in _words(text)]


def _sizes(text: str) -> list[tuple[int, int]]:
    try:
        pairs = [word.lower().split("x") for word in _words(text)]
        sizes = [(int(width), int(height)) for width, height in pairs]
    except ValueError:
        sizes = []
    if not sizes or min(min(size) for size in sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no list of sizes, such as 768x512,1920x1080")
    return sizes
