"""What the commands share in writing: one-line complaints, colour, sizes, progress bars."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

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
