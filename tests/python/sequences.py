"""Prompts and greedy texts for tests that compare sessions: one to which something happened with one to which nothing
did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import write_assistant, write_gemma3, write_gemma4

import tandem_lm as tl
from tandem_converter.convert import convert

CONTEXT = 192  # of the portable graphs
LONG = 2048  # beyond the rings, which have a window of 8 and 512 tokens more
# Penalties keep a tiny model's text from repeating itself.
STYLE: dict[str, Any] = {"presence_penalty": 4.0, "repetition_penalty": 1.1, "stop_ids": ()}
DRAFTERS = ("off", "on")


def write_bundles(folder: Path) -> Path:
    """Bundles with a drafter and media (f32, int4-channel), and one without either (gemma3, int8)."""
    target = write_gemma4(folder / "target", positions=1120)
    assistant = write_assistant(folder / "assistant", seed=5)
    for quant in ("f32", "int4-channel"):
        convert(target, folder / f"{quant}.litertlm", quant=quant, context=CONTEXT, drafter=assistant)
    convert(write_gemma3(folder / "gemma3"), folder / "gemma3.litertlm", quant="int8", context=CONTEXT)
    return folder


def random_ids(count: int, seed: int) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(0, 400, count).tolist()
    return found


def picture(seed: int) -> tl.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (30 + 5 * (seed % 7), 40, 3), dtype=np.uint8)
    return tl.Image(pixels, max_soft_tokens=70)


def media_prompt(seed: int) -> list[Any]:
    """An image, sound, and ids around them: fewer than 95 tokens."""
    pcm = (0.1 * np.random.default_rng(seed).standard_normal(640 * (3 + seed % 5))).astype(np.float32)
    return [2, 30 + seed % 9, picture(seed), 31, 32, tl.Audio(pcm, 16000), 33, 40 + seed % 50]


def with_media(engine: tl.Engine, i: int) -> bool:
    """Every third of a test's prompts has media, where the model takes them."""
    return i % 3 == 2 and "image" in engine.info.modalities


def begun(engine: tl.Engine, prompt: list[Any]) -> tl.Session:
    session = engine.session()
    session.prefill(prompt)
    return session


def greedy(session: tl.Session, tokens: int = 24, drafter: str = "off") -> list[int]:
    return [t.id for t in session.generate(tl.SamplingParams(max_tokens=tokens, drafter=drafter, **STYLE))]
