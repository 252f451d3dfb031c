"""What the commands share in writing: one-line complaints, colour, sizes, progress bars."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from ..prompt import Progress

# Control characters but tab and newline: a model's answer must not move the cursor or change the terminal.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def complain(message: str) -> None:
    """One line on stderr, whatever the message contains. A stderr that is gone is no reason to fail again."""
    try:
        sys.stderr.write(f"tandem: {' '.join(message.split())}\n")
        sys.stderr.flush()
    except OSError:
        pass


def coloured(text: str, code: str, stream: TextIO) -> str:
    """`text` in a colour (an SGR code such as "2" or "36") if `stream` is a terminal that wants it."""
    wanted = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if wanted else text


def show(text: str) -> None:
    """Model text to stdout, at once."""
    sys.stdout.write(_CONTROL.sub("\ufffd", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark for the person at the terminal, on stderr."""
    print(coloured(text, "2", sys.stderr), file=sys.stderr, flush=True)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


@contextmanager
def work_bar() -> Iterator[Progress | None]:
    """Bars on the terminal while a long prompt is read; nothing elsewhere, or where it is done at once."""
    if not sys.stderr.isatty():
        yield None
        return
    bars: dict[str, tqdm[None]] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in bars:
            _close(bars)
            bars[what] = tqdm(total=total, desc=what, delay=1.0, leave=False)
        bars[what].total = total
        bars[what].update(done - bars[what].n)
        if done >= total:
            _close(bars)

    try:
        yield report
    finally:
        _close(bars)


def _close(bars: dict[str, tqdm[None]]) -> None:
    for bar in bars.values():
        bar.close()
    bars.clear()
