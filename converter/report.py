"""The error report of a conversion: what each tensor became and what that cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from .quantize import Quantized


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
        self.tensors.append(line)

    def add_float(self, name: str, shape: tuple[int, ...]) -> None:
        """A tensor kept as float32 without passing through the quantiser."""
        size = 4 * math.prod(shape)
        line = {"name": name, "shape": list(shape), "scheme": "f32", "bytes": size, "rel_rms": 0.0, "max_abs": 0.0}
        self.tensors.append(line)

    def summary(self) -> dict[str, Any]:
        """Totals; `worst` is the tensor with the largest relative error."""
        weights = sum(math.prod(line["shape"]) for line in self.tensors)
        size = sum(line["bytes"] for line in self.tensors)
        worst = max(self.tensors, key=lambda line: line["rel_rms"], default=None)
        return {
            "recipe": self.recipe,
            "weights": weights,
            "bytes": size,
            "bits_per_weight": round(8 * size / weights, 3) if weights else 0.0,
            "worst": worst["name"] if worst else None,
        }

    def to_json(self) -> bytes:
        """The same bytes for the same conversion."""
        return (json.dumps({"summary": self.summary(), "tensors": self.tensors}, indent=1) + "\n").encode()
