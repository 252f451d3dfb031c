"""libtandem by its C ABI: the same tokens as the Python API, and an error code, never a crash, for every misuse."""

from __future__ import annotations

import ctypes as c
import math
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import capi
import numpy as np
import pytest
from capi import BAD_HANDLE, BUSY, INVALID, OK, SMALL, engine, lib, made, python

import tandem_lm as tl

PROMPT = "The quick brown fox"
pytestmark = pytest.mark.timeout(1200)  # the first one builds the library


@pytest.fixture(scope="module")
def prompt(python: tl.Engine) -> list[int]:
    return python.tokenizer.encode(PROMPT, add_bos=True)


@pytest.fixture
def session(lib: c.CDLL, engine: Any, prompt: list[int]) -> Iterator[Any]:
    handle = capi.new_session(engine, prompt)
    yield handle
    assert lib.tandem_session_close(handle) in (OK, BAD_HANDLE)


def arguments(prompt: list[int]) -> dict[str, list[Any]]:
    """What makes every call succeed on a live handle (but for files, which are not there)."""
    text = PROMPT.encode()
    buffer, count, ids = c.create_string_buffer(1 << 16), c.c_size_t(), capi.ids_of(prompt)
    nothing = capi.Callback(lambda *_: 0)
    floats = (c.c_float * (1 << 16))()
    sampling = made(capi.Sampling, max_tokens=1)
    keep = arguments.__dict__.setdefault("keep", [])  # what pointers point to
    rows, black, silence = c.c_int64(), (c.c_uint8 * 12)(), (c.c_float * 640)()
    image = made(capi.Image, rgb=black, width=2, height=2, max_soft_tokens=70)
    audio = made(capi.Audio, samples=silence, frames=640, channels=1, sample_rate=16000)
    keep += [buffer, count, ids, nothing, floats, sampling, rows, black, silence, image, audio]
    return {
        "tandem_engine_close": [],
        "tandem_engine_get_info": [c.pointer(made(capi.EngineInfo))],
        "tandem_engine_get_text": [0, buffer, len(buffer), c.pointer(count)],
        "tandem_engine_get_stats": [c.pointer(made(capi.Stats))],
        "tandem_engine_get_prefix_stats": [c.pointer(made(capi.PrefixStats))],
        "tandem_encode": [text, len(text), 0, (c.c_int32 * 64)(), 64, c.pointer(count)],
        "tandem_decode": [ids, len(prompt), 0, buffer, len(buffer), c.pointer(count)],
        "tandem_embed_image": [c.pointer(image), floats, len(floats), c.pointer(rows)],
        "tandem_embed_audio": [c.pointer(audio), floats, len(floats), c.pointer(rows)],
        "tandem_session_create": [c.pointer(capi.Handle())],
        "tandem_session_restore": [b"/no/such/session", c.pointer(capi.Handle())],
        "tandem_session_close": [],
        "tandem_session_get_position": [c.pointer(c.c_int64())],
        "tandem_session_get_stats": [c.pointer(made(capi.Stats))],
        "tandem_session_prefill": [ids, 1],
        "tandem_session_prefill_image": [c.pointer(image), None],
        "tandem_session_prefill_audio": [c.pointer(audio), None],
        "tandem_session_logits": [ids, 1, floats, len(floats)],
        "tandem_session_get_tokens": [(c.c_int32 * 128)(), 128, c.pointer(count)],
        "tandem_session_set_prefill_timeout": [0.0],
        "tandem_session_rewind": [1],
        "tandem_session_rewind_no_refill": [1],
        "tandem_session_clone": [c.pointer(capi.Handle())],
        "tandem_session_save": [b"/dev/null/session"],
        "tandem_session_cancel": [],
        "tandem_session_generate": [c.pointer(sampling), nothing, None, None],
        "tandem_session_begin": [c.pointer(sampling)],
        "tandem_session_step": [c.pointer(made(capi.Token))],
    }


# ---- what is exported -----------------------------------------------------------------------------------------------


def test_header_exports_and_tests_name_the_same_functions(lib: c.CDLL) -> None:
    known = capi.declared()
    exports = (capi.ROOT / "csrc/capi/exports.map").read_text()
    assert known == set(re.findall(r"\b(tandem_\w+);", exports))
    assert known == set(capi.ENGINE_CALLS) | set(capi.SESSION_CALLS) | set(capi.OTHER_CALLS)
    assert all(hasattr(lib, name) for name in known)
    assert lib.tandem_version().decode() == tl.__version__


def test_nothing_else_is_exported(lib: c.CDLL) -> None:
    try:
        listing = capi.run(["nm", "-D", "--defined-only", lib._name])
    except FileNotFoundError:
        pytest.skip("nm is not installed")
    names = {line.split()[-1] for line in listing.splitlines()}
    assert {name.split("@")[0] for name in names} == capi.declared() | {"TANDEM_0.1"}
    assert all("@@TANDEM_0" in name for name in names if name.startswith("tandem_"))


# ---- misuse: an error code, never a crash ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(capi.ENGINE_CALLS | capi.SESSION_CALLS))
def test_bad_handles(lib: c.CDLL, engine: Any, prompt: list[int], name: str) -> None:
    session, other = capi.new_session(engine), capi.new_session(engine)
    closed = capi.new_session(engine)
    capi.check(lib.tandem_session_close(closed))
    wrong_kind = session if name in capi.ENGINE_CALLS else engine
    random.seed(name)
    made_up = [random.getrandbits(64) for _ in range(200)] + [other.value + (1 << 32), 1, 2**64 - 1]
    for handle in (None, closed, wrong_kind, *made_up):
        assert getattr(lib, name)(handle, *arguments(prompt)[name]) == BAD_HANDLE
        assert "handle" in capi.error()
    for handle in (session, other):
        capi.check(lib.tandem_session_close(handle))


@pytest.mark.parametrize("name", sorted(capi.ENGINE_CALLS))
def test_closed_engine(lib: c.CDLL, tiny_gemma3: Path, prompt: list[int], name: str) -> None:
    closed = capi.open_engine(tiny_gemma3)
    capi.check(lib.tandem_engine_close(closed))
    assert getattr(lib, name)(closed, *arguments(prompt)[name]) == BAD_HANDLE
    assert "closed" in capi.error()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tandem_engine_get_info", {0: None}),
        ("tandem_engine_get_text", {0: 99}),
        ("tandem_engine_get_text", {1: None}),
        ("tandem_engine_get_text", {1: None, 2: 0, 3: None}),
        ("tandem_engine_get_stats", {0: None}),
        ("tandem_encode", {0: None}),
        ("tandem_encode", {1: 2**40}),
        ("tandem_encode", {2: 4}),
        ("tandem_encode", {3: None}),
        ("tandem_decode", {0: None}),
        ("tandem_decode", {1: 2**63}),
        ("tandem_decode", {2: 1}),
        ("tandem_decode", {3: None}),
        ("tandem_session_create", {0: None}),
        ("tandem_session_get_position", {0: None}),
        ("tandem_session_get_stats", {0: None}),
        ("tandem_session_prefill", {0: None}),
        ("tandem_session_prefill", {0: capi.ids_of([-1])}),
        ("tandem_session_prefill", {0: capi.ids_of([2**31 - 1])}),
        ("tandem_session_prefill", {1: 2**63}),
        ("tandem_session_logits", {0: None}),
        ("tandem_session_logits", {1: 2**64 - 1}),
        ("tandem_session_logits", {2: None}),
        ("tandem_session_rewind", {0: -1}),
        ("tandem_session_rewind", {0: 2**62}),
        ("tandem_session_rewind_no_refill", {0: -1}),
        ("tandem_session_rewind_no_refill", {0: 2**62}),
        ("tandem_session_step", {0: None}),
        ("tandem_session_get_tokens", {0: None}),
        ("tandem_session_get_tokens", {0: None, 1: 0, 2: None}),
        ("tandem_session_set_prefill_timeout", {0: -1.0}),
        ("tandem_session_set_prefill_timeout", {0: math.nan}),
        ("tandem_session_clone", {0: None}),
        ("tandem_session_save", {0: None}),
        ("tandem_session_restore", {0: None}),
        ("tandem_session_restore", {1: None}),
        ("tandem_engine_get_prefix_stats", {0: None}),
    ],
)
def test_bad_arguments(
    lib: c.CDLL, engine: Any, session: Any, prompt: list[int], name: str, changes: dict[int, Any]
) -> None:
    values = arguments(prompt)[name]
    for index, value in changes.items():
        values[index] = value
    handle = engine if name in capi.ENGINE_CALLS else session
    assert getattr(lib, name)(handle, *values) == INVALID
    assert capi.error()
    assert capi.position(session) == len(prompt)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": math.nan},
        {"top_p": 2.0},
        {"min_p": -1.0},
        {"top_k": -1},
        {"max_tokens": -1},
        {"repetition_penalty": -1.0},
        {"drafter": b"maybe"},
        {"draft_tokens": 99},
        {"timeout_seconds": -1.0},
        {"timeout_seconds": math.nan},
        {"pinned_tokens": -1, "slide": 1},
        {"pinned_tokens": 2**40, "slide": 1},
        {"pinned_tokens": 5},
        {"num_stop_ids": 1},
        {"num_stop_strings": 1},
        {"num_suppress_ids": 2**63},
        {"stop_strings": (c.c_char_p * 1)(None), "num_stop_strings": 1},
        {"stop_strings": (c.c_char_p * 1)(b""), "num_stop_strings": 1},
        {"stop_ids": capi.ids_of([-5]), "num_stop_ids": 1},
        {"suppress_ids": capi.ids_of([2**30]), "num_suppress_ids": 1},
    ],
)
def test_bad_sampling(lib: c.CDLL, session: Any, values: dict[str, Any]) -> None:
    sampling = made(capi.Sampling, **values)
    for name, rest in (("generate", [capi.Callback(), None, None]), ("begin", [])):
        assert getattr(lib, f"tandem_session_{name}")(session, c.byref(sampling), *rest) == INVALID
    assert next(iter(values)).removeprefix("num_") in capi.error()


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"size": 0}, INVALID),
        ({"size": 1 << 30}, INVALID),
        ({"kv_dtype": b"int3"}, INVALID),
        ({"graph": b"slow"}, INVALID),
        ({"drafter": b""}, INVALID),
        ({"max_context": -1}, INVALID),
        ({"max_context": 2**62}, INVALID),
        ({"num_threads": 2**40}, INVALID),
        ({"litert_library": b""}, INVALID),
        ({"prefix_cache_bytes": 2**60}, capi.MEMORY),
        ({"prefix_cache_dir": b"/dev/null/prefixes"}, capi.IO),
        ({"prefix_cache_dir": b"prefixes", "graph": b"portable"}, INVALID),
        ({"litert_library": b"/no/such/libLiteRt.so"}, capi.BACKEND),
        ({"backend": b"gpu", "gpu_library": b"/no/such/liblitert-lm.so"}, capi.BACKEND),
    ],
)
def test_bad_options(lib: c.CDLL, tiny_gemma4: Path, values: dict[str, Any], status: int) -> None:
    from tandem_lm.library import litert_library

    options = made(capi.EngineOptions, litert_library=str(litert_library()).encode())
    for name, value in values.items():
        setattr(options, name, value)
    engine = capi.Handle(1)
    assert lib.tandem_engine_open(str(tiny_gemma4).encode(), c.byref(options), c.byref(engine)) == status
    assert engine.value is None and capi.error()


def test_bad_bundles(lib: c.CDLL, tiny_gemma4: Path, tmp_path: Path) -> None:
    engine, cut = capi.Handle(), tmp_path / "cut.litertlm"
    cut.write_bytes(tiny_gemma4.read_bytes()[:20000])
    for path in (tmp_path / "absent", tmp_path, cut):
        assert lib.tandem_engine_open(str(path).encode(), None, c.byref(engine)) == capi.BUNDLE
        assert str(path) in capi.error()
    assert lib.tandem_engine_open(None, None, c.byref(engine)) == INVALID
    assert lib.tandem_engine_open(str(tiny_gemma4).encode(), None, None) == INVALID


@pytest.mark.parametrize("name", sorted(capi.SESSION_CALLS))
def test_second_call_meanwhile(lib: c.CDLL, session: Any, prompt: list[int], name: str) -> None:
    """From inside the callback and from another thread: busy, but cancel and close come through."""
    statuses: list[int] = []

    def call() -> None:
        statuses.append(getattr(lib, name)(session, *arguments(prompt)[name]))

    def on_token(_token: capi.Token) -> None:
        if not statuses:
            call()
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()

    tokens, finish = capi.generate(session, on_token, max_tokens=3)
    if name == "tandem_session_close":
        assert statuses == [OK, BAD_HANDLE] and finish == capi.STOPPED and len(tokens) == 1
        assert lib.tandem_session_cancel(session) == BAD_HANDLE
    elif name == "tandem_session_cancel":
        assert statuses == [OK, OK] and finish == capi.STOPPED and len(tokens) == 1
    else:
        assert statuses == [BUSY, BUSY] and finish == capi.LENGTH and len(tokens) == 3
        assert capi.position(session) == len(prompt) + 3


def test_many_threads_on_one_session(lib: c.CDLL, session: Any, prompt: list[int]) -> None:
    """Whatever comes through takes place as a whole; the rest is busy."""
    outcomes: list[int] = []

    def work() -> None:
        for _ in range(20):
            outcomes.append(lib.tandem_session_prefill(session, capi.ids_of(prompt[:1]), 1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {OK, BUSY}
    assert capi.position(session) == len(prompt) + outcomes.count(OK)


def test_sessions_opened_and_closed_by_many_threads(lib: c.CDLL, engine: Any, prompt: list[int]) -> None:
    texts: set[str] = set()

    def work() -> None:
        for _ in range(3):
            session = capi.new_session(engine, prompt)
            texts.add("".join(text for _, text in capi.generate(session, max_tokens=4)[0]))
            capi.check(lib.tandem_session_close(session))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 1


def test_after_fork(tiny_gemma4: Path) -> None:
    script = """
import os, sys, capi
from pathlib import Path
engine = capi.open_engine(Path(sys.argv[1]))
session = capi.new_session(engine, [2])
child = os.fork()
if child == 0:
    lib = capi.library()
    os._exit(0 if {lib.tandem_session_cancel(session), lib.tandem_engine_close(engine)} == {capi.BAD_HANDLE} else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(capi.generate(session, max_tokens=2)[0]) == 2
"""
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}", str(tiny_gemma4)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# ---- structs of other versions --------------------------------------------------------------------------------------


def test_structs_of_older_and_newer_programs(lib: c.CDLL, engine: Any, session: Any) -> None:
    class NewSampling(c.Structure):
        _fields_ = [("old", capi.Sampling), ("field", c.c_int64)]

    class NewInfo(c.Structure):
        _fields_ = [("old", capi.EngineInfo), ("field", c.c_int64)]

    sampling = NewSampling(capi.Sampling(size=c.sizeof(NewSampling), max_tokens=1))
    pointer = c.cast(c.byref(sampling), c.POINTER(capi.Sampling))
    capi.check(lib.tandem_session_begin(session, pointer))
    sampling.field = 1
    assert lib.tandem_session_begin(session, pointer) == INVALID
    assert "newer library" in capi.error()

    old = capi.Sampling(size=capi.Sampling.max_tokens.offset, max_tokens=-1)  # this program knows no max_tokens
    capi.check(lib.tandem_session_begin(session, c.byref(old)))

    info = NewInfo(capi.EngineInfo(size=c.sizeof(NewInfo)), 99)
    capi.check(lib.tandem_engine_get_info(engine, c.cast(c.byref(info), c.POINTER(capi.EngineInfo))))
    assert info.old.vocab_size > 0 and info.field == 0 and info.old.size == c.sizeof(NewInfo)

    small = capi.EngineInfo(size=capi.EngineInfo.hidden_size.offset, hidden_size=-7)
    capi.check(lib.tandem_engine_get_info(engine, c.byref(small)))
    assert small.vocab_size > 0 and small.hidden_size == -7


# ---- it does what the Python API does -------------------------------------------------------------------------------


def reference(engine: tl.Engine, prompt: list[int], **values: Any) -> tuple[list[tuple[int, str]], str]:
    with engine.session() as session:
        session.prefill(prompt)
        generation = session.generate(tl.SamplingParams(**values))
        return [(token.id, token.text) for token in generation], generation.finish_reason


def test_info(lib: c.CDLL, engine: Any, python: tl.Engine) -> None:
    info = made(capi.EngineInfo)
    capi.check(lib.tandem_engine_get_info(engine, c.byref(info)))
    for name in ("vocab_size", "hidden_size", "layers", "max_context", "num_threads", "bos_id", "pad_id", "step_rows"):
        assert getattr(info, name) == getattr(python.info, name), name
    assert info.eos_id == python.info.eos_ids[0] and bool(info.add_bos) == python.info.add_bos
    assert info.memory_bytes == sum(python.info.memory.values()) and info.load_seconds > 0
    assert not info.has_drafter

    def text(which: int) -> str:
        size = c.c_size_t()
        capi.check(lib.tandem_engine_get_text(engine, which, None, 0, c.byref(size)))
        buffer = c.create_string_buffer(b"\xff" * (size.value + 1))
        assert lib.tandem_engine_get_text(engine, which, buffer, size.value, c.byref(size)) == SMALL
        assert buffer.raw[:2] == b"\xff\xff"
        capi.check(lib.tandem_engine_get_text(engine, which, buffer, size.value + 1, c.byref(size)))
        return buffer.value.decode()

    known = python.info
    assert [text(i) for i in range(4)] == [known.family, known.quantization, known.kv_dtype, known.graph]
    assert text(4) == known.chat_template and len(text(5)) == 64 and text(6).startswith("{")


@pytest.mark.parametrize("text", ["", "plain", "<bos> & <|turn>user", "Grüße, 你好 🙂", "nul\0inside", "x" * 5000])
def test_tokenizer(lib: c.CDLL, engine: Any, python: tl.Engine, text: str) -> None:
    data, count = text.encode(), c.c_size_t()
    for flags, options in ((0, {}), (1, {"add_bos": True}), (2, {"parse_special": True})):
        expected = python.tokenizer.encode(text, **options)
        capi.check(lib.tandem_encode(engine, data, len(data), flags, None, 0, c.byref(count)))
        assert count.value == len(expected)
        ids = (c.c_int32 * (count.value + 1))(*[-9] * (count.value + 1))
        if expected:
            assert lib.tandem_encode(engine, data, len(data), flags, ids, count.value - 1, c.byref(count)) == SMALL
            assert set(ids) == {-9} and count.value == len(expected)
        capi.check(lib.tandem_encode(engine, data, len(data), flags, ids, count.value, c.byref(count)))
        assert list(ids) == [*expected, -9]
        for skip in (False, True):
            capi.check(lib.tandem_decode(engine, ids, len(expected), 4 * skip, None, 0, c.byref(count)))
            buffer = c.create_string_buffer(count.value + 1)
            capi.check(lib.tandem_decode(engine, ids, len(expected), 4 * skip, buffer, len(buffer), c.byref(count)))
            assert buffer.raw[: count.value].decode() == python.tokenizer.decode(expected, skip_special=skip)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 2**63 - 1},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.25},
        {"drafter": "off"},
        {"drafter": "on", "draft_tokens": 3},
    ],
)
def test_tokens_equal_the_python_api(
    python: tl.Engine, session: Any, prompt: list[int], values: dict[str, Any]
) -> None:
    expected, reason = reference(python, prompt, max_tokens=24, **values)
    c_values = {k: v.encode() if isinstance(v, str) else v for k, v in values.items()}
    tokens, finish = capi.generate(session, max_tokens=24, **c_values)
    assert tokens == expected
    assert ["", "stop", "length", "context", "cancelled"][finish] == reason


def test_stops(python: tl.Engine, session: Any, prompt: list[int]) -> None:
    plain, _ = reference(python, prompt, max_tokens=8)
    stop_id = plain[2][0]
    first = [token for token, _ in plain].index(stop_id)
    ids = capi.ids_of([stop_id])
    tokens, finish = capi.generate(session, max_tokens=8, stop_ids=ids, num_stop_ids=1)
    assert ([t for t, _ in tokens], finish) == ([t for t, _ in plain[: first + 1]], capi.STOP)
    capi.library().tandem_session_rewind(session, len(prompt))

    word = plain[0][1].strip()
    strings = (c.c_char_p * 1)(word.encode())
    tokens, finish = capi.generate(session, max_tokens=8, stop_strings=strings, num_stop_strings=1)
    assert finish == capi.STOP and word not in "".join(text for _, text in tokens)
    capi.library().tandem_session_rewind(session, len(prompt))

    never = capi.ids_of([plain[0][0]])
    expected, _ = reference(python, prompt, max_tokens=8, suppress_ids=(plain[0][0],))
    assert capi.generate(session, max_tokens=8, suppress_ids=never, num_suppress_ids=1)[0] == expected


def test_end_tokens_of_the_model_are_the_default(session: Any, python: tl.Engine) -> None:
    """Only the model's end tokens are left to choose from: NULL stops at the first, an empty list goes on."""
    vocab = python.info.vocab_size
    rest = capi.ids_of([i for i in range(vocab) if i not in python.info.eos_ids])
    values = {"suppress_ids": rest, "num_suppress_ids": len(rest), "max_tokens": 3}
    tokens, finish = capi.generate(session, **values)
    assert (len(tokens), finish) == (1, capi.STOP)
    tokens, finish = capi.generate(session, stop_ids=capi.ids_of([]), **values)
    assert (len(tokens), finish) == (3, capi.LENGTH)


def test_step_equals_generate(lib: c.CDLL, python: tl.Engine, session: Any, prompt: list[int]) -> None:
    expected, _ = reference(python, prompt, max_tokens=6)
    capi.check(lib.tandem_session_begin(session, c.byref(made(capi.Sampling, max_tokens=6, logprobs=1))))
    token, seen = made(capi.Token), []
    while True:
        capi.check(lib.tandem_session_step(session, c.byref(token)))
        seen.append((token.id, token.text.decode()))
        assert len(token.text) == token.text_bytes and token.logprob < 0
        if token.finish:
            break
    assert seen == expected and token.finish == capi.LENGTH
    capi.check(lib.tandem_session_step(session, c.byref(token)))
    assert (token.id, token.finish, token.text) == (-1, capi.LENGTH, b"")
    capi.check(lib.tandem_session_prefill(session, capi.ids_of(prompt), 1))  # ends the generation
    assert lib.tandem_session_step(session, c.byref(token)) == INVALID and "begin" in capi.error()


def test_logits_and_rewind(lib: c.CDLL, python: tl.Engine, engine: Any, prompt: list[int]) -> None:
    with python.session() as other:
        expected = other.logits(prompt)
    session = capi.new_session(engine)
    values = np.zeros(expected.shape, np.float32)
    pointer = values.ctypes.data_as(c.POINTER(c.c_float))
    ids = capi.ids_of(prompt)
    assert lib.tandem_session_logits(session, ids, len(prompt), pointer, values.size - 1) == SMALL
    assert not values.any() and capi.position(session) == 0
    for _ in range(2):
        capi.check(lib.tandem_session_logits(session, ids, len(prompt), pointer, values.size))
        np.testing.assert_array_equal(values, expected)
        capi.check(lib.tandem_session_rewind(session, 0))
    capi.check(lib.tandem_session_prefill(session, None, 0))  # nothing to do
    assert lib.tandem_session_begin(session, None) == INVALID and "empty" in capi.error()
    capi.check(lib.tandem_session_close(session))


def test_time_limit(lib: c.CDLL, session: Any) -> None:
    before = capi.position(session)
    tokens, finish = capi.generate(session, max_tokens=3, timeout_seconds=1e-9)
    assert (tokens, finish, capi.position(session)) == ([], capi.TIMEOUT, before)
    tokens, finish = capi.generate(session, max_tokens=3, timeout_seconds=1e300, stop_ids=capi.ids_of([]))
    assert (len(tokens), finish) == (3, capi.LENGTH)
    assert lib.tandem_status_name(capi.TIMED_OUT) == b"timed out"


def test_context(lib: c.CDLL, tiny_gemma4: Path, prompt: list[int]) -> None:
    engine = capi.open_engine(tiny_gemma4, max_context=len(prompt) + 3)
    session = capi.new_session(engine, prompt)
    assert lib.tandem_session_prefill(session, capi.ids_of(prompt), len(prompt)) == capi.CONTEXT
    assert capi.position(session) == len(prompt)
    capi.check(lib.tandem_engine_close(engine))  # the session goes on without the engine's handle
    tokens, finish = capi.generate(session)
    assert (len(tokens), finish) == (3, capi.FULL)
    capi.check(lib.tandem_session_close(session))


def test_callback_stops_and_generation_continues(python: tl.Engine, session: Any, prompt: list[int]) -> None:
    expected, _ = reference(python, prompt, max_tokens=12)
    count = iter(range(1, 100))
    head, finish = capi.generate(session, lambda _token: next(count) == 5, max_tokens=12)
    assert (head, finish) == (expected[:5], capi.STOPPED)
    assert capi.position(session) == len(prompt) + 5
    rest, finish = capi.generate(session, max_tokens=7)
    assert head + rest == expected and finish == capi.LENGTH


def test_cancel_from_another_thread(lib: c.CDLL, session: Any) -> None:
    def on_token(_token: capi.Token) -> None:
        thread = threading.Thread(target=lib.tandem_session_cancel, args=(session,))
        thread.start()
        thread.join()

    tokens, finish = capi.generate(session, on_token)
    assert (len(tokens), finish) == (1, capi.STOPPED)
    assert len(capi.generate(session, max_tokens=2)[0]) == 2


def test_statistics(lib: c.CDLL, tiny_gemma4: Path, prompt: list[int]) -> None:
    engine = capi.open_engine(tiny_gemma4, drafter=b"on")
    session = capi.new_session(engine, prompt)
    capi.generate(session, max_tokens=20)
    readings: list[Callable[..., int]] = [lib.tandem_session_get_stats, lib.tandem_engine_get_stats]
    for read, handle in zip(readings, (session, engine), strict=True):
        stats = made(capi.Stats)
        capi.check(read(handle, c.byref(stats)))
        assert (stats.prefill_tokens, stats.decode_tokens) == (len(prompt), 20)
        assert stats.prefill_seconds > 0 and stats.decode_seconds > stats.sample_seconds > 0
        assert 0 < stats.time_to_first_token <= stats.decode_seconds
        assert sum(stats.accepted_by_position) == stats.accepted <= stats.drafted
        assert sum(stats.depths) - stats.depths[0] == stats.verify_steps and stats.accepted_by_position[0] == 0
        assert stats.reused_tokens == 0  # without a prefix cache
    assert stats.steps == sum(stats.depths) and stats.step_rows == stats.steps + stats.drafted
    capi.check(lib.tandem_session_close(session))
    capi.check(lib.tandem_engine_close(engine))
