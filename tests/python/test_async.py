"""The async face: the same tokens, cancellation within a step, and no thread that stays."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tandem_lm as tl

FREE = tl.SamplingParams(max_tokens=12, stop_ids=())
ENDLESS = tl.SamplingParams(max_tokens=10**6, stop_ids=())


@pytest.fixture(scope="module")
def engine(tiny_gemma4_int8: Path) -> Iterator[tl.Engine]:
    with tl.Engine(tiny_gemma4_int8, num_threads=1) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    gc.collect()
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def alone(engine: tl.Engine, prompt: list[int]) -> list[int]:
    with engine.session() as session:
        session.prefill(prompt)
        return [token.id for token in session.generate(FREE)]


def test_eight_tasks_give_what_they_give_alone(engine: tl.Engine) -> None:
    texts = [[5 + i, 6, 7 + i] for i in range(8)]
    expected = [alone(engine, prompt) for prompt in texts]

    async def one(prompt: list[int]) -> list[int]:
        with engine.session() as session:
            await session.aprefill(prompt)
            stream = session.agenerate(FREE)
            found = [token.id async for token in stream]
            assert stream.finish_reason == "length" and session.position == len(prompt) + 12
            return found

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(one(prompt) for prompt in texts))

    assert asyncio.run(main()) == expected


def test_conversation(engine: tl.Engine) -> None:
    params = tl.SamplingParams(max_tokens=8)
    with engine.conversation() as chat:
        expected = [chat.send("hello", params), chat.send("again", params)]
        history = list(chat.history)

    async def main() -> None:
        with engine.conversation() as chat:
            assert "".join([piece async for piece in chat.astream("hello", params)]) == expected[0]
            assert await chat.asend("again", params) == expected[1]
            assert chat.history == history and chat.finish_reason in ("stop", "length")
            with pytest.raises(tl.InvalidRequestError):
                await chat.asend("  ")
            with pytest.raises(tl.TimeLimitError):
                await chat.asend("hello", params, timeout=1e-9)
            assert chat.history == history

    asyncio.run(main())


def test_cancelling_the_task_ends_the_generation(engine: tl.Engine) -> None:
    async def main() -> None:
        with engine.session() as session:
            await session.aprefill([5, 6, 7])
            got: list[int] = []

            async def consume() -> None:
                while True:  # again when the context is full
                    session.rewind(3)
                    got.clear()
                    async with session.agenerate(ENDLESS) as stream:
                        async for token in stream:
                            got.append(token.id)

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The session holds what was handed out, and goes on from there at once.
            assert list(session.tokens) == [5, 6, 7, *got]
            session.rewind(3)
            assert [token.id async for token in session.agenerate(FREE)] == alone(engine, [5, 6, 7])

    asyncio.run(main())


def test_cancelling_a_prefill_and_a_chat(engine: tl.Engine) -> None:
    async def main() -> None:
        with engine.session() as session, engine.conversation() as chat:
            for work, own in (
                (session.aprefill([5] * 100), session),
                (chat.asend("hello " * 8, ENDLESS), chat.session),
            ):
                task = asyncio.create_task(work)  # type: ignore[arg-type]
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                own.prefill([5])  # nothing runs on it any more
                assert len(list(own.generate(tl.SamplingParams(max_tokens=2, stop_ids=())))) == 2

    asyncio.run(main())


def test_wait_for_and_time_limit(engine: tl.Engine) -> None:
    async def endless(session: tl.Session) -> None:
        while True:
            session.rewind(1)
            async for _ in session.agenerate(ENDLESS):
                pass

    async def main() -> None:
        with engine.session() as session:
            await session.aprefill([5])
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(endless(session), 0.05)
            session.rewind(1)
            stream = session.agenerate(ENDLESS, timeout=0.02)
            async for _ in stream:
                await asyncio.sleep(0.005)
            assert stream.finish_reason == "timeout"
            with pytest.raises(tl.TimeLimitError):
                await session.aprefill([5] * 50, timeout=1e-9)

    asyncio.run(main())


def test_streams_that_are_left(engine: tl.Engine) -> None:
    async def main() -> None:
        with engine.session() as session:
            await session.aprefill([5, 6])
            async for _ in session.agenerate(ENDLESS):
                break  # never closed: its thread goes with it
            async with session.agenerate(ENDLESS) as stream:
                await anext(stream)
            assert stream.finish_reason == "cancelled"
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await stream.aclose()  # once more is fine
            assert session.position == 2 + 2

    asyncio.run(main())


def test_two_tasks_on_one_stream_are_refused(engine: tl.Engine) -> None:
    async def main() -> None:
        with engine.session() as session:
            await session.aprefill([5, 6])
            async with session.agenerate(FREE) as stream:
                results: list[Any] = await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
                kinds = [type(result) for result in results]
                assert kinds == [tl.Token, tl.InvalidRequestError]
                assert len([token async for token in stream]) == 11  # the first goes on

    asyncio.run(main())
