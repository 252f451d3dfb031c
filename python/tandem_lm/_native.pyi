"""The C++ core as Python sees it. Thin: everything with a taste of Python lives beside it in pure Python."""

from typing import Any

import numpy as np
import numpy.typing as npt

class NativeError(Exception):
    """args = (code: int, message: str); code is tandem::Code (csrc/base/status.h)."""

class Tokenizer:
    vocab_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    @staticmethod
    def from_digest(digest: bytes) -> Tokenizer: ...
    def encode(self, text: str | bytes, add_bos: bool = False, parse_special: bool = False) -> list[int]: ...
    def decode(self, ids: list[int], skip_special: bool = False) -> str: ...
    def is_special(self, id: int) -> bool: ...

class Token:
    id: int
    text: str  # complete UTF-8 that became final with this token; may be empty
    logprob: float
    from_draft: bool

class SamplingParams:
    """Plain record, every field writable; defaults are greedy."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    max_tokens: int
    logprobs: bool
    stop_ids: list[int]
    stop_strings: list[str]
    suppress_ids: list[int]
    drafter: str  # "auto", "on", "off"
    pinned_tokens: int  # -1: a full context is the end
    draft_tokens: int  # per round; 0: as many as pay

class Generation:
    """One running generation of a session; next() returns None at the end. finish_reason: "stop", "length",
    "context", "cancelled", "timeout" or "" while it runs."""

    def next(self) -> Token | None: ...
    finish_reason: str

class SoftTokens:
    """Embeddings that stand in a prompt like tokens; kind: "image", "video" or "audio"."""

    def __init__(self, values: npt.NDArray[np.float32], kind: str, hash: str = "") -> None: ...
    rows: int
    kind: str
    hash: str  # of what they were made from
    values: npt.NDArray[np.float32]  # [rows, hidden size], read-only, no copy

class Session:
    position: int
    tokens: list[int]
    prefilled: int  # tokens of the running prefill that are done; from any thread
    def prefill(self, ids: list[int]) -> None: ...
    # timeout: seconds; None: no limit
    def prefill_parts(self, parts: list[list[int] | SoftTokens], timeout: float | None = None) -> None: ...
    def common_prefix(self, parts: list[list[int] | SoftTokens]) -> int: ...
    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]: ...
    def generate(self, params: SamplingParams, timeout: float | None = None) -> Generation: ...
    def rewind(self, position: int, refill: bool = True) -> None: ...
    def clone(self) -> Session: ...
    def save(self, path: str) -> None: ...
    def draft(self, count: int) -> list[int]: ...  # what the drafter expects now; [] where it cannot say
    def cancel(self) -> None: ...  # from any thread
    def stats(self) -> dict[str, Any]: ...

class Engine:
    def __init__(
        self,
        path: str,
        library: str,  # path of libLiteRt.so
        num_threads: int = 0,  # 0: physical cores
        max_context: int = 0,  # 0: what the bundle was made for
        cache_dir: str = "",  # "": packed weights stay in memory
        kv_dtype: str = "f16",
        graph: str = "auto",
        drafter: str = "auto",
        prefix_cache_bytes: int = 0,  # 0: none
        prefix_cache_dir: str = "",  # "": memory alone
        backend: str = "cpu",
        fallback: str = "none",
        gpu_library: str = "",  # path of LiteRT for the GPU; "": library
    ) -> None: ...
    on_gpu: bool
    def transfers(self) -> dict[str, int] | None: ...  # None on the CPU
    tokenizer: Tokenizer
    def info(self) -> dict[str, Any]: ...
    def embed_image(
        self,
        rgb: npt.NDArray[np.uint8],  # [H, W, 3]
        max_soft_tokens: int = 0,  # 0: the model's choice
        video: bool = False,
    ) -> SoftTokens: ...
    def embed_audio(self, mono16k: npt.NDArray[np.float32]) -> SoftTokens: ...
    def placeholder(self, tokens: SoftTokens) -> int: ...
    def session(self) -> Session: ...
    def restore(self, path: str) -> Session: ...
    def prefix_stats(self) -> dict[str, int] | None: ...
    def write_prefixes(self) -> None: ...  # to the folder, if there is one

def vulkan_devices() -> list[dict[str, Any]]: ...  # name, kind, memory_bytes
def open_tokenizer(path: str) -> Tokenizer: ...  # without loading the model
def inspect(path: str) -> str: ...  # JSON: sections, manifest, sizes
def memory_plan(
    path: str,
    context: int = 0,  # 0: what the bundle was made for
    kv_dtype: str = "f16",
    graph: str = "auto",
) -> dict[str, Any]: ...  # graph, context, kv_dtype, parts {name: bytes}, total, available, largest_context
def verify(path: str) -> list[str]: ...  # the problems found; empty when sound. Raises only when it cannot be read

media_limits: dict[str, int]  # the limits of csrc/media/limits.h, by name

def budgeted_size(width: int, height: int, max_soft_tokens: int, patch: int = 48) -> tuple[int, int]: ...
def prepare_image(
    rgb: npt.NDArray[np.uint8],  # [H, W, 3]
    max_soft_tokens: int,
    video: bool = False,  # a frame of a video: pixels are scaled with another rounding
    patch: int = 48,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], tuple[int, int]]: ...  # patches, positions, (width, height)

class AudioConverter:
    """To mono 16 kHz, block by block; finish() ends it."""

    def __init__(self, channels: int, sample_rate: int) -> None: ...
    def push(self, interleaved: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...
    def finish(self) -> npt.NDArray[np.float32]: ...

def to_mono_16k(samples: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.float32]: ...  # [n] or [n, ch]
def frame_audio(mono16k: npt.NDArray[np.float32], frame: int = 640) -> npt.NDArray[np.float32]: ...  # [count, frame]
