"""What Tandem does, from nothing: a story, a picture, a recording and a tool, by the small model inside the package.

--model gemma3-270m takes a larger model of text alone, which is converted once; so does a build without the small one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..demo import DEFAULT_PROMPT, run_demo
from ..errors import InvalidRequestError
from ..nano_demo import nano_is_packaged, run_nano_demo

GEMMA = "gemma3-270m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"nano (default, if this build has it), {GEMMA}, or a nano bundle that you trained",
    )
    parser.add_argument("-p", "--prompt", metavar="TEXT", help=f"with {GEMMA}: text to continue")
    parser.add_argument("-n", "--max-tokens", type=int, metavar="N", help=f"with {GEMMA} (default: 96)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one per physical core)")


def execute(args: argparse.Namespace) -> int:
    model = args.model or ("nano" if nano_is_packaged() else GEMMA)
    if model == GEMMA:
        prompt = DEFAULT_PROMPT if args.prompt is None else args.prompt
        run_demo(prompt, 96 if args.max_tokens is None else args.max_tokens, args.threads)
        return 0
    if args.prompt is not None or args.max_tokens is not None:
        raise InvalidRequestError(f"--prompt and --max-tokens go with --model {GEMMA}; nano's demo is always the same")
    if model != "nano" and not model.endswith(".litertlm"):
        raise InvalidRequestError(f"--model {model}: it must be nano, {GEMMA}, or the path of a .litertlm bundle")
    run_nano_demo(None if model == "nano" else Path(model), args.threads)
    return 0
