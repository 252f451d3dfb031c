"""Quantisation for the least error of a matrix's output: rounding with error feedback, then descent on the same error.

For inputs x with second moments H = sum x x^T, a row w stored as ŵ costs (w - ŵ) H (w - ŵ)^T. With H = C^T C, C lower
triangular, the cost is the sum over columns i of (C_ii e_i + sum_{j<i} C_ij e_j)², e = w - ŵ: columns are rounded one
after the other, each to the value that makes up for the errors before it (GPTQ, Frantar et al. 2023, in the form that
needs no inverse). Columns with large H come first. Scales are searched first, under the weights C_ii² with which the
rounding errors count; afterwards integers (one column at a time) and scales (one group at a time) descend on the full
cost, which neither can raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from ..quantize import LEVELS, Quantized, Scheme, pack, round_scales

F32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
BLOCK = 64  # columns that are taken one by one, before the rest hears of them
PANEL = 256  # columns that are factorised at a time
DAMPING = 0.01  # of the mean diagonal, added to the diagonal
MAKE_UP = 0.5  # of the way to the weights that undo what the matrices before did to the inputs
SWEEPS = 3  # of descent after the first rounding
GRID = 24  # scales tried for a group before its rounding


class Rounder:
    """Quantises matrices that share their inputs (q, k and v; gate and up): the factorisation is made once."""

    def __init__(self, moments: F32, pulls: Mapping[str, F32] | None = None) -> None:
        """`moments` [I, I]; DAMPING of their mean is added to the diagonal, so that an input that never varies gets
        weight as well. They are taken over and change in place: of a 12B layer they have a gigabyte. `pulls`: by the
        matrix's name, weights @ drift [O, I], see `between`."""
        diagonal = np.einsum("ii->i", moments)  # a view
        mean = float(diagonal.mean(dtype=np.float64))
        diagonal += np.float32(DAMPING * mean if mean > 0 else 1)
        self.order = np.argsort(-diagonal, kind="stable")
        permute(moments, self.order)
        self.h, self._pulls = moments, dict(pulls or {})
        self.c = upper_factor(self.h)
        self.importance: F32 = np.empty(len(diagonal), np.float32)  # of a rounding error, in the matrix's own order
        self.importance[self.order] = np.square(np.diagonal(self.c))

    @staticmethod
    def of(inputs: Iterable[F32]) -> Rounder:
        """For the inputs [tokens, I] of all sequences, taken one at a time."""
        moments: F32 | None = None
        for x in inputs:
            moments = add_product(moments, x, x)
        assert moments is not None
        return Rounder(moments)

    @staticmethod
    def between(pairs: Iterable[tuple[F32, F32]], weights: Mapping[str, F32]) -> Rounder:
        """For the inputs of all sequences as the stored matrices before make them, x, each with what the original ones
        make of the same text, both [tokens, I]: H = sum x x^T, drift = sum (exact - x) x^T. `weights`: of the matrices,
        by name; what `target` needs of the drift is kept, which is smaller."""
        moments: F32 | None = None
        drift: F32 | None = None
        for x, exact in pairs:
            moments, drift = add_product(moments, x, x), add_product(drift, exact - x, x)
        assert moments is not None and drift is not None
        pulls = {name: w @ drift for name, w in weights.items()}
        del drift  # before the factorisation, which needs the room
        return Rounder(moments, pulls)

    def target(self, name: str, weights: F32) -> F32:
        """Weights [O, I] that make up for what the matrices before did to the inputs. weights + weights drift H^-1 come
        as near to the exact outputs as a matrix can (least squares; after GPTAQ, Li et al. 2025); MAKE_UP of the way
        is gone, since part of the way is the calibration text's own."""
        pull = self._pulls.get(name)
        if pull is None:  # nothing is known of a drift
            return weights
        result = np.empty_like(weights)
        result[:, self.order] = self._solve(pull[:, self.order])
        result *= np.float32(MAKE_UP)
        result += weights
        return result

    def _solve(self, z: F32) -> F32:
        """z H^-1, [O, I] in the order of H; blocks of columns are replaced one after the other. z changes in place."""
        starts = range(0, len(self.c), BLOCK)
        for first in reversed(starts):  # y C = z
            own = slice(first, first + BLOCK)
            z[:, own] -= z[:, first + BLOCK :] @ self.c[first + BLOCK :, own]
            z[:, own] = np.linalg.solve(self.c[own, own].T, z[:, own].T).T
        for first in starts:  # x C^T = y
            own = slice(first, first + BLOCK)
            z[:, own] -= z[:, :first] @ self.c[own, :first].T
            z[:, own] = np.linalg.solve(self.c[own, own], z[:, own].T).T
        return z

    def rescale(self, factors: F32) -> None:
        """For weights whose columns were multiplied by `factors` [I], so that the inputs are divided by them."""
        t = np.float32(1) / factors[self.order]
        self.h *= t
        self.h *= t[:, None]
        self.c *= t
        self.importance = (self.importance / np.square(factors)).astype(np.float32)

    def quantize(self, weights: F32, scheme: Scheme, sweeps: int = SWEEPS) -> Quantized:
        """[O, I] -> what is stored. Its error has "output" as well, the relative error of the matrix's output."""
        rows, cols = weights.shape
        block = scheme.block or cols
        # [I, O], as everything below: columns are touched one by one
        w = np.ascontiguousarray(weights[:, self.order].T)
        group = self.order // block  # of each column
        scales = np.ascontiguousarray(search_scales(weights, scheme, self.importance)[0].T)
        q = self._feedback(w, scales, group, LEVELS[scheme.bits])
        error = w - q * scales[group]
        for _ in range(sweeps):
            self._refit(q, scales, group, error, scheme)
            self._descend(q, scales, group, error, LEVELS[scheme.bits])
        cost = float(np.vdot(error, self.h @ error))
        total = float(np.vdot(w, self.h @ w))
        integers = np.empty((rows, cols), np.int8)
        integers[:, self.order] = q.T
        stored = scales.T.astype(np.float16) if scheme.block else scales[0]
        result = pack(weights, integers, stored, scheme)
        result.error["output"] = (max(cost, 0.0) / total) ** 0.5 if total > 0 else 0.0
        return result

    def cost(self, error: F32) -> float:
        """What an error [O, I] of the weights costs in the output: the sum of e H e^T over rows."""
        ordered = error[:, self.order]
        return float(np.vdot(ordered, ordered @ self.h))

    def _feedback(self, w: F32, scales: F32, group: Index, levels: tuple[float, float]) -> F32:
        q, errors = np.empty_like(w), np.empty_like(w)
        for first in range(0, len(w), BLOCK):
            last = min(first + BLOCK, len(w))
            owed = self.c[first:last, :first] @ errors[:first]
            for i in range(first, last):
                target = owed[i - first]
                if i > first:
                    target = target + self.c[i, first:i] @ errors[first:i]
                target = w[i] + target / self.c[i, i]
                scale = scales[group[i]]
                q[i] = np.clip(np.rint(target / scale), *levels)
                errors[i] = w[i] - q[i] * scale
        return q

    def _descend(self, q: F32, scales: F32, group: Index, error: F32, levels: tuple[float, float]) -> None:
        """One pass over all columns, each set to its best integers given the rest. q and error change in place."""
        for first in range(0, len(q), BLOCK):
            last = min(first + BLOCK, len(q))
            h = self.h[first:last, first:last]
            gradient = self.h[first:last] @ error
            for i in range(first, last):
                at, scale = i - first, scales[group[i]]
                new = np.clip(np.rint(q[i] + gradient[at] / (h[at, at] * scale)), *levels)
                step = (new - q[i]) * scale
                q[i] = new
                error[i] -= step
                gradient[at + 1 :] -= np.outer(h[at, at + 1 :], step)

    def _refit(self, q: F32, scales: F32, group: Index, error: F32, scheme: Scheme) -> None:
        """Each group's scale set to its best given the rest, as it is stored. scales and error change in place."""
        largest = scales.max(axis=0)  # a row keeps its octaves
        for index in range(len(scales)):
            columns = np.flatnonzero(group == index) if len(scales) > 1 else slice(None)
            h, own, old = self.h[columns], q[columns], scales[index].copy()
            slope = np.einsum("io,io->o", own, h @ error)
            curve = np.einsum("io,io->o", own, h[:, columns] @ own)
            new = old + slope / np.maximum(curve, np.float32(1e-30))
            new = np.where((curve > 0) & (new > 0), new, old)
            scales[index] = round_scales(new[:, None], largest)[:, 0] if scheme.block else new
            error[columns] -= (scales[index] - old) * own


def upper_factor(h: F32) -> F32:
    """C, lower triangular, with h = C^T C. In float64, of which there is one matrix: numpy's own factorisation has
    three, six gigabytes for a 12B layer."""
    size = len(h)
    a = np.empty(h.shape, np.float64)
    a[...] = h[::-1, ::-1]
    for first in range(0, size, PANEL):  # a becomes L with a = L L^T, a panel of columns after the other
        own, below = slice(first, min(first + PANEL, size)), slice(first + PANEL, size)
        a[first:, own] -= a[first:, :first] @ a[own, :first].T
        a[own, own] = np.linalg.cholesky(a[own, own])
        a[below, own] = np.linalg.solve(a[own, own], a[below, own].T).T
        a[own, below] = 0
    c = np.empty(h.shape, np.float32)
    c[...] = a[::-1, ::-1].T
    return c


def add_product(total: F32 | None, a: F32, b: F32) -> F32:
    """total + a^T b for a [tokens, I] and b [tokens, J]; `total` changes in place."""
    product: F32 = a.T @ b
    if total is not None:
        total += product
        return total
    return product


def permute(square: F32, order: Index) -> None:
    """Rows and columns [I, I] in another order, in place."""
    for first in range(0, len(square), BLOCK):
        square[first : first + BLOCK] = square[first : first + BLOCK, order]
    for first in range(0, len(square), BLOCK):
        square[:, first : first + BLOCK] = square[order, first : first + BLOCK]


def search_scales(weights: F32, scheme: Scheme, importance: F32) -> tuple[F32, F32]:
    """The scale of each group [O, groups] that rounds with the least sum of importance * error², and that sum."""
    rows, cols = weights.shape
    low, high = LEVELS[scheme.bits]
    block = scheme.block or cols
    groups = weights.reshape(rows, -1, block)
    weight = importance.reshape(1, -1, block)
    largest = np.abs(groups).max(axis=2)
    unit = np.where(largest > 0, largest, 1)
    best, lowest = unit / np.float32(high), np.full(unit.shape, np.inf, np.float32)
    for part in np.linspace(0.3 if scheme.bits == 4 else 0.9, 1.1, GRID, dtype=np.float32):
        scale = unit * (part / np.float32(high))
        off = groups / scale[..., None]
        q = np.clip(np.rint(off), low, high)
        off -= q
        off *= off
        cost = np.einsum("ogi,gi->og", off, weight[0]) * np.square(scale)
        better = cost < lowest
        lowest, best = np.where(better, cost, lowest), np.where(better, scale, best)
    best = best.astype(np.float32)
    return round_scales(best).astype(np.float32) if scheme.block else best, lowest
