"""libtandem through ctypes, as csrc/include/tandem/tandem.h declares it, and the build that the tests take it from."""

from __future__ import annotations

import ctypes as c
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cpp import BUILD, ROOT

import tandem_lm as tl
from tandem_lm.library import litert_library

HEADER = ROOT / "csrc/include/tandem/tandem.h"
OK, INVALID, BUNDLE, CONTEXT, MEMORY, BACKEND, CANCELLED, IO, BUSY, BAD_HANDLE, SMALL, INTERNAL, TIMED_OUT = range(13)
RUNS, STOP, LENGTH, FULL, STOPPED, TIMEOUT = range(6)  # tandem_finish
Handle = c.c_void_p
Size = c.c_size_t


class EngineOptions(c.Structure):
    _fields_ = [
        ("size", Size),
        *((name, c.c_char_p) for name in ("litert_library", "cache_dir", "kv_dtype", "graph", "drafter")),
        ("max_context", c.c_int64),
        ("num_threads", c.c_int64),
        ("backend", c.c_char_p),
        ("fallback", c.c_char_p),
        ("prefix_cache_bytes", c.c_uint64),
        ("prefix_cache_dir", c.c_char_p),
        ("gpu_library", c.c_char_p),
    ]


class EngineInfo(c.Structure):
    _fields_ = [
        ("size", Size),
        *((name, c.c_int64) for name in ("vocab_size", "hidden_size", "layers", "max_context", "num_threads")),
        ("memory_bytes", c.c_uint64),
        ("load_seconds", c.c_double),
        *((name, c.c_int32) for name in ("bos_id", "eos_id", "pad_id", "add_bos", "has_drafter", "warm_start")),
        *((name, c.c_int32) for name in ("takes_images", "takes_audio")),
        ("step_rows", c.c_int64),
    ]


class Sampling(c.Structure):
    _fields_ = [
        ("size", Size),
        *((name, c.c_float) for name in ("temperature", "top_p", "min_p")),
        *((f"{name}_penalty", c.c_float) for name in ("repetition", "presence", "frequency")),
        ("top_k", c.c_int32),
        ("logprobs", c.c_int32),
        ("max_tokens", c.c_int64),
        ("seed", c.c_uint64),
        ("stop_ids", c.POINTER(c.c_int32)),
        ("num_stop_ids", Size),
        ("stop_strings", c.POINTER(c.c_char_p)),
        ("num_stop_strings", Size),
        ("suppress_ids", c.POINTER(c.c_int32)),
        ("num_suppress_ids", Size),
        ("drafter", c.c_char_p),
        ("draft_tokens", c.c_int64),
        ("timeout_seconds", c.c_double),
        ("pinned_tokens", c.c_int64),
        ("slide", c.c_int32),
    ]


class Token(c.Structure):
    _fields_ = [
        ("size", Size),
        ("id", c.c_int32),
        ("finish", c.c_int32),
        ("logprob", c.c_float),
        ("from_draft", c.c_int32),
        ("text", c.c_char_p),
        ("text_bytes", Size),
    ]


class Stats(c.Structure):
    _fields_ = [
        ("size", Size),
        ("prefill_tokens", c.c_int64),
        ("decode_tokens", c.c_int64),
        *((f"{name}_seconds", c.c_double) for name in ("prefill", "decode", "sample")),
        ("time_to_first_token", c.c_double),
        *((name, c.c_int64) for name in ("verify_steps", "drafted", "accepted")),
        *((f"{name}_seconds", c.c_double) for name in ("draft", "verify")),
        ("accepted_by_position", c.c_int64 * 16),
        ("depths", c.c_int64 * 16),
        *((name, c.c_int64) for name in ("media_embedded", "media_reused", "reused_tokens", "steps", "step_rows")),
    ]


class PrefixStats(c.Structure):
    _fields_ = [
        ("size", Size),
        *((name, c.c_int64) for name in ("lookups", "hits", "disk_hits", "tokens_asked", "tokens_reused")),
        *((name, c.c_int64) for name in ("entries", "evictions", "disk_entries")),
        *((name, c.c_uint64) for name in ("bytes", "disk_bytes", "budget")),
    ]


class Image(c.Structure):
    _fields_ = [
        ("size", Size),
        ("rgb", c.POINTER(c.c_uint8)),
        *((name, c.c_int64) for name in ("width", "height", "row_stride")),
        *((name, c.c_int32) for name in ("max_soft_tokens", "video_frame")),
    ]


class Audio(c.Structure):
    _fields_ = [
        ("size", Size),
        ("samples", c.POINTER(c.c_float)),
        ("frames", c.c_int64),
        *((name, c.c_int32) for name in ("channels", "sample_rate")),
    ]


Callback = c.CFUNCTYPE(c.c_int, c.POINTER(Token), c.c_void_p)
Ids = c.POINTER(c.c_int32)

# Every function that takes a handle, with the types of what follows it.
ENGINE_CALLS: dict[str, list[Any]] = {
    "tandem_engine_close": [],
    "tandem_engine_get_info": [c.POINTER(EngineInfo)],
    "tandem_engine_get_text": [c.c_int32, c.c_char_p, Size, c.POINTER(Size)],
    "tandem_engine_get_stats": [c.POINTER(Stats)],
    "tandem_engine_get_prefix_stats": [c.POINTER(PrefixStats)],
    "tandem_encode": [c.c_char_p, Size, c.c_uint32, Ids, Size, c.POINTER(Size)],
    "tandem_decode": [Ids, Size, c.c_uint32, c.c_char_p, Size, c.POINTER(Size)],
    "tandem_embed_image": [c.POINTER(Image), c.POINTER(c.c_float), Size, c.POINTER(c.c_int64)],
    "tandem_embed_audio": [c.POINTER(Audio), c.POINTER(c.c_float), Size, c.POINTER(c.c_int64)],
    "tandem_session_create": [c.POINTER(Handle)],
    "tandem_session_restore": [c.c_char_p, c.POINTER(Handle)],
}
SESSION_CALLS: dict[str, list[Any]] = {
    "tandem_session_close": [],
    "tandem_session_get_position": [c.POINTER(c.c_int64)],
    "tandem_session_get_stats": [c.POINTER(Stats)],
    "tandem_session_get_tokens": [Ids, Size, c.POINTER(Size)],
    "tandem_session_set_prefill_timeout": [c.c_double],
    "tandem_session_prefill": [Ids, Size],
    "tandem_session_prefill_image": [c.POINTER(Image), c.POINTER(c.c_int64)],
    "tandem_session_prefill_audio": [c.POINTER(Audio), c.POINTER(c.c_int64)],
    "tandem_session_logits": [Ids, Size, c.POINTER(c.c_float), Size],
    "tandem_session_rewind": [c.c_int64],
    "tandem_session_rewind_no_refill": [c.c_int64],
    "tandem_session_clone": [c.POINTER(Handle)],
    "tandem_session_save": [c.c_char_p],
    "tandem_session_cancel": [],
    "tandem_session_generate": [c.POINTER(Sampling), Callback, c.c_void_p, c.POINTER(c.c_int32)],
    "tandem_session_begin": [c.POINTER(Sampling)],
    "tandem_session_step": [c.POINTER(Token)],
}
OTHER_CALLS: dict[str, list[Any]] = {
    "tandem_engine_open": [c.c_char_p, c.POINTER(EngineOptions), c.POINTER(Handle)],
    "tandem_status_name": [c.c_int32],
    "tandem_last_error": [],
    "tandem_version": [],
}


def declared() -> set[str]:
    """The functions that tandem.h declares."""
    return set(re.findall(r"^TANDEM_API [^(]*?\b(tandem_\w+)\(", HEADER.read_text(), re.M))


@functools.cache
def build() -> Path:
    """The build folder with libtandem in it: that of the C++ tests, or $TANDEM_TEST_BUILD, which is taken as it is."""
    named = os.environ.get("TANDEM_TEST_BUILD")
    if named:
        return Path(named)
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are needed to build libtandem: pip install '.[test]'")
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", "-DTANDEM_PYTHON=OFF"]
    run([*configure, "-DCMAKE_BUILD_TYPE=Release"])
    run(["cmake", "--build", str(BUILD), "--target", "tandem", "tandem_static"])
    return BUILD


def run(command: Sequence[str | Path], **environment: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def library() -> c.CDLL:
    loaded = c.CDLL(str(build() / "csrc/capi/libtandem.so"))
    for name, rest in (ENGINE_CALLS | SESSION_CALLS).items():
        getattr(loaded, name).argtypes = [Handle, *rest]
    for name, rest in OTHER_CALLS.items():
        getattr(loaded, name).argtypes = rest
    for name in ("tandem_status_name", "tandem_last_error", "tandem_version"):
        getattr(loaded, name).restype = c.c_char_p
    return loaded


def made(kind: type[Any], **values: Any) -> Any:
    """A size-stamped struct."""
    return kind(**{"size": c.sizeof(kind), **values})


def ids_of(values: Sequence[int]) -> Any:
    return (c.c_int32 * max(1, len(values)))(*values)


def error() -> str:
    return str(library().tandem_last_error().decode())


def check(status: int) -> None:
    assert status == OK, f"{library().tandem_status_name(status).decode()}: {error()}"


def open_engine(path: Path, **values: Any) -> Any:
    engine = Handle()
    options = made(EngineOptions, litert_library=str(litert_library()).encode(), **values)
    check(library().tandem_engine_open(str(path).encode(), c.byref(options), c.byref(engine)))
    return engine


def new_session(engine: Any, prompt: Sequence[int] = ()) -> Any:
    session = Handle()
    check(library().tandem_session_create(engine, c.byref(session)))
    if prompt:
        check(library().tandem_session_prefill(session, ids_of(prompt), len(prompt)))
    return session


def restore(engine: Any, path: Path) -> Any:
    session = Handle()
    check(library().tandem_session_restore(engine, str(path).encode(), c.byref(session)))
    return session


def clone(session: Any) -> Any:
    copy = Handle()
    check(library().tandem_session_clone(session, c.byref(copy)))
    return copy


def save(session: Any, path: Path) -> None:
    check(library().tandem_session_save(session, str(path).encode()))


def tokens(session: Any) -> list[int]:
    """The sequence's ids."""
    count = Size()
    check(library().tandem_session_get_tokens(session, None, 0, c.byref(count)))
    ids = ids_of([-9] * (count.value + 1))
    check(library().tandem_session_get_tokens(session, ids, count.value, c.byref(count)))
    assert ids[count.value] == -9
    return list(ids)[: count.value]


def close(*sessions: Any) -> None:
    for session in sessions:
        check(library().tandem_session_close(session))


def position(session: Any) -> int:
    value = c.c_int64()
    check(library().tandem_session_get_position(session, c.byref(value)))
    return value.value


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def samples(seconds: float, rate: int, channels: int) -> np.ndarray:
    count = round(seconds * rate)
    return (0.1 * np.random.default_rng(rate).standard_normal((count, channels))).astype(np.float32)


def image_of(array: np.ndarray, **values: Any) -> Any:
    """A tandem_image over a uint8 array [H, W, 3], whose rows may be apart."""
    height, width, _ = array.shape
    rgb = array.ctypes.data_as(c.POINTER(c.c_uint8))
    image = made(Image, **{"rgb": rgb, "width": width, "height": height, "max_soft_tokens": 70, **values})
    image.pixels = array  # a pointer does not keep them
    return image


def audio_of(array: np.ndarray, rate: int, **values: Any) -> Any:
    frames, channels = array.shape
    at = array.ctypes.data_as(c.POINTER(c.c_float))
    audio = made(Audio, **{"samples": at, "frames": frames, "channels": channels, "sample_rate": rate, **values})
    audio.wave = array
    return audio


def generate(
    session: Any, on_token: Callable[[Token], object] | None = None, **values: Any
) -> tuple[list[tuple[int, str]], int]:
    """Ids and texts of a generation, and why it ended. `on_token` returning True stops it."""
    seen: list[tuple[int, str]] = []

    def callback(pointer: Any, _data: object) -> int:
        token = pointer.contents
        seen.append((token.id, token.text.decode()))
        return int(on_token is not None and on_token(token) is True)

    finish = c.c_int32(-1)
    sampling = made(Sampling, **values)
    check(library().tandem_session_generate(session, c.byref(sampling), Callback(callback), None, c.byref(finish)))
    return seen, finish.value


# ---- fixtures: a test module imports those it needs -----------------------------------------------------------------


@pytest.fixture(scope="module")
def lib() -> c.CDLL:
    return library()


@pytest.fixture(scope="module")
def python(tiny_gemma4: Path) -> Iterator[tl.Engine]:
    """The same bundle by the Python API."""
    with tl.Engine(tiny_gemma4) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine(lib: c.CDLL, tiny_gemma4: Path) -> Iterator[Any]:
    handle = open_engine(tiny_gemma4)
    yield handle
    check(lib.tandem_engine_close(handle))
