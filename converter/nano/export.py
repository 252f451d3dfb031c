"""The trained pair as Hugging Face folders, and through the ordinary converter as one bundle.

Weights stay float32: a checkpoint in bfloat16 has its embedding scale rounded to bfloat16 too, and this model was
trained with sqrt(192) as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..convert import convert
from . import tokenizer

CONTEXT = 2048  # tokens, by default: a film of 28 frames


def save(folder: Path, target: Any, assistant: Any | None, body: dict[str, Any]) -> None:
    """Writes `folder`/target and `folder`/assistant. `body`: tokenizer.json."""
    for name, matrix in target.named_parameters():
        if "patch_dense" in name or "embedding_projection" in name:
            matrix.data = matrix.data.half().float()  # a bundle holds these as float16: now nothing is lost there
    for name, model in (("target", target), ("assistant", assistant)):
        if model is not None:
            model.save_pretrained(folder / name)
            tokenizer.write(folder / name, body)


def bundle(folder: Path, out: Path, quant: str = "int8") -> None:
    """The folders of `save` -> one .litertlm, with the drafter if there is one."""
    drafter = folder / "assistant"
    convert(folder / "target", out, quant=quant, context=CONTEXT, drafter=drafter if drafter.exists() else None)
