"""Perplexity over a text file, with its standard error.

Counted as llama.cpp counts it: windows of CONTEXT tokens that begin with bos, the second half of each scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..perplexity import measure_perplexity
from .options import add_engine_options, open_engine, read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_options(parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="UTF-8 text")
    parser.add_argument(
        "-c", "--context", type=int, metavar="N", help="tokens in a window (default: 512, or the bundle's)"
    )
    parser.add_argument("--score", choices=("half", "all"), default="half", help="which tokens of a window count")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")


def execute(args: argparse.Namespace) -> int:
    text = read_text(args.file)
    with open_engine(args) as engine:
        from tqdm import tqdm

        with tqdm(unit="window", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

            def progress(done: int, total: int, value: float) -> None:
                bar.total = total
                bar.set_postfix_str(f"perplexity {value:.3f}")
                bar.update(done - bar.n)

            result = measure_perplexity(engine, text, args.context, args.score, progress)
    if args.json:
        print(json.dumps({**asdict(result), "file": str(args.file), "score": args.score}))
    else:
        print(
            f"perplexity {result.perplexity:.4f} +/- {result.standard_error:.4f} "
            f"({result.tokens} tokens, {result.windows} windows of {result.context})"
        )
    return 0
