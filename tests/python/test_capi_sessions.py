"""Clones, files, rewinds, time limits, the prefix cache and sliding contexts through the C ABI: as from Python."""

from __future__ import annotations

import ctypes as c
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capi
import numpy as np
import pytest
from capi import BAD_HANDLE, INVALID, OK, SMALL, audio_of, engine, image_of, lib, made, pixels, python, samples

import tandem_lm as tl

pytestmark = pytest.mark.timeout(1200)  # the first one builds the library
LONG = 2048  # beyond the rings of the sliding layers
STYLE: dict[str, Any] = {"presence_penalty": 4.0, "repetition_penalty": 1.1}  # no text that repeats itself


@pytest.fixture(scope="module")
def long(lib: c.CDLL, tiny_gemma4: Path) -> Iterator[Any]:
    handle = capi.open_engine(tiny_gemma4, max_context=LONG)
    yield handle
    capi.check(lib.tandem_engine_close(handle))


def random_ids(count: int, seed: int = 0) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(5, 400, count).tolist()
    return ids


def greedy(session: Any, count: int = 12, **values: Any) -> list[int]:
    found, _ = capi.generate(session, max_tokens=count, stop_ids=capi.ids_of([]), **STYLE, **values)
    return [token for token, _ in found]


def expected(engine: tl.Engine, *parts: Any, count: int = 12) -> list[int]:
    """What the Python API's session says after prompts, one after the other."""
    with engine.session() as session:
        for part in parts:
            session.prefill(part)
        return [t.id for t in session.generate(tl.SamplingParams(max_tokens=count, stop_ids=(), **STYLE))]


def with_media(engine: Any, lib: c.CDLL) -> Any:
    session = capi.new_session(engine, [2])
    capi.check(lib.tandem_session_prefill_image(session, c.byref(image_of(pixels())), None))
    capi.check(lib.tandem_session_prefill_audio(session, c.byref(audio_of(samples(0.3, 16000, 1), 16000)), None))
    capi.check(lib.tandem_session_prefill(session, capi.ids_of([21, 22]), 2))
    return session


@pytest.mark.parametrize("drafter", [b"off", b"on"])
def test_a_clone_goes_on_as_the_original(lib: c.CDLL, engine: Any, python: tl.Engine, drafter: bytes) -> None:
    prompt = random_ids(20)
    session = capi.new_session(engine, prompt)
    copy = capi.clone(session)
    assert copy.value != session.value and capi.tokens(copy) == prompt
    stats = made(capi.Stats)
    capi.check(lib.tandem_session_get_stats(copy, c.byref(stats)))
    assert stats.prefill_tokens == 0
    other = capi.clone(copy)
    capi.check(lib.tandem_session_prefill(other, capi.ids_of([7, 8]), 2))
    assert greedy(other, drafter=drafter) == expected(python, [*prompt, 7, 8])
    assert greedy(session, drafter=drafter) == expected(python, prompt)
    capi.close(session, other)
    assert greedy(copy, drafter=drafter) == expected(python, prompt)  # outlives the others
    capi.close(copy)


def test_clones_and_files_with_media(lib: c.CDLL, engine: Any, python: tl.Engine, tmp_path: Path) -> None:
    session = with_media(engine, lib)
    image, sound = tl.Image(pixels(), max_soft_tokens=70), tl.Audio(samples(0.3, 16000, 1), 16000)
    text = expected(python, [2], [image], [sound], [21, 22])
    copy = capi.clone(session)
    capi.save(session, tmp_path / "a")
    restored = capi.restore(engine, tmp_path / "a")
    assert capi.tokens(copy) == capi.tokens(restored) == capi.tokens(session)
    assert greedy(copy) == greedy(restored) == greedy(session) == text
    capi.close(session, copy, restored)


def test_files_pass_between_c_and_python(engine: Any, python: tl.Engine, tmp_path: Path) -> None:
    prompt = random_ids(30)
    session = capi.new_session(engine, prompt)
    capi.save(session, tmp_path / "c")
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600
    with python.restore(tmp_path / "c") as restored:
        assert list(restored.tokens) == prompt
        restored.save(tmp_path / "python")
    woken = capi.restore(engine, tmp_path / "python")
    (tmp_path / "python").unlink()  # it may go while it is mapped
    assert greedy(woken) == greedy(session) == expected(python, prompt)
    capi.close(session, woken)


def test_files_that_are_refused(lib: c.CDLL, engine: Any, tiny_gemma3: Path, tiny_gemma4: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    session = capi.new_session(engine, random_ids(90))
    capi.save(session, path)

    def status(owner: Any, where: Path) -> int:
        out = capi.Handle(1)
        found: int = lib.tandem_session_restore(owner, str(where).encode(), c.byref(out))
        assert out.value is None and str(where) in capi.error()
        return found

    other = capi.open_engine(tiny_gemma3)
    assert status(other, path) == INVALID and "another bundle" in capi.error()
    short = capi.open_engine(tiny_gemma4, max_context=64)
    assert status(short, path) == capi.CONTEXT
    portable = capi.open_engine(tiny_gemma4, graph=b"portable")
    assert status(portable, path) == INVALID and "portable" in capi.error()
    slow = capi.new_session(portable, [5, 6])
    assert lib.tandem_session_save(slow, b"x") == INVALID and "portable" in capi.error()
    capi.close(slow)
    for handle in (other, short, portable):
        capi.check(lib.tandem_engine_close(handle))
    assert status(engine, tmp_path / "missing") == capi.IO
    data, bad = path.read_bytes(), tmp_path / "bad"
    for damaged in (data[:-1], data[:50], b"", b"no session" * 50, data[:9] + b"\7" + data[10:]):
        bad.write_bytes(damaged)
        assert status(engine, bad) == capi.IO
    assert lib.tandem_session_save(session, str(tmp_path / "no" / "folder").encode()) == capi.IO
    assert len(greedy(session, 3)) == 3
    capi.close(session)


def test_rewind_with_and_without_refill(lib: c.CDLL, long: Any, tiny_gemma4: Path) -> None:
    ids = random_ids(1200)
    session = capi.new_session(long, ids)
    assert lib.tandem_session_rewind_no_refill(session, 100) == INVALID
    least = int(capi.error().split("least position that needs none is ")[1].split()[0])
    assert capi.position(session) == 1200 and 100 < least < 1200
    near = capi.clone(session)
    capi.check(lib.tandem_session_rewind_no_refill(near, least))
    capi.check(lib.tandem_session_rewind(session, 100))
    with tl.Engine(tiny_gemma4, max_context=LONG) as python:
        for one, kept in ((near, least), (session, 100)):
            capi.check(lib.tandem_session_prefill(one, capi.ids_of([7, 8]), 2))
            assert greedy(one) == expected(python, [*ids[:kept], 7, 8])
    capi.close(session, near)


def test_tokens(lib: c.CDLL, engine: Any) -> None:
    session, count = capi.new_session(engine), c.c_size_t(9)
    assert capi.tokens(session) == [] and capi.position(session) == 0
    prompt = random_ids(10)
    capi.check(lib.tandem_session_prefill(session, capi.ids_of(prompt), 10))
    ids = capi.ids_of([-9] * 10)
    assert lib.tandem_session_get_tokens(session, ids, 9, c.byref(count)) == SMALL
    assert set(ids) == {-9} and count.value == 10
    assert capi.tokens(session) == prompt
    assert capi.tokens(session) + greedy(session, 4) == capi.tokens(session)
    capi.close(session)


def test_a_clone_ends_a_generation_that_was_begun(lib: c.CDLL, engine: Any, python: tl.Engine, tmp_path: Path) -> None:
    prompt = random_ids(20)
    for call in (lambda session: capi.close(capi.clone(session)), lambda session: capi.save(session, tmp_path / "a")):
        session, token = capi.new_session(engine, prompt), made(capi.Token)
        capi.check(lib.tandem_session_begin(session, None))
        capi.check(lib.tandem_session_step(session, c.byref(token)))
        call(session)
        assert lib.tandem_session_step(session, c.byref(token)) == INVALID
        assert capi.tokens(session) == [*prompt, token.id]
        assert greedy(session) == expected(python, [*prompt, token.id])
        capi.close(session)


def test_time_limit_of_prompts(lib: c.CDLL, long: Any, tiny_gemma4: Path) -> None:
    ids = random_ids(1500)
    session = capi.new_session(long, ids[:5])
    capi.check(lib.tandem_session_set_prefill_timeout(session, 1e-9))
    assert lib.tandem_session_prefill(session, capi.ids_of(ids[5:]), len(ids) - 5) == capi.TIMED_OUT
    done = capi.position(session)
    assert 5 <= done < 1500 and capi.tokens(session) == ids[:done]
    assert lib.tandem_session_prefill_image(session, c.byref(image_of(pixels())), None) == capi.TIMED_OUT
    sound = audio_of(samples(0.3, 16000, 1), 16000)
    assert lib.tandem_session_prefill_audio(session, c.byref(sound), None) == capi.TIMED_OUT
    capi.check(lib.tandem_session_rewind(session, done))
    copy = capi.clone(session)  # has no limit
    for one in (session, copy):
        if one is session:
            capi.check(lib.tandem_session_set_prefill_timeout(session, math.inf))
        capi.check(lib.tandem_session_prefill(one, capi.ids_of(ids[done:]), len(ids) - done))
    with tl.Engine(tiny_gemma4, max_context=LONG) as python:
        assert greedy(session) == greedy(copy) == expected(python, ids)
    capi.close(session, copy)


def test_prefix_cache(lib: c.CDLL, tiny_gemma4: Path, python: tl.Engine, tmp_path: Path) -> None:
    def reused(engine: Any, prompt: list[int]) -> int:
        session, stats = capi.new_session(engine, prompt), made(capi.Stats)
        assert greedy(session) == expected(python, prompt)
        capi.check(lib.tandem_session_get_stats(session, c.byref(stats)))
        assert stats.prefill_tokens + stats.reused_tokens == len(prompt)
        capi.close(session)
        return int(stats.reused_tokens)

    def counted(engine: Any) -> Any:
        stats = made(capi.PrefixStats)
        capi.check(lib.tandem_engine_get_prefix_stats(engine, c.byref(stats)))
        return stats

    system = random_ids(60)
    plain = capi.open_engine(tiny_gemma4)
    assert [reused(plain, [*system, i]) for i in (5, 6)] == [0, 0] and counted(plain).budget == 0
    memory = capi.open_engine(tiny_gemma4, prefix_cache_bytes=2**26)
    assert [reused(memory, [*system, i]) for i in (5, 6)] == [0, 60]
    stats = counted(memory)
    assert (stats.lookups, stats.hits, stats.tokens_reused, stats.disk_hits) == (2, 1, 60, 0)
    assert 0 < stats.bytes <= stats.budget == 2**26 and stats.entries >= 2
    folder = tmp_path / "prefixes"
    disk = {"prefix_cache_dir": str(folder).encode()}
    first = capi.open_engine(tiny_gemma4, **disk)
    assert counted(first).budget == 2**30 and reused(first, [*system, 5]) == 0
    assert not list(folder.rglob("*.tandem-prefix"))
    for opened in (plain, memory, first):
        capi.check(lib.tandem_engine_close(opened))
    assert list(folder.rglob("*.tandem-prefix"))
    second = capi.open_engine(tiny_gemma4, **disk)
    assert reused(second, [*system, 6]) == 60 and counted(second).disk_hits == 1
    for made_by_engine in list(folder.iterdir()):
        made_by_engine.rename(tmp_path / "elsewhere")
    reused(second, random_ids(60, 1))
    assert lib.tandem_engine_close(second) == capi.IO and "prefix" in capi.error()
    assert lib.tandem_engine_close(second) == BAD_HANDLE  # it is closed nevertheless


def test_a_full_context_slides(lib: c.CDLL, tiny_gemma4: Path) -> None:
    engine = capi.open_engine(tiny_gemma4, max_context=64)
    prompt = random_ids(30)
    session = capi.new_session(engine, prompt)
    values: dict[str, Any] = {"max_tokens": 100, "stop_ids": capi.ids_of([]), "drafter": b"off"}
    found, finish = capi.generate(session, slide=1, pinned_tokens=10, **values)
    with tl.Engine(tiny_gemma4, max_context=64) as python, python.session() as other:
        other.prefill(prompt)
        params = tl.SamplingParams(max_tokens=100, pinned_tokens=10, stop_ids=(), drafter="off")
        assert [token for token, _ in found] == [token.id for token in other.generate(params)]
        assert capi.tokens(session) == list(other.tokens) and finish == capi.LENGTH
    assert capi.tokens(session)[:10] == prompt[:10]
    full = capi.new_session(engine, prompt)
    assert capi.generate(full, **values)[1] == capi.FULL
    bad = made(capi.Sampling, slide=1, pinned_tokens=63)
    assert lib.tandem_session_begin(full, c.byref(bad)) == INVALID and "pinned_tokens" in capi.error()
    capi.close(session, full)
    capi.check(lib.tandem_engine_close(engine))


def test_sessions_made_while_another_call_runs(lib: c.CDLL, engine: Any, python: tl.Engine, tmp_path: Path) -> None:
    """What is refused as busy leaves NULL where a handle would go, and no file."""
    prompt = random_ids(20)
    session, seen = capi.new_session(engine, prompt), []

    def on_token(_token: capi.Token) -> None:
        copy = capi.Handle(1)
        seen.append(lib.tandem_session_clone(session, c.byref(copy)))
        seen.append(lib.tandem_session_save(session, str(tmp_path / "a").encode()))
        assert copy.value is None

    found, _ = capi.generate(session, on_token, max_tokens=3, stop_ids=capi.ids_of([]), **STYLE)
    assert set(seen) == {capi.BUSY} and [token for token, _ in found] == expected(python, prompt, count=3)
    assert not (tmp_path / "a").exists() and lib.tandem_session_close(session) == OK
