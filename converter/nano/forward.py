"""The target on a batch, through transformers' own modules: embeddings with media in place, then the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .architecture import FULL, SLIDING
from .batches import Batch

SOFTCAP = 30.0


def embeddings(model: Any, batch: Batch) -> torch.Tensor:
    """float [B, T, H]: scaled rows of tokens, and soft tokens as the embedders make them."""
    inner = model.model
    table = inner.language_model.embed_tokens
    soft = torch.zeros_like(batch.ids, dtype=torch.bool).reshape(-1)
    soft[batch.seen] = True
    soft[batch.heard] = True
    out = table(batch.ids.masked_fill(soft.view_as(batch.ids), 0)).float()
    flat = out.reshape(-1, out.shape[-1])
    if len(batch.seen):
        pixels = batch.patches.float() / 255
        rows = inner.embed_vision(pixels[None], batch.positions[None]).pooler_output
        flat = flat.index_copy(0, batch.seen, rows[0].float())
    if len(batch.heard):
        rows = inner.embed_audio(inputs_embeds=batch.frames[None])
        flat = flat.index_copy(0, batch.heard, rows[0].float())
    return flat.view_as(out)


def additive(visible: torch.Tensor) -> torch.Tensor:
    """float [...]: what to add to scores of attention."""
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)


def decoded(model: Any, batch: Batch, keep_cache: bool = False) -> Any:
    """The decoder's output: last_hidden_state [B, T, H] after the final norm, shared_kv_states if they are kept."""
    return model.model.language_model(
        inputs_embeds=embeddings(model, batch),
        attention_mask={FULL: additive(batch.full), SLIDING: additive(batch.sliding)},
        position_ids=torch.arange(batch.ids.shape[1])[None].expand_as(batch.ids),
        use_cache=False,
        return_shared_kv_states=keep_cache,
    )


def logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """float32, after the soft cap."""
    raw = functional.linear(hidden, model.model.language_model.embed_tokens.weight).float()
    return torch.tanh(raw / SOFTCAP) * SOFTCAP


@dataclass
class Losses:
    said: torch.Tensor  # [n]: cross entropy of every token to be said
    right: torch.Tensor  # bool [n]: it was the likeliest
    named: torch.Tensor  # [m]: of every labelled soft token


def losses(model: Any, batch: Batch) -> Losses:
    hidden = decoded(model, batch).last_hidden_state
    flat = hidden.reshape(-1, hidden.shape[-1])
    places, tokens, _ = batch.said
    where, names = batch.named
    scores = logits(model, flat[torch.cat([places, where])])
    spoken = scores[: len(places)]
    said = functional.cross_entropy(spoken, tokens, reduction="none")
    heard = functional.log_softmax(scores[len(places) :], -1).gather(1, names)
    return Losses(said, spoken.detach().argmax(-1) == tokens, -heard.mean(1))
