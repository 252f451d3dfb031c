"""The one exception of the converter: everything that is wrong with an input ends in it."""

from __future__ import annotations


class ConversionError(Exception):
    """An input that cannot be converted. The message says what is wrong, where, and what to do about it."""
