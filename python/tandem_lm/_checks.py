"""Checks of arguments, shared by the classes that take them from a caller."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import SupportsIndex, cast

from .errors import InvalidRequestError


def integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an int within [low, high]; bools and floats are refused, numpy integers are not."""
    number = None
    if not isinstance(value, bool) and isinstance(value, SupportsIndex):
        number = operator.index(value)
    if number is None or number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise InvalidRequestError(f"{name} must be an integer, {wanted}; got {value!r}")
    return number


def real(name: str, value: object, low: float, high: float, *, above: bool = False) -> float:
    """`value` as a finite float within [low, high], or (low, high] with `above`."""
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    if not (low <= number <= high) or not math.isfinite(number) or (above and number == low):
        wanted = f"above {low:g}" if above else f"at least {low:g}"
        limit = "" if math.isinf(high) else f" and at most {high:g}"
        raise InvalidRequestError(f"{name} must be a number, {wanted}{limit}; got {value!r}")
    return number


def token_ids(name: str, values: Iterable[object], vocab_size: int) -> list[int]:
    """Token ids as plain ints, each inside the vocabulary."""
    values = list(values)
    if all(type(value) is int for value in values):  # the usual case, and it may be a list of millions
        plain = cast("list[int]", values)
        if not plain or (min(plain) >= 0 and max(plain) < vocab_size):
            return plain
    ids = []
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise InvalidRequestError(f"{name}[{i}] must be a token id (int), got {type(value).__name__}")
        number = operator.index(value)
        if not 0 <= number < vocab_size:
            raise InvalidRequestError(f"{name}[{i}] is {number}; the model's token ids are 0 to {vocab_size - 1}")
        ids.append(number)
    return ids


def choice(name: str, value: object, supported: tuple[str, ...], hint: str = "") -> None:
    """`value` must be one of `supported`: an option that this version cannot honour is refused, never ignored."""
    if value not in supported:
        names = ", ".join(repr(s) for s in supported)
        raise InvalidRequestError(f"{name}={value!r} is not supported; this version supports {names}{hint}")
