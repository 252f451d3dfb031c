"""Typed access to parsed JSON or GGUF metadata: every value is checked for type and range; errors name the field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import ConversionError

MAX_JSON_BYTES = 16 << 20  # config.json and its like; the real ones have a few kilobytes
MAX_INT = 2**31 - 1


class Fields:
    """A mapping with a name. A value of null counts as absent; an absent value without default is an error."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def bad(self, name: str, wanted: str) -> ConversionError:
        if name not in self:
            return ConversionError(f"{self.where}: {name} is missing (expected {wanted}); is the file complete?")
        shown = repr(self.values[name])
        return ConversionError(f"{self.where}: {name} is {shown[:60]}, expected {wanted}")

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = MAX_INT) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.bad(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12) -> float:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.bad(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.bad(name, "a string")
        return value

    def table(self, name: str) -> Fields | None:
        """The object under `name`, or None when absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.bad(name, "an object")
        return Fields(value, f"{self.where}: {name}")

    def integers(self, name: str, high: int = MAX_INT) -> tuple[int, ...] | None:
        """One number or a list of them, from 0 to `high`; None when absent."""
        value = self.values.get(name)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        if any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i <= high for i in items):
            raise self.bad(name, f"whole numbers from 0 to {high}")
        return tuple(items)


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object; the same key twice is an error, since readers disagree on which one counts."""

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out:
                raise ConversionError(f"{where}: {key!r} appears twice")
            out[key] = value
        return out

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, absurd numbers or nesting
        raise ConversionError(f"{where}: not valid JSON ({error}); download the file again") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{where}: expected a JSON object")
    return value


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole file, at most `limit` bytes."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise ConversionError(f"{path.name}: {size} bytes, at most {limit} are allowed for this file")
        return path.read_bytes()
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}") from None


def rounded_sqrt(value: int, bits: int) -> float:
    """sqrt(value) rounded to a significand of `bits` bits (24 float32, 11 float16, 8 bfloat16), ties to even."""
    mantissa, exponent = math.frexp(math.sqrt(value))
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)
