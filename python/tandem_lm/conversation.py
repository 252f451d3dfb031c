"""Conversation: a chat by the model's own template, on top of one session.

Every turn renders the whole history, and only what differs from the tokens already in the session is prefilled again:
the session is rewound to the common prefix. So an edit of the history, or a template that rewrites old turns, costs
what it changes and is never wrong.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from .chat import ChatTemplate
from .errors import ContextLengthError, InvalidRequestError
from .types import SamplingParams

if TYPE_CHECKING:
    from .engine import Engine


class Conversation:
    """`history` is a list of {"role", "content"} messages, the system prompt first if there is one; it may be edited
    between turns. For one thread at a time."""

    def __init__(self, engine: Engine, system: str | None = None) -> None:
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
        self.history: list[dict[str, str]] = []
        self.finish_reason = ""  # of the last answer
        if system:
            self.history.append({"role": "system", "content": system})
        names = {"bos_token": [info.bos_id], "eos_token": list(info.eos_ids[:1]), "pad_token": [info.pad_id]}
        self._template = ChatTemplate(info.chat_template, **{n: tokenizer.decode(ids) for n, ids in names.items()})

    def stream(self, text: str, params: SamplingParams | None = None) -> Generator[str, None, None]:
        """The answer to `text`, piece by piece. Nothing happens before the first piece is asked for.

        The turn joins the history when the answer ends or is given up (what was said so far); if the prompt does not
        fit or fails, the history stays as it was.
        """
        if not isinstance(text, str):
            raise InvalidRequestError(f"a message must be str, got {type(text).__name__}")
        if not text.strip():
            raise InvalidRequestError("the message is empty; write some text")
        return self._stream({"role": "user", "content": text}, params or self.default_params())

    def send(self, text: str, params: SamplingParams | None = None) -> str:
        """The whole answer to `text`."""
        return "".join(self.stream(text, params))

    def default_params(self) -> SamplingParams:
        """What the model's makers recommend for chat; greedy where the bundle says nothing."""
        return recommended_params(self.engine)

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self, question: dict[str, str], params: SamplingParams) -> Generator[str, None, None]:
        self._prefill([*self.history, question])
        said: list[str] = []
        with self.session.generate(params) as generation:
            try:
                for token in generation:
                    if token.text:
                        said.append(token.text)
                        yield token.text
            finally:
                self.history += [question, {"role": "assistant", "content": "".join(said)}]
                generation.close()
                self.finish_reason = generation.finish_reason

    def _prefill(self, messages: list[dict[str, str]]) -> None:
        """Brings the session to the rendered `messages`, keeping the prefix that it already holds."""
        ids = self._render(messages)
        held = self.session.tokens
        common = 0
        while common < min(len(held), len(ids) - 1) and held[common] == ids[common]:
            common += 1  # at least the last token is always new: its logits start the answer
        limit = self.engine.info.max_context
        if len(ids) >= limit:
            raise ContextLengthError(
                f"the conversation has {len(ids)} tokens and the context holds {limit}, the answer included; start "
                "a new conversation, shorten this one's history, or convert the model with a larger --context"
            )
        self.session.rewind(common)
        self.session.prefill(ids[common:])

    def _render(self, messages: list[dict[str, str]]) -> list[int]:
        tokenizer, info = self.engine.tokenizer, self.engine.info
        quoted = [{**message, "content": tokenizer.quote(message["content"])} for message in messages]
        ids = tokenizer.encode_quoted(self._template.render(quoted))
        if info.add_bos and ids[:1] != [info.bos_id]:
            ids.insert(0, info.bos_id)
        return ids


def recommended_params(engine: Engine, **changes: object) -> SamplingParams:
    """The bundle's sampler defaults as SamplingParams; `changes` that are not None take precedence."""
    known = {"temperature": float, "top_k": int, "top_p": float, "min_p": float}
    values: dict[str, object] = {n: known[n](v) for n, v in engine.info.sampler.items() if n in known}
    if {"top_k", "top_p", "min_p"} & values.keys():
        values.setdefault("temperature", 1.0)  # a config that cuts the tail means to sample
    values.update({n: v for n, v in changes.items() if v is not None})
    return SamplingParams(**values)  # type: ignore[arg-type]
