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
    draft_tokens: int  # per round; 0: as many as pay

class Generation:
    """One running generation of a session; next() returns None at the end. finish_reason: "stop", "length",
    "context", "cancelled" or "" while it runs."""

    def next(self) -> Token | None: ...
    finish_reason: str

class Session:
    position: int
    def prefill(self, ids: list[int]) -> None: ...
    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]: ...
    def generate(self, params: SamplingParams) -> Generation: ...
    def rewind(self, position: int) -> None: ...
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
    ) -> None: ...
    tokenizer: Tokenizer
    def info(self) -> dict[str, Any]: ...
    def session(self) -> Session: ...

def open_tokenizer(path: str) -> Tokenizer: ...  # without loading the model
def inspect(path: str) -> str: ...  # JSON: sections, manifest, sizes
def memory_plan(
    path: str,
    context: int = 0,  # 0: what the bundle was made for
    kv_dtype: str = "f16",
    graph: str = "auto",
) -> dict[str, Any]: ...  # graph, context, kv_dtype, parts {name: bytes}, total, available, largest_context
def verify(path: str) -> list[str]: ...  # the problems found; empty when sound. Raises only when it cannot be read
