"""How weights are moved: the decoder's matrices by Muon, everything else by Adam.

Muon (momentum whose singular values are all made one; torch.optim.Muon) reaches in 200 steps what takes Adam thousands
on a model of this size. The embedders, the table of tokens and vectors are no maps from a hidden space to another, for
which it is made.
"""

from __future__ import annotations

from typing import Any

import torch

MATRIX_PEAK = 6e-3  # largest learning rate of a matrix; its steps are as large as Adam's (match_rms_adamw)
WIDE = {"patch_dense.weight": 0.1, "embed_audio.embedding_projection.weight": 0.3}  # of 6912 and 640 inputs


class Optimizer:
    """Both, as one. `peak`: Adam's largest learning rate."""

    def __init__(self, model: Any, peak: float) -> None:
        matrices = [weight for name, weight in model.named_parameters() if _is_matrix(name, weight)]
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.AdamW(_others(model, peak), lr=peak, betas=(0.9, 0.98), fused=True),
            torch.optim.Muon(matrices, lr=MATRIX_PEAK, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        )
        self._parts[1].param_groups[0]["peak"] = MATRIX_PEAK

    def step(self, factor: float) -> None:
        """One step at `factor` times the largest learning rates, by the gradients that are there; they are dropped."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * factor
            part.step()
            part.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._parts]

    def load(self, state: list[dict[str, Any]]) -> None:
        for part, one in zip(self._parts, state, strict=True):
            part.load_state_dict(one)


def _is_matrix(name: str, weight: Any) -> bool:
    return "layers." in name and weight.ndim == 2


def _others(model: Any, peak: float) -> list[dict[str, Any]]:
    """What Adam moves, by largest learning rate and decay. A step of Adam moves every weight alike, and a sum over
    thousands of inputs by as much more: the wide embedders take smaller steps. Vectors do not decay."""
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, weight in model.named_parameters():
        if not _is_matrix(name, weight):
            factor = next((factor for end, factor in WIDE.items() if name.endswith(end)), 1.0)
            groups.setdefault((peak * factor, 0.05 if weight.ndim > 1 else 0.0), []).append(weight)
    return [{"params": made, "peak": rate, "weight_decay": decay} for (rate, decay), made in groups.items()]
