"""What both sources share: whole tensors and row ranges over one flat read, with the check for NaN and Inf."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from .errors import ConversionError
from .family import ModelSpec


class TensorSource(ABC):
    """Canonical names -> float32 values, read when asked for. Reading is safe from several threads."""

    spec: ModelSpec
    dtype: str
    fingerprint: str

    @abstractmethod
    def names(self) -> list[str]: ...

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        """`count` values from the flat position `first`; both are whole rows of a matrix."""

    @abstractmethod
    def _label(self, name: str) -> str:
        """The checkpoint's own name of a tensor, for messages."""

    def tensor(self, name: str) -> np.ndarray:
        shape = self.shape(name)
        return self._finite(name, self._read(name, 0, math.prod(shape))).reshape(shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        shape = self.shape(name)
        if len(shape) != 2 or not 0 <= start <= stop <= shape[0]:
            raise IndexError(f"rows {start}:{stop} of {name} with shape {shape}")
        values = self._read(name, start * shape[1], (stop - start) * shape[1])
        return self._finite(name, values).reshape(stop - start, shape[1])

    def _finite(self, name: str, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ConversionError(
                f"tensor {self._label(name)!r} contains {values[bad]} (NaN or Inf); the checkpoint is damaged or its "
                "training failed, download it again"
            )
        return values
