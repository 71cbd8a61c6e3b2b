"""neurocodec bench: rate and distortion, or speed, beside other codecs; measured on real files only."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurocodec import files
from neurocodec.cli import options

if TYPE_CHECKING:
    from neurocodec.bench.rivals import Codec

SPEED_CODECS = "nic,jpeg,webp,avif,jxl,bpg,heic,cai:bmshj2018-hyperprior,cai:mbt2018-mean"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "bench", help="measure against other codecs", description=__doc__, allow_abbrev=False
    )
    kinds = parser.add_subparsers(title="measurements", metavar="KIND", dest="kind", required=True)
    rd = kinds.add_parser(
        "rd",
        help="rate and distortion: results.json, rows.csv, table.md, rd.png, rd.svg, report.html",
        description="Rate and distortion of real files. Rows that DIR/results.json holds are not measured again.",
        allow_abbrev=False,
    )
    add_rd_options(rd)
    speed = kinds.add_parser(
        "speed",
        help="seconds and memory to encode and to decode, by stage and by size",
        description="Seconds and peak memory to encode and to decode, each codec in a process of its own, at the one "
        "of its settings whose file is nearest to --bpp.",
        allow_abbrev=False,
    )
    add_speed_options(speed)


def add_rd_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench rd`."""
    add = parser.add_argument
    sets = "kodak or clic2025-validation, or a folder of pictures, which are measured as 8-bit RGB without alpha"
    add("--dataset", required=True, metavar="NAME|DIR", help=sets)
    codecs = (
        "from nic, jpeg, jpeg-444, mozjpeg, webp, avif, avif-psnr, heic, bpg, jxl and jpeg2000, or all for these; "
        "nic:MODEL is another model, by name or file, nic@R and nic:MODEL@R are decoded with realism R, cai:NAME is "
        "one of CompressAI's (nic,jpeg,webp)"
    )
    add("--codecs", type=_words, default=["nic", "jpeg", "webp"], metavar="A,B", help=codecs)
    add("--images", type=options.integer(1), metavar="N", help="only the first N pictures")
    qualities = "settings instead of a codec's own; without a name, for all codecs whose setting is a quality up to 100"
    add("--qualities", type=_qualities, action="append", default=[], metavar="[CODEC=]Q,Q", help=qualities)
    anchors = "JSON files with curves measured elsewhere or published, or folders of them"
    add("--anchors", nargs="+", default=[], type=Path, metavar="FILE|DIR", help=anchors)
    against = "curves to give BD-rates against, besides JPEG and BPG"
    add("--against", type=_words, default=[], metavar="A,B", help=against)
    add("--dists", action="store_true", help="also DISTS")
    fid = "also FID/256; without Inception, the same distance with AlexNet, and named so"
    add("--fid", action="store_true", help=fid)
    gallery = "number of pictures that report.html shows crops of (3)"
    add("--gallery", type=options.integer(0), default=3, metavar="N", help=gallery)
    download = "download the data set, and weights for LPIPS (244 MB), DISTS (553 MB), FID (96 MB)"
    add("--download", action="store_true", help=download)
    options.add_model_option(parser)
    add("-j", "--jobs", type=options.integer(1), default=1, metavar="N", help="processes (1)")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results; created if missing")
    parser.set_defaults(run=run_rd)


def add_speed_options(parser: argparse.ArgumentParser) -> None:
    """The options of `neurocodec bench speed`."""
    add = parser.add_argument
    codecs = f"as for rd ({SPEED_CODECS}, if installed)"
    add("--codecs", type=_words, default=SPEED_CODECS.split(","), metavar="A,B", help=codecs)
    sizes = "megapixels at 3:2, or WIDTHxHEIGHT such as 768x512 (0.25,1,6,24)"
    add("--sizes", type=_sizes, default="0.25,1,6,24", metavar="S,S", help=sizes)
    add("--threads", type=_counts, default=[1], metavar="N,N", help="numbers of threads (1)")
    add("--bpp", type=options.number(0, above=True), default=0.7, metavar="B", help="bits per pixel (0.7)")
    add("--repeats", type=options.integer(1), default=5, metavar="N", help="runs of each (5)")
    add("--picture", type=Path, metavar="FILE", help="picture that fills each size (the bundled photograph)")
    options.add_model_option(parser)
    options.add_device_option(parser)
    add("-o", "--output", type=Path, metavar="FILE.json", help="write the results there")
    options.add_force_option(parser)
    parser.set_defaults(run=run_speed)


def run_rd(args: argparse.Namespace) -> int:
    """Measures, writes results.json, rows.csv, table.md, rd.png, rd.svg and report.html, and prints the BD-rates.

    Raises NeurocodecError.
    """
    from neurocodec.bench import curves, datasets, gallery, provenance, quality, rate_distortion, report
    from neurocodec.bench import results as results_file
    from neurocodec.bench.rivals import NAMES, installed
    from neurocodec.errors import ConfigError
    from neurocodec.packages import require

    names = [each for name in args.codecs for each in (NAMES if name == "all" else [name])]
    chosen, not_installed = installed(names, model=args.model)
    settings = choose_settings(args.qualities, chosen, not_installed)
    dataset = datasets.load_dataset(args.dataset, args.images, download=args.download)
    for module, package in (("matplotlib", "Matplotlib"), ("scipy", "SciPy"), ("tqdm", "tqdm")):
        require(module, package, "the report")  # now, rather than after the work
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file, expected a folder for the results: name another with -o")
    output = args.output / "results.json"
    if not output.exists() and (others := [name for name in report.FILES if (args.output / name).exists()]):
        raise ConfigError(f"{args.output} holds {others[0]} but no results.json: name another folder with -o")
    earlier = results_file.load(output)["codecs"] if output.exists() else {}
    notes: list[str] = []
    anchors = curves.load_anchors(args.anchors, dataset.name, list(dataset.pictures), notes)
    known = [*(codec.name for codec in chosen), *earlier, *(anchor.name for anchor in anchors)]
    curves.check_against(known, args.against)
    metrics, not_available = quality.available(dists=args.dists, fid=args.fid, download=args.download)
    for name, why in [*not_installed.items(), *not_available.items()]:
        print(f"left out: {name}: {why}", file=sys.stderr)

    results = rate_distortion.run(
        dataset,
        chosen,
        output,
        metrics=metrics,
        settings=settings,
        processes=args.jobs,
        command=provenance.command_line(sys.argv),
        not_installed=not_installed,
        not_available=not_available,
    )
    results = curves.summarise(results, anchors, args.against, notes)
    results_file.save(results, output)
    report.write(results, args.output, gallery.html(results, dataset, chosen, args.gallery))
    print(report.brief(results))
    print(f"\n{args.output}: results.json, rows.csv, table.md, rd.png, rd.svg, report.html")
    return 0


def run_speed(args: argparse.Namespace) -> int:
    """Measures, prints a table, and writes the results where -o says. Raises NeurocodecError."""
    if args.output is not None:
        files.check_output(args.output, force=args.force)

    from importlib import resources

    from neurocodec.bench import speed
    from neurocodec.bench.provenance import command_line
    from neurocodec.bench.results import write_json
    from neurocodec.bench.rivals import installed

    chosen, missing = installed(args.codecs, model=args.model)
    with resources.as_file(resources.files("neurocodec") / "data" / "astronaut.png") as photo:
        results = speed.run(
            chosen,
            args.sizes,
            args.picture or photo,
            threads=args.threads,
            bpp=args.bpp,
            repeats=args.repeats,
            device=args.device,
            command=command_line(sys.argv),
            missing=missing,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(speed.table(results))
    if args.output is not None:
        write_json(args.output, results, force=args.force)
    return 0


def choose_settings(
    given: Sequence[tuple[str, list[float]]], chosen: Sequence[Codec], not_installed: Mapping[str, str]
) -> dict[str, list[float]]:
    """The settings of each codec. given: values of --qualities; those with a name replace those without.

    Raises ConfigError for a name that is not among the codecs, and for a list that fits none of them.
    """
    from neurocodec.bench.rivals import has_common_quality
    from neurocodec.errors import ConfigError

    names = [codec.name for codec in chosen]
    common = [codec.name for codec in chosen if has_common_quality(codec)]
    settings: dict[str, list[float]] = {}
    for name, numbers in sorted(given, key=lambda pair: pair[0] != ""):
        if name and name not in [*names, *not_installed]:
            raise ConfigError(f"found --qualities {name}=..., expected one of the codecs {', '.join(names)}")
        if not name and not common:
            raise ConfigError(f"none of {', '.join(names)} has qualities of 1 to 100: give --qualities {names[0]}=...")
        settings |= dict.fromkeys([name] if name else common, numbers)
    return settings


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list")
    return words


def _qualities(text: str) -> tuple[str, list[float]]:
    """CODEC=Q,Q, or Q,Q with an empty name."""
    name, _, numbers = text.rpartition("=")
    number = options.number(0)
    try:
        return name, [number(word) for word in _words(numbers)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 20,50 or jpeg=20,50") from error


def _counts(text: str) -> list[int]:
    count = options.integer(1)
    return [count(word) for word in _words(text)]


def _sizes(text: str) -> list[tuple[int, int]]:
    """Widths and heights, from WxH or megapixels at 3:2."""
    sizes = []
    try:
        for word in _words(text):
            width, cross, height = word.lower().partition("x")
            side = round(math.sqrt(float(width) * 1e6 / 1.5)) if not cross else int(height)
            sizes.append((int(width) if cross else round(1.5 * side), side))
    except (ValueError, OverflowError):
        sizes = []
    if not sizes or min(min(size) for size in sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a list of sizes, such as 0.25,6 or 768x512,1920x1080")
    return sizes
