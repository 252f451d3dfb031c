"""Where media come from: a path, bytes or a data URL, as one stream; and the optional packages that decode it."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FileError, InvalidRequestError, OutOfMemoryError, TandemError


@dataclass(frozen=True)
class Encoded:
    """A file as it lies on disk or in memory. `name` stands for it in messages."""

    name: str
    path: Path | None = None
    data: bytes = b""

    def open(self) -> BinaryIO:
        """A seekable stream at its start; the caller closes it."""
        if self.path is None:
            return io.BytesIO(self.data)
        try:
            return self.path.open("rb")
        except OSError as error:
            raise FileError(f"cannot read {self.name}: {error.strerror or error}") from error


def encoded(kind: str, source: object) -> Encoded | None:
    """`source` when it is a path, bytes or a data URL; None when it is something else, such as an array."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _in_memory(kind, f"{kind} of {len(source)} bytes", bytes(source))
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _in_memory(kind, f"{kind} in a data URL", _data_url(kind, source))
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise InvalidRequestError(f"{kind}: {source[:80]!r} is a URL; download it first and pass the path or the bytes")
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(os.fsdecode(source)).expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise FileError(f"cannot read {kind} {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):  # a pipe or device may have no end
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise FileError(f"cannot read {kind} {path}: it is {what}")
    return Encoded(f"{kind} {path}", path)


def _in_memory(kind: str, name: str, data: bytes) -> Encoded:
    if not data:
        raise InvalidRequestError(f"{kind}: 0 bytes; nothing to decode")
    return Encoded(name, None, data)


def _data_url(kind: str, url: str) -> bytes:
    header, comma, body = url[5:].partition(",")
    if not comma:
        raise InvalidRequestError(f"{kind}: the data URL has no comma; it must be data:[type][;base64],content")
    if not header.lower().rstrip().endswith(";base64"):
        return urllib.parse.unquote_to_bytes(body)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{kind}: the data URL is not valid base64: {error}") from error


def package(name: str, purpose: str) -> Any:
    """The optional package `name`, or an error that says how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InvalidRequestError(
            f"{purpose} needs the package {name.partition('.')[0]}, which cannot be imported ({error}); "
            "run: pip install 'tandem-lm[media]'"
        ) from error


@contextmanager
def decoding(name: str, remedy: str) -> Iterator[None]:
    """Whatever a decoder raises on bad data becomes one InvalidRequestError that names the source.

    Decoders raise anything, from OSError to KeyError; there is no narrower family to name.
    """
    try:
        yield
    except TandemError:
        raise
    except Exception as error:
        # FFmpeg's own kind has an errno: a size in the file is beyond what FFmpeg allows itself.
        if isinstance(error, MemoryError) and not hasattr(error, "errno"):
            raise OutOfMemoryError(f"{name}: out of memory while decoding") from error
        text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
        raise InvalidRequestError(f"{name} cannot be decoded: {text}; {remedy}") from error
