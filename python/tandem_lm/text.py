"""Text and token ids: the tokenizer's Python face, and the protection of chat markers against user text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from . import _checks
from .errors import InvalidRequestError, translated

_MAX_LETTERS = 1 << 28  # at most 1 GiB of UTF-8, which is what the core takes
_SURROGATES = re.compile("[\ud800-\udfff]")
# Unicode noncharacters: they never occur in text meant for interchange, so they can mark what a user wrote.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
PLAIN = f"(?<!{_OPEN})"  # before a pattern: not in what `quote` marked
_QUOTED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_LOOK_ALIKE = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]")  # the two shapes of special tokens: <...> and [...]


class Tokenizer:
    """Text to token ids and back. Thread-safe."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._special: dict[str, bool] = {}

    @property
    def vocab_size(self) -> int:
        return int(self._native.vocab_size)

    def encode(self, text: str, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. With `parse_special` the names of special tokens in it become those tokens; leave it off
        for text that somebody else wrote. Lone surrogates count as U+FFFD."""
        if not isinstance(text, str):
            raise InvalidRequestError(f"text to encode must be str, got {type(text).__name__}")
        if len(text) > _MAX_LETTERS:
            raise InvalidRequestError(f"the text has {len(text)} letters; encode at most {_MAX_LETTERS} at a time")
        with translated():
            ids: list[int] = self._native.encode(_SURROGATES.sub("\ufffd", text), add_bos, parse_special)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids that no token has are left out."""
        checked = _checks.token_ids("ids", ids, 2**31)  # a model's vocabulary may be larger than its tokenizer's
        with translated():
            return str(self._native.decode(checked, skip_special))

    def quote(self, text: str) -> str:
        """Marks every special-token look-alike in `text`, so that encode_quoted reads it as plain text: without this a
        user could end their own turn and open another role's."""
        text = text.replace(_OPEN, "\ufffd").replace(_CLOSE, "\ufffd")
        return _LOOK_ALIKE.sub(lambda m: f"{_OPEN}{m[0]}{_CLOSE}" if self._is_special(m[0]) else m[0], text)

    def encode_quoted(self, text: str) -> list[int]:
        """Ids of rendered text: special tokens are parsed, except in what `quote` marked."""
        ids: list[int] = []
        for i, part in enumerate(_QUOTED.split(text)):  # odd parts are the quoted ones
            plain = part.replace(_OPEN, "").replace(_CLOSE, "")
            if plain:
                ids += self.encode(plain, parse_special=i % 2 == 0)
        return ids

    def _is_special(self, text: str) -> bool:
        if len(text) > 64:
            return False
        if text not in self._special:
            self._special[text] = self.encode(text, parse_special=True) != self.encode(text)
            if len(self._special) > 10_000:  # a user's text must not grow this without end
                self._special.clear()
                return self.encode(text, parse_special=True) != self.encode(text)
        return self._special[text]


def open_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a bundle alone, without loading the model."""
    from .engine import native_module, open_path

    where = open_path(path)
    with translated():
        return Tokenizer(native_module().open_tokenizer(where))
