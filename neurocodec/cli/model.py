"""neurocodec model: the parts of model files."""

from __future__ import annotations

import argparse
from pathlib import Path

from neurocodec import files
from neurocodec.cli import options
from neurocodec.errors import OutputError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("model", help="the parts of model files", description=__doc__, allow_abbrev=False)
    kinds = parser.add_subparsers(title="parts", metavar="PART", dest="part", required=True, prog="neurocodec model")
    decoder = kinds.add_parser(
        "decoder",
        help="what decoding needs of a model file",
        description="Writes a model file without its encoder: it decodes the same files to the same pixels.",
        allow_abbrev=False,
    )
    decoder.add_argument("model", metavar="M", help="name of an installed model, or a model file")
    decoder.add_argument("-o", "--output", type=options.file_name, required=True, metavar="OUT.safetensors")
    options.add_force_option(decoder)
    decoder.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file and prints its size. Raises NeurocodecError."""
    if Path(args.output).suffix != ".safetensors":
        raise OutputError(f"{args.output} does not end in .safetensors: give the model file a name that does")
    files.check_output(args.output, force=args.force)

    from neurocodec import model as model_files

    decoder = model_files.load(args.model).decoder()
    decoder.save(args.output, force=args.force)
    print(f"{args.output}: {Path(args.output).stat().st_size:,} bytes, model {decoder.model_id.hex()}")
    return 0
