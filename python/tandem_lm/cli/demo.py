"""Text from Gemma 3 270M, from nothing: converts it once, then writes and measures."""

from __future__ import annotations

import argparse

from ..demo import DEFAULT_PROMPT, run_demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help="text to continue")
    parser.add_argument("-n", "--max-tokens", type=int, default=96, metavar="N", help="default: %(default)s")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one per physical core)")


def execute(args: argparse.Namespace) -> int:
    run_demo(args.prompt, args.max_tokens, args.threads)
    return 0
