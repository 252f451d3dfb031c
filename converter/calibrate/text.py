"""The text that a model is calibrated on: the user's, or the set in data/ (data/README.md says what it is)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConversionError

PARTS = ("english.txt", "code.txt", "languages.txt")
TOKENS = 32768
WINDOW = 512  # tokens of a window, the first of them bos
LEAST = 16  # tokens that a text must have


@dataclass(frozen=True)
class Request:
    """What to calibrate on. `encode(digest, text)` turns text into token ids by a tokenizer's digest (see
    converter/tokenizer.py); `text` None is the set in data/; `progress(done, total, name)` counts weights."""

    encode: Callable[[bytes, str], list[int]]
    text: str | None = None
    tokens: int = TOKENS
    progress: Callable[[int, int, str], None] | None = None

    def fingerprint(self) -> str:
        return hashlib.sha256((self.text if self.text is not None else default_text()).encode()).hexdigest()


def default_text() -> str:
    folder = Path(__file__).parent / "data"
    return "\n\n".join((folder / name).read_text(encoding="utf-8") for name in PARTS)


def windows(request: Request, digest: bytes, bos: int) -> list[list[int]]:
    """Windows of one length, spread evenly over the text; all of it where it has no more than asked for."""
    if request.tokens < LEAST:
        raise ConversionError(f"calibration on {request.tokens} tokens; give at least {LEAST}, better {TOKENS}")
    ids = request.encode(digest, default_text() if request.text is None else request.text)
    if len(ids) < LEAST:
        raise ConversionError(f"the calibration text has {len(ids)} tokens; give a text of at least {LEAST}")
    body = min(WINDOW - 1, len(ids), request.tokens - 1)
    return [[bos, *ids[at : at + body]] for at in spread(len(ids), body, max(1, request.tokens // (body + 1)))]


def spread(length: int, body: int, wanted: int) -> Sequence[int]:
    """Where each window begins."""
    count = length // body
    if wanted >= count:
        return range(0, count * body, body)
    return [(2 * i + 1) * count // (2 * wanted) * body for i in range(wanted)]
