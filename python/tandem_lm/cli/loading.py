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
_MEMORY_FILE = "memfd:tandem-weights"  # csrc/litert/weight_cache.cc builds them there


def _packed_bytes() -> int:
    """Bytes of packed weights that this process has built so far."""
    size = 0
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if _MEMORY_FILE in str(entry.readlink()):
                    size = max(size, entry.stat().st_size)
    return size


@contextmanager
def packing_bar(bundle: Path) -> Iterator[None]:
    """A bar on the terminal while this process packs weights; nothing elsewhere."""
    if not sys.stderr.isatty() or not bundle.is_file():
        yield
        return
    ended = threading.Event()
    terminal = os.fdopen(os.dup(2), "w")  # the load itself holds descriptor 2 back

    def watch() -> None:
        if ended.wait(_PATIENCE):
            return
        # The packed weights are about as large as the bundle; the library tells no progress of its own.
        bar = tqdm(total=bundle.stat().st_size, unit="B", unit_scale=True, desc="preparing weights", file=terminal)
        while not ended.wait(_INTERVAL):
            bar.n = min(max(_packed_bytes(), bar.n), bar.total)
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
