"""Finds what the engine needs outside this package: LiteRT's shared library and the cache folder."""

from __future__ import annotations

import os
import re
from importlib import metadata, util
from pathlib import Path

from .errors import BackendError, FileError

DISTRIBUTION, MODULE, FILE = "ai-edge-litert", "ai_edge_litert", "libLiteRt.so"
OLDEST, NEXT = (2, 3, 0), (2, 4, 0)  # tested: OLDEST <= version < NEXT; keep in step with pyproject.toml
_REMEDY = "pip install 'ai-edge-litert>={}.{}.{},<{}.{}'".format(*OLDEST, *NEXT[:2])


def litert_library() -> Path:
    """Path of libLiteRt.so of the installed ai-edge-litert, whose version is checked first."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise BackendError(f"LiteRT is not installed: {_REMEDY}") from None
    check_version(version)
    spec = util.find_spec(MODULE)  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / FILE
        if path.is_file():
            return path
    raise BackendError(f"{FILE} is missing from the installed {DISTRIBUTION} {version}: reinstall it, {_REMEDY}")


def check_version(version: str) -> None:
    """The C API has changed between minor releases, so a version that was not tested is refused."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    number = tuple(int(part or 0) for part in match.groups()) if match else ()
    if not OLDEST <= number < NEXT:
        raise BackendError(f"{DISTRIBUTION} {version} is installed, which was not tested: {_REMEDY}")


def default_cache_dir() -> Path:
    """$TANDEM_CACHE_DIR, else $XDG_CACHE_HOME/tandem or ~/.cache/tandem."""
    named = os.environ.get("TANDEM_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():  # the XDG specification has relative paths ignored
        return Path(base) / "tandem"
    try:
        return Path.home() / ".cache" / "tandem"
    except RuntimeError:  # no home folder is known
        raise FileError("no cache folder: there is no home folder; set TANDEM_CACHE_DIR to a writable folder") from None


def writable_cache_dir(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder, made if it is missing. FileError when it cannot be written."""
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
        reason = "permission denied"
    except OSError as error:
        writable, reason = False, error.strerror or str(error)
    if not writable:
        raise FileError(f"cannot write to the cache folder {folder}: {reason}; name another by TANDEM_CACHE_DIR")
    return folder


def engine_cache_dir(cache_dir: str | os.PathLike[str] | None) -> str:
    """The cache folder for an engine, or "" (cache in memory) when the default folder cannot be written.

    A folder that the user named, by argument or variable, must be writable: a silent fallback would hide it.
    """
    if cache_dir is not None:
        return str(writable_cache_dir(cache_dir))
    try:
        return str(writable_cache_dir())
    except FileError:
        if os.environ.get("TANDEM_CACHE_DIR"):
            raise
        return ""
