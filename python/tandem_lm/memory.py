"""Memory: the plan for a bundle before it is loaded, and what this process has taken, as the kernel counted it."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import _checks
from .errors import translated


@dataclass(frozen=True)
class MemoryPlan:
    """What an engine and one full session on it are expected to take."""

    graph: str
    context: int
    kv_dtype: str
    parts: Mapping[str, int]  # bytes
    total: int
    available: int
    largest_context: int  # that fits; 0 when none does

    @property
    def fits(self) -> bool:
        return self.total <= self.available


def plan_memory(
    path: str | os.PathLike[str], context: int | None = None, kv_dtype: str = "f16", graph: str = "auto"
) -> MemoryPlan:
    """The plan for a bundle, which is not loaded for it. `context` None: what the bundle was made for."""
    from .engine import native_module, open_path

    _checks.choice("graph", graph, ("auto", "fast", "portable"))
    tokens = 0 if context is None else _checks.integer("context", context, 1, 2**31 - 1)
    where = open_path(path)
    with translated():
        return MemoryPlan(**native_module().memory_plan(where, tokens, kv_dtype, graph))


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
