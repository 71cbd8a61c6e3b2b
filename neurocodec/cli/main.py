"""Parser, error handling and exit statuses of the `neurocodec` command.

Exit status: 0; 1 with one sentence on stderr for anything wrong with the input; 2 for usage; 130 when interrupted; 128
plus the number of the signal when SIGTERM or SIGHUP ends the command.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from neurocodec import __version__
from neurocodec.cli import bench, compare, decode, demo, desktop, doctor, encode, info, model, synth, train, view
from neurocodec.cli.batch import print_error
from neurocodec.errors import sentence
from neurocodec.workers import Ended, signals_as_interrupts


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Each sets `run`; one whose list of arguments may continue after options sets `more`
    to the name of that list."""
    parser = argparse.ArgumentParser(
        prog="neurocodec", description="A neural image codec: pictures to .nic files and back.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"neurocodec {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, prog="neurocodec"
    )
    for module in (encode, decode, info, view, compare, bench, train, synth, model, demo, doctor, desktop):
        module.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. Prints errors as sentences, unless NEUROCODEC_TRACEBACK is set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: a file name may contain anything
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(words)
    more: list[str] | None = getattr(args, getattr(args, "more", ""), None)
    literal = words[words.index("--") + 1 :] if "--" in words else []
    if not literal or rest[-len(literal) :] != literal:
        literal = []  # argparse has put them where they belong
    rest = [word for word in rest[: len(rest) - len(literal)] if word != "--"]
    if (rest or literal) and (more is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest + literal)}")
    if more is not None:
        more.extend(rest + literal)  # argparse stops a list at the first option after it
    try:
        with signals_as_interrupts():
            status: int = args.run(args)
        if sys.stdout is not None:  # the shell may have closed it
            sys.stdout.flush()
    except Ended as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("NEUROCODEC_TRACEBACK"):
            raise
        print_error(sentence(error))
        return 1
    return status
