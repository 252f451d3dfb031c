"""Opening a checkpoint, whatever its form: the one door through which weights come in.

Canonical names: embed.weight, norm.weight, layers.N.{q,k,v,o,gate,up,down}.weight, layers.N.{q_norm,k_norm}.weight,
layers.N.{input,post_attention,pre_feedforward,post_feedforward}_norm.weight, layers.N.scalar, and media.* (names.py).
Norms are raw: ModelSpec.norm_offset says what the graph adds. A source has checked that every tensor of the model is
there, once, with the right shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from .errors import ConversionError
from .family import ModelSpec


class Rows(Protocol):
    """Matrices, read row by row, by name."""

    def rows(self, name: str, start: int, stop: int) -> np.ndarray: ...


class Source(Protocol):
    """A checkpoint. Values come as float32, read on demand; NaN or Inf in them is a ConversionError."""

    spec: ModelSpec
    dtype: str  # what the weights are stored as: "bfloat16", "float32", "q4_k", ...
    fingerprint: str  # sha256 over file sizes, headers, config and tokenizer

    @property
    def tokenizer_json(self) -> bytes: ...

    @property
    def chat_template(self) -> str | None: ...

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def tensor(self, name: str) -> np.ndarray: ...

    def rows(self, name: str, start: int, stop: int) -> np.ndarray: ...


def open_source(path: Path | str) -> Source:
    """A Hugging Face folder, a GGUF file, or a folder with exactly one GGUF file."""
    path = Path(path)
    if path.is_dir():
        if (path / "config.json").exists():
            from .huggingface import HuggingFaceSource

            return HuggingFaceSource(path)
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            seen = f"{len(found)} GGUF files" if found else "no config.json and no GGUF file"
            raise ConversionError(f"{path}: {seen}; give a Hugging Face checkpoint folder or one GGUF file")
        path = found[0]
    if not path.exists():
        raise ConversionError(f"{path} does not exist; give a Hugging Face checkpoint folder or a GGUF file")
    if path.suffix in (".safetensors", ".json"):
        raise ConversionError(f"{path} is one file of a checkpoint; give the folder that holds it")
    from .gguf_source import GgufSource

    return GgufSource(path)
