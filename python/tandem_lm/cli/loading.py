"""Shows that a first load is at work: packing the weights of a large bundle takes a while, once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

_PATIENCE = 1.0  # seconds before a bar appears: later loads take less
_INTERVAL = 0.2


def _written_bytes() -> int:
    """What this process has written to files so far, those in memory included; 0 where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "wchar":
                return int(value)
    return 0


@contextmanager
def packing_bar(bundle: Path) -> Iterator[None]:
    """A bar on the terminal while this process packs weights; nothing elsewhere."""
    if not sys.stderr.isatty() or not bundle.is_file():
        yield
        return
    ended = threading.Event()
    terminal = os.fdopen(os.dup(2), "w")  # the load itself holds descriptor 2 back
    before = _written_bytes()

    def watch() -> None:
        if ended.wait(_PATIENCE):
            return
        # The packed weights are about as large as the bundle; the core tells no progress of its own.
        bar = tqdm(total=bundle.stat().st_size, unit="B", unit_scale=True, desc="preparing weights", file=terminal)
        while not ended.wait(_INTERVAL):
            bar.n = min(_written_bytes() - before, bar.total)
            bar.refresh()
        bar.close()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        terminal.close()
