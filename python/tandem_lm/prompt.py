"""Media in prompts: an image, a sound or a film becomes its markers, soft tokens and, for a film, times.

Forms: image `begin soft end`, sound `begin soft end`; a film is `mm:ss begin soft end` for each frame, joined by one
space, then its sound if that is wanted. They are those of the models' own processors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ContextLengthError, InvalidRequestError
from .media import Audio, Image, Video
from .text import PLAIN
from .types import SoftTokens

if TYPE_CHECKING:
    from .engine import Engine

Media = Image | Audio | Video
Progress = Callable[[str, int, int], None]  # (what, done, of how many); what it raises ends the work


@dataclass(frozen=True)
class Placed:
    """Soft tokens with what surrounds them: text before the marker, the markers' ids."""

    text: str
    begin: int
    soft: SoftTokens
    end: int


def media_of(kind: str, things: Iterable[object]) -> list[Media]:
    """Media objects, of kind "image", "audio" or "video", from what a caller gave: those, or what makes them."""
    if isinstance(things, (str, bytes)) or not hasattr(things, "__iter__") or hasattr(things, "shape"):
        raise InvalidRequestError(f"{kind} input must be a list, even of one; got {type(things).__name__}")
    return [_medium(kind, thing) for thing in things]


def _medium(kind: str, thing: Any) -> Media:
    make: type[Media] = {"image": Image, "audio": Audio, "video": Video}[kind]
    return thing if isinstance(thing, make) else make(thing)


def message_content(
    text: str, images: Iterable[object], audio: Iterable[object], videos: Iterable[object]
) -> str | list[dict[str, Any]]:
    """The content of a message: a plain str when there are no media."""
    parts: list[tuple[str, Any]] = [("image", one) for one in media_of("image", images)]
    parts += [("video", one) for one in media_of("video", videos)]
    after = [("audio", one) for one in media_of("audio", audio)]
    if not parts and not after:
        return text
    if text.strip():
        parts.append(("text", text))
    return [{"type": kind, kind: one} for kind, one in [*parts, *after]]


class MediaReader:
    """Turns media into soft tokens, as many as fit: `room` is how many tokens they may take together."""

    def __init__(self, engine: Engine, room: int, progress: Progress | None, check: Callable[[], None]) -> None:
        self._engine, self._room, self._progress, self._check = engine, room, progress, check
        self._used = 0

    def read(self, media: Media) -> list[Placed]:
        return list(self._placed(media))

    def count(self, placed: Sequence[Placed]) -> None:
        """Takes the room of soft tokens that were read before."""
        for one in placed:
            self._take(one.soft)

    def _placed(self, media: Media) -> Iterator[Placed]:
        if isinstance(media, Image):
            yield self._surround("", self._take(self._engine._soft_image(media)), "image")
        elif isinstance(media, Audio):
            yield self._surround("", self._hear(media), "audio")
        else:
            yield from self._film(media)

    def _film(self, film: Video) -> Iterator[Placed]:
        report = None if self._progress is None else lambda done, total: self._report("video frames", done, total)
        gap = ""
        for seconds, pixels in film.frames(report):
            self._check()
            soft = self._take(self._engine._soft_image(pixels, video=True))
            if not gap and film.one_size:  # all frames take as many as the first: told before minutes of decoding
                self._require((len(film) - 1) * soft.rows)
            yield self._surround(f"{gap}{int(seconds) // 60:02d}:{int(seconds) % 60:02d} ", soft, "image")
            gap = " "
        if film.audio:
            track = film.audio_track()
            if track is None:
                raise InvalidRequestError(f"{film!r} has no sound track; use audio=False")
            yield self._surround("", self._hear(track), "audio")

    def _hear(self, sound: Audio) -> SoftTokens:
        if "audio" in self._engine.info.media:  # hours of sound are refused before they are embedded
            self._require(-(-len(sound.pcm()) // self._engine.info.media["audio"]["frame"]))
        return self._take(self._engine._soft_audio(sound))

    def _surround(self, text: str, soft: SoftTokens, kind: str) -> Placed:
        media = self._engine.info.media[kind]
        return Placed(text, media["begin"], soft, media["end"])

    def _take(self, soft: SoftTokens) -> SoftTokens:
        self._check()
        self._require(soft.rows)
        self._used += soft.rows
        return soft

    def _require(self, rows: int) -> None:
        if self._used + rows > self._room:
            raise ContextLengthError(
                f"the images and sounds of this prompt take more than the {self._room} tokens that are left of the "
                "context; use fewer (of a film, fewer frames), a smaller max_soft_tokens, or an engine with a larger "
                "max_context"
            )

    def _report(self, what: str, done: int, total: int) -> None:
        self._check()
        if self._progress is not None:
            self._progress(what, done, total)


def joined(placed: Sequence[Placed], encode: Callable[[str], list[int]]) -> list[int | SoftTokens]:
    """The parts of a prompt that soft tokens and their surroundings are."""
    parts: list[int | SoftTokens] = []
    for one in placed:
        parts += [*encode(one.text), one.begin, one.soft, one.end] if one.text else [one.begin, one.soft, one.end]
    return parts


def without_prefix(parts: Sequence[int | SoftTokens], count: int) -> list[int | SoftTokens]:
    """What follows the first `count` tokens, which end at the end of a part."""
    at = 0
    for i, part in enumerate(parts):
        if at >= count:
            return list(parts[i:])
        at += part.rows if isinstance(part, SoftTokens) else 1
    return []


def length(parts: Iterable[int | SoftTokens]) -> int:
    """Tokens that the parts take."""
    return sum(part.rows if isinstance(part, SoftTokens) else 1 for part in parts)


class Messages:
    """Media on their way through a chat template: it sees what kind they are, prints placeholders, and these are then
    replaced. `remembered`: what media became before, kept up to date."""

    def __init__(self, engine: Engine, reader: MediaReader, remembered: MutableMapping[Media, list[Placed]]) -> None:
        self._engine, self._reader, self._remembered = engine, reader, remembered
        self._waiting: dict[str, list[list[Placed]]] = {"image": [], "audio": [], "video": []}

    def quoted(self, content: Any) -> Any:
        """A message's content as the template may see it: look-alikes of special tokens are marked as text."""
        quote = self._engine.tokenizer.quote
        if isinstance(content, str):
            return quote(content)
        if isinstance(content, Mapping):
            kind = content.get("type")
            if kind == "text" and isinstance(content.get("text"), str):
                return {"type": kind, "text": quote(content["text"])}
            if isinstance(kind, str) and kind in self._waiting and kind in content:
                self._waiting[kind].append(self._placed(_medium(kind, content[kind])))
                return {"type": kind}
        elif isinstance(content, (list, tuple)):
            return [self.quoted(part) for part in content]
        raise InvalidRequestError(
            'a message\'s content must be str, or a list of {"type": "text", "text": str}, {"type": "image", "image": '
            f'Image}}, likewise "audio" and "video"; got {content!r:.80}'
        )

    def _placed(self, media: Media) -> list[Placed]:
        if media in self._remembered:
            self._reader.count(self._remembered[media])
        else:
            self._remembered[media] = self._reader.read(media)
        return self._remembered[media]

    def encode(self, text: str) -> list[int | SoftTokens]:
        """The parts of a prompt that the rendered `text` stands for."""
        tokenizer = self._engine.tokenizer
        soft: list[SoftTokens] = []
        if any(self._waiting.values()):
            text = self._expand(text, soft)
        parts: list[int | SoftTokens] = list(tokenizer.encode_quoted(text))
        if soft:
            tokens = {one.token for one in soft}
            places = [i for i, part in enumerate(parts) if part in tokens]
            if len(places) != len(soft):
                raise InvalidRequestError("the tokenizer does not know the model's media tokens; convert it again")
            for place, one in zip(places, soft, strict=True):
                parts[place] = one
        return parts

    def _expand(self, text: str, soft: list[SoftTokens]) -> str:
        """`text` with every placeholder of the template replaced by what it stands for, in which one placeholder is
        left for all the soft tokens of an image or sound; those join `soft`."""
        known, decode = self._engine.info.media, self._engine.tokenizer.decode
        places = (("image", "image", "token"), ("video", "image", "video_token"), ("audio", "audio", "token"))
        kinds = {decode([known[group][name]]): kind for kind, group, name in places if group in known}

        def expanded(match: re.Match[str]) -> str:
            kind = kinds[match[0]]
            if not self._waiting[kind]:
                raise InvalidRequestError(f"the bundle's chat template has a place for {kind} where none was given")
            out = []
            for one in self._waiting[kind].pop(0):
                soft.append(one.soft)
                out.append(one.text + decode([one.begin]) + decode([one.soft.token]) + decode([one.end]))
            return "".join(out)

        text = re.sub(f"{PLAIN}(?:{'|'.join(map(re.escape, kinds))})", expanded, text)
        for kind, left in self._waiting.items():
            if left:
                raise InvalidRequestError(f"the bundle's chat template has no place for {kind} in a message")
        return text
