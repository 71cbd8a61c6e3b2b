"""neurocodec doctor: decodes the conformance vectors in every way this machine can, and says whether it is exact."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import neurocodec

if TYPE_CHECKING:
    from neurocodec.conformance import Vector
    from neurocodec.models.networks import Networks


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "doctor", help="is decoding exact on this machine?", description=__doc__, allow_abbrev=False
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each way to decode. Returns 0 if all are exact, 1 otherwise."""
    import dataclasses

    import torch

    from neurocodec import conformance
    from neurocodec.models import networks

    vectors = conformance.load_vectors()
    print(
        f"neurocodec {neurocodec.__version__}, torch {torch.__version__}; {len(vectors)} files of model base, decoded"
    )
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    most = torch.get_num_threads()
    healthy = True
    for device in devices:
        model = networks.load("base", device=device)
        name = "cpu" if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
        for number, (way, arithmetic) in enumerate(conformance.arithmetics(device)):
            chosen = dataclasses.replace(model, entropy=model.entropy.using(arithmetic))
            for threads in sorted({1, most}) if device == "cpu" and number == 0 else [most]:
                torch.set_num_threads(threads)
                try:
                    exact, text = _verdict(vectors, chosen)
                finally:
                    torch.set_num_threads(most)
                healthy &= exact
                about = f", {threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else ""
                print(f"{name + ', ' + way + about:<32} {text}")
    print(
        "Decoding is exact on this machine." if healthy else "Decoding is NOT exact on this machine: please report it."
    )
    return 0 if healthy else 1


def _verdict(vectors: list[Vector], model: Networks) -> tuple[bool, str]:
    from neurocodec.conformance import check

    outcomes = []
    for vector in vectors:
        try:
            outcomes.append(check(vector, model))
        except neurocodec.NeurocodecError as error:
            return False, f"FAILED: {vector.name}: {error}"
    wrong = [vector.name for vector, outcome in zip(vectors, outcomes, strict=True) if not outcome.exact]
    levels = max(outcome.levels for outcome in outcomes)
    if wrong:
        return False, f"NOT EXACT: other symbols in {', '.join(wrong)}"
    if levels > 1:
        return False, f"symbols exact, but pixels differ by {levels} levels"
    return True, f"exact; pixels {'the same' if levels == 0 else 'within one level'}"
