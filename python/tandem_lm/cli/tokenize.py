"""Token ids of a text, as one JSON list."""

from __future__ import annotations

import argparse
import json

from ..text import open_tokenizer
from .options import read_prompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a .litertlm file")
    parser.add_argument("text", metavar="TEXT", help='the text; "-" reads it from stdin')
    parser.add_argument("--bos", action="store_true", help="put the bos token in front")
    parser.add_argument("--special", action="store_true", help="read names of special tokens as those tokens")


def execute(args: argparse.Namespace) -> int:
    text = read_prompt(args.text)
    print(json.dumps(open_tokenizer(args.bundle).encode(text, add_bos=args.bos, parse_special=args.special)))
    return 0
