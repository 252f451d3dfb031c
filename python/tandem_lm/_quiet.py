"""Keeps LiteRT's greeting off the terminal, for the commands: a library must not touch the process's streams."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."


@contextmanager
def without_greeting() -> Iterator[None]:
    """XNNPACK's delegate writes one line to stderr when it is made, and the library has no switch for it. What else is
    written to file descriptor 2 meanwhile comes out when the block ends."""
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            for line in held:
                if line.rstrip() != _GREETING:
                    os.write(2, line)
