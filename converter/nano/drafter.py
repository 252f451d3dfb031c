"""Training of the drafter on the frozen target: its hidden states, its cache, and several drafts in a row.

As in use: all drafts of a round are made at the position of the newest token, from the cache before it; the first
takes the target's hidden state, each further one the drafter's own projection. So for every token p that begins a
round, draft j predicts token p + j from token p + j - 1, and the loss of all drafts goes back through the chain.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from . import mixture
from .architecture import FULL, SLIDING, WINDOW
from .batches import Batch, Encoder, collate, cut
from .forward import decoded, logits
from .optimizer import Optimizer
from .schedule import Schedule, rate
from .speech import Speaker
from .target import PADDED

DRAFTS = 4  # in a row; the runtime chooses up to this many
SHARES = {"story": 26, "reading": 8, "arithmetic": 14, "json": 14, "tool": 18, "scene": 5, "number": 2, "digits": 5,
          "command": 3, "movement": 1, "counting": 1, "word": 1, "greeting": 2}  # fmt: skip


@dataclass
class Round:
    """Rows are tokens that begin a round, of all items of a batch, padded to the longest."""

    first: torch.Tensor  # int64 [B, R]: their positions
    valid: torch.Tensor  # bool [B, R, DRAFTS]: the draft's token belongs to the answer
    masks: dict[str, torch.Tensor]  # bool [B, 1, R, T]


def rounds(batch: Batch) -> Round:
    """Every token that predicts one of the answer begins a round."""
    size, length = batch.ids.shape
    learned = torch.zeros(size * length + DRAFTS, dtype=torch.bool)
    learned[batch.said[0] + 1] = True
    starts = torch.zeros(size, length, dtype=torch.bool)
    starts.view(-1)[batch.said[0]] = True
    starts[:, 0] = False  # before it there is no hidden state
    most = int(starts.sum(1).max())
    order = torch.argsort(~starts, dim=1, stable=True)[:, :most]
    real = starts.gather(1, order)
    flat = torch.arange(size)[:, None] * length + order
    valid = torch.stack([learned[flat + j] for j in range(1, DRAFTS + 1)], -1)
    inside = order[..., None] + torch.arange(1, DRAFTS + 1) < length
    keys = torch.arange(length)
    past = keys < order[..., None]
    near = keys > order[..., None] - WINDOW
    past[..., 0] |= ~real  # a padding row looks at something
    near[..., 0] |= ~real
    return Round(order, valid & inside & real[..., None], {FULL: past[:, None], SLIDING: (past & near)[:, None]})


def drafts(
    assistant: Any, target: Any, batch: Batch, round_: Round, hidden: torch.Tensor, cache: Any
) -> list[torch.Tensor]:
    """Logits [B, R, V] of each draft in turn."""
    table = target.model.language_model.embed_tokens
    width = hidden.shape[-1]
    before = (round_.first - 1).clamp(min=0)[..., None].expand(-1, -1, width)
    state = hidden.gather(1, before)
    ids = functional.pad(batch.ids, (0, DRAFTS))
    out = []
    for j in range(DRAFTS):
        given = torch.cat([table(ids.gather(1, round_.first + j)), state], -1)
        decoded_ = assistant.model(
            inputs_embeds=assistant.pre_projection(given),
            attention_mask=round_.masks,
            position_ids=round_.first,
            shared_kv_states=UserDict(cache),
            use_cache=False,
        ).last_hidden_state
        out.append(assistant.lm_head(decoded_))
        state = assistant.post_projection(decoded_)
    return out


@dataclass
class Acceptance:
    """How often draft j was the target's likeliest token, of the rounds where all before it were."""

    tried: list[int] = field(default_factory=lambda: [0] * DRAFTS)
    right: list[int] = field(default_factory=lambda: [0] * DRAFTS)
    loss: float = 0.0
    count: int = 0

    def rates(self) -> list[float]:
        return [round(r / t, 4) if t else 0.0 for r, t in zip(self.right, self.tried, strict=True)]


class DrafterTrainer:
    def __init__(
        self, assistant: Any, target: Any, encoder: Encoder, speaker: Speaker | None, seed: int, items: int, peak: float
    ) -> None:  # fmt: skip
        self.assistant, self.target, self.encoder, self.speaker = assistant, target, encoder, speaker
        self.seed, self.items, self.step = seed, items, 0
        target.requires_grad_(False).eval()
        self.optimizer = Optimizer(assistant, peak)

    def run(
        self, schedule: Schedule, every: int, report: Callable[[int, Acceptance], None], save: Callable[[], None]
    ) -> None:
        """As TargetTrainer.run."""
        self.assistant.train()
        seen = Acceptance()
        while (progress := schedule.progress(self.step)) < 1:
            self._learn(rate(progress), seen)
            self.step += 1
            if self.step % every == 0:
                report(self.step, seen)
                seen = Acceptance()
                save()
        save()

    def examine(self, kind: str, count: int) -> Acceptance:
        """On held-out items of a kind, the true text given."""
        seen = Acceptance()
        items = [self.encoder(item) for item in mixture.examination(kind, count, self.seed, self.speaker)]
        with torch.no_grad():
            for group in cut(items, PADDED):
                self._loss(collate(group, self.encoder.audio_token), seen)
        return seen

    def state(self) -> dict[str, Any]:
        return {"model": self.assistant.state_dict(), "optimizer": self.optimizer.state(), "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self.assistant.load_state_dict(state["model"])
        self.optimizer.load(state["optimizer"])
        self.step = state["step"]

    def _learn(self, factor: float, seen: Acceptance) -> None:
        known = mixture.makers(self.speaker)
        table = {name: (known[name][0], float(share)) for name, share in SHARES.items() if name in known}
        indices = range(self.step * self.items, (self.step + 1) * self.items)
        items = [self.encoder(mixture.drawn(table, "draft", self.seed, index)) for index in indices]
        groups = [collate(group, self.encoder.audio_token) for group in cut(items, PADDED)]
        total = sum(len(batch.said[0]) for batch in groups)
        for batch in groups:
            (self._loss(batch, seen) / total).backward()
        torch.nn.utils.clip_grad_norm_(self.assistant.parameters(), 1.0)
        self.optimizer.step(factor)

    def _loss(self, batch: Batch, seen: Acceptance) -> torch.Tensor:
        """Sum over rounds and drafts of the cross entropy with what the target itself predicts there."""
        round_ = rounds(batch)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = decoded(self.target, batch, keep_cache=True)
            hidden = output.last_hidden_state.float()
        cache = {kind: (k.float(), v.float()) for kind, (k, v) in output.shared_kv_states.items()}
        with torch.autocast("cpu", torch.bfloat16):
            made = drafts(self.assistant, self.target, batch, round_, hidden, cache)
        loss = torch.zeros(())
        alive = torch.ones_like(round_.first, dtype=torch.bool)
        width = hidden.shape[-1]
        for j, scores in enumerate(made):
            use = round_.valid[..., j]
            at = (round_.first + j).clamp(max=batch.ids.shape[1] - 1)[..., None].expand(-1, -1, width)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                wanted = logits(self.target, hidden.gather(1, at)[use])
            ours = scores[use].float()
            loss = loss + functional.cross_entropy(ours, wanted.softmax(-1), reduction="sum")
            hit = torch.zeros_like(alive)
            hit[use] = ours.detach().argmax(-1) == wanted.argmax(-1)
            tried = alive & use
            seen.tried[j] += int(tried.sum())
            seen.right[j] += int((hit & tried).sum())
            alive = tried & hit
        seen.loss += float(loss.detach())
        seen.count += int(round_.valid.sum())
        return loss
