"""Items to tensors: tokens with media in their places, the two masks of the published model, and what is to be learned.

Soft tokens predict nothing in use. In training each also learns, through the model's own head, the words that say what
is there (`labels`): a patch its colour and shape or its character, a frame of sound its word. The generator knows them,
the architecture stays as it is, and seeing and hearing are learned in minutes rather than hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from .architecture import FRAME, PATCH, WINDOW
from .items import Item, Picture, Sound

SOFT = ("<|image|>", "<|audio|>", "<|video|>")


@dataclass(frozen=True)
class Encoded:
    """One item. `ids`: tokens, soft ones included; `learned`: which tokens are to be said; `block`: -1, or the number
    of the image that a token is part of; `soft`: place of every soft token in order; `labels`: its words' ids."""

    kind: str
    ids: np.ndarray
    learned: np.ndarray
    block: np.ndarray
    soft: np.ndarray
    labels: list[list[int]]
    patches: np.ndarray  # uint8 [n, 6912]
    positions: np.ndarray  # int64 [n, 2]: column, row
    frames: np.ndarray  # float32 [n, 640]


class Encoder:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        ids: dict[str, int] = tokenizer.get_vocab()
        self._soft = {name: ids[name] for name in SOFT}
        self.audio_token = self._soft["<|audio|>"]

    def __call__(self, item: Item) -> Encoded:
        """Prompt and answer, media in place. The prompt's tokens are those that the product makes of it."""
        media = iter(item.media)
        pending: list[int] = []  # soft tokens of each placeholder in turn
        labels: list[list[int]] = []
        patches, positions, frames = [], [], []
        ids: list[int] = []
        learned: list[bool] = []
        block: list[int] = []
        soft: list[int] = []
        images = 0
        for text, wanted in item.segments():
            pieces = []
            while (at := min((text.find(name) for name in SOFT if name in text), default=-1)) >= 0:
                one = next(media)
                expanded, counts = self._place(one)
                pending += counts
                labels += [[self.word(word) for word in words] for words in one.labels]
                if isinstance(one, Picture):
                    cut, where = patched(one.pixels)
                    patches.append(cut)
                    positions.append(where)
                else:
                    frames.append(framed(one.samples))
                end = text.index("|>", at) + 2
                pieces += [text[:at], expanded]
                text = text[end:]
            for token in self.tokenizer.encode("".join([*pieces, text]), add_special_tokens=False).ids:
                if token in self._soft.values():
                    count = pending.pop(0)
                    soft += range(len(ids), len(ids) + count)
                    seen = token != self.audio_token
                    block += [images if seen else -1] * count
                    images += seen
                    ids += [token] * count
                    learned += [False] * count
                else:
                    ids.append(token)
                    learned.append(wanted)
                    block.append(-1)
        labels += [[]] * (len(soft) - len(labels))
        return Encoded(
            item.kind, np.array(ids), np.array(learned), np.array(block), np.array(soft, np.int64), labels,
            _joined(patches, (0, PATCH * PATCH * 3), np.uint8), _joined(positions, (0, 2), np.int64),
            _joined(frames, (0, FRAME), np.float32),
        )  # fmt: skip

    def word(self, text: str) -> int:
        """The first token of a word."""
        return int(self.tokenizer.encode(text, add_special_tokens=False).ids[0])

    def _place(self, one: Picture | Sound) -> tuple[str, list[int]]:
        """What a placeholder becomes, with one soft token for each image or sound, and how many each stands for."""
        if isinstance(one, Sound):
            return "<|audio><|audio|><audio|>", [-(-len(one.samples) // FRAME)]
        height, width = one.pixels.shape[-3:-1]
        count = (height // PATCH) * (width // PATCH)
        if one.pixels.ndim == 3:
            return "<|image><|image|><image|>", [count]
        shown = [f"{i // 60:02d}:{i % 60:02d} <|image><|video|><image|>" for i in range(len(one.pixels))]
        return " ".join(shown), [count] * len(shown)


def _joined(parts: list[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty, dtype)


def patched(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] or [frames, H, W, 3], sides multiples of 48 -> patches [n, 6912], positions [n, 2]."""
    films = pixels if pixels.ndim == 4 else pixels[None]
    count, height, width, _ = films.shape
    rows, columns = height // PATCH, width // PATCH
    cut = films.reshape(count, rows, PATCH, columns, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    y, x = np.divmod(np.tile(np.arange(rows * columns), count), columns)
    return np.ascontiguousarray(cut).reshape(-1, PATCH * PATCH * 3), np.stack([x, y], 1)


def framed(samples: np.ndarray) -> np.ndarray:
    """float32 [n] -> [ceil(n / 640), 640], zeros at the end."""
    return np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)


@dataclass
class Batch:
    ids: torch.Tensor  # int64 [B, T]
    full: torch.Tensor  # bool [B, 1, T, T]: visible
    sliding: torch.Tensor
    said: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # flat positions that predict, tokens, weights
    named: tuple[torch.Tensor, torch.Tensor]  # flat positions of labelled soft tokens, label ids [n, 2]
    patches: torch.Tensor  # uint8 [n, 6912]
    positions: torch.Tensor
    seen: torch.Tensor  # flat positions of the patches
    frames: torch.Tensor
    heard: torch.Tensor  # flat positions of the frames
    count: int  # tokens without padding
    kinds: list[str]
    owner: torch.Tensor  # of each `said`: which item


def collate(items: Sequence[Encoded], audio_token: int) -> Batch:
    longest = max(len(one.ids) for one in items)
    length = -(-longest // 16) * 16
    shape = (len(items), length)
    ids, block = np.zeros(shape, np.int64), np.full(shape, -1)
    said: list[tuple[int, int, float, int]] = []
    named: list[tuple[int, int, int]] = []
    seen, heard = [], []
    for row, one in enumerate(items):
        n = len(one.ids)
        ids[row, :n], block[row, :n] = one.ids, one.block
        wanted = np.flatnonzero(one.learned)
        weight = len(wanted) ** -0.5  # a story has thirty times the tokens of a colour, and not that much to teach
        said += [(row * length + at - 1, int(one.ids[at]), weight, row) for at in wanted]
        for at, words in zip(one.soft, one.labels, strict=True):
            if words:
                named.append((row * length + int(at), words[0], words[-1]))
        sound = one.ids[one.soft] == audio_token
        seen += (row * length + one.soft[~sound]).tolist()
        heard += (row * length + one.soft[sound]).tolist()
    at = np.arange(length)
    past = at[None, :] <= at[:, None]
    near = at[None, :] > at[:, None] - WINDOW
    same = (block[:, :, None] == block[:, None, :]) & (block[:, :, None] >= 0)
    sliding = torch.from_numpy((past[None] | same) & near[None])[:, None]
    full = torch.from_numpy(past)[None, None].expand(len(items), 1, length, length)
    places, tokens, weights, owner = (np.array(column) for column in zip(*said, strict=True))
    names = np.array(named, np.int64).reshape(-1, 3)
    return Batch(
        torch.from_numpy(ids), full, sliding,
        (torch.from_numpy(places), torch.from_numpy(tokens), torch.from_numpy(weights).float()),
        (torch.from_numpy(names[:, 0].copy()), torch.from_numpy(names[:, 1:].copy())),
        torch.from_numpy(np.concatenate([one.patches for one in items])),
        torch.from_numpy(np.concatenate([one.positions for one in items])), torch.tensor(seen, dtype=torch.int64),
        torch.from_numpy(np.concatenate([one.frames for one in items])), torch.tensor(heard, dtype=torch.int64),
        sum(len(one.ids) for one in items), [one.kind for one in items], torch.from_numpy(owner),
    )  # fmt: skip


def cut(items: Sequence[Encoded], tokens: int) -> list[list[Encoded]]:
    """Items of like length together, at most about `tokens` with padding in each group."""
    groups: list[list[Encoded]] = []
    for one in sorted(items, key=lambda one: len(one.ids)):
        if not groups or (len(groups[-1]) + 1) * len(one.ids) > tokens:
            groups.append([])
        groups[-1].append(one)
    return groups
