"""Sessions of one engine on many threads: the same tokens as alone, whoever shares a step, fails or is cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gil
import numpy as np
import pytest
from checkpoints import write_assistant, write_gemma4
from sequences import media_prompt

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_lm.memory import plan_memory

CONTEXT = 192
LARGE = 2048
VOCAB = 4096
IDS = 490  # of a prompt: below the ids that stand for media
# Without repetition, so that drafts are rejected as well as accepted.
STYLE: dict[str, Any] = {"presence_penalty": 4.0, "stop_ids": (), "logprobs": True, "seed": 3}
Found = list[tuple[int, str, float]]


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny bundle with a drafter, by recipe."""
    folder = tmp_path_factory.mktemp("scheduler")
    write_gemma4(folder / "target", vocab=VOCAB)
    write_assistant(folder / "assistant", seed=5, vocab=VOCAB)
    made: dict[str, Path] = {}

    def path(quant: str) -> Path:
        if quant not in made:
            made[quant] = folder / f"{quant}.litertlm"
            convert(folder / "target", made[quant], quant=quant, context=LARGE, drafter=folder / "assistant")
        return made[quant]

    return path


@pytest.fixture(scope="module")
def engine(drafting: Callable[[str], Path]) -> Iterator[tl.Engine]:
    with tl.Engine(drafting("int8"), num_threads=1, max_context=CONTEXT) as engine:
        yield engine


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    """Random ids, every third prompt one that repeats itself."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        ids = rng.integers(0, IDS, int(rng.integers(2, 60))).tolist()
        out.append(ids + ids[: max(2, len(ids) // 2)] if i % 3 == 0 else ids)
    return out


def generated(session: tl.Session, **params: Any) -> Found:
    return [(t.id, t.text, t.logprob) for t in session.generate(tl.SamplingParams(**{**STYLE, **params}))]


def with_media(prompts: list[list[int]]) -> list[list[Any]]:
    """Every third one with an image and sound before it."""
    return [[*media_prompt(i), *prompt] if i % 3 == 2 else prompt for i, prompt in enumerate(prompts)]


def answer(engine: tl.Engine, prompt: list[Any], **params: Any) -> Found:
    with engine.session() as session:
        session.prefill(prompt)
        return generated(session, **params)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of `calls`, each on a thread of its own, begun together."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        barrier.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(begin, calls))


def check_threads(engine: tl.Engine, texts: list[list[Any]], shared: bool = True, **params: Any) -> tl.Stats:
    """As many threads as prompts, with the same results as one after the other. Again while they do not meet in a step:
    on a busy machine each may be done before the next has begun. Returns what was counted of the last time."""
    alone = [answer(engine, prompt, **params) for prompt in texts]
    done = threading.Event()

    def prompts_beside() -> None:
        """Steps of a tiny model are so short that sessions hardly meet: while a prompt has its turn, they do."""
        with engine.session() as session:
            while not done.is_set():
                session.rewind(0)
                session.prefill([5] * (engine.info.max_context - 2))

    beside = threading.Thread(target=prompts_beside)
    beside.start()
    try:
        for _ in range(20 if shared else 1):
            before = engine.stats()
            assert at_once([lambda p=prompt: answer(engine, p, **params) for prompt in texts]) == alone
            stats = engine.stats().since(before)
            if stats.batched_steps > 0:
                break
    finally:
        done.set()
        beside.join()
    assert (stats.batched_steps > 0) == shared
    return stats


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("quant", ["f32", "int8", "int4-channel"])
def test_eight_sessions_on_eight_threads(drafting: Callable[[str], Path], quant: str, threads: int) -> None:
    with tl.Engine(drafting(quant), num_threads=threads) as engine:
        assert engine.info.step_rows >= 8
        texts = with_media(prompts(8))
        stats = check_threads(engine, texts, max_tokens=24, drafter="off")
        assert sum(stats.batch_sizes) == stats.steps and stats.rows_per_step > 1
        assert stats.step_rows == sum(size * count for size, count in enumerate(stats.batch_sizes)) == 8 * 24
        # The drafter is untrained: what it gets right is drawn, by the seed.
        stats = check_threads(engine, texts, max_tokens=24, draft_tokens=3, simulate_acceptance=(0.8, 0.7, 0.5))
        assert 0 < stats.accepted < stats.drafted
        check_threads(engine, texts, max_tokens=24, draft_tokens=3)
        check_threads(engine, texts, max_tokens=24)
        check_threads(engine, texts, max_tokens=24, temperature=4.0)


def test_rows_of_other_sessions_change_no_logits(engine: tl.Engine) -> None:
    """Steps of sixteen rows beside decoding ones, to the last bit."""
    texts = prompts(4, seed=8)

    def score(ids: list[int]) -> np.ndarray:
        with engine.session() as session:
            session.prefill([5, 6, 7])
            return session.logits(ids)

    alone = [score(ids) for ids in texts]
    together = at_once(
        [lambda ids=ids: score(ids) for ids in texts]
        + [lambda ids=ids: answer(engine, ids, max_tokens=20) for ids in texts]
    )
    for one, other in zip(alone, together[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_portable_graphs_take_turns(drafting: Callable[[str], Path]) -> None:
    with tl.Engine(drafting("f32"), graph="portable", num_threads=1) as engine:
        assert engine.info.step_rows == 1
        stats = check_threads(engine, prompts(4), shared=False, max_tokens=8)
        assert stats.steps == stats.step_rows == 4 * 8


def test_prefill_beside_decoding(engine: tl.Engine) -> None:
    texts = prompts(6, seed=2)

    def pieces(prompt: list[int]) -> Found:
        """Grows by prompts and by answers, in turns."""
        with engine.session() as session:
            found: Found = []
            for _ in range(3):
                session.prefill(prompt[:12])
                found += generated(session, max_tokens=7)
            return found

    alone = [pieces(prompt) for prompt in texts]
    assert at_once([lambda p=prompt: pieces(p) for prompt in texts]) == alone


def test_cancel_and_go_on_within_a_batch(engine: tl.Engine) -> None:
    texts = prompts(6, seed=3)
    alone = [answer(engine, prompt, max_tokens=40) for prompt in texts]

    def interrupted(prompt: list[int]) -> Found:
        with engine.session() as session:
            session.prefill(prompt)
            found: Found = []
            generation = session.generate(tl.SamplingParams(**STYLE, max_tokens=40))
            canceller = threading.Timer(0.002, session.cancel)
            canceller.start()
            found += [(t.id, t.text, t.logprob) for t in generation]
            canceller.join()
            assert generation.finish_reason in ("cancelled", "length")
            # What was cut off is as if nobody had asked for more. Greedy: a penalty counts what its generation made.
            said = [token[0] for token in found]
            rest = generated(session, max_tokens=5, presence_penalty=0.0)
            assert rest == continued(prompt, said)
            return found

    def continued(prompt: list[int], said: list[int]) -> Found:
        with engine.session() as session:
            session.prefill(prompt)
            for token in said:  # step by step, as they were made
                session.logits([token])
            return generated(session, max_tokens=5, presence_penalty=0.0)

    calls: list[Callable[[], Any]] = []
    for i, prompt in enumerate(texts):
        calls.append(lambda p=prompt, i=i: interrupted(p) if i % 2 else answer(engine, p, max_tokens=40))
    for found, whole in zip(at_once(calls), alone, strict=True):
        assert found == whole[: len(found)]


def test_cancelling_a_session_that_waits(engine: tl.Engine) -> None:
    """It ends although others keep the model busy, and they do not notice."""
    texts = prompts(4, seed=4)
    alone = [answer(engine, prompt, max_tokens=60) for prompt in texts]
    with engine.session() as session, ThreadPoolExecutor(5) as pool:
        session.prefill(texts[0])
        generation = session.generate(tl.SamplingParams(max_tokens=100, stop_ids=()))
        ended = pool.submit(lambda: len(list(generation)))
        others = [pool.submit(answer, engine, prompt, max_tokens=60) for prompt in texts]
        session.cancel()
        ended.result(timeout=60)
        assert generation.finish_reason in ("cancelled", "length")
        assert [other.result() for other in others] == alone


def test_one_full_context_leaves_the_others_whole(engine: tl.Engine) -> None:
    texts = prompts(3, seed=5)
    full = list(range(5, 5 + CONTEXT - 10))
    calls = [lambda p=prompt: answer(engine, p, max_tokens=30) for prompt in [*texts, full]]
    alone = [call() for call in calls]
    assert len(alone[3]) == 10  # then the context is full

    def too_long() -> str:
        with engine.session() as session:
            session.prefill([5] * 100)
            with pytest.raises(tl.ContextLengthError):
                session.prefill([6] * 100)
            return "refused"

    assert at_once([*calls, too_long]) == [*alone, "refused"]


def test_a_session_that_does_not_fit_is_refused(
    drafting: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drafting("int8")
    plan = plan_memory(path, CONTEXT)
    tl.Engine(path, num_threads=1).close()  # so that all weights are mapped from the cache folder
    with tl.Engine(path, num_threads=1, max_context=CONTEXT) as engine:
        first = engine.session()
        first.prefill([5, 6, 7])
        cache = first.cache_bytes
        # The first has taken its pages, so that this is room for one more and not quite for two.
        held = plan.parts["weights"] + plan.parts["drafter"]
        monkeypatch.setenv("TANDEM_MEMORY_LIMIT", str(held + 2 * cache - 1))
        with engine.session() as second:
            with pytest.raises(tl.OutOfMemoryError, match=rf"context of {CONTEXT} .* the 2 sessions .* available"):
                engine.session()
            with pytest.raises(tl.OutOfMemoryError, match="the 2 sessions"):
                first.clone()
            second.prefill([5, 6])
            assert generated(second, max_tokens=5) and generated(first, max_tokens=5)  # the others go on
        engine.session().close()  # its place is free again


def test_time_limits(engine: tl.Engine) -> None:
    with engine.session() as session:
        session.prefill([5, 6, 7])
        generation = session.generate(tl.SamplingParams(max_tokens=10**6, stop_ids=()), timeout=0.02)
        count = 0
        for _ in generation:
            count += 1
            time.sleep(0.005)
        assert generation.finish_reason == "timeout" and 0 < count < 20 and session.position == 3 + count
        assert len(generated(session, max_tokens=4)) == 4  # it goes on
        before = session.position
        with pytest.raises(tl.TimeLimitError):
            session.prefill([5] * 50, timeout=1e-9)
        assert session.position == before and issubclass(tl.TimeLimitError, TimeoutError)
        generation = session.generate(tl.SamplingParams(max_tokens=3, stop_ids=()), timeout=1e9)
        assert len(list(generation)) == 3 and generation.finish_reason == "length"
        generation = session.generate(tl.SamplingParams(max_tokens=3, stop_ids=()), timeout=0.2)
        assert len(list(generation)) == 3
        time.sleep(0.2)
        assert len(session._native.draft(2)) == 2  # a limit ends with its call
        for wrong in (0, -1, float("nan"), "1", True):
            with pytest.raises(tl.InvalidRequestError, match="timeout"):
                session.generate(timeout=wrong)  # type: ignore[arg-type]
            with pytest.raises(tl.InvalidRequestError, match="timeout"):
                session.prefill([5], timeout=wrong)  # type: ignore[arg-type]
    chat = engine.conversation()
    with pytest.raises(tl.TimeLimitError):
        chat.send("hello", timeout=1e-9)
    assert not chat.history
    with pytest.raises(tl.InvalidRequestError, match="timeout"):
        chat.send("hello", timeout=-1)


def test_a_second_thread_on_one_session_is_refused(engine: tl.Engine) -> None:
    with engine.session() as session:
        session.prefill([5, 6, 7])
        native = session._native  # without the Python face, which would end the generation first
        stop = threading.Event()
        refused = []

        def intrude() -> None:
            while not stop.is_set():
                try:
                    native.prefill([])
                except Exception as error:
                    refused.append(str(error))

        thread = threading.Thread(target=intrude)
        thread.start()
        found = 0
        while not refused and session.position < CONTEXT - 2:
            try:
                found += len(list(session.generate(tl.SamplingParams(max_tokens=8, stop_ids=()))))
            except tl.InvalidRequestError as error:
                refused.append(str(error))
        stop.set()
        thread.join()
        assert all("another call" in message for message in refused)
        assert session.position >= 3 + found


# ------------------------------------------------------------------------------------------------ slow
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("drafter", ["off", "auto"])
@pytest.mark.parametrize("quant", ["f32", "int8", "int4-channel"])
def test_hundred_prompts(drafting: Callable[[str], Path], quant: str, drafter: str) -> None:
    with tl.Engine(drafting(quant), num_threads=2) as engine:
        texts = with_media(prompts(100, seed=6))
        params: dict[str, Any] = {"max_tokens": 40, "drafter": drafter}
        alone = [answer(engine, prompt, **params) for prompt in texts]
        before = engine.stats()
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda prompt: answer(engine, prompt, **params), texts))
        assert sum(a == b for a, b in zip(alone, together, strict=True)) == 100
        assert engine.stats().since(before).batched_steps > 0


@pytest.mark.slow
def test_another_python_thread_makes_progress(tmp_path: Path) -> None:
    """The interpreter is free while the model runs. Compared with a thread that hashes, which holds no lock either and
    is slowed by the machine in the same way, as long as two cores are to spare."""
    write_gemma4(tmp_path / "wide", vocab=65536)
    convert(tmp_path / "wide", tmp_path / "wide.litertlm", quant="f32", context=4096)
    with tl.Engine(tmp_path / "wide.litertlm", num_threads=1) as engine:
        for kind, shares in gil.measure(engine, 2000, repetitions=7, seconds=0.5)["hash"].items():
            assert np.median(shares) >= 0.9, (kind, shares)
