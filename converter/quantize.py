"""Symmetric weight quantisation whose scales are searched for the least weighted squared error.

A group (a row, or a block of a row) of weights w becomes integers q and one scale s, w ≈ s·q. For given q the best s
is <w,q>/<q,q>; for given s the best q is rounding. A short grid of scales, from one that cuts the tails to one that
more than covers the largest weight, is followed by a few rounds of both (each can only lower the error).

At 4 bits an error counts by the size of its weight, sum |w|(w - s·q)²: cutting the few large weights to serve the many
small ones, as the plain square does, costs a model more than it saves (Gemma 3 270M, perplexity to f32: int4-block128
1.82 instead of 2.06, int4-channel 5.1 instead of 16.2). At 8 bits it makes no difference, and the plain square is used.

int4 uses -8..7, all that a nibble holds and XNNPACK multiplies; int8 uses -127..127, as TFLite asks for. Block scales
are float16 in the file but bfloat16 inside XNNPACK and a byte in Tandem's own packing (csrc/kernels/pack.h: 6 bits of
significand within 8 octaves of a row): they are rounded to values that all of them hold, so nothing is lost later. That
makes the error of a weight 0.14 % larger. Scales are positive, which XNNPACK insists on (llama.cpp's Q4_0 uses the sign
to reach -8 on either side).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from .errors import ConversionError

CHUNK = 1 << 17  # weights per step: the working arrays stay in a core's cache
TASK = 1 << 22  # weights that one thread reads and quantises at a time; bounds the memory, not a result
MAX_THREADS = 8
FLAT = 1e-30  # a group whose largest weight is below is stored as zeros
GRID = 8  # scales tried before refining
ROUNDS = 1  # of rounding again with the refitted scale
FINEST = 0.4  # int4: the smallest scale tried, in units of the group's rms; wide rows of real models want 0.35 to 0.5
SPAN4 = (1 / 8.5, 1 / 6)  # int4: tried in any case, in units of the largest weight, which then becomes ±6, ±7 or -8
SPAN8 = (0.95, 1.04)  # int8: the scales tried, in units of the one that just covers the largest weight
SCALE_BITS = 5  # of a block scale's significand behind the point
OCTAVES = 8  # that the block scales of a row span
LEVELS = {4: (-8.0, 7.0), 8: (-127.0, 127.0)}
SCHEMES = ("int4-channel", "int4-block32", "int4-block64", "int4-block128", "int8", "f32")


@dataclass(frozen=True)
class Scheme:
    """`bits` 4, 8, or 16 and 32 (kept as float); `block` = weights per scale, 0 = the whole row."""

    bits: int
    block: int = 0

    @staticmethod
    def parse(name: str) -> Scheme:
        if name not in SCHEMES:
            raise ConversionError(f"unknown quantisation {name[:40]!r}; choose one of {', '.join(SCHEMES)}")
        if name == "f32":
            return Scheme(32)
        if name == "int8":
            return Scheme(8)
        return Scheme(4, int(name.removeprefix("int4-block")) if "block" in name else 0)

    @property
    def name(self) -> str:
        if self.bits >= 16:
            return f"f{self.bits}"
        if self.bits == 8:
            return "int8"
        return f"int4-block{self.block}" if self.block else "int4-channel"


@dataclass(frozen=True)
class Quantized:
    """A matrix [O, I] as stored: data uint8 [O, I/2] (low nibble first, two's complement), int8 or float32 [O, I];
    scales float32 [O], float16 [O, I/block] or None. `error`: rel_rms = |w - w'| / |w|, max_abs = max |w - w'|."""

    scheme: Scheme
    shape: tuple[int, int]
    data: np.ndarray
    scales: np.ndarray | None
    error: dict[str, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)


def quantize(weights: np.ndarray, scheme: Scheme) -> Quantized:
    """A matrix that lies in memory."""
    if weights.ndim != 2:
        raise ConversionError(f"only matrices are quantised, this tensor has the shape {list(weights.shape)}")
    shape = (int(weights.shape[0]), int(weights.shape[1]))
    return quantize_rows(lambda first, last: weights[first:last], shape, scheme)


def quantize_rows(
    read: Callable[[int, int], np.ndarray], shape: tuple[int, int], scheme: Scheme, threads: int = 0
) -> Quantized:
    """A matrix that `read(first, last)` delivers row by row (float32, called from several threads), so that a table
    larger than memory passes through. The result does not depend on the number of threads (0 = one per core)."""
    rows, cols = shape
    data, scales = _outputs(rows, cols, scheme)
    step = max(1, TASK // max(cols, 1))
    chunk = max(1, CHUNK // max(cols, 1))

    def task(first: int) -> tuple[float, float, float]:
        last = min(first + step, rows)
        source = read(first, last)
        totals = np.zeros(3)
        if scales is None:
            data[first:last] = source
            return 0.0, float(np.square(source, dtype=np.float64).sum()), 0.0
        for at in range(first, last, chunk):
            end = min(at + chunk, last)
            part = np.ascontiguousarray(source[at - first : end - first], np.float32)
            squares = _quantize_chunk(part, scheme, data[at:end], scales[at:end])
            totals[:2] += squares[:2]
            totals[2] = max(totals[2], squares[2])
        return float(totals[0]), float(totals[1]), float(totals[2])

    threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
    starts = range(0, rows, step)
    if threads == 1 or len(starts) == 1:
        results = [task(first) for first in starts]
    else:
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(task, starts))
    wrong, total = sum(r[0] for r in results), sum(r[1] for r in results)
    error = {"rel_rms": (wrong / total) ** 0.5 if total else 0.0, "max_abs": max((r[2] for r in results), default=0.0)}
    return Quantized(scheme, shape, data, scales, error)


def dequantize(q: Quantized) -> np.ndarray:
    """What the stored matrix stands for, float32."""
    if q.scales is None:
        return q.data
    values = unpack(q).astype(np.float32)
    per_row = q.shape[1] // q.scheme.block if q.scheme.block else 1
    grouped = values.reshape(q.shape[0], per_row, -1) * q.scales.astype(np.float32).reshape(q.shape[0], per_row, 1)
    return grouped.reshape(q.shape)


def unpack(q: Quantized) -> np.ndarray:
    """The integers, int8 [O, I]."""
    if q.scheme.bits != 4:
        return q.data
    signed = np.empty((*q.data.shape, 2), np.int8)
    signed[..., 0] = (q.data << 4).view(np.int8) >> 4
    signed[..., 1] = q.data.view(np.int8) >> 4
    return signed.reshape(q.shape)


def pack(weights: np.ndarray, integers: np.ndarray, scales: np.ndarray, scheme: Scheme) -> Quantized:
    """Integers int8 [O, I] and scales as stored, found elsewhere, in the form of a quantised matrix; `weights` are what
    they stand for (for the error figures)."""
    rows, cols = integers.shape
    data, expected = _outputs(rows, cols, scheme)
    assert expected is not None and expected.shape == scales.shape and expected.dtype == scales.dtype
    if scheme.bits == 4:
        _pack_nibbles(integers, data)
    else:
        data[...] = integers
    result = Quantized(scheme, (rows, cols), data, scales)
    difference = (dequantize(result) - weights).astype(np.float64)
    total = float(np.square(weights, dtype=np.float64).sum())
    result.error["rel_rms"] = (float(np.square(difference).sum()) / total) ** 0.5 if total else 0.0
    result.error["max_abs"] = float(np.abs(difference).max(initial=0))
    return result


def round_scales(scales: np.ndarray, largest: np.ndarray | None = None) -> np.ndarray:
    """Positive block scales [O, I/block] as the file will hold them, float16. `largest` [O]: what decides on the
    octaves of each row, where it is not the largest of `scales`."""
    rounded = _round_significand(np.ascontiguousarray(scales, np.float32))
    top = rounded.max(axis=1) if largest is None else _round_significand(np.ascontiguousarray(largest, np.float32))
    octave = np.exp2(np.floor(np.log2(np.maximum(top, np.float32(2**-24)))))[:, None].astype(np.float32)
    lowest = octave * np.float32(2.0 ** (1 - OCTAVES))
    highest = octave * np.float32(2 - 2.0**-SCALE_BITS)
    with np.errstate(over="ignore"):
        stored: np.ndarray = np.maximum(np.clip(rounded, lowest, highest), np.float32(2**-24)).astype(np.float16)
    if not np.isfinite(stored).all():
        raise ConversionError("weights above 400,000 have no float16 block scale; use int4-channel")
    return stored


def _pack_nibbles(integers: np.ndarray, out: np.ndarray) -> None:
    """int8 [O, I] -> uint8 [O, I/2], low nibble first."""
    pairs = np.ascontiguousarray(integers).view(np.uint16)
    np.bitwise_or(pairs & np.uint16(0x0F), (pairs >> np.uint16(4)) & np.uint16(0xF0), out=out, casting="unsafe")


def _outputs(rows: int, cols: int, scheme: Scheme) -> tuple[np.ndarray, np.ndarray | None]:
    if scheme.bits == 32:
        return np.empty((rows, cols), np.float32), None
    if scheme.block and cols % scheme.block:
        raise ConversionError(
            f"blocks of {scheme.block} do not divide a row of {cols} weights; use int4-channel or a smaller block"
        )
    if scheme.bits == 8:
        return np.empty((rows, cols), np.int8), np.empty(rows, np.float32)
    if cols % 2:
        raise ConversionError(f"int4 needs an even number of weights in a row, this matrix has {cols}; use int8")
    scales = np.empty((rows, cols // scheme.block), np.float16) if scheme.block else np.empty(rows, np.float32)
    return np.empty((rows, cols // 2), np.uint8), scales


def _quantize_chunk(
    weights: np.ndarray, scheme: Scheme, data: np.ndarray, scales: np.ndarray
) -> tuple[float, float, float]:
    """Writes `data` and `scales`; returns the sums of squared errors and squared weights, and the largest error."""
    low, high = LEVELS[scheme.bits]
    groups = weights.reshape(-1, scheme.block or weights.shape[1])
    largest = _largest(groups)
    live = largest > FLAT
    unit = np.where(live, largest, 1).astype(np.float32)
    x = groups * (np.float32(1) / unit)[:, None]  # every group in -1..1: no square under- or overflows
    if not live.all():
        x[~live] = 0
    squares = np.einsum("gn,gn->g", x, x)
    scale = unit * _search(x, squares, scheme.bits, low, high)
    if scheme.block:
        scales[...] = round_scales(scale.reshape(scales.shape))
        scale = scales.astype(np.float32).reshape(-1)
    else:
        scales[...] = scale
    q = np.multiply(x, (unit / scale)[:, None])
    np.rint(q, out=q)
    np.clip(q, low, high, out=q)
    integers = q.astype(np.int8).reshape(weights.shape)
    if scheme.bits == 4:
        _pack_nibbles(integers, data)
    else:
        data[...] = integers
    difference = np.multiply(q, (scale / unit)[:, None], out=q)
    difference -= x
    weight = unit.astype(np.float64) ** 2
    wrong = float(np.dot(np.einsum("gn,gn->g", difference, difference), weight))
    return wrong, float(np.dot(squares, weight)), float((_largest(difference) * unit).max(initial=0))


def _largest(groups: np.ndarray) -> np.ndarray:
    """max |w| of each group. Folding halves keeps short groups fast, where a reduction over the last axis is not."""
    folded = np.abs(groups)
    while folded.shape[1] > 8 and folded.shape[1] % 2 == 0:
        half = folded.shape[1] // 2
        folded = np.maximum(folded[:, :half], folded[:, half:])
    result: np.ndarray = folded.max(axis=1)
    return result


def _search(x: np.ndarray, squares: np.ndarray, bits: int, low: float, high: float) -> np.ndarray:
    """The scale of each group of x [G, n] (largest |x| = 1, or all 0; `squares` = <x,x>). With the best scale for
    given q the squared error is <x,x> - <x,q>²/<q,q>, the products weighted: the largest second term wins."""
    rms = np.sqrt(squares / np.float32(x.shape[1]))
    cover = np.float32(1 / high)  # no weight is cut
    if bits == 8:
        finest, coarsest = np.full_like(rms, cover * np.float32(SPAN8[0])), cover * np.float32(SPAN8[1])
    else:
        finest = np.clip(np.float32(FINEST) * rms, cover / np.float32(64), np.float32(SPAN4[0]))
        coarsest = np.float32(SPAN4[1])
    best: np.ndarray = np.full_like(rms, cover)
    gain = np.full(x.shape[0], -1, np.float32)
    weight = np.abs(x) if bits == 4 else None
    q = np.empty_like(x)
    weighted = q if weight is None else np.empty_like(x)
    ratio = coarsest / finest
    for step in range(GRID + ROUNDS):
        trial = finest * ratio ** np.float32(step / (GRID - 1)) if step < GRID else best
        np.multiply(x, (np.float32(1) / trial)[:, None], out=q)
        np.rint(q, out=q)
        np.clip(q, low, high, out=q)
        if weight is not None:
            np.multiply(q, weight, out=weighted)
        xq, qq = np.einsum("gn,gn->g", x, weighted), np.einsum("gn,gn->g", q, weighted)
        fit = xq / np.maximum(qq, np.float32(1))
        better = fit * xq > gain
        gain = np.where(better, fit * xq, gain)
        best = np.where(better & (fit > 0), fit, best)
    return best


def _round_significand(scale: np.ndarray) -> np.ndarray:
    """The nearest values whose significand has SCALE_BITS behind the point, float32."""
    drop = np.uint32(23 - SCALE_BITS)
    bits = scale.view(np.uint32)
    bits = bits + ((np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)) + ((bits >> drop) & np.uint32(1))
    result: np.ndarray = ((bits >> drop) << drop).view(np.float32)  # ties to even
    return result
