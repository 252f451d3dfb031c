"""Calibration as the conversion sees it: a source, a recipe and a text in, quantised tensors out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..quantize import Quantized
from ..recipe import Auto, Recipe
from ..source import Source
from . import fold, gptq, sensitivity, text
from .sequential import Calibration
from .state import State
from .text import Request

__all__ = ["Calibrated", "Request", "calibrate"]
VERSION = 4  # of the method: another one does not continue an older state folder


@dataclass(frozen=True)
class Calibrated:
    """The outcome, read on demand from the state folder. `facts` goes into the manifest."""

    recipe: Recipe
    state: State
    facts: dict[str, int | str]

    def tensor(self, name: str) -> Quantized | None:
        return self.state.load(name)

    def vector(self, name: str, original: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        changed = self.state.vector(name)
        return original if changed is None else changed

    def remove(self) -> None:
        """The bundle is complete: nothing is left to resume."""
        self.state.remove()


def state_folder(out_path: Path) -> Path:
    return out_path.with_name(out_path.name + ".calibration")


def calibrate(source: Source, recipe: Recipe | Auto, request: Request, digest: bytes, out_path: Path) -> Calibrated:
    """Chooses the schemes (auto) and quantises the matrices of every layer. Goes on where a run with the same options
    was interrupted."""
    facts: dict[str, int | str] = {"text_sha256": request.fingerprint()}
    wanted = [recipe.bits] if isinstance(recipe, Auto) else [recipe.scheme(name).name for name in source.names()]
    method = [VERSION, fold.POWERS, gptq.SWEEPS, gptq.DAMPING, gptq.MAKE_UP]
    key = json.dumps([method, source.fingerprint, request.tokens, facts, wanted])
    windows = text.windows(request, digest, source.spec.bos_id)
    state = State(state_folder(out_path), key)
    if isinstance(recipe, Auto):
        chosen = state.choice()
        if chosen is None:
            chosen = sensitivity.choose(source, windows, recipe.bits, request.progress)
            state.save_choice(chosen)
        recipe = recipe.recipe(chosen)
    Calibration(source, recipe.scheme, windows, state, request.progress).run()
    facts["tokens"] = sum(len(w) for w in windows)
    return Calibrated(recipe, state, facts)
