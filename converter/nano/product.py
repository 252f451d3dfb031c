"""Nano in the product: items through tandem_lm, as a user's prompts go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .items import Item, Picture

if TYPE_CHECKING:
    from tandem_lm import Engine, Session, Stats

PLACES = ("<|image|>", "<|audio|>", "<|video|>")


def parts(engine: Engine, item: Item) -> list[Any]:
    """The prompt as session.prefill takes it: token ids, and media in their places."""
    import tandem_lm as tl

    media: list[Any] = []
    for one in item.media:
        if not isinstance(one, Picture):
            media.append(tl.Audio(one.samples, 16000))
        elif one.pixels.ndim == 4:
            media.append(tl.Video(one.pixels, frame_rate=1, num_frames=len(one.pixels)))
        else:
            media.append(tl.Image(one.pixels))
    ids = engine.tokenizer.encode(item.prompt(), parse_special=True)
    places = {engine.tokenizer.encode(name, parse_special=True)[0] for name in PLACES}
    waiting = iter(media)
    return [next(waiting) if token in places else token for token in ids]


@dataclass(frozen=True)
class Answer:
    text: str  # special tokens included, without the one that ended it
    stats: Stats


def answer(
    engine: Engine, item: Item, max_tokens: int = 200, draft_tokens: int | None = None, drafter: str = "auto"
) -> Answer:  # fmt: skip
    """Greedy. `draft_tokens`: how many to draft per round; None leaves it to the engine."""
    import tandem_lm as tl

    with engine.session() as session:
        session.prefill(parts(engine, item))
        before = session.stats()
        params = tl.SamplingParams(max_tokens=max_tokens, draft_tokens=draft_tokens, drafter=drafter)
        ids = [token.id for token in session.generate(params)]
        ends = set(engine.info.eos_ids)
        text = engine.tokenizer.decode([token for token in ids if token not in ends])
        return Answer(text, session.stats().since(before))


def visible(text: str) -> str:
    """What the user sees of an answer: without its thoughts."""
    return text.rpartition("<channel|>")[2].strip()


def right(item: Item, said: str) -> bool:
    """Whether an answer is the expected one."""
    return visible(said) == item.expected.strip()


def answer_logits(engine: Engine, item: Item) -> np.ndarray:
    """float32 [n, V]: what the product predicts before each token of the expected answer, its end included."""
    ids = engine.tokenizer.encode(item.answer + item.end, parse_special=True)
    prompt = parts(engine, item)
    with engine.session() as session:
        return _scored(session, prompt, ids)


def _scored(session: Session, prompt: list[Any], ids: list[int]) -> np.ndarray:
    session.prefill(prompt[:-1])
    return session.logits([prompt[-1], *ids])[:-1]
