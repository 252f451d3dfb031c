"""Shows that a first load is at work: packing the weights of a large bundle takes a while, once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ..library import engine_cache_dir

_PATIENCE = 1.0  # seconds before a bar appears: later loads take less
_INTERVAL = 0.2


@contextmanager
def packing_bar(bundle: Path) -> Iterator[None]:
    """A bar on the terminal while this process packs weights into the cache folder; nothing elsewhere."""
    folder = engine_cache_dir(None)
    if not folder or not sys.stderr.isatty() or not bundle.is_file():
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
            sizes = [path.stat().st_size for path in Path(folder).glob(f"*.{os.getpid()}.tmp")]
            bar.n = min(max([*sizes, bar.n]), bar.total)
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
