"""What becomes of a session: clones, rewinds across the ring's edge, files, cancelled work. Whatever happens, greedy
text goes on as that of a session to which nothing happened, with and without drafts."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import read_manifest
from sequences import DRAFTERS, LONG, STYLE, begun, greedy, media_prompt, with_media, write_bundles

import tandem_lm as tl

COUNTS = [12, pytest.param(100, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("sessions"))


@pytest.fixture(scope="module", params=["f32", "int4-channel", "gemma3"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[tl.Engine]:
    with tl.Engine(folder / f"{request.param}.litertlm", max_context=LONG) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[tl.Engine]:
    with tl.Engine(folder / "f32.litertlm", max_context=LONG) as engine:
        yield engine


def prompts(count: int, vocab: int, longest: int = 60, seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab - 16, int(rng.integers(2, longest))).tolist() for _ in range(count)]


def any_prompt(engine: tl.Engine, prompt: list[int], i: int) -> list[Any]:
    """Now and then one with an image and sound."""
    return media_prompt(i) if with_media(engine, i) else prompt


@pytest.mark.parametrize("count", COUNTS)
def test_a_clone_goes_on_as_the_original(engine: tl.Engine, count: int) -> None:
    for i, prompt in enumerate(prompts(count, engine.info.vocab_size)):
        drafter = DRAFTERS[i % 2]
        session = begun(engine, any_prompt(engine, prompt, i))
        undisturbed = begun(engine, any_prompt(engine, prompt, i))
        first = greedy(session, 10, drafter)
        assert greedy(undisturbed, 10, drafter) == first
        clone = session.clone()
        assert clone.tokens == session.tokens and clone.stats() == tl.Stats()
        other = session.clone()
        other.rewind(other.position - 3)
        other.prefill([7, 8, 9])
        elsewhere = greedy(other, 12, drafter)
        found = greedy(clone, 30, drafter), greedy(session, 30, drafter)
        assert found[0] == found[1] == greedy(undisturbed, 30, drafter), f"prompt {i}"
        again = begun(engine, any_prompt(engine, prompt, i))
        greedy(again, 10, drafter)
        again.rewind(again.position - 3)
        again.prefill([7, 8, 9])
        assert greedy(again, 12, drafter) == elsewhere


def test_clones_of_clones_outlive_their_parents(plain: tl.Engine) -> None:
    session = begun(plain, prompts(1, plain.info.vocab_size)[0])
    expected = greedy(session.clone(), 40)
    for _ in range(5):
        child = session.clone()
        session.close()
        session = child
    assert greedy(session, 40) == expected


def test_clones_on_the_portable_graphs(folder: Path) -> None:
    with tl.Engine(folder / "f32.litertlm", graph="portable") as engine:
        session = begun(engine, prompts(1, engine.info.vocab_size)[0])
        greedy(session, 5)
        clone = session.clone()
        changed = session.clone()
        changed.prefill([5, 6, 7])
        greedy(changed)
        assert greedy(clone) == greedy(session)
        with pytest.raises(tl.InvalidRequestError, match="portable graphs"):
            session.save(folder / "portable")
        with pytest.raises(tl.InvalidRequestError, match="portable graphs"):
            engine.restore(folder / "portable")


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_rewind_across_the_edge_of_the_ring(engine: tl.Engine, count: int) -> None:
    rng = np.random.default_rng(3)
    for i in range(count):
        ids = rng.integers(0, engine.info.vocab_size - 16, int(rng.integers(900, 1500))).tolist()
        drafter = DRAFTERS[i % 2]
        media = media_prompt(i) if with_media(engine, i) else []
        session = begun(engine, [*media, *ids])
        before = session.position - len(ids)
        greedy(session, 6, drafter)
        with pytest.raises(tl.InvalidRequestError, match="least position that needs none is") as refusal:
            session.rewind(100, refill=False)
        assert session.position == before + len(ids) + 6
        least = int(str(refusal.value).split("least position that needs none is ")[1].split()[0])
        assert 100 < least < before + len(ids)
        with pytest.raises(tl.InvalidRequestError, match=f"none is {least} "):
            session.rewind(least - 1, refill=False)
        back = int(rng.integers(max(50, before), least))  # the ring has lost its window
        far, near = session, session.clone()
        for one, position, refill in ((near, least, False), (far, back, True)):
            one.rewind(position, refill)
            one.prefill([11, 12])
            fresh = begun(engine, [*media, *ids[: position - before], 11, 12])
            assert one.tokens == fresh.tokens
            assert greedy(one, 24, drafter) == greedy(fresh, 24, drafter), f"prompt {i}, back to {position}"


def test_a_rewind_that_is_not_far_is_never_refused(plain: tl.Engine) -> None:
    session = begun(plain, list(range(30, 90)))
    for position in (59, 30, 1, 0):
        session.rewind(position, refill=False)
    assert session.position == 0


def test_refusal_looks_at_media(plain: tl.Engine) -> None:
    ids = np.random.default_rng(0).integers(0, 400, 1200).tolist()
    session = begun(plain, [*media_prompt(1)[:3], *ids])
    end = max(i for i, id in enumerate(session.tokens) if id >= 505) + 1
    with pytest.raises(tl.InvalidRequestError, match="least position"):
        session.rewind(end, refill=False)
    session.rewind(end)
    session.prefill([31])
    fresh = begun(plain, [*media_prompt(1)[:3], 31])
    assert fresh.tokens == session.tokens and greedy(fresh) == greedy(session)


RESTORE = """
import json, sys
import tandem_lm as tl
params = json.loads(sys.argv[3])
out = []
with tl.Engine(sys.argv[1], max_context=int(sys.argv[2])) as engine:
    for path, drafter in json.loads(sys.stdin.read()):
        session = engine.restore(path)
        tokens = list(session.tokens)
        out.append([tokens, [t.id for t in session.generate(tl.SamplingParams(drafter=drafter, **params))]])
print(json.dumps(out))
"""


@pytest.mark.parametrize("count", COUNTS)
def test_restored_in_another_process(engine: tl.Engine, tmp_path: Path, count: int) -> None:
    jobs, expected = [], []
    for i, prompt in enumerate(prompts(count, engine.info.vocab_size)):
        ids = any_prompt(engine, prompt if i % 4 else prompt * 20, i)  # now and then beyond the ring
        drafter = DRAFTERS[i % 2]
        session = begun(engine, ids[: LONG // 2])
        if i % 3:
            greedy(session, 10, drafter)
        path = tmp_path / f"{i}.session"
        session.save(path)
        jobs.append((str(path), drafter))
        expected.append([list(session.tokens), greedy(session, 24, drafter)])
    params = json.dumps({**STYLE, "max_tokens": 24})
    done = subprocess.run(
        [sys.executable, "-c", RESTORE, str(engine.path), str(LONG), params],
        input=json.dumps(jobs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == expected


def test_a_restored_session_is_a_session_like_others(plain: tl.Engine, tmp_path: Path) -> None:
    session = begun(plain, media_prompt(3))
    greedy(session, 5)
    path = tmp_path / "a"
    session.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    restored, again = plain.restore(path), plain.restore(str(path))
    path.unlink()  # it may go while it is mapped
    assert restored.stats() == tl.Stats() and restored.common_prefix(media_prompt(3)) == session.position - 5
    changed = restored.clone()
    changed.prefill([5, 6])
    greedy(changed)
    expected = greedy(session)
    assert greedy(restored) == expected
    again.save(path)  # of a session that lies in a file
    assert greedy(plain.restore(path)) == expected == greedy(again)
    again.rewind(2)
    again.prefill([9])
    assert greedy(again) == greedy(begun(plain, [2, 33, 9]))


def test_saving_what_was_not_computed_yet(plain: tl.Engine, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 400, 1200).tolist()
    session = begun(plain, ids)
    session.rewind(300)
    session.save(tmp_path / "a")
    assert greedy(plain.restore(tmp_path / "a")) == greedy(session) == greedy(begun(plain, ids[:300]))
    empty = plain.session()
    empty.save(tmp_path / "b")
    restored = plain.restore(tmp_path / "b")
    restored.prefill(ids[:20])
    assert greedy(restored) == greedy(begun(plain, ids[:20]))


def test_size_of_the_file(plain: tl.Engine, tmp_path: Path) -> None:
    session = begun(plain, np.random.default_rng(0).integers(0, 400, 1200).tolist())
    session.save(tmp_path / "a")
    layers = read_manifest(plain.path)["model"]["layers"]
    assert any(layer["window"] for layer in layers) and not all(layer["window"] for layer in layers)
    rows = sum(  # of keys and values: all of full layers, a ring of window + 512 slots of the others, in blocks of 64
        2 * layer["kv_heads"] * layer["head_dim"] * (576 if layer["window"] else 1199) for layer in layers
    )
    expected = 2 * rows + 4 * 1200
    assert (tmp_path / "a").stat().st_size == pytest.approx(expected, rel=0.02)


def test_what_cannot_be_written(plain: tl.Engine, tmp_path: Path) -> None:
    session = begun(plain, [2, 30, 31])
    with pytest.raises(tl.FileError, match="missing"):
        session.save(tmp_path / "missing" / "a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(tl.FileError, match="folder"):
        session.save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(tl.FileError, match="nothing"):
        plain.restore(tmp_path / "nothing")


def test_files_that_are_refused(folder: Path, plain: tl.Engine, tmp_path: Path) -> None:
    """Of another bundle, version, kv_dtype or length; cut short; damaged: 200 of 200, and no session is harmed."""
    rng = np.random.default_rng(7)
    session = begun(plain, media_prompt(2) + rng.integers(0, 400, 300).tolist())
    whole = tmp_path / "whole"
    session.save(whole)
    data = whole.read_bytes()
    bad = tmp_path / "bad"

    def refused(kind: type[Exception], match: str, engine: tl.Engine = plain) -> None:
        with pytest.raises(kind, match=match) as caught:
            engine.restore(bad)
        assert "bad" in str(caught.value)

    bad.write_bytes(data)
    with tl.Engine(folder / "int4-channel.litertlm", max_context=LONG) as other:
        refused(tl.InvalidRequestError, "another bundle", other)
    with tl.Engine(folder / "f32.litertlm", max_context=LONG, kv_dtype="int8") as other:
        refused(tl.InvalidRequestError, "kv_dtype", other)
    with tl.Engine(folder / "f32.litertlm", max_context=128) as other:
        refused(tl.ContextLengthError, "max_context", other)
    with tl.Engine(folder / "f32.litertlm", max_context=520) as other:
        refused(tl.InvalidRequestError, "max_context", other)
    bad.write_bytes(data[:8] + struct.pack("<I", 2) + data[12:])
    refused(tl.FileError, "version 2")
    bad.write_bytes(b"not a session at all" * 100)
    refused(tl.FileError, "no saved session")
    for _ in range(70):
        bad.write_bytes(data[: int(rng.integers(0, len(data)))])
        refused(tl.FileError, "cannot restore|empty")
    for i in range(124):
        flipped = bytearray(data)
        at = int(rng.integers(0, 4096 if i % 2 else len(data)))
        flipped[at] ^= 1 << int(rng.integers(0, 8))
        bad.write_bytes(flipped)
        refused(tl.TandemError, "cannot restore")
    assert greedy(plain.restore(whole)) == greedy(session)


@pytest.mark.parametrize("count", COUNTS)
def test_cancelled_and_continued(engine: tl.Engine, count: int) -> None:
    rng = np.random.default_rng(9)
    stopped = 0
    for i, prompt in enumerate(prompts(count, engine.info.vocab_size)):
        ids = prompt * 20
        drafter = DRAFTERS[i % 2]
        media = media_prompt(i) if with_media(engine, i) else [5]
        session = begun(engine, media)
        before = session.position
        timer = threading.Timer(float(rng.uniform(0, 0.01)), session.cancel)
        timer.start()
        try:
            session.prefill(ids)
        except tl.Cancelled:
            stopped += 1
        timer.join()
        done = session.position - before
        assert list(session.tokens[before:]) == ids[:done]
        if done < len(ids):
            session.prefill(ids[done:])
        undisturbed = begun(engine, [*media, *ids])
        assert undisturbed.tokens == session.tokens
        run = session.generate(tl.SamplingParams(max_tokens=30, drafter=drafter, **STYLE))
        first = [next(run).id for _ in range(int(rng.integers(1, 20)))]
        session.cancel()
        assert next(run, None) is None and run.finish_reason == "cancelled"
        assert greedy(undisturbed, len(first), drafter) == first
        assert greedy(session, 20, drafter) == greedy(undisturbed, 20, drafter), f"prompt {i}"
    assert count < 100 or stopped > 0


def test_a_full_context_slides(folder: Path) -> None:
    with tl.Engine(folder / "f32.litertlm", max_context=64) as engine:
        session = begun(engine, list(range(30, 60)))
        assert len(greedy(session, 100)) == 34 and session.position == 64
        for drafter in DRAFTERS:
            session = begun(engine, list(range(30, 60)))
            params = tl.SamplingParams(max_tokens=200, pinned_tokens=10, drafter=drafter, **STYLE)
            run = session.generate(params)
            ids = []
            for token in run:
                ids.append(token.id)
                assert session.position <= 64 and session.tokens[-1] == token.id
                assert session.tokens[:10] == tuple(range(30, 40))
            assert len(ids) == 200 and run.finish_reason == "length"
            sequence = [*range(30, 60), *ids]
            assert session.tokens[10:] == tuple(sequence[-(session.position - 10) :])
        # Without penalties, which look at all that was said, what follows a slide is what follows the kept tokens: the
        # 10 pinned ones and 27, half of what a context of 64 has room for beside them.
        session = begun(engine, list(range(30, 60)))
        bare = {"stop_ids": (), "drafter": "off"}
        ids = [t.id for t in session.generate(tl.SamplingParams(max_tokens=60, pinned_tokens=10, **bare))]
        sequence = [*range(30, 60), *ids]
        kept = begun(engine, sequence[:10] + sequence[37:64])
        assert [t.id for t in kept.generate(tl.SamplingParams(max_tokens=26, **bare))] == sequence[64:90]
        with pytest.raises(tl.InvalidRequestError, match="pinned_tokens"):
            session.generate(tl.SamplingParams(pinned_tokens=63))
        with pytest.raises(tl.InvalidRequestError, match="pinned_tokens"):
            tl.SamplingParams(pinned_tokens=-1)


def test_media_slide_as_a_whole(folder: Path) -> None:
    with tl.Engine(folder / "f32.litertlm", max_context=128) as engine:
        session = begun(engine, [*media_prompt(2), *range(30, 40)])
        position = session.position
        image = session.tokens.index(505)
        params = tl.SamplingParams(max_tokens=200, pinned_tokens=image + 2, stop_ids=(), drafter="off")
        assert len(list(session.generate(params))) == 200
        end = max(i for i, id in enumerate(session.tokens) if id == 505) + 1
        whole = begun(engine, media_prompt(2)[:3])
        assert session.tokens[:end] == whole.tokens[:end] and position < 128


def test_no_pickles_and_no_copies(plain: tl.Engine) -> None:
    session = begun(plain, [2, 30])
    for thing in (plain, session, session.generate()):
        for refused in (pickle.dumps, copy):
            with pytest.raises(tl.InvalidRequestError, match="cannot be pickled"):
                refused(thing)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.skipif(
    "tsan" in os.environ.get("LD_PRELOAD", ""), reason="ThreadSanitizer ends children that make threads"
)
def test_a_child_process_is_told(plain: tl.Engine) -> None:
    session = begun(plain, [2, 30, 31])
    run = session.generate(tl.SamplingParams(max_tokens=5, stop_ids=()))
    next(run)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child() -> None:
        told = []
        for use in (plain.session, lambda: session.prefill([3]), session.clone, lambda: next(run), plain.stats):
            try:
                use()
            except tl.InvalidRequestError as error:
                told.append(str(error))
        run.close()
        session.close()
        plain.close()
        queue.put(told)

    process = context.Process(target=child)
    process.start()
    told = queue.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0 and len(told) == 5
    assert all("parent process" in message and "spawn" in message for message in told)
    assert len(list(run)) == 4  # the parent is not disturbed


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_nothing_is_left_behind(plain: tl.Engine, tmp_path: Path) -> None:
    def holdings() -> tuple[int, int, int]:
        gc.collect()  # an engine of a test before that ends in between would count
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return len(list(Path("/proc/self/fd").iterdir())), int(fields["Threads"]), int(fields["VmRSS"].split()[0])

    session = begun(plain, np.random.default_rng(0).integers(0, 400, 1200).tolist())

    def cycle() -> None:
        session.save(tmp_path / "a")
        with plain.restore(tmp_path / "a") as restored, session.clone() as clone:
            assert greedy(restored, 3) == greedy(clone, 3)

    for _ in range(10):
        cycle()
    files, threads, memory = holdings()
    asleep = [plain.restore(tmp_path / "a") for _ in range(30)]  # a mapping each, but no descriptor
    assert holdings()[0] == files
    del asleep
    for _ in range(100):
        cycle()
    assert holdings()[:2] == (files, threads)
    if "san" not in os.environ.get("LD_PRELOAD", ""):  # sanitizers keep what was freed for a while
        assert holdings()[2] < memory + 8 * 1024  # KiB; a session takes some 1500
