"""Engine and Session: load a bundle once, open sequences on it, prefill, read logits, generate."""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import _checks, library
from ._interrupt import interruptible
from .errors import BackendError, BundleError, Cancelled, InvalidRequestError, translated
from .text import Tokenizer
from .types import EngineInfo, SamplingParams, Stats, Token

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .conversation import Conversation

Part = str | int
PathLike = str | os.PathLike[str]


def native_module() -> Any:
    """The C++ module, imported when first needed: the converter and `tandem --help` work without it."""
    try:
        from . import _native
    except ImportError as error:
        raise BackendError(
            f"tandem_lm's native module cannot be loaded ({error}); install again: pip install ."
        ) from error
    return _native


def open_path(path: PathLike) -> str:
    """A bundle's path for the native module; a clear error for what is plainly no bundle."""
    where = Path(path)
    if not where.exists():
        raise BundleError(f"{where}: no such file; make a bundle with: tandem convert SRC OUT.litertlm")
    if where.is_dir():
        raise BundleError(f"{where} is a folder, not a bundle; convert it first: tandem convert {where} OUT.litertlm")
    return str(where)


def _not_yet(what: str, instead: str) -> NoReturn:
    raise InvalidRequestError(f"{what} is not supported by this version; {instead}")


class Engine:
    """A loaded bundle: the weights, shared by all its sessions. Thread-safe.

    `num_threads` None: one per physical core. `max_context` None: what the bundle was made for. The first load prepares
    the weights for this machine and keeps them in the cache folder (`cache_dir` None: the default one).

    `graph` says which of the bundle's graphs run: "fast" (Tandem's own attention over a cache that grows with use),
    "portable" (standard operators, what other runtimes run; its cache is always f32), or "auto": fast where there is.

    `drafter` is about speculative decoding, which gives the same text sooner: "auto" drafts tokens where that pays
    (with the bundle's drafter, or by looking up repeated text), "on" always, "off" never. It needs the fast graphs.
    """

    def __init__(
        self,
        path: PathLike,
        backend: str = "cpu",
        num_threads: int | None = None,
        max_context: int | None = None,
        kv_dtype: str = "f16",
        drafter: str = "auto",
        cache_dir: PathLike | None = None,
        graph: str = "auto",
    ) -> None:
        _checks.choice("backend", backend, ("cpu",))
        _checks.choice("kv_dtype", kv_dtype, ("f16", "f32", "int8"))
        _checks.choice("graph", graph, ("auto", "fast", "portable"))
        _checks.choice("drafter", drafter, ("auto", "on", "off"))
        threads = 0 if num_threads is None else _checks.integer("num_threads", num_threads, 1, 1024)
        context = 0 if max_context is None else _checks.integer("max_context", max_context, 1, 2**31 - 1)
        where = open_path(path)
        native = native_module()
        with translated():
            self._native: Any = native.Engine(
                where,
                str(library.litert_library()),
                threads,
                context,
                library.engine_cache_dir(cache_dir),
                kv_dtype,
                graph,
                drafter,
            )
            self.info = EngineInfo.from_native(self._native.info())
            self.tokenizer = Tokenizer(self._native.tokenizer)
        self.path = Path(path)

    def session(self) -> Session:
        """A new, empty sequence."""
        return Session(self)

    def conversation(
        self, system: str | None = None, tools: Sequence[Callable[..., Any]] | None = None, thinking: bool = False
    ) -> Conversation:
        """A chat with the model, by its own template."""
        from .conversation import Conversation

        if tools:
            _not_yet("tools", "leave tools empty")
        if thinking:
            _not_yet("thinking", "use thinking=False")
        return Conversation(self, system=system)

    def stats(self) -> Stats:
        """What all sessions of the engine have done together, those that are closed included."""
        if self._native is None:
            raise InvalidRequestError("the engine is closed; open a new one with Engine(path)")
        with translated():
            return Stats.from_native(self._native.stats())

    def restore(self, path: PathLike) -> Session:
        _not_yet(f"restoring a session ({path})", "prefill its tokens again")

    def embed_image(self, image: object) -> NoReturn:
        _not_yet(f"image input ({type(image).__name__})", "use text")

    def embed_audio(self, audio: object) -> NoReturn:
        _not_yet(f"audio input ({type(audio).__name__})", "use text")

    def close(self) -> None:
        """Lets go of the weights. Sessions that are still open keep them alive until they are closed too."""
        self._native = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_session(self) -> Any:
        if self._native is None:
            raise InvalidRequestError("the engine is closed; open a new one with Engine(path)")
        with translated():
            return self._native.session()


class Session:
    """One sequence: its own KV cache and position. For one thread at a time; only cancel() may come from another."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._native: Any = engine._open_session()
        self._tokens: list[int] = []
        self._running: weakref.ref[Generation] | None = None  # weak: a generation that was left lets go of everything

    @property
    def position(self) -> int:
        """Number of tokens in the sequence."""
        return int(self._open().position)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The sequence itself, as token ids."""
        return tuple(self._tokens)

    def prefill(self, prompt: str | Sequence[Part]) -> None:
        """Appends a prompt: token ids, or parts that are each an id or a str. Names of special tokens inside a str stay
        plain text, and no bos token is added: pass ids for those."""
        ids = self._ids(prompt)
        with self._appending(ids) as native, translated():
            interruptible(lambda: native.prefill(ids), native.cancel)

    def logits(self, prompt: str | Sequence[Part]) -> npt.NDArray[np.float32]:
        """Appends a prompt and returns its logits, float32 [tokens, vocab_size]: row i scores what follows token i."""
        ids = self._ids(prompt)
        with self._appending(ids) as native, translated():
            values: npt.NDArray[np.float32] = interruptible(lambda: native.logits(ids), native.cancel)
        return values

    def generate(self, params: SamplingParams | None = None) -> Generation:
        """Continues the sequence: an iterator of tokens. Closing it, or using the session in any other way, ends it."""
        native = self._idle()
        if not self.position:
            raise InvalidRequestError("nothing to continue: the session is empty; prefill a prompt first")
        generation = Generation(self, native, params or SamplingParams())
        self._running = weakref.ref(generation)
        return generation

    def rewind(self, position: int) -> None:
        """Shortens the sequence to its first `position` tokens."""
        native = self._idle()
        target = _checks.integer("position", position, 0, self.position)
        with translated():
            native.rewind(target)
        self._sync()

    def cancel(self) -> None:
        """Stops what the session is doing, from any thread: a prefill raises Cancelled, a generation ends."""
        native = self._native
        if native is not None:
            native.cancel()

    def stats(self) -> Stats:
        with translated():
            return Stats.from_native(self._open().stats())

    @property
    def cache_bytes(self) -> int:
        """Bytes reserved for the keys and values of a full context; they are taken as the sequence grows. A drafter
        works on the same memory and adds none."""
        return int(self._open().cache_bytes)

    def clone(self) -> Session:
        _not_yet("cloning a session", "open another session and prefill the same tokens (session.tokens)")

    def save(self, path: PathLike) -> None:
        _not_yet(f"saving a session ({path})", "keep session.tokens and prefill them again")

    def close(self) -> None:
        """Frees the KV cache."""
        if self._native is not None:
            self._idle()
        self._native = None
        self._tokens = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Any:
        if self._native is None:
            raise InvalidRequestError("the session is closed; open a new one with engine.session()")
        return self._native

    def _idle(self) -> Any:
        """The native session, after ending a generation that still runs."""
        native = self._open()
        running = self._running() if self._running is not None else None
        if running is not None:
            running.close()
        self._running = None
        self._sync()
        return native

    def _ids(self, prompt: str | Sequence[Part]) -> list[int]:
        if isinstance(prompt, (bytes, bytearray)):
            raise InvalidRequestError("a prompt must be str or token ids, got bytes; decode them first")
        tokenizer = self.engine.tokenizer
        parts: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        ids: list[Any] = []
        for part in parts:
            if isinstance(part, str):
                ids += tokenizer.encode(part)
            else:
                ids.append(part)
        if not ids:
            raise InvalidRequestError("the prompt is empty; pass at least one token")
        return _checks.token_ids("prompt", ids, self.engine.info.vocab_size)

    def _appending(self, ids: list[int]) -> _Appending:
        return _Appending(self, self._idle(), ids)

    def _sync(self) -> None:
        """Makes `_tokens` and the native position agree, whichever is longer."""
        native = self._open()
        if native.position > len(self._tokens):
            with translated():  # a stop token that was stored but not handed out
                native.rewind(len(self._tokens))
        del self._tokens[native.position :]


class _Appending:
    """While `ids` are appended; however that ends, the session then knows which of them are in the sequence."""

    def __init__(self, session: Session, native: Any, ids: list[int]) -> None:
        self._session, self._native, self._ids = session, native, ids

    def __enter__(self) -> Any:
        return self._native

    def __exit__(self, *_: object) -> None:
        self._session._tokens += self._ids
        self._session._sync()


class Generation(Iterator[Token]):
    """A running generation: iterate over it; close() or leaving its `with` block ends it early.

    `finish_reason` is "" while it runs, then "stop" (end token or stop string), "length" (max_tokens), "context" (the
    context is full), "cancelled" or "error".
    """

    def __init__(self, session: Session, native: Any, params: SamplingParams) -> None:
        self.finish_reason = ""
        self._session = session
        self._native: Any = None
        with translated():
            self._native = native.generate(_native_params(params, session.engine.info))

    def __next__(self) -> Token:
        if self._native is None:
            raise StopIteration
        try:
            with translated():
                token = self._native.next()
        except BaseException as error:
            self._end("cancelled" if isinstance(error, (Cancelled, KeyboardInterrupt)) else "error")
            raise
        if token is None:
            self._end(str(self._native.finish_reason))
            raise StopIteration
        self._session._tokens.append(token.id)
        return Token(token.id, token.text, token.logprob, token.from_draft)

    def close(self) -> None:
        """Ends the generation, if it still runs. The session keeps the tokens that were handed out."""
        if self._native is not None:
            self._end("cancelled")

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, reason: str) -> None:
        self.finish_reason = reason
        self._native = None  # destroys the native generation
        self._session._running = None
        self._session._sync()


def _native_params(params: SamplingParams, info: EngineInfo) -> Any:
    """The native record: the caller's wishes, completed by the model's own stop and suppressed tokens."""
    stop = info.eos_ids if params.stop_ids is None else params.stop_ids
    native = native_module().SamplingParams()
    native.temperature = float(params.temperature)
    native.top_k = params.top_k
    native.top_p = float(params.top_p)
    native.min_p = float(params.min_p)
    native.repetition_penalty = float(params.repetition_penalty)
    native.presence_penalty = float(params.presence_penalty)
    native.frequency_penalty = float(params.frequency_penalty)
    native.seed = secrets.randbits(63) if params.seed is None else params.seed
    native.max_tokens = params.max_tokens
    native.drafter = params.drafter
    native.draft_tokens = params.draft_tokens or 0
    native.simulate_acceptance = list(params.simulate_acceptance)
    native.logprobs = params.logprobs
    native.stop_ids = _checks.token_ids("stop_ids", stop, info.vocab_size)
    native.stop_strings = list(params.stop_strings)
    native.suppress_ids = _checks.token_ids("suppress_ids", [*info.suppress_ids, *params.suppress_ids], info.vocab_size)
    return native
