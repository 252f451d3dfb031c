"""Checkpoints trained for llama.cpp's Q4_0: their weights stay on the grid that training made for them.

Q4_0 gives 32 weights of a row one float16 scale d = (the weight of largest size, with its sign) / -8 and integers
-8..7. A block whose largest weight is negative has d > 0 and is kept bit for bit: the same d, the same integers. One
whose largest weight is positive has d < 0, which XNNPACK does not take: with -d its integers are -7..8, and 8 becomes
7; everything else in the block is kept as well. How many weights that concerns is in the report ("off_grid").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import ConversionError
from ..quantize import Quantized, Scheme, pack

BLOCK = 32
KINDS = ("q4_0",)
SCHEME = Scheme(4, BLOCK)


def quantize_q4_0(weights: npt.NDArray[np.float32]) -> Quantized:
    """[O, I] -> int4-block32 on the grid of Q4_0, as llama.cpp rounds to it."""
    rows, cols = weights.shape
    if cols % BLOCK:
        raise ConversionError(f"Q4_0 needs rows of a multiple of {BLOCK} weights, this matrix has {cols}")
    blocks = weights.reshape(rows, -1, BLOCK)
    place = np.abs(blocks).argmax(axis=2)
    peak = np.take_along_axis(blocks, place[..., None], axis=2)[..., 0]
    d = peak / np.float32(-8)
    with np.errstate(divide="ignore"):
        inverse = np.where(d != 0, np.float32(1) / d, np.float32(0)).astype(np.float32)
    integers = np.minimum(np.floor(blocks * inverse[..., None] + np.float32(8.5)), 15) - 8
    integers[d < 0] *= -1
    stored = np.maximum(np.abs(d).astype(np.float16), np.float16(2**-24))
    if not np.isfinite(stored).all():
        raise ConversionError("weights above 500,000 are not in the range of Q4_0")
    off_grid = int((integers > 7).sum())
    integers = np.minimum(integers, 7).astype(np.int8).reshape(rows, cols)
    result = pack(weights, integers, stored, SCHEME)
    result.error["off_grid"] = off_grid
    return result
