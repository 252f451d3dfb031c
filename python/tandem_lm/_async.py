"""The async face: blocking calls in a thread of their own, for the time that they take.

One thread per running call or stream and none besides, so that as many sessions as there are tasks step together; the
thread ends with its call. A task that is cancelled cancels the call and waits for it, which takes one step at most:
nobody may touch a session while a call runs on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar, cast

from .errors import InvalidRequestError

T = TypeVar("T")
_END = object()


class _Worker:
    """One thread, started by the first call. `cancel()` must make a call that runs return soon."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tandem-async")
        self._running: asyncio.Future[Any] | None = None

    async def run(self, call: Callable[[], T], lost: Callable[[T], None] | None = None) -> T:
        """The result of `call()`. When the task is cancelled: CancelledError, after the call has returned; a result
        that it had nevertheless, and that nobody gets, is given to `lost`."""
        if self._running is not None and not self._running.done():
            raise InvalidRequestError("the stream is awaited by two tasks at once; give each task a session of its own")
        future: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self._executor, call)
        self._running = future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            try:
                await self._settle(future)
            finally:
                if lost is not None and not future.cancelled() and future.exception() is None:
                    lost(future.result())
            raise

    async def stop(self) -> None:
        """Cancels the call that another task awaits, if there is one, and waits for it."""
        if self._running is not None:
            await self._settle(self._running)

    async def _settle(self, future: asyncio.Future[Any]) -> None:
        interrupted = False
        while not future.done():
            self._cancel()  # again and again: one that comes before the call has really begun is lost
            try:
                await asyncio.wait([future], timeout=0.05)
            except asyncio.CancelledError:
                interrupted = True  # insisting does not make it faster
        if not future.cancelled():
            future.exception()  # looked at: what came of it is of no interest any more
        if interrupted:
            raise asyncio.CancelledError

    def close(self) -> None:
        self._executor.shutdown(wait=False)


async def run(call: Callable[[], T], cancel: Callable[[], None]) -> T:
    """`call()` in a thread; cancelling the task calls `cancel()` until it has returned."""
    worker = _Worker(cancel)
    try:
        return await worker.run(call)
    finally:
        worker.close()


class AsyncStream(AsyncIterator[T], Generic[T]):
    """The items of a blocking iterator, for `async for`. aclose(), or leaving its `async with` block, ends it early; so
    does cancelling the task that awaits it."""

    def __init__(self, items: Iterator[T], cancel: Callable[[], None]) -> None:
        self._items: Any = items  # it has close()
        self._cancel = cancel
        self._worker = _Worker(cancel)
        self._closed = False

    async def __anext__(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        try:
            item = await self._worker.run(lambda: next(self._items, _END), self._lost)
        except InvalidRequestError:
            raise  # perhaps of a second task: the first goes on
        except BaseException:
            await self.aclose()
            raise
        if item is _END:
            await self.aclose()
            raise StopAsyncIteration
        return cast("T", item)

    def _lost(self, item: object) -> None:
        """What was made but not handed out, since the task was cancelled meanwhile."""

    async def aclose(self) -> None:
        """Ends the stream; what was handed out stays. A step that runs is waited for."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._worker.stop()
        finally:
            self._items.close()
            self._worker.close()

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):  # left without aclose(): its thread must not stay
            self._worker.close()
