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
from ..errors import InvalidRequestError
from .options import read_text
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
        help="int4-channel, int4-block32, int4-block128, int8, f32, auto, or a JSON file of tensor-name regex -> "
        "scheme (default: %(default)s)",
    )
    parser.add_argument(
        "--bits", type=float, metavar="B", help="auto: bits per weight of the layers, scales included (default: 4.5)"
    )
    parser.add_argument(
        "--calibrate",
        metavar="TEXT",
        nargs="?",
        const="default",
        help="quantise for the least error on this UTF-8 file; default, or no file: the text that comes with tandem",
    )
    parser.add_argument(
        "--calib-tokens", type=int, metavar="N", help="tokens of the text to use, spread over it (default: 32768)"
    )
    parser.add_argument(
        "--qat", choices=("q4_0",), help="the checkpoint was trained for this grid: keep it (with int4-block32)"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens a session can hold (default: 4096 or the model's)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write each tensor's quantisation error as JSON")
    parser.add_argument("--drafter", metavar="SRC", type=Path, help="the model's MTP assistant, to go into the bundle")
    parser.add_argument("--drafter-quant", metavar="RECIPE", help="the drafter's recipe (default: the model's)")


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
    calibrate = None
    if args.calibrate is not None:
        calibrate = "" if args.calibrate == "default" else read_text(Path(args.calibrate))
    elif args.quant == "auto":
        calibrate = ""
    elif args.calib_tokens is not None:
        raise InvalidRequestError("--calib-tokens needs --calibrate")
    with _terminated_like_interrupted():
        convert_with_bar(
            args.source,
            args.output,
            quant=args.quant,
            context=args.context,
            report=args.report,
            drafter=args.drafter,
            bits=args.bits,
            calibrate=calibrate,
            qat=args.qat,
            calibration_tokens=args.calib_tokens,
            drafter_quant=args.drafter_quant,
        )
    note(f"{args.output}: {size(args.output.stat().st_size)}")
    return 0
