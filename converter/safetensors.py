"""Reading one .safetensors file with every number in its header distrusted.

Layout: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, data. Offsets count from the end of the
header; the tensors must tile the data exactly, as the format demands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError
from .fields import parse_json
from .reader import RangeReader

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
MAX_TENSORS = 100_000
MAX_RANK = 8
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
WEIGHT_DTYPES = ("F32", "F16", "BF16")  # what `read` converts


@dataclass(frozen=True)
class Entry:
    """One tensor: `begin` and `end` are offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open file; `entries` maps tensor names to where they lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RangeReader(path)
        if self.file.size < 8:
            raise self.bad("too short for a header")
        length = int(self.file.read_array(0, 1, np.dtype("<u8"))[0])
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise self.bad(f"its header claims {length} bytes, allowed are 2 to {MAX_HEADER_BYTES}")
        self.header = self.file.read(8, length)
        self.entries = self._parse(8 + length)

    def bad(self, what: str) -> ConversionError:
        return ConversionError(f"{self.path.name}: not a usable safetensors file: {what}; download it again")

    def wrong_dtype(self, name: str) -> ConversionError:
        stored = self.entries[name].dtype
        return ConversionError(f"{self.path.name}: {name!r} is stored as {stored}; weights must be BF16, F16 or F32")

    def _parse(self, start: int) -> dict[str, Entry]:
        table = parse_json(self.header, f"header of {self.path.name}")
        table.pop("__metadata__", None)
        if len(table) > MAX_TENSORS:
            raise self.bad(f"{len(table)} tensors, at most {MAX_TENSORS} are allowed")
        entries = {name: self._entry(name, value, start) for name, value in table.items()}
        at = start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != at:
                how = "overlaps another tensor" if entry.begin < at else "leaves a gap before it"
                raise self.bad(f"the data of {name!r} {how}")
            at = entry.end
        if at > self.file.size:
            raise self.file.truncated(at)
        if at < self.file.size:
            raise self.bad(f"{self.file.size - at} bytes at its end belong to no tensor")
        return entries

    def _entry(self, name: str, value: Any, start: int) -> Entry:
        def natural(items: Any, most: int) -> bool:
            return isinstance(items, list) and len(items) <= most and all(type(i) is int and i >= 0 for i in items)

        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise self.bad(f"the entry of {name!r} needs exactly dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            raise ConversionError(
                f"{self.path.name}: {name!r} has the dtype {str(dtype)[:40]!r}; weights must be BF16, F16 or F32"
            )
        if not natural(shape, MAX_RANK) or not natural(offsets, 2) or len(offsets) != 2:
            raise self.bad(f"shape or data_offsets of {name!r} are not lists of whole numbers")
        size = math.prod(shape) * DTYPE_BYTES[dtype]
        if offsets[1] - offsets[0] != size:
            raise self.bad(f"{name!r} of shape {shape} and {dtype} needs {size} bytes, its offsets span {offsets}")
        return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])

    def read(self, name: str, first: int = 0, count: int | None = None) -> np.ndarray:
        """`count` values of a weight from its flat position `first`, as float32."""
        entry = self.entries[name]
        if entry.dtype not in WEIGHT_DTYPES:
            raise self.wrong_dtype(name)
        count = math.prod(entry.shape) - first if count is None else count
        offset = entry.begin + first * DTYPE_BYTES[entry.dtype]
        if entry.dtype == "F32":
            return self.file.read_array(offset, count, np.dtype("<f4"))
        if entry.dtype == "F16":
            return self.file.read_array(offset, count, np.dtype("<f2")).astype(np.float32)
        bits = self.file.read_array(offset, count, np.dtype("<u2")).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
