"""Perplexity over a text, with its standard error, counted as llama.cpp's `perplexity` counts it.

The text becomes one list of tokens, a bos token first. It is cut into windows of `context` tokens (what is left over at
the end is dropped), the first token of each window is replaced by bos, and the model reads every window from an empty
cache. By default only the second half of a window is scored, so that every scored token has at least half a window
before it: with n = context, tokens n/2 + 1 ... n - 1 are scored. `score="all"` scores tokens 1 ... n - 1.
A text shorter than one window is one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import _checks
from .engine import Engine
from .errors import InvalidRequestError

_ROWS = 32  # logits rows at a time: 32 rows of a 262144-token vocabulary are 32 MB


@dataclass(frozen=True)
class Perplexity:
    perplexity: float
    standard_error: float  # of the perplexity
    tokens: int  # scored
    windows: int
    context: int

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, in nats per token."""
        return math.log(self.perplexity)


def measure_perplexity(
    engine: Engine,
    text: str,
    context: int | None = None,
    score: str = "half",
    progress: Callable[[int, int, float], None] | None = None,
) -> Perplexity:
    """Perplexity of `text`. `context` None: 512, or the engine's context if that is smaller.

    `progress(window, windows, perplexity so far)` is called after each window.
    """
    info = engine.info
    _checks.choice("score", score, ("half", "all"))
    if context is None:
        context = min(512, info.max_context)
    context = _checks.integer("context", context, 4, info.max_context)
    ids = [info.bos_id, *engine.tokenizer.encode(text)]
    context = min(context, len(ids))
    if context < 4:
        raise InvalidRequestError(f"the text has {len(ids) - 1} tokens, too few for a perplexity; use a longer one")
    starts = range(0, len(ids) - context + 1, context)
    first = context // 2 if score == "half" else 0
    losses: list[float] = []
    with engine.session() as session:
        for number, start in enumerate(starts):
            window = [info.bos_id, *ids[start + 1 : start + context]]
            session.rewind(0)
            if first:
                session.prefill(window[:first])
            for at in range(first, context - 1, _ROWS):
                rows = window[at : min(at + _ROWS, context - 1)]
                losses += _losses(session.logits(rows), window[at + 1 : at + 1 + len(rows)])
            if progress is not None:
                progress(number + 1, len(starts), math.exp(sum(losses) / len(losses)))
    mean = float(np.mean(losses))
    error = float(np.std(losses, ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf
    value = math.exp(mean)
    return Perplexity(value, value * error, len(losses), len(starts), context)


def _losses(logits: np.ndarray, targets: list[int]) -> list[float]:
    """Negative log-likelihood of each target under its row of logits."""
    losses = []
    for row, target in zip(logits, targets, strict=True):
        wide = row.astype(np.float64)
        peak = wide.max()
        losses.append(float(peak + np.log(np.exp(wide - peak).sum()) - wide[target]))
    return losses
