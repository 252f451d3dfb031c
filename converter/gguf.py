"""Reading the container of a GGUF file: metadata, tensor table and raw data, with every length bounded.

The header is parsed here, since the `gguf` package takes a quarter of a minute over a vocabulary of 262,144 tokens;
`gguf` undoes the quantisation and is imported only for that.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError
from .reader import RangeReader

MAX_HEADER_BYTES = 512 << 20
MAX_PAIRS = 1 << 16
MAX_TENSORS = 100_000
MAX_RANK = 4
MAX_ITEMS = 1 << 24  # of one array
VERSIONS = (2, 3)
BOOL, STRING, ARRAY = 7, 8, 9
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
Q8_0 = np.dtype([("scale", "<f2"), ("values", "i1", 32)])  # expanded here: tenfold faster, and big tables have it
PLAIN = {0: "F32", 1: "F16", 30: "BF16"}  # tensor types that need no package


@dataclass(frozen=True)
class Entry:
    """One tensor: shape in numpy order, `kind` the ggml type, `offset` in the file; `block` values in `block_bytes`."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    block: int
    block_bytes: int


class _Cursor:
    """Walks the header, window by window; reading past the end of the file is an error."""

    WINDOW = 1 << 20

    def __init__(self, file: RangeReader) -> None:
        self.file = file
        self.base = 0  # file offset of the window
        self.window = b""
        self.at = 0  # inside the window

    @property
    def offset(self) -> int:
        return self.base + self.at

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.window):
            start = self.offset
            if start + count > min(self.file.size, MAX_HEADER_BYTES):
                raise self.file.truncated(start + count)
            self.window = self.file.read(start, max(count, min(self.WINDOW, self.file.size - start)))
            self.base, self.at = start, 0
        out = self.window[self.at : self.at + count]
        self.at += count
        return out

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        return self.take(self.integer(8)).decode("utf-8", "replace")


class GgufFile:
    """An open file: `fields` (metadata as plain Python values) and `entries` (tensors)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RangeReader(path)
        cursor = _Cursor(self.file)
        if self.file.size < 24 or cursor.take(4) != b"GGUF":
            raise ConversionError(f"{path.name}: not a GGUF file; give a Hugging Face folder or a .gguf file")
        version = cursor.integer(4)
        if version not in VERSIONS:
            raise ConversionError(f"{path.name}: GGUF version {version}; supported are 2 and 3 (little endian)")
        tensors, pairs = cursor.integer(8), cursor.integer(8)
        if tensors > MAX_TENSORS or pairs > MAX_PAIRS:
            raise self.bad(f"{tensors} tensors and {pairs} metadata entries, allowed are {MAX_TENSORS} and {MAX_PAIRS}")
        self.fields: dict[str, Any] = {}
        for _ in range(pairs):
            key = cursor.text()
            if key in self.fields:
                raise self.bad(f"metadata {key[:60]!r} appears twice")
            self.fields[key] = self._value(cursor, cursor.integer(4), key)
        table = [self._tensor(cursor) for _ in range(tensors)]
        self.header_bytes = cursor.offset
        self.entries = self._place(table, self.header_bytes)

    def bad(self, what: str) -> ConversionError:
        return ConversionError(f"{self.path.name}: not a usable GGUF file: {what}; download it again")

    def _value(self, cursor: _Cursor, kind: int, key: str) -> Any:
        if kind in SCALARS:
            dtype = np.dtype(SCALARS[kind])
            return np.frombuffer(cursor.take(dtype.itemsize), dtype)[0].item()
        if kind == BOOL:
            return cursor.integer(1) != 0
        if kind == STRING:
            return cursor.text()
        if kind != ARRAY:
            raise self.bad(f"metadata {key[:60]!r} has the unknown type {kind}")
        inner, count = cursor.integer(4), cursor.integer(8)
        if count > MAX_ITEMS:
            raise self.bad(f"metadata {key[:60]!r} has {count} items, at most {MAX_ITEMS} are allowed")
        if inner in SCALARS:
            dtype = np.dtype(SCALARS[inner])
            return np.frombuffer(cursor.take(count * dtype.itemsize), dtype).tolist()
        if inner == BOOL:
            return [b != 0 for b in cursor.take(count)]
        if inner == STRING:
            return [cursor.text() for _ in range(count)]
        raise self.bad(f"metadata {key[:60]!r} is an array of the unsupported type {inner}")

    def _tensor(self, cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
        name, rank = cursor.text(), cursor.integer(4)
        if not 1 <= rank <= MAX_RANK:
            raise self.bad(f"tensor {name[:60]!r} has {rank} dimensions")
        shape = tuple(cursor.integer(8) for _ in range(rank))[::-1]
        if math.prod(shape) >= 2**48:
            raise self.bad(f"tensor {name[:60]!r} has the shape {list(shape)}")
        return name, shape, cursor.integer(4), cursor.integer(8)

    def _place(self, table: list[tuple[str, tuple[int, ...], int, int]], header: int) -> dict[str, Entry]:
        """Checks that every tensor lies in the file and on no other."""
        align = self.fields.get("general.alignment", 32)
        if not isinstance(align, int) or align <= 0 or align & (align - 1) or align > 1 << 20:
            raise self.bad(f"alignment {align!r}")
        start = -(-header // align) * align
        entries: dict[str, Entry] = {}
        spans = []
        for name, shape, kind, offset in table:
            if name in entries:
                raise ConversionError(f"{self.path.name}: duplicate tensor {name!r}")
            block, size = self._block(name, kind)
            if shape[-1] % block:
                raise self.bad(f"rows of {name!r} have {shape[-1]} values, its type stores {block} at a time")
            begin = start + offset
            end = begin + math.prod(shape) // block * size
            if end > self.file.size:
                raise self.file.truncated(end)
            entries[name] = Entry(shape, kind, begin, block, size)
            spans.append((begin, end, name))
        spans.sort()
        for (_, end, _), (begin, _, name) in pairwise(spans):
            if begin < end:
                raise self.bad(f"the data of {name!r} overlaps another tensor")
        return entries

    def _block(self, name: str, kind: int) -> tuple[int, int]:
        if kind in PLAIN:
            return 1, 4 if kind == 0 else 2
        package = gguf_package()
        try:
            block, size = package.GGML_QUANT_SIZES[package.GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise ConversionError(
                f"{self.path.name}: tensor {name!r} has the unknown ggml type {kind}; update the gguf package"
            ) from None
        return int(block), int(size)

    def kind_name(self, name: str) -> str:
        """The type of a tensor as llama.cpp calls it, in lower case."""
        kind = self.entries[name].kind
        return PLAIN[kind].lower() if kind in PLAIN else str(gguf_package().GGMLQuantizationType(kind).name).lower()

    def read(self, name: str, first: int = 0, count: int | None = None) -> np.ndarray:
        """`count` values from the flat position `first` (whole blocks), float32."""
        entry = self.entries[name]
        count = math.prod(entry.shape) - first if count is None else count
        offset = entry.offset + first // entry.block * entry.block_bytes
        if entry.kind == 0:
            return self.file.read_array(offset, count, np.dtype("<f4"))
        if entry.kind == 1:
            return self.file.read_array(offset, count, np.dtype("<f2")).astype(np.float32)
        if entry.kind == 30:
            bits = self.file.read_array(offset, count, np.dtype("<u2")).astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        package = gguf_package()
        kind = package.GGMLQuantizationType(entry.kind)
        raw = self.file.read_array(offset, count // entry.block * entry.block_bytes, np.uint8)
        if kind == package.GGMLQuantizationType.Q8_0:
            blocks = raw.view(Q8_0)
            return (blocks["values"] * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
        try:
            values = package.quants.dequantize(raw.reshape(-1, entry.block_bytes), kind)
        except NotImplementedError:
            raise ConversionError(
                f"{self.path.name}: tensor {name!r} has the type {kind.name}, which the gguf package cannot expand; "
                "use a GGUF of another quantisation"
            ) from None
        return np.ascontiguousarray(values, np.float32).reshape(-1)


def gguf_package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise ConversionError("quantised GGUF files need the gguf package: pip install 'tandem-lm[gguf]'") from None
