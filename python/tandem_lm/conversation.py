"""Conversation: a chat by the model's own template, on top of one session.

Every turn renders the whole history, and only what differs from the tokens already in the session is prefilled again:
the session is rewound to the common prefix. So an edit of the history, or a template that rewrites old turns, costs
what it changes and is never wrong. Images and sounds count as the same when their content is.

A sliding conversation leaves the oldest turns out of the prompt when they no longer fit, the system prompt stays. It
leaves out more than it must, down to half the context, since whatever follows is prefilled again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import _checks
from ._async import AsyncStream
from .chat import ChatTemplate
from .errors import ContextLengthError, InvalidRequestError
from .types import SamplingParams, SoftTokens

if TYPE_CHECKING:
    from .engine import Engine
    from .prompt import Media, Placed, Progress

Message = dict[str, Any]


class Conversation:
    """`history` is a list of {"role", "content"} messages, the system prompt first if there is one; it may be edited
    between turns. A content is a str, or where there are media a list of {"type": "text", "text": str} and
    {"type": "image", "image": Image}, likewise "audio" and "video". `forgotten` says how many messages after the system
    prompt a sliding conversation (`slide`) no longer shows the model. For one thread at a time."""

    def __init__(self, engine: Engine, system: str | None = None, slide: bool = False) -> None:
        info, tokenizer = engine.info, engine.tokenizer
        if info.chat_template is None:
            raise InvalidRequestError(
                f"{engine.path} is a base model without a chat template: continue raw text instead "
                "(tandem run --raw, or session.prefill and session.generate)"
            )
        if system is not None and not isinstance(system, str):
            raise InvalidRequestError(f"the system prompt must be str, got {type(system).__name__}")
        self.engine = engine
        self.session = engine.session()
        self.history: list[Message] = []
        self.finish_reason = ""  # of the last answer
        self.slide = slide
        self.forgotten = 0
        if system:
            self.history.append({"role": "system", "content": system})
        self._read: WeakKeyDictionary[Media, list[Placed]] = WeakKeyDictionary()  # what media of the history became
        names = {"bos_token": [info.bos_id], "eos_token": list(info.eos_ids[:1]), "pad_token": [info.pad_id]}
        self._template = ChatTemplate(info.chat_template, **{n: tokenizer.decode(ids) for n, ids in names.items()})

    def stream(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        images: Iterable[object] = (),
        audio: Iterable[object] = (),
        videos: Iterable[object] = (),
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Generator[str, None, None]:
        """The answer to `text`, piece by piece. Nothing happens before the first piece is asked for.

        `images`, `audio` and `videos` are lists of Image, Audio and Video, or of what makes one (a path, bytes, an
        array). Images and videos come before the text and audio after it, as the models expect; for another order make
        the content of a message yourself, in `history`. `progress(what, done, total)` is told of long work.
        `timeout` is in seconds from the first piece that is asked for: the prompt raises TimeLimitError then, the
        answer ends with finish_reason "timeout".

        The turn joins the history when the answer ends or is given up (what was said so far); if the prompt does not
        fit or fails, the history stays as it was.
        """
        if not isinstance(text, str):
            raise InvalidRequestError(f"a message must be str, got {type(text).__name__}")
        from .prompt import message_content

        content = message_content(text, images, audio, videos)
        if not text.strip() and content == text:
            raise InvalidRequestError("the message is empty; write some text")
        if timeout is not None:
            _checks.real("timeout", timeout, 0.0, math.inf, above=True)
        question = {"role": "user", "content": content}
        return self._stream(question, params or self.default_params(), progress, timeout)

    def send(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        images: Iterable[object] = (),
        audio: Iterable[object] = (),
        videos: Iterable[object] = (),
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> str:
        """The whole answer to `text`; the arguments are those of stream()."""
        media: dict[str, Any] = {"images": images, "audio": audio, "videos": videos}
        return "".join(self.stream(text, params, progress=progress, timeout=timeout, **media))

    def astream(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        images: Iterable[object] = (),
        audio: Iterable[object] = (),
        videos: Iterable[object] = (),
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> AsyncStream[str]:
        """stream() for `async for`, in a thread, which is where `progress` is called too. Cancelling the task that
        awaits it gives the answer up within one step."""
        media: dict[str, Any] = {"images": images, "audio": audio, "videos": videos}
        pieces = self.stream(text, params, progress=progress, timeout=timeout, **media)
        return AsyncStream(pieces, self.session.cancel)

    async def asend(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        images: Iterable[object] = (),
        audio: Iterable[object] = (),
        videos: Iterable[object] = (),
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> str:
        """send() for async code; see astream()."""
        media: dict[str, Any] = {"images": images, "audio": audio, "videos": videos}
        async with self.astream(text, params, progress=progress, timeout=timeout, **media) as pieces:
            return "".join([piece async for piece in pieces])

    def default_params(self) -> SamplingParams:
        """What the model's makers recommend for chat; greedy where the bundle says nothing."""
        return recommended_params(self.engine)

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(
        self, question: Message, params: SamplingParams, progress: Progress | None, timeout: float | None
    ) -> Generator[str, None, None]:
        ends = None if timeout is None else time.monotonic() + timeout
        self._prefill([*self.history, question], params.max_tokens, progress, timeout)
        said: list[str] = []
        with self.session.generate(params, _left(ends)) as generation:
            try:
                for token in generation:
                    if token.text:
                        said.append(token.text)
                        yield token.text
            finally:
                self.history += [question, {"role": "assistant", "content": "".join(said)}]
                generation.close()
                self.finish_reason = generation.finish_reason

    def _prefill(self, messages: list[Message], answer: int, progress: Progress | None, timeout: float | None) -> None:
        """Brings the session to the rendered `messages`, keeping the prefix that it already holds. At most `answer`
        tokens are to follow."""
        from .prompt import length, without_prefix

        ends = None if timeout is None else time.monotonic() + timeout
        self.session._begin()
        parts = self._fitting(messages, answer, progress) if self.slide else self._render(messages, progress)
        total = length(parts)
        limit = self.engine.info.max_context
        if total >= limit:
            raise ContextLengthError(
                f"the conversation has {total} tokens and the context holds {limit}, the answer included; start "
                "a new conversation, shorten this one's history, or convert the model with a larger --context"
            )
        # At least the last token is always new: its logits start the answer.
        common = min(self.session.common_prefix(parts), total - 1)
        self.session.rewind(common)
        self.session.prefill(without_prefix(parts, common), progress, _left(ends))

    def _fitting(self, messages: list[Message], answer: int, progress: Progress | None) -> list[int | SoftTokens]:
        """The rendered `messages` without as many of the oldest turns as needed for an answer to fit too."""
        from .prompt import length

        limit = self.engine.info.max_context
        head = messages[:1] if messages[0]["role"] == "system" else []
        turns = messages[len(head) :]
        begins = [i for i, message in enumerate(turns) if message["role"] == "user"]
        if self.forgotten not in begins:  # the history was edited
            self.forgotten = 0

        room = limit - min(answer, limit // 4)
        for begin in [begin for begin in begins if begin >= self.forgotten]:
            try:
                parts = self._render(head + turns[begin:], progress)
            except ContextLengthError:  # media alone are too long
                if begin == begins[-1]:
                    raise
            else:
                if length(parts) < (limit if begin == begins[-1] else room):
                    self.forgotten = begin
                    break
            room = limit // 2
        return parts

    def _render(self, messages: list[Message], progress: Progress | None = None) -> list[int | SoftTokens]:
        from .prompt import Messages

        info = self.engine.info
        media = Messages(self.engine, self.session._reader(progress, whole=True), self._read)
        quoted = [{**message, "content": media.quoted(message["content"])} for message in messages]
        parts = media.encode(self._template.render(quoted))
        if info.add_bos and parts[:1] != [info.bos_id]:
            parts.insert(0, info.bos_id)
        return parts


def _left(ends: float | None) -> float | None:
    """Seconds until `ends` (time.monotonic()), at least a moment: a limit must be above 0."""
    return None if ends is None else max(1e-9, ends - time.monotonic())


def recommended_params(engine: Engine, **changes: object) -> SamplingParams:
    """The bundle's sampler defaults as SamplingParams; `changes` that are not None take precedence."""
    known = {"temperature": float, "top_k": int, "top_p": float, "min_p": float}
    values: dict[str, object] = {n: known[n](v) for n, v in engine.info.sampler.items() if n in known}
    if {"top_k", "top_p", "min_p"} & values.keys():
        values.setdefault("temperature", 1.0)  # a config that cuts the tail means to sample
    values.update({n: v for n, v in changes.items() if v is not None})
    return SamplingParams(**values)  # type: ignore[arg-type]
