"""Which items, how often: the course of the training, and the examination."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from . import pictures, speech, stories, tasks
from .items import Item

Maker = Callable[[random.Random], Item]


def makers(speaker: speech.Speaker | None) -> dict[str, tuple[Maker, float]]:
    """Name -> how to make one, and its share of the items. Without a speaker there is no sound."""
    made: dict[str, tuple[Maker, float]] = {
        "story": (stories.story, 9), "reading": (stories.reading, 7), "greeting": (stories.greeting, 0.5),
        "arithmetic": (tasks.arithmetic, 14), "json": (tasks.extraction, 7), "tool": (tasks.tool_call, 8),
        "scene": (pictures.scene, 13), "shape_colour": (pictures.shape_colour, 4), "counting": (pictures.counting, 3),
        "crowd": (pictures.crowd, 6),
        "number": (pictures.number, 11), "word": (pictures.printed_word, 3), "movement": (pictures.movement, 8),
    }  # fmt: skip
    if speaker is not None:
        made["digits"] = (partial(speech.digits, speaker=speaker), 17)
        made["command"] = (partial(speech.command, speaker=speaker), 3)
    return made


def training_items(seed: int, speaker: speech.Speaker | None, start: int = 0) -> Iterator[Item]:
    """Endless, from item `start` on: what the training of the target sees."""
    table = makers(speaker)
    for index in count(start):
        yield drawn(table, "train", seed, index)


def drawn(table: dict[str, tuple[Maker, float]], use: str, seed: int, index: int) -> Item:
    """Item `index` of a use ("train", "draft"). It depends on these alone: a run goes on where it stopped."""
    rng = random.Random(f"{use} {seed} {index}")
    names = sorted(table)
    return table[rng.choices(names, [table[name][1] for name in names])[0]][0](rng)


def examination(kind: str, number: int, seed: int, speaker: speech.Speaker | None) -> list[Item]:
    """Held-out items of a kind: other seeds, pairs of numbers, and speeds and pitches than in training."""
    special: dict[str, Maker] = {"arithmetic": partial(tasks.arithmetic, held_out=True)}
    if speaker is not None:
        special["digits"] = partial(speech.digits, speaker=speaker, examined=True)
        special["command"] = partial(speech.command, speaker=speaker, examined=True)
    make = special.get(kind) or makers(speaker)[kind][0]
    return [make(random.Random(f"examine {seed} {kind} {i}")) for i in range(number)]
