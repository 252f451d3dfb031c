"""Compares the predictions of two bundles of one model on a text: KL divergence and top-1 agreement.

A is the yardstick, for instance the float32 bundle, B what is judged. Windows as in `tandem perplexity`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..compare import compare
from ..engine import Engine
from .options import read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A.litertlm", type=Path, help="the yardstick")
    parser.add_argument("b", metavar="B.litertlm", type=Path, help="the bundle that is judged")
    parser.add_argument("file", metavar="FILE", type=Path, help="UTF-8 text")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "-c", "--context", type=int, metavar="N", help="tokens in a window (default: 512, or the bundles')"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")


def execute(args: argparse.Namespace) -> int:
    text = read_text(args.file)
    with Engine(args.a, num_threads=args.threads) as a, Engine(args.b, num_threads=args.threads) as b:
        from tqdm import tqdm

        with tqdm(unit="window", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

            def progress(done: int, total: int, value: float) -> None:
                bar.total = total
                bar.set_postfix_str(f"KL {value:.4f}")
                bar.update(done - bar.n)

            result = compare(a, b, text, args.context, progress)
    if args.json:
        print(json.dumps({**asdict(result), "a": str(args.a), "b": str(args.b), "file": str(args.file)}))
    else:
        print(
            f"KL divergence {result.kl:.5f} +/- {result.kl_error:.5f} nats, 99 % below {result.kl_99:.4f}; same most "
            f"likely token {100 * result.same_top:.2f} %; perplexity {result.perplexity_a:.4f} and "
            f"{result.perplexity_b:.4f} ({result.tokens} tokens, {result.windows} windows of {result.context})"
        )
    return 0
