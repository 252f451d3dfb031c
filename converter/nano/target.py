"""Training of the target: steps over items, a held-out examination now and then, and a state to go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from . import mixture
from .batches import Batch, Encoded, Encoder, collate, cut
from .forward import Losses, losses
from .optimizer import Optimizer
from .schedule import Schedule, rate
from .speech import Speaker

NAMED = 0.3  # weight of the soft tokens' labels beside the answers
PADDED = 3072  # tokens of a group of items, padding included


@dataclass
class Score:
    """Of one kind of items: how many, how many answers without a wrong token, sum of their mean losses."""

    items: int = 0
    right: int = 0
    loss: float = 0.0


@dataclass
class Tally:
    kinds: dict[str, Score] = field(default_factory=dict)
    tokens: int = 0
    named: float = 0.0
    named_count: int = 0

    def add(self, batch: Batch, result: Losses) -> None:
        count = len(batch.kinds)
        wrong = torch.zeros(count).index_add(0, batch.owner, (~result.right).float())
        total = torch.zeros(count).index_add(0, batch.owner, result.said.detach().float())
        lengths = torch.bincount(batch.owner, minlength=count)
        for i, kind in enumerate(batch.kinds):
            score = self.kinds.setdefault(kind, Score())
            score.items += 1
            score.right += int(wrong[i] == 0)
            score.loss += float(total[i] / lengths[i])
        self.tokens += batch.count
        self.named += float(result.named.detach().sum())
        self.named_count += len(result.named)

    @property
    def loss(self) -> float:
        """Mean over the items."""
        return sum(score.loss for score in self.kinds.values()) / max(1, sum(s.items for s in self.kinds.values()))

    def summary(self) -> dict[str, Any]:
        kinds = {
            kind: {"items": s.items, "right": round(s.right / s.items, 4), "loss": round(s.loss / s.items, 4)}
            for kind, s in sorted(self.kinds.items())
        }
        named = round(self.named / self.named_count, 4) if self.named_count else None
        return {"loss": round(self.loss, 4), "named": named, "tokens": self.tokens, "kinds": kinds}


class TargetTrainer:
    """`items`: how many a step takes."""

    def __init__(
        self, model: Any, encoder: Encoder, speaker: Speaker | None, seed: int, items: int, peak: float
    ) -> None:
        self.model, self.encoder, self.speaker, self.seed = model, encoder, speaker, seed
        self.items, self.step = items, 0
        self.optimizer = Optimizer(model, peak)

    def run(
        self, schedule: Schedule, every: int, report: Callable[[int, Tally], None], save: Callable[[], None]
    ) -> None:
        """Steps until the schedule ends; after each `every` steps reports what they were like and saves."""
        self.model.train()
        tally = Tally()
        while (progress := schedule.progress(self.step)) < 1:
            self._learn(self._drawn(), rate(progress), tally)
            self.step += 1
            if self.step % every == 0:
                report(self.step, tally)
                tally = Tally()
                save()
        save()

    def examine(self, kinds: Iterable[str], count: int) -> Tally:
        """Held-out items, the answer's tokens given one by one: right when every likeliest token is the next one."""
        self.model.eval()
        tally = Tally()
        for kind in kinds:
            items = mixture.examination(kind, count, self.seed, self.speaker)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                for group in cut([self.encoder(item) for item in items], PADDED):
                    batch = collate(group, self.encoder.audio_token)
                    tally.add(batch, losses(self.model, batch))
        self.model.train()
        return tally

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state(), "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load(state["optimizer"])
        self.step = state["step"]

    def _drawn(self) -> list[Encoded]:
        """The items of this step, whatever came before."""
        table = mixture.makers(self.speaker)
        indices = range(self.step * self.items, (self.step + 1) * self.items)
        return [self.encoder(mixture.drawn(table, "train", self.seed, index)) for index in indices]

    def _learn(self, items: list[Encoded], factor: float, tally: Tally) -> None:
        batches = [collate(group, self.encoder.audio_token) for group in cut(items, PADDED)]
        weight = sum(float(batch.said[2].sum()) for batch in batches)
        labelled = max(1, sum(len(batch.named[0]) for batch in batches))
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16):
                result = losses(self.model, batch)
            loss = (result.said * batch.said[2]).sum() / weight + NAMED * result.named.sum() / labelled
            loss.backward()
            tally.add(batch, result)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(factor)
