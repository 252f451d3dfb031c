"""The converter with a progress bar, its errors turned into this package's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .errors import translated


def convert_with_bar(
    source: str | Path,
    output: str | Path,
    *,
    quant: str,
    context: int | None = None,
    report: str | Path | None = None,
    drafter: str | Path | None = None,
) -> Any:
    """Converts and returns the converter's report. The bar goes to stderr, if that is a terminal."""
    from tqdm import tqdm

    from tandem_converter.convert import convert

    with tqdm(unit="B", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_postfix_str(name, refresh=False)
            bar.update(done - bar.n)

        with translated():
            return convert(
                source, output, quant=quant, context=context, report=report, drafter=drafter, progress=progress
            )
