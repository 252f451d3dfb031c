"""Engine and Session: load a bundle once, open sequences on it, prefill, read logits, generate."""

from __future__ import annotations

import math
import os
import secrets
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from . import _checks, gpu, library
from ._async import AsyncStream
from ._async import run as run_async
from ._interrupt import interruptible
from ._process import ProcessBound
from .errors import BackendError, BundleError, Cancelled, FileError, InvalidRequestError, translated
from .text import Tokenizer
from .types import EngineInfo, PrefixStats, SamplingParams, SoftTokens, Stats, Token, Transfers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .conversation import Conversation
    from .media import Audio, Image, Video
    from .prompt import MediaReader, Progress

    Part: TypeAlias = str | int | Image | Audio | Video | SoftTokens
PathLike = str | os.PathLike[str]

_PREFIX_BYTES = 2**30  # of the prefix cache, where only its folder is named


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


class Engine(ProcessBound):
    """A loaded bundle: the weights, shared by all its sessions. Thread-safe.

    `num_threads` None: one per physical core. `max_context` None: what the bundle was made for. The first load prepares
    the weights for this machine and keeps them in the cache folder (`cache_dir` None: the default one).

    `graph` says which of the bundle's graphs run: "fast" (Tandem's own attention over a cache that grows with use),
    "portable" (standard operators, what other runtimes run; its cache is always f32), or "auto": fast where there is.

    `drafter` is about speculative decoding, which gives the same text sooner: "auto" drafts tokens where that pays
    (with the bundle's drafter, or by looking up repeated text), "on" always, "off" never. On the CPU it needs the fast
    graphs.

    `backend` "gpu" runs the portable graphs on a GPU (`tandem devices` lists them; the variable TANDEM_GPU or
    "gpu:NAME" chooses one by a part of its name), "auto" does where a GPU in hardware agrees with the CPU on this
    bundle; `info.backend` and `info.backend_reason` tell. It computes in float32, and holds weights once where
    litert-lm-api is installed (`info.gpu_shares_weights`). `fallback` "cpu" lets the CPU go on where the GPU fails, at
    once or in the middle of a text.

    `prefix_cache` is a budget in bytes for beginnings of sequences that sessions may share, such as a system prompt: a
    session that begins with what another one had does not compute it again. None or 0: none are kept. The budget counts
    in the memory plan. With `prefix_cache_dir`, close() writes them to that folder, within the same budget, and an
    engine of the same bundle, kv_dtype and max_context finds them there (`prefix_cache` None then means 1 GiB). The
    files hold the text of the prompts; only their owner may read them.
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
        prefix_cache: int | None = None,
        prefix_cache_dir: PathLike | None = None,
        fallback: str = "none",
    ) -> None:
        backend = gpu.checked_backend(backend)
        _checks.choice("fallback", fallback, ("none", "cpu"))
        _checks.choice("kv_dtype", kv_dtype, ("f16", "f32", "int8"))
        _checks.choice("graph", graph, ("auto", "fast", "portable"))
        _checks.choice("drafter", drafter, ("auto", "on", "off"))
        threads = 0 if num_threads is None else _checks.integer("num_threads", num_threads, 1, 1024)
        context = 0 if max_context is None else _checks.integer("max_context", max_context, 1, 2**31 - 1)
        folder = "" if prefix_cache_dir is None else os.fspath(prefix_cache_dir)
        prefixes = _PREFIX_BYTES if folder else 0
        if prefix_cache is not None:
            prefixes = _checks.integer("prefix_cache", prefix_cache, 0, 2**62)
        where = open_path(path)
        native = native_module()
        litert = str(library.litert_library())
        gpu_litert = library.gpu_library() if backend != "cpu" else ""
        refused = gpu.prepare(backend) if backend != "cpu" else ""
        if refused:  # a driver that would take this process down is not let in
            if backend != "auto" and fallback != "cpu":
                raise BackendError(f"{refused}; use backend='cpu'")
            backend = "cpu"
        with translated():
            self._native: Any = native.Engine(
                where,
                litert,
                threads,
                context,
                library.engine_cache_dir(cache_dir),
                kv_dtype,
                graph,
                drafter,
                prefixes,
                folder,
                backend,
                fallback,
                gpu_litert,
            )
            self._refused = refused
            self._info = self._read_info()
            self.tokenizer = Tokenizer(self._native.tokenizer)
        self.path = Path(path)

    @property
    def info(self) -> EngineInfo:
        """What the bundle is, and how it runs: another backend after a fallback."""
        if self._native is not None and self._native.on_gpu != (self._info.backend == "gpu"):
            self._info = self._read_info()
        return self._info

    def _read_info(self) -> EngineInfo:
        with translated():
            values = self._native.info()
        if self._refused and values["backend"] == "cpu":
            values["backend_reason"] = f"the CPU instead of the GPU: {self._refused}"
        return EngineInfo.from_native(values)

    def transfers(self) -> Transfers | None:
        """What has crossed between CPU and GPU since the bundle was loaded; None on the CPU."""
        with translated():
            counts = self._open().transfers()
        return None if counts is None else Transfers(**counts)

    def session(self) -> Session:
        """A new, empty sequence."""
        return Session(self)

    def conversation(
        self,
        system: str | None = None,
        tools: Sequence[Callable[..., Any]] | None = None,
        thinking: bool = False,
        slide: bool = False,
    ) -> Conversation:
        """A chat with the model, by its own template. When the context is full, `slide` leaves the oldest turns out of
        what the model sees, but not the system prompt; without it ContextLengthError is raised."""
        from .conversation import Conversation

        if tools:
            _not_yet("tools", "leave tools empty")
        if thinking:
            _not_yet("thinking", "use thinking=False")
        return Conversation(self, system=system, slide=slide)

    def stats(self) -> Stats:
        """What all sessions of the engine have done together, those that are closed included."""
        with translated():
            return Stats.from_native(self._open().stats())

    def prefix_stats(self) -> PrefixStats | None:
        """What the prefix cache holds and has saved; None for an engine without one."""
        with translated():
            stats = self._open().prefix_stats()
        return None if stats is None else PrefixStats(**stats)

    def restore(self, path: PathLike) -> Session:
        """The session that save() wrote, as if it had never slept: the file is checked and then mapped, not read again.
        It may be moved or deleted meanwhile, but must not be changed in place.

        InvalidRequestError: it is of another bundle, kv_dtype or max_context, of the GPU and this is the CPU or the
        other way round, or the engine runs the portable graphs on the CPU; ContextLengthError: it is longer than the
        context; FileError: it is damaged or of another version.
        """
        engine = self._open()
        with translated():
            native = engine.restore(os.fspath(path))
            return Session(self, native, native.tokens)

    def embed_image(self, image: object, max_soft_tokens: int | None = None) -> npt.NDArray[np.float32]:
        """The embeddings of an image, float32 [soft tokens, hidden_size], read-only. `image`: an Image, or what makes
        one. `max_soft_tokens`: 70, 140, 280, 560 or 1120; None: as the image says, or as the model prefers."""
        values: npt.NDArray[np.float32] = self._soft_image(image, max_soft_tokens).native.values
        return values

    def embed_audio(self, audio: object) -> npt.NDArray[np.float32]:
        """The embeddings of sound, float32 [soft tokens, hidden_size] at 40 ms each, read-only. `audio`: an Audio, or
        what makes one."""
        values: npt.NDArray[np.float32] = self._soft_audio(audio).native.values
        return values

    def _soft_image(self, image: object, max_soft_tokens: int | None = None, video: bool = False) -> SoftTokens:
        """An image as a part of a prompt; `video` marks the frame of a film. Remembered by content."""
        from .media import Image

        picture = image if isinstance(image, Image) else Image(image)
        budget = picture.max_soft_tokens if max_soft_tokens is None else max_soft_tokens
        wanted = 0 if budget is None else _checks.integer("max_soft_tokens", budget, 1, 2**31 - 1)
        return self._soft(lambda native: native.embed_image(picture.rgb(), wanted, video))

    def _soft_audio(self, audio: object) -> SoftTokens:
        """Sound as a part of a prompt. Remembered by content."""
        from .media import Audio

        recording = audio if isinstance(audio, Audio) else Audio(audio)
        return self._soft(lambda native: native.embed_audio(recording.pcm()))

    def _soft(self, make: Callable[[Any], Any]) -> SoftTokens:
        native = self._open()
        with translated():
            made = make(native)
        return SoftTokens(made, made.kind, made.rows, native.placeholder(made), made.hash)

    def close(self) -> None:
        """Lets go of the weights. Sessions that are still open keep them alive until they are closed too. Writes the
        prefix cache to its folder, if it has one; FileError when that fails, the engine is closed nevertheless."""
        native, self._native = (None if self._foreign else self._native), None
        if native is not None:
            with translated():
                native.write_prefixes()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.close()
        except FileError:
            if kind is None:  # what went wrong first is what the caller must hear
                raise

    def _open(self) -> Any:
        self._check_process()
        if self._native is None:
            raise InvalidRequestError("the engine is closed; open a new one with Engine(path)")
        return self._native

    def _open_session(self) -> Any:
        with translated():
            return self._open().session()


class Session(ProcessBound):
    """One sequence: its own KV cache and position. For one thread at a time; only cancel() may come from another."""

    def __init__(self, engine: Engine, native: Any = None, tokens: Sequence[int] = ()) -> None:
        self.engine = engine
        self._native: Any = engine._open_session() if native is None else native  # one that has `tokens`
        self._tokens: list[int] = list(tokens)
        self._cancelled = False
        self._running: weakref.ref[Generation] | None = None  # weak: a generation that was left lets go of everything

    @property
    def position(self) -> int:
        """Number of tokens in the sequence."""
        return int(self._open().position)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The sequence itself, as token ids; images and sound as the ids that stand for them."""
        return tuple(self._tokens)

    def prefill(
        self, prompt: str | Sequence[Part], progress: Progress | None = None, timeout: float | None = None
    ) -> None:
        """Appends a prompt: token ids, or parts that are each an id, a str, an Image, an Audio or a Video. Names of
        special tokens inside a str stay plain text, and no bos token is added: pass ids for those. Media bring their
        own markers; soft tokens that the engine made before are taken without. `progress(what, done, total)` is told
        how far long work has come. After `timeout` seconds it raises TimeLimitError; what was done stays, as after
        cancel()."""
        self._begin()
        ends = _ends_at(timeout)
        parts = self._parts(prompt, progress)
        ids = _ids_of(parts)

        def watch() -> None:
            if self._cancelled:  # perhaps before the native call began
                native.cancel()
            if progress is not None:
                progress("prompt tokens", native.prefilled, len(ids))

        with self._appending(ids) as native, translated():
            interruptible(lambda: native.prefill_parts(_native_parts(parts), _left(ends)), native.cancel, watch)

    async def aprefill(
        self, prompt: str | Sequence[Part], progress: Progress | None = None, timeout: float | None = None
    ) -> None:
        """prefill() for async code, in a thread. Cancelling the task cancels it, within one step of the model."""
        await run_async(lambda: self.prefill(prompt, progress, timeout), self.cancel)

    def logits(self, prompt: str | Sequence[Part]) -> npt.NDArray[np.float32]:
        """Appends a prompt and returns its logits, float32 [tokens, vocab_size]: row i scores what follows token i."""
        parts = self._parts(prompt)
        if any(isinstance(part, SoftTokens) for part in parts):
            raise InvalidRequestError("logits() takes token ids and text; prefill the parts before and with the media")
        ids = _ids_of(parts)
        with self._appending(ids) as native, translated():
            values: npt.NDArray[np.float32] = interruptible(lambda: native.logits(ids), native.cancel)
        return values

    def generate(self, params: SamplingParams | None = None, timeout: float | None = None) -> Generation:
        """Continues the sequence: an iterator of tokens. Closing it, or using the session in any other way, ends it. So
        does the first step that ends `timeout` seconds from now or later: finish_reason is "timeout" then."""
        ends = _ends_at(timeout)
        native = self._idle()
        if not self.position:
            raise InvalidRequestError("nothing to continue: the session is empty; prefill a prompt first")
        generation = Generation(self, native, params or SamplingParams(), _left(ends))
        self._running = weakref.ref(generation)
        return generation

    def agenerate(self, params: SamplingParams | None = None, timeout: float | None = None) -> AsyncGeneration:
        """generate() for `async for`. Cancelling the task that awaits it ends the generation within one step."""
        return AsyncGeneration(self.generate(params, timeout), self.cancel)

    def rewind(self, position: int, refill: bool = True) -> None:
        """Shortens the sequence to its first `position` tokens, at once if that is not far back. Sliding layers keep
        their window and some 512 tokens more; further back the next call computes the sequence again from its
        beginning. With `refill` False that is refused: InvalidRequestError names the least position that needs none."""
        native = self._idle()
        target = _checks.integer("position", position, 0, self.position)
        with translated():
            native.rewind(target, bool(refill))
        self._sync()

    def cancel(self) -> None:
        """Stops what the session is doing, from any thread: a prefill raises Cancelled, a generation ends."""
        self._cancelled = True
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
        """A session with the same sequence, independent from now on; its statistics begin anew. The two share memory
        until they differ, so that this takes microseconds (the portable graphs copy). Ends a generation that runs."""
        native = self._idle()
        with translated():
            return Session(self.engine, native.clone(), self._tokens)

    def save(self, path: PathLike) -> None:
        """Writes the sequence, images and sound included, with its keys and values to a file for Engine.restore(), in
        this process or another. It appears as a whole or not at all, and only its owner may read it. How tokens are
        chosen is no part of it: that belongs to generate(). Ends a generation that runs.

        FileError: it cannot be written; InvalidRequestError on the portable graphs."""
        self._begin()
        native = self._open()
        with translated():
            interruptible(lambda: native.save(os.fspath(path)), native.cancel)

    def close(self) -> None:
        """Frees the KV cache."""
        if self._native is not None and not self._foreign:
            self._idle()
        self._native = None
        self._tokens = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Any:
        self._check_process()
        if self._native is None:
            raise InvalidRequestError("the session is closed; open a new one with engine.session()")
        return self._native

    def _begin(self) -> None:
        """Begins something that cancel() stops."""
        self._idle()
        self._cancelled = False

    def _idle(self) -> Any:
        """The native session, after ending a generation that still runs."""
        native = self._open()
        running = self._running() if self._running is not None else None
        if running is not None:
            running.close()
        self._running = None
        self._sync()
        return native

    def common_prefix(self, prompt: Sequence[Part]) -> int:
        """How many tokens at the beginning of the sequence are those that `prompt` begins with, images and sound
        compared by content: after rewind() to there only the rest of the prompt has to be prefilled."""
        parts = self._parts(prompt)
        with translated():
            return int(self._idle().common_prefix(_native_parts(parts)))

    def _parts(self, prompt: str | Sequence[Part], progress: Progress | None = None) -> list[list[int] | SoftTokens]:
        """Ids that follow each other as one list, and media as soft tokens."""
        from .media import Audio, Image, Video
        from .prompt import joined

        if isinstance(prompt, (bytes, bytearray)):
            raise InvalidRequestError("a prompt must be str or token ids, got bytes; decode them first")
        tokenizer = self.engine.tokenizer
        given: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        reader = self._reader(progress)
        flat: list[Any] = []
        for part in given:
            if isinstance(part, (Image, Audio, Video)):
                flat += joined(reader.read(part), tokenizer.encode)
            elif isinstance(part, str):
                flat += tokenizer.encode(part)
            else:
                flat.append(part)
        if not flat:
            raise InvalidRequestError("the prompt is empty; pass at least one token")
        vocab = self.engine.info.vocab_size
        parts: list[list[int] | SoftTokens] = []
        for soft, run in groupby(flat, key=lambda part: isinstance(part, SoftTokens)):
            if soft:
                parts += run
            else:
                parts.append(_checks.token_ids("prompt", run, vocab))
        return parts

    def _reader(self, progress: Progress | None, whole: bool = False) -> MediaReader:
        """Makes media into soft tokens, as many as fit behind the sequence (`whole`: in its place), until cancel()."""
        from .prompt import MediaReader

        def check() -> None:
            if self._cancelled:
                raise Cancelled("cancelled while images or sounds were read; nothing was appended")

        room = self.engine.info.max_context - (0 if whole else self.position)
        return MediaReader(self.engine, room, progress, check)

    def _appending(self, ids: list[int]) -> _Appending:
        return _Appending(self, self._idle(), ids)

    def _reread(self) -> bool:
        """After a generation may have dropped tokens to make room: whether the tokens were taken over anew."""
        native = self._open()
        if native.position > len(self._tokens):
            return False
        self._tokens = list(native.tokens)
        return True

    def _sync(self) -> None:
        """Makes `_tokens` and the native position agree, whichever is longer."""
        native = self._open()
        if native.position > len(self._tokens):
            with translated():  # a stop token that was stored but not handed out
                native.rewind(len(self._tokens))
        del self._tokens[native.position :]


def _ids_of(parts: Sequence[list[int] | SoftTokens]) -> list[int]:
    """The ids that the sequence then has."""
    ids: list[int] = []
    for part in parts:
        ids += [part.token] * part.rows if isinstance(part, SoftTokens) else part
    return ids


def _native_parts(parts: Sequence[list[int] | SoftTokens]) -> list[Any]:
    return [part.native if isinstance(part, SoftTokens) else part for part in parts]


class _Appending:
    """While `ids` are appended; however that ends, the session then knows which of them are in the sequence."""

    def __init__(self, session: Session, native: Any, ids: list[int]) -> None:
        self._session, self._native, self._ids = session, native, ids

    def __enter__(self) -> Any:
        return self._native

    def __exit__(self, *_: object) -> None:
        self._session._tokens += self._ids
        self._session._sync()


class Generation(ProcessBound, Iterator[Token]):
    """A running generation: iterate over it; close() or leaving its `with` block ends it early.

    `finish_reason` is "" while it runs, then "stop" (end token or stop string), "length" (max_tokens), "context" (the
    context is full), "cancelled", "timeout" or "error".
    """

    def __init__(self, session: Session, native: Any, params: SamplingParams, timeout: float | None = None) -> None:
        self.finish_reason = ""
        self._session = session
        self._slides = params.pinned_tokens is not None
        self._native: Any = None
        with translated():
            self._native = native.generate(_native_params(params, session.engine.info), timeout)

    def __next__(self) -> Token:
        self._check_process()
        if self._native is None:
            raise StopIteration
        try:
            try:
                with translated():
                    token = self._native.next()
            finally:
                moved = self._slides and self._session._reread()
        except BaseException as error:
            self._end("cancelled" if isinstance(error, (Cancelled, KeyboardInterrupt)) else "error")
            raise
        if token is None:
            self._end(str(self._native.finish_reason))
            raise StopIteration
        if not moved:
            self._session._tokens.append(token.id)
        return Token(token.id, token.text, token.logprob, token.from_draft)

    def close(self) -> None:
        """Ends the generation, if it still runs. The session keeps the tokens that were handed out."""
        if self._native is not None and not self._foreign:
            self._end("cancelled")

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_back(self) -> None:
        """Removes the newest token from the sequence: it was not handed out."""
        del self._session._tokens[-1:]
        self._session._sync()

    def _end(self, reason: str) -> None:
        self.finish_reason = reason
        self._native = None  # destroys the native generation
        self._session._running = None
        self._session._sync()


class AsyncGeneration(AsyncStream[Token]):
    """A running generation for `async for`; aclose() or leaving its `async with` block ends it early."""

    def __init__(self, generation: Generation, cancel: Callable[[], None]) -> None:
        super().__init__(generation, cancel)
        self._generation = generation

    @property
    def finish_reason(self) -> str:
        """As Generation's."""
        return self._generation.finish_reason

    async def __aenter__(self) -> AsyncGeneration:
        return self

    def _lost(self, item: object) -> None:
        if isinstance(item, Token):
            self._generation._take_back()


def _ends_at(timeout: float | None) -> float | None:
    """The time.monotonic() at which the time is up."""
    if timeout is None:
        return None
    return time.monotonic() + _checks.real("timeout", timeout, 0.0, math.inf, above=True)


def _left(ends: float | None) -> float | None:
    """Seconds until then; what came before the native call, such as reading images, counts."""
    return None if ends is None else max(0.0, ends - time.monotonic())


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
    native.pinned_tokens = -1 if params.pinned_tokens is None else params.pinned_tokens
    native.drafter = params.drafter
    native.draft_tokens = params.draft_tokens or 0
    native.simulate_acceptance = list(params.simulate_acceptance)
    native.logprobs = params.logprobs
    native.stop_ids = _checks.token_ids("stop_ids", stop, info.vocab_size)
    native.stop_strings = list(params.stop_strings)
    native.suppress_ids = _checks.token_ids("suppress_ids", [*info.suppress_ids, *params.suppress_ids], info.vocab_size)
    return native
