"""The product's logits beside transformers', on the same items: media, masks, tokens and template have to agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import forward, product
from .batches import Encoder, collate
from .items import Item

if TYPE_CHECKING:
    from tandem_lm import Engine


@dataclass(frozen=True)
class Difference:
    kind: str
    worst: float  # largest |product - transformers| over the largest |transformers|
    loss: float  # mean cross entropy of the answer's tokens, the product's
    reference_loss: float
    tokens: int


def compare(engine: Engine, model: Any, encoder: Encoder, item: Item) -> Difference:
    """One item, the tokens of its answer; transformers in float32."""
    encoded = encoder(item)
    batch = collate([encoded], encoder.audio_token)
    ids = encoder.tokenizer.encode(item.answer + item.end, add_special_tokens=False).ids
    with torch.no_grad():
        hidden = forward.decoded(model, batch).last_hidden_state[0, : len(encoded.ids)]
        reference = forward.logits(model, hidden[-len(ids) - 1 : -1]).numpy()
    ours = product.answer_logits(engine, item)
    worst = float(np.abs(ours - reference).max() / np.abs(reference).max())
    return Difference(item.kind, worst, _loss(ours, ids), _loss(reference, ids), len(ids))


def _loss(logits: np.ndarray, ids: list[int]) -> float:
    peak = logits.max(-1, keepdims=True)
    scores = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
    return float(-scores[np.arange(len(ids)), ids].mean())
