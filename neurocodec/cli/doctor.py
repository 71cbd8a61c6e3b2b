"""neurocodec doctor: checks that this machine codes exactly, in every way it can: bytes, symbols and pixels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import neurocodec

if TYPE_CHECKING:
    from neurocodec.conformance import Vector
    from neurocodec.integer.network import Network


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "doctor", help="is coding exact on this machine?", description=__doc__, allow_abbrev=False
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each way to code. Returns 0 if all are exact, 1 otherwise."""
    from neurocodec import conformance, model

    vectors = conformance.load_vectors()
    base = model.load("base")
    print(f"neurocodec {neurocodec.__version__}; {len(vectors)} pictures, encoded and decoded with model base")
    healthy = True
    for device in ["cpu", *_gpus()]:
        for way, network in conformance.networks(base, device):
            exact, text = _verdict(vectors, network)
            healthy &= exact
            print(f"{device + ', ' + way:<20} {text}", flush=True)
    print("Coding is exact on this machine." if healthy else "Coding is NOT exact on this machine: please report it.")
    return 0 if healthy else 1


def _gpus() -> list[str]:
    """The GPUs that torch finds, where it is installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return []
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _verdict(vectors: list[Vector], network: Network) -> tuple[bool, str]:
    from neurocodec.conformance import mismatches

    for vector in vectors:
        try:
            differing = mismatches(vector, network)
        except neurocodec.NeurocodecError as error:
            return False, f"FAILED: {vector.name}: {error}"
        if differing:
            return False, f"NOT EXACT: other {' and '.join(differing)} of {vector.name}"
    return True, "exact"
