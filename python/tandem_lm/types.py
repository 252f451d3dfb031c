"""The plain records of the public API: what a caller passes in and gets back. All are frozen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from . import _checks
from .errors import InvalidRequestError

_INFINITY = float("inf")


@dataclass(frozen=True)
class EngineInfo:
    """What a loaded bundle is."""

    family: str
    quantization: str
    layers: int
    vocab_size: int
    hidden_size: int
    max_context: int  # tokens that one session can hold
    bos_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    suppress_ids: tuple[int, ...]  # never generated
    add_bos: bool  # whether raw text starts with the bos token
    chat_template: str | None  # Jinja2 source; None for a base model
    sampler: Mapping[str, float]  # what the model's makers recommend: temperature, top_k, top_p
    num_threads: int
    load_seconds: float
    warm_start: bool  # the packed weights were found in the cache folder
    kv_dtype: str  # of the cache: "f16", "f32" or "int8"
    graph: str  # which of the bundle's graphs run: "fast" or "portable"
    step_rows: int  # tokens that one step can have, drafts and those of other sessions included; 1: sessions take turns
    native_steps: bool  # the layers run without a graph: this CPU and these weights allow it
    memory: Mapping[str, int]  # bytes by part, as planned with one session of max_context tokens; on a GPU, of it
    backend: str = "cpu"  # or "gpu"
    backend_reason: str = ""  # why it is this one; the GPU's name
    gpu_shares_weights: bool = False  # they lie on the GPU once; else once for every graph that runs there
    has_drafter: bool = False
    modalities: tuple[str, ...] = ("text",)  # and "image", "audio", "video" where the model takes them
    media: Mapping[str, Any] = field(default_factory=dict)  # sizes and token ids of images and sound, as in the bundle

    @classmethod
    def from_native(cls, info: Mapping[str, Any]) -> EngineInfo:
        """`info` of the native engine: the manifest (already checked there) and what this load made of it."""
        manifest = json.loads(info["manifest"])
        model, tokens = manifest["model"], manifest["tokens"]
        return cls(
            family=manifest["family"],
            quantization=manifest["quantization"],
            layers=len(model["layers"]),
            vocab_size=model["vocab_size"],
            hidden_size=model["hidden_size"],
            max_context=info["max_context"],
            bos_id=tokens["bos"],
            eos_ids=tuple(tokens["eos"]),
            pad_id=tokens["pad"],
            suppress_ids=tuple(tokens.get("suppress") or ()),
            add_bos=bool(manifest.get("add_bos", False)),
            chat_template=manifest.get("chat_template"),
            sampler={k: v for k, v in (manifest.get("sampler") or {}).items() if v is not None},
            num_threads=info["num_threads"],
            load_seconds=info["load_seconds"],
            warm_start=info["warm_start"],
            kv_dtype=info["kv_dtype"],
            graph=info["graph"],
            step_rows=info["step_rows"],
            native_steps=info["native_steps"],
            memory=dict(info["memory"]),
            backend=info["backend"],
            backend_reason=info["backend_reason"],
            gpu_shares_weights=info["gpu_shares_weights"],
            has_drafter=info["has_drafter"],
            modalities=_modalities(manifest.get("media") or {}),
            media=manifest.get("media") or {},
        )


def _modalities(media: Mapping[str, Any]) -> tuple[str, ...]:
    """A film is images in a row, so a model that sees takes it too."""
    video = ("video",) if "image" in media else ()
    return ("text", *(kind for kind in ("image", "audio") if kind in media), *video)


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen and when to stop. The defaults are greedy.

    Order of the steps: suppress -> penalties -> temperature -> top_k -> top_p -> min_p -> draw.
    """

    temperature: float = 0.0  # 0 takes the most likely token
    top_k: int = 0  # keep the k most likely tokens; 0 keeps all
    top_p: float = 1.0  # keep the smallest set with this probability; 1 keeps all
    min_p: float = 0.0  # drop what is less likely than min_p times the most likely token
    repetition_penalty: float = 1.0  # divides (multiplies, if negative) logits of tokens already present; 1 is off
    presence_penalty: float = 0.0  # subtracted once from logits of generated tokens
    frequency_penalty: float = 0.0  # subtracted per occurrence
    seed: int | None = None  # None draws a new seed for every generation
    max_tokens: int = 256
    # None: a full context ends the generation (finish_reason "context"). A number: the sequence then keeps its first
    # `pinned_tokens` tokens and the newest half of the rest, whose keys and values are computed again, and goes on.
    pinned_tokens: int | None = None
    logprobs: bool = False  # compute Token.logprob
    stop_strings: tuple[str, ...] = ()  # generation ends before the first of them; it is not part of the text
    stop_ids: tuple[int, ...] | None = None  # None: the model's own end tokens
    suppress_ids: tuple[int, ...] = ()  # in addition to the model's own
    drafter: str = "auto"  # "auto": as the engine was opened; "on": draft always; "off"
    draft_tokens: int | None = None  # drafted per round; None: as many as pay
    # For benchmarks with an untrained drafter: the chance that draft 1, 2, ... is accepted when all before it were (0
    # beyond the list), whatever the model says. Costs are real then, the text is not the model's.
    simulate_acceptance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _checks.real("temperature", self.temperature, 0.0, _INFINITY)
        _checks.integer("top_k", self.top_k, 0)
        _checks.real("top_p", self.top_p, 0.0, 1.0, above=True)
        _checks.real("min_p", self.min_p, 0.0, 1.0)
        _checks.real("repetition_penalty", self.repetition_penalty, 0.0, _INFINITY, above=True)
        _checks.real("presence_penalty", self.presence_penalty, -_INFINITY, _INFINITY)
        _checks.real("frequency_penalty", self.frequency_penalty, -_INFINITY, _INFINITY)
        _checks.integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.pinned_tokens is not None:
            _checks.integer("pinned_tokens", self.pinned_tokens, 0, 2**31 - 1)
        if self.seed is not None:
            _checks.integer("seed", self.seed, 0, 2**63 - 1)
        _checks.choice("drafter", self.drafter, ("auto", "on", "off"))
        if self.draft_tokens is not None:
            _checks.integer("draft_tokens", self.draft_tokens, 1, 15)
        object.__setattr__(
            self,
            "simulate_acceptance",
            tuple(_checks.real("simulate_acceptance", chance, 0.0, 1.0) for chance in self.simulate_acceptance),
        )
        self._freeze("stop_strings", str)
        if any(not s for s in self.stop_strings):
            raise InvalidRequestError("stop_strings must not contain an empty string: it would match everywhere")
        self._freeze("suppress_ids", int)
        if self.stop_ids is not None:
            self._freeze("stop_ids", int)

    def _freeze(self, name: str, kind: type) -> None:
        """Makes a tuple of any sequence of `kind`; a bare string is a mistake, not a sequence of letters."""
        value = getattr(self, name)
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise InvalidRequestError(f"{name} must be a list of {kind.__name__}, got {value!r}")
        items = tuple(value)
        if not all(isinstance(item, kind) for item in items):
            raise InvalidRequestError(f"{name} must contain only {kind.__name__}, got {items!r}")
        object.__setattr__(self, name, items)


@dataclass(frozen=True)
class Token:
    """One generated token. `text` is the complete UTF-8 that became final with it, and may be empty."""

    id: int
    text: str
    logprob: float = 0.0
    from_draft: bool = False


@dataclass(frozen=True)
class SoftTokens:
    """An image or sound as a part of a prompt: embeddings that stand there like tokens. The engine makes them."""

    native: Any = field(repr=False)
    kind: str  # "image", "video" (one frame) or "audio"
    rows: int  # tokens that it takes
    token: int  # the id that stands for each of them in Session.tokens
    hash: str  # of the content


@dataclass(frozen=True)
class Transfers:
    """What has crossed between CPU and GPU. Keys and values do so only for clones, and a session begins with zeros."""

    runs: int  # of graphs
    uploads: int
    upload_bytes: int
    downloads: int
    download_bytes: int

    def since(self, earlier: Transfers) -> Transfers:
        """What was counted after `earlier`."""
        return Transfers(**{name: getattr(self, name) - getattr(earlier, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Stats:
    """What a session has done since it was opened, or all sessions of an engine together."""

    prefill_tokens: int = 0  # that were computed
    reused_tokens: int = 0  # that the engine's prefix cache had
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0  # the part of decode_seconds that chose tokens
    drafted: int = 0  # tokens proposed by a drafter
    accepted: int = 0  # of them, those that became tokens of the text
    accepted_by_position: tuple[int, ...] = field(default=())  # of first drafts, second drafts, ...
    verify_steps: int = 0  # steps of the model that checked drafts
    depths: tuple[int, ...] = field(default=())  # steps with 0, 1, 2, ... drafts
    draft_seconds: float = 0.0  # parts of decode_seconds: making drafts, and the steps that checked them
    verify_seconds: float = 0.0
    media_embedded: int = 0  # images and pieces of sound, of an engine only: no session makes them
    media_reused: int = 0  # they were remembered from before
    # Steps that gave logits, of an engine only: those of sessions that wait at the same time run as one.
    steps: int = 0
    step_rows: int = 0  # tokens of these steps together, drafts included
    batch_sizes: tuple[int, ...] = field(default=())  # steps with 0, 1, 2, ... sessions

    @classmethod
    def from_native(cls, stats: Mapping[str, Any]) -> Stats:
        values = {name: stats[name] for name in cls.__dataclass_fields__ if name in stats}
        for name in ("accepted_by_position", "depths", "batch_sizes"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)

    def since(self, earlier: Stats) -> Stats:
        """What was counted after `earlier`, a reading of the same session."""
        return self._combined(earlier, -1)

    def __add__(self, other: Stats) -> Stats:
        return self._combined(other, 1)

    def _combined(self, other: Stats, sign: int) -> Stats:
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, tuple):
                values[name] = tuple(a + sign * b for a, b in zip_longest(mine, theirs, fillvalue=0))
            else:
                values[name] = mine + sign * theirs
        return Stats(**values)

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def batched_steps(self) -> int:
        """Steps that several sessions shared."""
        return sum(self.batch_sizes[2:])

    @property
    def rows_per_step(self) -> float:
        return self.step_rows / self.steps if self.steps else 0.0

    @property
    def tokens_per_verify(self) -> float:
        """Tokens that a step with drafts gave: the accepted ones and the model's own."""
        return 1 + self.accepted / self.verify_steps if self.verify_steps else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class PrefixStats:
    """The prefix cache of an engine: what it has been asked for, and what it holds now."""

    lookups: int  # sequences that began from nothing
    hits: int
    disk_hits: int  # of them, those that were read from a file
    tokens_asked: int  # of all lookups
    tokens_reused: int  # of all hits
    entries: int  # prefixes in memory
    evictions: int  # prefixes given up for want of room
    bytes: int  # in memory
    budget: int  # most bytes in memory, and most in files
    disk_entries: int  # prefixes in files, as far as known
    disk_bytes: int
