"""Bounded random access to a file that may be larger than memory.

Positioned reads rather than a memory map: a file that shrinks or a disk that fails while we read is then an error, not
a signal, and the pages read do not count against the process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError

MAX_READ = 1 << 30  # one system call transfers less than 2 GiB


class RangeReader:
    """An open file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise ConversionError(f"cannot open {path}: {error.strerror}") from None

    def read_array(self, offset: int, count: int, dtype: np.dtype[Any] | type[Any]) -> np.ndarray:
        """`count` values of `dtype` from byte `offset`; short files are an error."""
        end = offset + count * np.dtype(dtype).itemsize
        if offset < 0 or end > self.size:
            raise self.truncated(end)
        out = np.empty(count, dtype)
        view, at = memoryview(out.view(np.uint8).data), 0
        while at < out.nbytes:
            try:
                got = os.preadv(self._file.fileno(), [view[at : at + MAX_READ]], offset + at)
            except OSError as error:
                raise ConversionError(f"cannot read {self.path}: {error.strerror}") from None
            if got == 0:
                raise self.truncated(end)
            at += got
        return out

    def read(self, offset: int, count: int) -> bytes:
        return self.read_array(offset, count, np.uint8).tobytes()

    def truncated(self, wanted: int) -> ConversionError:
        return ConversionError(
            f"{self.path.name}: the file ends at byte {self.size} but its contents need {wanted}; "
            "it is truncated, download it again"
        )

    def close(self) -> None:
        self._file.close()
