"""neurocodec bench: rate and distortion, or speed, beside other codecs and coders; measured on real files only."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurocodec import files
from neurocodec.cli import options

if TYPE_CHECKING:
    from neurocodec.bench.codecs import Codec


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "bench", help="measure against other codecs", description=__doc__, allow_abbrev=False
    )
    kinds = parser.add_subparsers(title="measurements", metavar="KIND", dest="kind", required=True)
    rd = kinds.add_parser(
        "rd",
        help="rate and distortion: results.json, table.md, rd.png, rd.svg, report.html",
        description="Rate and distortion of real files. What DIR/results.json holds already is not measured again.",
        allow_abbrev=False,
    )
    add_rd_options(rd)
    speed = kinds.add_parser(
        "speed",
        help="seconds and memory to encode and to decode, by stage and by size",
        description="Seconds and peak memory to encode and to decode, each codec in a process of its own, all near the "
        "same bits per pixel. CompressAI networks without their weights take random ones, and are named so.",
        allow_abbrev=False,
    )
    add_speed_options(speed)
    coder = kinds.add_parser(
        "coder",
        help="symbols a second of the range coder, constriction and compressai's ans",
        description="Symbols a second and bytes of the range coder, constriction and compressai's ans.",
        allow_abbrev=False,
    )
    add_coder_options(coder)


def add_rd_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench rd`."""
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME|DIR",
        help="kodak or clic2025-validation, or a folder of pictures, which are measured as 8-bit RGB without alpha",
    )
    parser.add_argument(
        "--codecs",
        type=_words,
        default=["nic", "jpeg", "webp"],
        metavar="A,B",
        help="of nic, jpeg, jpeg-444, mozjpeg, webp, avif, avif-psnr, heic, bpg, jxl and jpeg2000; nic:MODEL is "
        "another model, by name or file, nic@R and nic:MODEL@R are decoded with realism R, cai:NAME is one of "
        "CompressAI's; all stands for those before (nic,jpeg,webp)",
    )
    parser.add_argument("--images", type=options.integer(1), metavar="N", help="only the first N pictures")
    parser.add_argument(
        "--qualities",
        type=_qualities,
        action="append",
        default=[],
        metavar="[CODEC=]Q,Q",
        help="instead of a codec's own list; without a name, for all whose setting is a quality of 1 to 100",
    )
    parser.add_argument(
        "--anchors",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE|DIR",
        help="curves measured elsewhere or published, JSON; of a folder, all in it",
    )
    parser.add_argument(
        "--against",
        type=_words,
        default=[],
        metavar="A,B",
        help="curves to give BD-rates against, besides JPEG and BPG",
    )
    parser.add_argument("--dists", action="store_true", help="also DISTS")
    parser.add_argument(
        "--fid", action="store_true", help="also FID/256 and KID/256, or the same on another network, under its name"
    )
    parser.add_argument(
        "--gallery",
        type=options.integer(0),
        default=3,
        metavar="N",
        help="pictures to show crops of in report.html (3)",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch the data set, and weights for LPIPS (244 MB), DISTS (553 MB), FID (96 MB)",
    )
    options.add_model_option(parser)
    parser.add_argument("-j", "--jobs", type=options.integer(1), default=1, metavar="N", help="processes (1)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the results; made if it is missing"
    )
    parser.set_defaults(run=run_rd)


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench speed`."""
    codecs = "nic,jpeg,webp,avif,jxl,bpg,heic,cai:bmshj2018-hyperprior,cai:mbt2018-mean"
    parser.add_argument(
        "--codecs", type=_words, default=codecs.split(","), metavar="A,B", help=f"as for rd ({codecs}, if installed)"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default="0.25,1,6,24",
        metavar="S,S",
        help="megapixels, 3 to 2, or width by height such as 768x512 (0.25,1,6,24)",
    )
    parser.add_argument("--threads", type=_counts, default=[1], metavar="N,N", help="numbers of threads (1)")
    parser.add_argument(
        "--bpp", type=options.number(0, above=True), default=0.7, metavar="B", help="bits per pixel (0.7)"
    )
    parser.add_argument("--repeats", type=options.integer(1), default=5, metavar="N", help="runs of each (5)")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="pixels to fill each size with (the bundled photograph)"
    )
    options.add_model_option(parser)
    options.add_device_option(parser)
    _add_output_options(parser)
    parser.set_defaults(run=run_speed)


def add_coder_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench coder`."""
    parser.add_argument(
        "--count", type=options.integer(1), default=1 << 20, metavar="N", help="Gaussian symbols of each set (2^20)"
    )
    parser.add_argument(
        "--symbols",
        type=Path,
        metavar="FILE.npz",
        help="instead: a file with the arrays symbols, indexes, frequencies, offsets and lengths",
    )
    parser.add_argument("--repeats", type=options.integer(1), default=15, metavar="N", help="runs of each (15)")
    _add_output_options(parser)
    parser.set_defaults(run=run_coder)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write the results there")
    options.add_force_option(parser)


def run_rd(args: argparse.Namespace) -> int:
    """Measures, writes results.json, table.md, rd.png, rd.svg and report.html, and prints the BD-rates.

    Raises NeurocodecError.
    """
    from neurocodec.bench import codecs, curves, datasets, gallery, measures, rate_distortion, report, tables
    from neurocodec.errors import ConfigError
    from neurocodec.packages import require

    names = [found for name in args.codecs for found in (codecs.NAMES if name == "all" else [name])]
    chosen, not_installed = codecs.installed(names, model=args.model)
    settings = _settings(args.qualities, chosen, not_installed)
    dataset = datasets.load_dataset(args.dataset, args.images, download=args.download)
    for module, package in (("matplotlib", "Matplotlib"), ("scipy", "SciPy")):
        require(module, package, "the report")  # now, rather than after the work
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file, expected a folder for the results: name another with -o")
    output = args.output / "results.json"
    if not output.exists() and (others := [name for name in report.FILES if (args.output / name).exists()]):
        raise ConfigError(f"{args.output} holds {others[0]} but no results.json: name another folder with -o")
    earlier = rate_distortion.load(output)["codecs"] if output.exists() else {}
    known = dict.fromkeys([*(codec.name for codec in chosen), *earlier])
    curves.check_names(dataset, known, args.anchors, args.against)
    taken, not_available = measures.available(dists=args.dists, patches=args.fid, download=args.download)
    for name, why in [*not_installed.items(), *not_available.items()]:
        print(f"left out: {name}: {why}", file=sys.stderr)

    results = rate_distortion.run(
        dataset,
        chosen,
        output,
        settings=settings,
        processes=args.jobs,
        command=_command(),
        measures=taken,
        not_installed=not_installed,
        not_available=not_available,
    )
    results = curves.summarise(results, args.anchors, args.against)
    rate_distortion.save(results, output)
    shown = measures.Measures(lpips=taken.lpips)
    panels = gallery.panels(results, dataset, chosen, pictures=args.gallery, measures=shown)
    asked = min(args.gallery, len(dataset.pictures)) * len(gallery.TARGETS)
    if len(panels) < asked:
        print(f"left out: {asked - len(panels)} of {asked} panels of crops: too large for a page", file=sys.stderr)
    text = report.write(results, args.output, panels)
    wanted = ("BD-rate", *results.get("patches", {}).get("names", ())[:1], "Notes")
    sections = [section for section in text.split("\n## ") if section.startswith(wanted)]
    told = [*tables.missing_lines(results), *("## " + section.rstrip() + "\n" for section in sections)]
    print("\n".join(told) if sections else text)
    print(f"{args.output}: results.json, table.md, rd.png, rd.svg, report.html")
    return 0


def run_speed(args: argparse.Namespace) -> int:
    """Measures and prints a table, and writes the results where -o says. Raises NeurocodecError."""
    if args.output is not None:
        files.check_output(args.output, force=args.force)

    from importlib import resources

    from neurocodec.bench import speed

    with (
        resources.as_file(resources.files("neurocodec") / "data" / "astronaut.png") as photo,
        speed.choose(args.codecs, model=args.model, picture=args.picture or photo, bpp=args.bpp) as (chosen, missing),
    ):
        results = speed.run(
            chosen,
            args.sizes,
            threads=args.threads,
            bpp=args.bpp,
            repeats=args.repeats,
            picture=args.picture or photo,
            device=args.device,
            command=_command(),
            missing=missing,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(speed.table(results))
    _write(results, args)
    return 0


def run_coder(args: argparse.Namespace) -> int:
    """Measures, prints rows as they come, and writes the results where -o says. Raises NeurocodecError."""
    if args.output is not None:
        files.check_output(args.output, force=args.force)

    from neurocodec.bench import coder_speed

    samples = [coder_speed.read(args.symbols)] if args.symbols else coder_speed.drawn(args.count)
    results = coder_speed.run(
        samples, repeats=args.repeats, command=_command(), progress=lambda line: print(line, flush=True)
    )
    _write(results, args)
    return 0


def _write(results: dict[str, Any], args: argparse.Namespace) -> None:
    """The results where -o says."""
    if args.output is None:
        return

    import json

    files.write_bytes(args.output, (json.dumps(results, indent=1) + "\n").encode(), force=args.force)


def _command() -> str:
    """The command line as it can be published: of an absolute path only the last part."""
    words = [re.sub(r"(^|[,:=])/(?:[^,:=]*/)*([^,:=/]+)/?", r"\1\2", word) for word in sys.argv]
    return shlex.join(["neurocodec" if words[0] == "__main__.py" else words[0], *words[1:]])


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list with commas between its words")
    return words


def _qualities(text: str) -> tuple[str, list[float]]:
    """CODEC=Q,Q or Q,Q, whose name is empty."""
    name, _, numbers = text.rpartition("=")
    number = options.number(0)
    try:
        return name, [number(word) for word in _words(numbers)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 20,50 or jpeg=20,50") from error


def _settings(
    given: Sequence[tuple[str, list[float]]], chosen: Sequence[Codec], not_installed: Mapping[str, str]
) -> dict[str, list[float]]:
    """The settings asked for, by codec; lists for one codec are joined.

    Raises ConfigError for a name that is not among the codecs, and for a list that none of them would take.
    """
    from neurocodec.bench.codecs import has_common_quality
    from neurocodec.errors import ConfigError

    names = [codec.name for codec in chosen]
    common = [codec.name for codec in chosen if has_common_quality(codec)]
    shared: dict[str, list[float]] = {}
    own: dict[str, list[float]] = {}
    for name, numbers in given:
        if name and name not in names and name not in not_installed:
            raise ConfigError(f"found --qualities {name}=..., expected one of the codecs {', '.join(names)}")
        if not name and not common:
            raise ConfigError(
                f"found --qualities without a codec, and none of {', '.join(names)} has qualities of 1 to 100: "
                f"give {names[0]}=..."
            )
        for taker in [name] if name else common:
            (own if name else shared).setdefault(taker, []).extend(numbers)
    return shared | own


def _counts(text: str) -> list[int]:
    count = options.integer(1)
    return [count(word) for word in _words(text)]


def _sizes(text: str) -> list[tuple[int, int]]:
    """Widths and heights, from WxH or megapixels, 3 to 2."""
    sizes = []
    try:
        for word in _words(text):
            width, cross, height = word.lower().partition("x")
            side = round(math.sqrt(float(width) * 1e6 / 1.5)) if not cross else int(height)
            sizes.append((int(width) if cross else round(1.5 * side), side))
    except (ValueError, OverflowError):
        sizes = []
    if not sizes or min(min(size) for size in sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no list of sizes, such as 0.25,6 or 768x512,1920x1080")
    return sizes
