"""Nano's tokenizer: byte-pair encoding with byte fallback, in Gemma's form and with Gemma's special tokens.

Pairs are learned inside words, and never with a digit: digits stay single tokens, as in Gemma.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from .items import TEMPLATE

SIZE = 4096
HEAD = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>",
    "<|tool_response>", "<tool_response|>", '<|"|>', "<|think|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>",
)  # fmt: skip
MEDIA = ("<|image|>", "<|audio|>", "<|video|>", "<|image>", "<image|>", "<|audio>", "<audio|>")  # the last ids
LETTERS = [chr(i) for i in range(33, 127)] + list("▁\n\täöüßéèêàáíóúñç–—‘’“”…€°")
SPECIAL = re.compile("|".join(re.escape(token) for token in (*HEAD, *MEDIA)))
WORD = re.compile(r"▁?[A-Za-z]+|▁?[^A-Za-z0-9▁\n]+")


def learn(texts: Iterable[str], size: int = SIZE) -> dict[str, Any]:
    """texts -> tokenizer.json. Frequent pairs first, ties by the alphabet: the result depends on `texts` only."""
    counts: dict[str, int] = {}
    for text in texts:
        for piece in SPECIAL.split(text):
            for word in WORD.findall(piece.replace(" ", "▁")):
                counts[word] = counts.get(word, 0) + 1
    known = [*HEAD, *(f"<0x{i:02X}>" for i in range(256)), *LETTERS]
    room = size - len(known) - len(MEDIA)
    if room < 0:
        raise ValueError(
            f"a vocabulary of {size} has no room for bytes, letters and special tokens; at least {size - room}"
        )
    merges = _merges(counts, room)
    made = ["".join(pair) for pair in merges]
    unused = [f"<unused{i}>" for i in range(room - len(made))]
    return _form([*known, *made, *unused, *MEDIA], merges)


def _merges(counts: dict[str, int], most: int) -> list[tuple[str, str]]:
    letters = set(LETTERS)
    words = [(list(word), n) for word, n in sorted(counts.items()) if letters.issuperset(word)]
    pairs: dict[tuple[str, str], int] = {}
    where: dict[tuple[str, str], set[int]] = {}
    for i, (pieces, n) in enumerate(words):
        for pair in pairwise(pieces):
            pairs[pair] = pairs.get(pair, 0) + n
            where.setdefault(pair, set()).add(i)
    merges: list[tuple[str, str]] = []
    made = set()
    while len(merges) < most and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            break
        token = "".join(best)
        if token not in made:  # two ways to one token: the first has the id, and the second would never be needed
            merges.append(best)
            made.add(token)
        for i in sorted(where.pop(best)):
            pieces, n = words[i]
            for pair in pairwise(pieces):
                pairs[pair] = pairs.get(pair, 0) - n
            at = 0
            while at + 1 < len(pieces):
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = [token]
                at += 1
            for pair in pairwise(pieces):
                pairs[pair] = pairs.get(pair, 0) + n
                where.setdefault(pair, set()).add(i)
        pairs.pop(best, None)
        pairs = {pair: n for pair, n in pairs.items() if n > 0} if len(merges) % 64 == 0 else pairs
    return merges


def _form(tokens: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    ids = {token: i for i, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **flags} for token in (*HEAD, *MEDIA)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": ids, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip


def write(folder: Path, body: dict[str, Any]) -> None:
    """tokenizer.json, its config, the chat template and generation_config.json, as a checkpoint has them."""
    ids = body["model"]["vocab"]
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **names}
    generation = {
        "bos_token_id": ids["<bos>"], "pad_token_id": ids["<pad>"], "do_sample": False,
        "eos_token_id": [ids["<eos>"], ids["<turn|>"], ids["<|tool_response>"]],
        "suppress_tokens": [ids["<audio|>"], ids["<image|>"]],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("tokenizer.json", json.dumps(body, ensure_ascii=False)),
        ("tokenizer_config.json", json.dumps(config, indent=1)),
        ("generation_config.json", json.dumps(generation, indent=1)),
        ("chat_template.jinja", TEMPLATE.read_text(encoding="utf-8")),
    ):
        (folder / name).write_text(text, encoding="utf-8")
