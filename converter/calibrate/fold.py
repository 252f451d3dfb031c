"""Scales that move from a matrix's columns into whatever makes its input: the model stays the same, its rounding not.

A column of a matrix times t and its input divided by t change nothing. The division is free where the input comes
from a norm's weight (q, k, v; gate, up), from the rows of `up` (down) or from the rows of `v` (o; not where V is
normed or shared with K, as in Gemma 4). Columns whose errors weigh much get more of the row's range:
t = importance^(power / 2), the power chosen by the rounding error that it leaves (after AWQ, Lin et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..quantize import Scheme
from .gptq import search_scales

F32 = npt.NDArray[np.float32]
POWERS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
LIMIT = 32.0  # a factor is at most this far from 1
SAMPLE = 256  # rows of a matrix that the choice looks at


def column_factors(weights: Sequence[tuple[F32, Scheme]], importance: F32) -> F32:
    """t [I] for matrices [O, I] that share their input, `importance` [I] of each column's squared error."""
    pooled = importance.astype(np.float64)
    pooled = np.maximum(pooled, pooled.max() * 1e-12)
    spread = np.log(pooled) - np.log(pooled).mean()
    best, lowest = np.ones(len(importance), np.float32), np.inf
    for power in POWERS:
        t = np.exp(np.clip(spread * (power / 2), -np.log(LIMIT), np.log(LIMIT))).astype(np.float32)
        cost = 0.0
        for matrix, scheme in weights:
            if scheme.bits < 32:
                part = matrix[:: max(1, len(matrix) // SAMPLE)]
                cost += rounding_cost(part * t, scheme, importance / np.square(t)) * (len(matrix) / len(part))
        if cost < lowest * 0.995:  # a fold that hardly helps is left out
            best, lowest = t, cost
    return best


def rounding_cost(weights: F32, scheme: Scheme, importance: F32) -> float:
    """The sum of importance * error² that plain rounding with the best scales leaves."""
    return float(search_scales(weights, scheme, importance)[1].sum(dtype=np.float64))
