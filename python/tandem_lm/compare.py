"""How far one bundle's predictions are from another's: KL divergence and agreement of the most likely token.

Both read the same windows of the same text, cut and scored as in `perplexity`. With p the first bundle's distribution
over the next token and q the second's, the divergence of a position is sum p ln(p / q), in nats; 0 means the same. It
says what a quantisation changed with far less noise than two perplexities do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import _checks
from .engine import Engine
from .errors import InvalidRequestError

_ROWS = 32  # positions at a time


@dataclass(frozen=True)
class Comparison:
    """Of B with A. `same_top`: the share of positions where both find the same token most likely."""

    kl: float  # mean, nats per token
    kl_error: float  # its standard error
    kl_99: float  # the divergence that 99 % of the positions stay below
    same_top: float
    perplexity_a: float
    perplexity_b: float
    tokens: int
    windows: int
    context: int


def compare(
    a: Engine,
    b: Engine,
    text: str,
    context: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Comparison:
    """Compares two bundles of one vocabulary; the second half of every window counts.

    `context` None: 512, or what the engines hold. `progress(window, windows, mean divergence so far)`. Raises
    InvalidRequestError for bundles whose tokens differ or a text that is too short."""
    ids = [a.info.bos_id, *a.tokenizer.encode(text)]
    if a.info.vocab_size != b.info.vocab_size or [b.info.bos_id, *b.tokenizer.encode(text)] != ids:
        raise InvalidRequestError("the two bundles read this text as different tokens; compare bundles of one model")
    most = min(a.info.max_context, b.info.max_context)
    context = _checks.integer("context", min(512, most) if context is None else context, 4, most)
    context = min(context, len(ids))
    if context < 4:
        raise InvalidRequestError(f"the text has {len(ids) - 1} tokens, too few to compare on; use a longer one")
    windows = [[ids[0], *ids[at + 1 : at + context]] for at in range(0, len(ids) - context + 1, context)]
    divergence: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    same = 0
    with a.session() as first, b.session() as second:
        for number, window in enumerate(windows):
            for session in (first, second):
                session.rewind(0)
                session.prefill(window[: context // 2])
            for at in range(context // 2, context - 1, _ROWS):
                rows = window[at : min(at + _ROWS, context - 1)]
                targets = window[at + 1 : at + 1 + len(rows)]
                p, q = (log_softmax(session.logits(rows)) for session in (first, second))
                divergence.append(np.einsum("tv,tv->t", np.exp(p), p - q))
                same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
                at_target = np.arange(len(rows)), targets
                losses.append(-np.stack([p[at_target], q[at_target]]))
            if progress is not None:
                progress(number + 1, len(windows), float(np.concatenate(divergence).mean()))
    kl = np.concatenate(divergence)
    means = np.concatenate(losses, axis=1).mean(axis=1)
    error = float(kl.std(ddof=1)) / math.sqrt(len(kl)) if len(kl) > 1 else math.inf
    return Comparison(
        kl=float(kl.mean()),
        kl_error=error,
        kl_99=float(np.quantile(kl, 0.99)),
        same_top=same / len(kl),
        perplexity_a=math.exp(means[0]),
        perplexity_b=math.exp(means[1]),
        tokens=len(kl),
        windows=len(windows),
        context=context,
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide
