"""Converts a Hugging Face folder or a GGUF file to one bundle.

The output appears only when it is complete: a conversion that fails or is interrupted leaves nothing behind.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ..conversion import convert_with_bar
from .output import note, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="folder with config.json and safetensors, or a GGUF file"
    )
    parser.add_argument("output", metavar="OUT.litertlm", type=Path, help="the bundle to write")
    parser.add_argument(
        "--quant",
        default="int8",
        metavar="RECIPE",
        help="int4-channel, int4-block32, int4-block128, int8, f32, or a JSON file of tensor-name regex -> scheme "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens a session can hold (default: 4096 or the model's)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write each tensor's quantisation error as JSON")
    parser.add_argument("--drafter", metavar="SRC", type=Path, help="the model's MTP assistant, to go into the bundle")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the conversion as Ctrl-C does, so that the file in the making is removed."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def execute(args: argparse.Namespace) -> int:
    with _terminated_like_interrupted():
        convert_with_bar(
            args.source,
            args.output,
            quant=args.quant,
            context=args.context,
            report=args.report,
            drafter=args.drafter,
        )
    note(f"{args.output}: {size(args.output.stat().st_size)}")
    return 0
