"""The `tandem` command. Exit status: 0 done, 1 the operation failed (one line on stderr), 2 wrong usage, 130 Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TandemError
from . import bench, chat, compare, convert, demo, devices, inspect, perplexity, run, tokenize, verify
from .output import complain

COMMANDS = (convert, inspect, verify, run, chat, tokenize, perplexity, compare, bench, devices, demo)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tandem", description="Language models on the machine in front of you.")
    parser.add_argument("--version", action="version", version=f"tandem {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").strip().partition("\n")[0]
        sub = commands.add_parser(name, help=summary, description=command.__doc__)
        command.add_arguments(sub)
        sub.set_defaults(execute=command.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    args = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a letter must not end the program
    status = 1
    try:
        done = int(args.execute(args))
        sys.stdout.flush()
        return done
    except BrokenPipeError:
        pass  # the reader (head, less) has left: nobody is there to be told
    except KeyboardInterrupt:
        complain("interrupted")
        status = 130
    except TandemError as error:
        complain(f"error: {error}")
    except MemoryError:
        complain("error: out of memory; use a smaller --max-context or a smaller quantisation")
    except OSError as error:
        complain(f"error: {_describe(error)}")
    _settle_stdout()
    return status


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}"


def _settle_stdout() -> None:
    """Python flushes stdout once more at exit: what cannot be written must not become a second failure there."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
