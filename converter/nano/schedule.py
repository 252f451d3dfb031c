"""How far a training is: by steps, which repeats exactly, or by the clock, which fits any machine."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Schedule:
    """`steps` is the length, or `minutes` where they are given. `spent`: seconds of runs that this one continues."""

    steps: int
    minutes: float | None = None
    spent: float = 0.0

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent so far, earlier runs included."""
        return self.spent + time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """0 at the beginning, 1 at the end."""
        if self.minutes is None:
            return min(1.0, step / self.steps)
        return min(1.0, self.seconds / (60 * self.minutes))


def rate(progress: float, rising: float = 0.03, falling: float = 0.6) -> float:
    """Factor of the learning rate: up, level, then down to zero; `rising` and `falling` are parts of the whole."""
    return min(1.0, 0.02 + progress / rising) * min(1.0, (1 - progress) / falling)
