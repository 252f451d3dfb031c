"""The error report of a conversion: what each tensor became and what that cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .quantize import Quantized


@dataclass
class FloatError:
    """Of values stored in a shorter float: rel_rms = |w - w'| / |w|, max_abs = max |w - w'|. Added up part by part."""

    error: float = 0.0
    total: float = 0.0
    max_abs: float = 0.0

    def add(self, values: np.ndarray, stored: np.ndarray) -> None:
        if stored.dtype == values.dtype:
            return
        difference = np.abs(values - stored.astype(values.dtype))
        self.error += float(np.square(difference, dtype=np.float64).sum())
        self.total += float(np.square(values, dtype=np.float64).sum())
        self.max_abs = max(self.max_abs, float(difference.max(initial=0.0)))

    @property
    def rel_rms(self) -> float:
        return math.sqrt(self.error / self.total) if self.total else 0.0


@dataclass
class Report:
    """Collects one line per tensor, in the order of the conversion."""

    recipe: str
    tensors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, tensor: Quantized) -> None:
        line = {
            "name": name,
            "shape": list(tensor.shape),
            "scheme": tensor.scheme.name,
            "bytes": tensor.nbytes,
            "rel_rms": float(f"{tensor.error['rel_rms']:.6g}"),
            "max_abs": float(f"{tensor.error['max_abs']:.6g}"),
        }
        # output: relative error of a calibrated matrix's output; off_grid: weights that a QAT grid has and int4 lacks
        line |= {key: float(f"{tensor.error[key]:.6g}") for key in ("output", "off_grid") if key in tensor.error}
        self.tensors.append(line)

    def add_float(self, name: str, shape: tuple[int, ...], bits: int = 32, error: FloatError | None = None) -> None:
        """A tensor kept as float without passing through the quantiser; `error` of its rounding."""
        error = error or FloatError()
        line = {
            "name": name,
            "shape": list(shape),
            "scheme": f"f{bits}",
            "bytes": bits // 8 * math.prod(shape),
            "rel_rms": float(f"{error.rel_rms:.6g}"),
            "max_abs": float(f"{error.max_abs:.6g}"),
        }
        self.tensors.append(line)

    def summary(self) -> dict[str, Any]:
        """Totals; `worst` is the tensor with the largest relative error."""
        weights = sum(math.prod(line["shape"]) for line in self.tensors)
        size = sum(line["bytes"] for line in self.tensors)
        linear = [line for line in self.tensors if line["name"].startswith("layers.") and len(line["shape"]) == 2]
        inner = sum(math.prod(line["shape"]) for line in linear)
        worst = max(self.tensors, key=lambda line: line["rel_rms"], default=None)
        return {
            "recipe": self.recipe,
            "weights": weights,
            "bytes": size,
            "bits_per_weight": round(8 * size / weights, 3) if weights else 0.0,
            "bits_per_linear_weight": round(8 * sum(line["bytes"] for line in linear) / inner, 3) if inner else 0.0,
            "worst": worst["name"] if worst else None,
        }

    def to_json(self) -> bytes:
        """The same bytes for the same conversion."""
        return (json.dumps({"summary": self.summary(), "tensors": self.tensors}, indent=1) + "\n").encode()
