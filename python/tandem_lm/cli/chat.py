"""An interactive conversation.

/image FILE, /audio FILE and /video FILE go with the next message. /reset starts anew, /exit or Ctrl-D leaves. Ctrl-C
stops an answer. Without a terminal, each line of stdin is a message.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Any

from ..conversation import Conversation
from ..engine import Engine
from ..errors import ContextLengthError, FileError, InvalidRequestError
from ..media import Audio, Image, Video
from ..types import SamplingParams
from .options import add_engine_options, add_prefix_option, add_sampling_options, open_engine, sampling_params
from .output import coloured, complain, note, show, work_bar

Attached = dict[str, Any]  # arguments of Conversation.stream
LOADERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "/image": ("images", Image),
    "/audio": ("audio", Audio),
    "/video": ("videos", Video),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_prefix_option(parser)
    parser.add_argument("--slide", action="store_true", help="forget the oldest turns when the context is full")
    add_sampling_options(parser, 1024, "what the bundle recommends")


def execute(args: argparse.Namespace) -> int:
    with open_engine(args) as engine:
        params = sampling_params(args, engine, recommended=True)
        chat = engine.conversation(system=args.system, slide=args.slide)
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history for input())
            note(
                f"{engine.info.family}, {engine.info.max_context} tokens of context. /reset starts anew, /exit leaves."
            )
        attached: Attached = {}
        while True:
            try:
                line = input(coloured("> ", "36", sys.stdout) if interactive else "")
            except EOFError:
                return 0
            except UnicodeDecodeError:
                raise InvalidRequestError("stdin is not UTF-8 text; convert it first") from None
            command, _, file = line.strip().partition(" ")
            if line.strip() == "/exit":
                return 0
            if line.strip() == "/reset":
                chat = _fresh(engine, chat, args.system)
                attached = {}
            elif command in LOADERS and file:
                _attach(attached, command, file.strip(), interactive)
            elif line.strip() and _answer(chat, line, attached, params, interactive):
                attached = {}


def _fresh(engine: Engine, old: Conversation, system: str | None) -> Conversation:
    old.close()
    return engine.conversation(system=system, slide=old.slide)


def _attach(attached: Attached, command: str, file: str, interactive: bool) -> None:
    """Keeps a file for the next message."""
    name, load = LOADERS[command]
    try:
        loaded = load(file)
    except (FileError, InvalidRequestError) as error:
        if not interactive:
            raise
        complain(f"error: {error}")
        return
    attached.setdefault(name, []).append(loaded)
    if interactive:
        note(f"{loaded!r} goes with the next message.")


def _answer(chat: Conversation, line: str, attached: Attached, params: SamplingParams, interactive: bool) -> bool:
    """One turn; False when it failed. With a person there, a turn that fails or is stopped does not end the program."""
    done = True
    with work_bar() as progress:
        stream = chat.stream(line, params, **attached, progress=progress)
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
            done = False
    show("\n")
    return done
