"""Writes the .litertlm container: sections on 16 KiB boundaries behind a flatbuffer header, our manifest last.

Nothing appears under the target's name until the file is complete: it grows in a hidden file beside the target, which
is renamed at the end and removed on any failure, an interrupt included. The layout is described in README.md.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import flatbuffers

from .errors import ConversionError

try:
    import fcntl
except ImportError:  # not a POSIX system: no protection against two writers of one file
    fcntl = None  # type: ignore[assignment]

BLOCK = 16384  # sections begin on multiples of it, and readers map only the first one for the header
MANIFEST = "tandem_manifest"
TOKENIZER = "tandem_tokenizer"
MANIFEST_MAGIC = b"TANDEMM1"

# AnySectionDataType
BINARY = 1
TFLITE = 3
LLM_METADATA = 5
HF_TOKENIZER = 6
_NAMES = {LLM_METADATA: "llm_metadata", HF_TOKENIZER: "hf_tokenizer"}  # of sections without a model_type

_VERSION = (1, 7, 0)
_HEADER_START = 32
_STRING_VALUE = 9  # union member of KeyValuePair.value
_HASH_CHUNK = 1 << 22


@dataclass(frozen=True)
class Section:
    """Where a section lies in the file."""

    data_type: int
    model_type: str  # "" = none
    begin: int
    size: int

    @property
    def name(self) -> str:
        return self.model_type or _NAMES[self.data_type]


def encode_header(sections: list[Section], system: dict[str, str]) -> bytes:
    """The first block of the file. Field slots are those of LiteRTLMMetaData and its children (README.md)."""
    b: Any = flatbuffers.Builder(4096)

    def table(*fields: tuple[str, int, int]) -> int:
        """Fields (kind, slot, value); kinds: o offset, q u64, b u8."""
        b.StartObject(max((slot for _, slot, _ in fields), default=-1) + 1)
        for kind, slot, value in fields:
            if kind == "o":
                b.PrependUOffsetTRelativeSlot(slot, value, 0)
            elif kind == "q":
                b.PrependUint64Slot(slot, value, 0)
            else:
                b.PrependUint8Slot(slot, value, 0)
        return int(b.EndObject())

    def vector(offsets: list[int]) -> int:
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return int(b.EndVector())

    def pair(key: str, value: str) -> int:
        text = table(("o", 0, b.CreateString(value)))
        return table(("o", 0, b.CreateString(key)), ("b", 1, _STRING_VALUE), ("o", 2, text))

    objects = []
    for s in sections:
        items = vector([pair("model_type", s.model_type)] if s.model_type else [])
        objects.append(table(("o", 0, items), ("q", 1, s.begin), ("q", 2, s.begin + s.size), ("b", 3, s.data_type)))
    section_metadata = table(("o", 0, vector(objects)))
    system_metadata = table(("o", 0, vector([pair(k, v) for k, v in system.items()])))
    b.Finish(table(("o", 0, system_metadata), ("o", 1, section_metadata)))
    body = bytes(b.Output())
    end = _HEADER_START + len(body)
    if end > BLOCK:
        raise ConversionError(f"the bundle header needs {end} bytes, but only {BLOCK} are allowed: use fewer sections")
    head = b"LITERTLM" + struct.pack("<IIIIQ", *_VERSION, 0, end)
    return (head + body).ljust(BLOCK, b"\0")


def encode_manifest(manifest: dict[str, Any]) -> bytes:
    """The manifest section's bytes."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return MANIFEST_MAGIC + struct.pack("<II", len(text), 0) + hashlib.sha256(text).digest() + text


class BundleWriter:
    """A context manager: add sections in order, then `finish`. Leaving without `finish` removes what was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._file: BinaryIO | None = None
        self._sections: list[Section] = []
        self._end = BLOCK

    def __enter__(self) -> BundleWriter:
        try:
            self._file = _open_exclusively(self._part)
        except BlockingIOError as error:
            raise ConversionError(
                f"{self._path}: another conversion is writing this file; wait for it or choose another name"
            ) from error
        except OSError as error:
            raise self._explain(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # of the part that a full disk could not flush
            self._part.unlink()  # before the lock is given up, so that it is surely ours
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
        if isinstance(value, OSError):
            raise self._explain(value) from value

    def require_space(self, size: int) -> None:
        """Fails now rather than after an hour of work if `size` more bytes will not fit on the disk."""
        free = shutil.disk_usage(self._part.parent).free
        if free < size:
            raise ConversionError(
                f"{self._path.parent}: the bundle needs {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free; "
                "free some space or write it elsewhere"
            )

    def add(self, data_type: int, model_type: str, payload: bytes) -> None:
        """The next section, from memory."""
        section = self.reserve(data_type, model_type, len(payload))
        self.write(section, 0, payload)

    def reserve(self, data_type: int, model_type: str, size: int) -> Section:
        """The next section, whose bytes are still to be written with `write`."""
        section = Section(data_type, model_type, self._end, size)
        self._sections.append(section)
        self._end = -(-(section.begin + size) // BLOCK) * BLOCK
        return section

    def nest(self, data_type: int, model_type: str, host: Section, offset: int, size: int) -> Section:
        """A section that is a part of `host`, whose bytes it shares: `size` bytes at `offset`, a multiple of BLOCK."""
        if offset % BLOCK or offset + size > host.size or self._sections[-1] != host:
            raise ValueError(f"{model_type}: {size} bytes at {offset} are no part of {host.name}")
        section = Section(data_type, model_type, host.begin + offset, size)
        self._sections.append(section)
        return section

    def write(self, section: Section, offset: int, data: bytes | memoryview) -> None:
        """Writes `data` at `offset` of a section."""
        file = self._open_file()
        if offset + len(data) > section.size:
            raise ValueError(f"{section.name}: {len(data)} bytes at {offset} do not fit into {section.size}")
        file.seek(section.begin + offset)
        file.write(data)

    def finish(self, manifest: dict[str, Any], system: dict[str, str]) -> int:
        """Adds the manifest section (`manifest` and the checksums), publishes the file, returns its size."""
        file = self._open_file()
        file.flush()
        manifest = dict(manifest)
        manifest["sections"] = {s.name: {"bytes": s.size, "sha256": self._hash(s)} for s in self._sections}
        manifest["header_sha256"] = "0" * 64  # its length settles where the manifest ends, hence the header
        last = self.reserve(BINARY, MANIFEST, len(encode_manifest(manifest)))
        header = encode_header(self._sections, system)
        manifest["header_sha256"] = hashlib.sha256(header).hexdigest()
        self.write(last, 0, encode_manifest(manifest))
        file.seek(0)
        file.write(header)
        file.flush()
        os.fsync(file.fileno())
        self._part.replace(self._path)
        self._file = None
        file.close()
        _sync_folder(self._path.parent)
        return last.begin + last.size

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("the bundle is not open")
        return self._file

    def _hash(self, section: Section) -> str:
        file = self._open_file()
        digest = hashlib.sha256()
        file.seek(section.begin)
        left = section.size
        while left:
            chunk = file.read(min(left, _HASH_CHUNK))
            if not chunk:  # the tail of a section that was reserved and never written
                raise ValueError(f"{section.name}: {left} bytes were not written")
            digest.update(chunk)
            left -= len(chunk)
        return digest.hexdigest()

    def _explain(self, error: OSError) -> ConversionError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = f"the disk (or a limit on file sizes) is full after {self._end / 1e9:.2f} GB planned"
            return ConversionError(f"{self._path}: {reason}; free some space or write it elsewhere")
        return ConversionError(f"{self._path}: cannot be written: {error.strerror or error}")


def _open_exclusively(path: Path) -> BinaryIO:
    """An empty file at `path`, also where a killed process left one; BlockingIOError if another process writes it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The former owner may have published this very file between our open and our lock: then it is not ours.
            try:
                ours = os.path.samestat(os.fstat(descriptor), path.stat())
            except FileNotFoundError:
                ours = False
            if not ours:
                raise BlockingIOError(errno.EAGAIN, "the file was published meanwhile")
        os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, "r+b")
    except BaseException:
        os.close(descriptor)
        raise


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable, where a folder can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
