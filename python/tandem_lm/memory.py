"""Peak memory of this process, as the kernel counted it."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Highest resident set, mapped files included; since the last reset_peak_rss() where the system knows that."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the others KiB


def reset_peak_rss() -> None:
    """Lets peak_rss_bytes() start again from the present size (Linux only)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
