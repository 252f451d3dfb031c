"""The converter with a progress bar, its errors turned into this package's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .errors import translated


def convert_with_bar(
    source: str | Path,
    output: str | Path,
    *,
    quant: str,
    bits: float | None = None,
    context: int | None = None,
    report: str | Path | None = None,
    drafter: str | Path | None = None,
    drafter_quant: str | None = None,
    calibrate: str | None = None,
    calibration_tokens: int | None = None,
    qat: str | None = None,
) -> Any:
    """Converts and returns the converter's report. `calibrate` is the text to calibrate on, "" the converter's own set,
    None: no calibration. The bars go to stderr, if that is a terminal."""
    from tandem_converter.convert import convert

    with ExitStack() as stack, translated():
        request = None
        if calibrate is not None:
            from tandem_converter.calibrate.text import TOKENS, Request

            counted = stack.enter_context(_bar("calibration", "w"))
            tokens = TOKENS if calibration_tokens is None else calibration_tokens
            request = Request(_encode, calibrate or None, tokens, counted)
        return convert(
            source,
            output,
            quant=quant,
            bits=bits,
            context=context,
            report=report,
            drafter=drafter,
            drafter_quant=drafter_quant,
            calibrate=request,
            qat=qat,
            progress=stack.enter_context(_bar("bundle", "B")),
        )


def _encode(digest: bytes, text: str) -> list[int]:
    from . import _native

    return _native.Tokenizer.from_digest(digest).encode(text)


@contextmanager
def _bar(name: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar with the time left, which appears when its work begins. Yields progress(done, total, what)."""
    from tqdm import tqdm

    bar: Any = None

    def progress(done: int, total: int, what: str) -> None:
        nonlocal bar
        if bar is None:  # what an interrupted run has done does not count for the time left
            hidden = not sys.stderr.isatty()
            bar = tqdm(
                desc=name, total=total, initial=done, unit=unit, unit_scale=True, file=sys.stderr, disable=hidden
            )
        bar.set_postfix_str(what, refresh=False)
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
