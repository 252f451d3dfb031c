"""What nano learns from and is examined on: an item is one exchange in the chat format, with pictures and sounds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]
Labels = tuple[tuple[str, ...], ...]  # of every soft token: the words that say what is there
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
TURN = re.compile(r"(?<=<\|turn>model\n)(?!<\|channel>)(?:(?!<turn\|>).)*<turn\|>", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """`pixels`: uint8 [height, width, 3], of a video [frames, height, width, 3]. `labels`: of its patches in order."""

    pixels: np.ndarray
    labels: Labels = ()


@dataclass(frozen=True)
class Sound:
    """`samples`: float32 at 16 kHz. `labels`: of its frames of 40 ms."""

    samples: np.ndarray
    labels: Labels = ()


@dataclass(frozen=True)
class Item:
    """`messages` end with the user's (or with a tool's result); the model is to say `answer` and then `end`.
    `expected`: what an examiner compares. `media` in the order of the prompt's placeholders."""

    kind: str
    messages: tuple[Message, ...]
    answer: str
    expected: str
    end: str = "<turn|>"
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False
    media: tuple[Picture | Sound, ...] = field(default=(), repr=False)

    def prompt(self) -> str:
        """The prompt as the chat template prints it, one placeholder for each of the media."""
        template = chat_template()
        text: str = template.render(
            messages=self.messages, tools=list(self.tools) or None, enable_thinking=self.thinking,
            add_generation_prompt=True, bos_token="<bos>",
        )  # fmt: skip
        return text

    def segments(self) -> list[tuple[str, bool]]:
        """The whole exchange as pieces of text, each with whether the model is to learn to say it."""
        text, at, out = self.prompt(), 0, []
        for turn in TURN.finditer(text):
            out += [(text[at : turn.start()], False), (turn[0], True)]
            at = turn.end()
        return [*out, (text[at:], False), (self.answer + self.end, True)]


@cache
def chat_template() -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def user(text: str, *media: str) -> Message:
    """A user's message; `media`: kinds ("image", "audio", "video"). Images and videos come first, sound last."""
    if not media:
        return {"role": "user", "content": text}
    parts: list[Message] = [{"type": kind} for kind in media if kind != "audio"]
    if text:
        parts.append({"type": "text", "text": text})
    return {"role": "user", "content": [*parts, *({"type": kind} for kind in media if kind == "audio")]}
