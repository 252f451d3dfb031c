"""An interactive conversation.

/reset starts anew, /exit or Ctrl-D leaves. Ctrl-C stops an answer. Without a terminal, each line of stdin is a message.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from ..conversation import Conversation
from ..engine import Engine
from ..errors import ContextLengthError, InvalidRequestError
from ..types import SamplingParams
from .options import add_engine_options, add_sampling_options, open_engine, sampling_params
from .output import coloured, complain, note, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_sampling_options(parser, 1024, "what the bundle recommends")


def execute(args: argparse.Namespace) -> int:
    with open_engine(args) as engine:
        params = sampling_params(args, engine, recommended=True)
        chat = engine.conversation(system=args.system)
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history for input())
            note(
                f"{engine.info.family}, {engine.info.max_context} tokens of context. /reset starts anew, /exit leaves."
            )
        while True:
            try:
                line = input(coloured("> ", "36", sys.stdout) if interactive else "")
            except EOFError:
                return 0
            except UnicodeDecodeError:
                raise InvalidRequestError("stdin is not UTF-8 text; convert it first") from None
            if line.strip() == "/exit":
                return 0
            if line.strip() == "/reset":
                chat = _fresh(engine, chat, args.system)
            elif line.strip():
                _answer(chat, line, params, interactive)


def _fresh(engine: Engine, old: Conversation, system: str | None) -> Conversation:
    old.close()
    return engine.conversation(system=system)


def _answer(chat: Conversation, line: str, params: SamplingParams, interactive: bool) -> None:
    """One turn. With a person there, a turn that fails or is stopped does not end the program."""
    stream = chat.stream(line, params)
    try:
        for text in stream:
            show(text)
    except KeyboardInterrupt:
        stream.close()
        if not interactive:
            raise
    except (ContextLengthError, InvalidRequestError) as error:
        if not interactive:
            raise
        complain(f"error: {error}")
    show("\n")
