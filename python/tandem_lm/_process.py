"""Engines and sessions belong to the process that opened them: what becomes of them after fork(), and why nobody can
pickle them."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, NoReturn

from .errors import InvalidRequestError

_REMEDY = "open the engine in the process that uses it (multiprocessing: start method 'spawn')"


class ProcessBound:
    """Base of whatever holds an object of the native module in `_native`, None when closed."""

    _native: Any = None

    def __new__(cls, *_: object, **__: object) -> Any:
        made = super().__new__(cls)
        _living.add(made)
        return made

    def __reduce_ex__(self, _: object) -> NoReturn:
        name = type(self).__name__
        raise InvalidRequestError(
            f"a {name} cannot be pickled or copied: {_REMEDY}; for a session there are clone() and save(path)"
        )

    @property
    def _foreign(self) -> bool:
        """Whether it was opened before fork(), by the parent process."""
        return self._native is _PARENTS

    def _check_process(self) -> None:
        if self._native is _PARENTS:
            name = type(self).__name__.lower()
            raise InvalidRequestError(
                f"the {name} belongs to the parent process, whose threads are gone after fork(); {_REMEDY}"
            )


_PARENTS = object()  # in the place of native objects of the parent process
_living: weakref.WeakSet[ProcessBound] = weakref.WeakSet()


def _after_fork() -> None:
    for one in list(_living):
        if one._native is not None:
            # Never destroyed: that would wait for threads that do not exist here.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one._native))
            one._native = _PARENTS


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
