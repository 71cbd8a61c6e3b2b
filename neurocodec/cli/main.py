"""Parser, error handling and exit statuses of the `neurocodec` command.

Exit status: 0; 1 with one sentence on stderr for anything wrong with the input; 2 for usage; 130 when interrupted; 128
plus the number of the signal when SIGTERM or SIGHUP ends the command; 141, silently, when the reader of its output has
ended.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurocodec import __version__
from neurocodec.cli import (
    bench,
    compare,
    decode,
    demo,
    desktop,
    doctor,
    encode,
    info,
    model,
    options,
    synth,
    train,
    view,
)
from neurocodec.cli.batch import print_error
from neurocodec.errors import sentence
from neurocodec.workers import Ended, signals_as_interrupts

_COMPLETE_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""shtab.FILE, which needs no shtab here."""

CLOSED_PIPE = 141
"""The status that a shell gives for a program that SIGPIPE ends: 128 + 13."""


class _Parser(argparse.ArgumentParser):
    """Puts itself into the arguments as `parser`: after parsing, that of the command."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.set_defaults(parser=self)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Each sets `run`; one whose list of arguments may continue after options sets `more`
    to the name of that list."""
    parser = _Parser(
        prog="neurocodec", description="A neural image codec: pictures to .nic files and back.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"neurocodec {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True, prog="neurocodec"
    )
    for module in (encode, decode, info, view, compare, bench, train, synth, model, demo, doctor, desktop):
        module.add_parser(subparsers)
    _complete_file_names(parser)
    return parser


def _complete_file_names(parser: argparse.ArgumentParser) -> None:
    """Tells shtab which arguments are names of files and folders: it completes only those that are marked."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_file_names(command)
            continue
        if action.nargs != 0 and not action.choices and action.type in (None, Path, options.file_name):
            action.complete = _COMPLETE_FILES  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. Prints errors as sentences, unless NEUROCODEC_TRACEBACK is set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: a file name may contain anything
    try:
        with signals_as_interrupts():
            args = _parsed(sys.argv[1:] if argv is None else argv)
            status: int = args.run(args)
        if sys.stdout is not None:  # the shell may have closed it
            sys.stdout.flush()
    except Ended as ended:
        return 128 + ended.number
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        if os.environ.get("NEUROCODEC_TRACEBACK"):
            raise
        print_error(sentence(error))
        return 1
    return status


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; words that argparse leaves go to the list that may continue. Ends the program for wrong usage."""
    words = list(argv)
    args, rest = build_parser().parse_known_args(words)
    more: list[str] | None = getattr(args, getattr(args, "more", ""), None)
    literal = words[words.index("--") + 1 :] if "--" in words else []
    if not literal or rest[-len(literal) :] != literal:
        literal = []  # argparse has put them where they belong
    rest = [word for word in rest[: len(rest) - len(literal)] if word != "--"]
    if (rest or literal) and (more is None or any(word.startswith("-") for word in rest)):
        args.parser.error(f"unrecognized arguments: {' '.join(rest + literal)}")
    if more is not None:
        more.extend(rest + literal)  # argparse stops a list at the first option after it
        if "" in more:
            args.parser.error("a file name is empty, as an unset shell variable is")
    return args
