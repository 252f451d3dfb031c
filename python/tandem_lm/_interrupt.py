"""Ctrl-C during a long native call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def interruptible(call: Callable[[], T], cancel: Callable[[], None], watch: Callable[[], None] | None = None) -> T:
    """`call()`, but a signal that arrives meanwhile (Ctrl-C) cancels it and is raised once it has returned.

    Python runs signal handlers in the main thread, between bytecodes: a native call there would delay them until it
    ends. So the call goes to a thread of its own. Other threads get no signals and call directly.

    `watch` is called now and then meanwhile and once at the end, in the caller's thread; what it raises cancels too.
    """
    if watch is None and threading.current_thread() is not threading.main_thread():
        return call()
    results: list[T] = []
    errors: list[BaseException] = []
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=work, name="tandem-call", daemon=True).start()
        # Awake now and then: the kernel may hand the signal to another thread, which does not wake this one.
        while not done.wait(0.1):
            if watch is not None:
                watch()
    except BaseException:
        _stop(begun, done, cancel)
        raise
    if errors:
        raise errors[0]
    if watch is not None:
        watch()
    return results[0]


def _stop(begun: threading.Event, done: threading.Event, cancel: Callable[[], None]) -> None:
    """Cancels until the call has returned, however often Ctrl-C is pressed meanwhile: nobody may touch the session
    while a call is still running on it."""
    while True:
        try:
            if not begun.wait(1.0):
                return  # interrupted before the thread was started
            while not done.is_set():
                cancel()  # again and again: one that comes before the call has really begun is lost
                done.wait(0.05)
            return
        except KeyboardInterrupt:
            continue
