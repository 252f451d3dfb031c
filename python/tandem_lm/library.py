"""Finds what the engine needs outside this package: LiteRT's shared library and the cache folder."""

from __future__ import annotations

import os
import re
from importlib import metadata, util
from pathlib import Path

from .errors import BackendError, FileError

DISTRIBUTION, MODULE, FILE = "ai-edge-litert", "ai_edge_litert", "libLiteRt.so"
OLDEST, NEXT = (2, 3, 0), (2, 4, 0)  # tested: OLDEST <= version < NEXT; keep in step with pyproject.toml
GPU_DISTRIBUTION, GPU_MODULE, GPU_FILE = "litert-lm-api", "litert_lm", "liblitert-lm.so"
GPU_VERSIONS = ("0.18.1",)  # tested; its interface to LiteRT is not documented, so no other is taken
_REMEDY = "pip install 'ai-edge-litert>={}.{}.{},<{}.{}'".format(*OLDEST, *NEXT[:2])


def litert_library() -> Path:
    """Path of libLiteRt.so of the installed ai-edge-litert, whose version is checked first."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise BackendError(f"LiteRT is not installed: {_REMEDY}") from None
    check_version(version)
    for path in _package_files(MODULE, FILE):
        return path
    raise BackendError(f"{FILE} is missing from the installed {DISTRIBUTION} {version}: reinstall it, {_REMEDY}")


def gpu_library() -> str:
    """Path of the LiteRT that GPUs run by, or "" for the one that the CPU runs by.

    $TANDEM_GPU_LIBRARY, else liblitert-lm.so of the installed litert-lm-api, if its version was tested: it has the GPU
    accelerator built in, which thus can keep weights once for all graphs, and weights in blocks.
    """
    named = os.environ.get("TANDEM_GPU_LIBRARY")
    if named is not None:
        return named
    try:
        if metadata.version(GPU_DISTRIBUTION) not in GPU_VERSIONS:
            return ""
    except metadata.PackageNotFoundError:
        return ""
    return next((str(path) for path in _package_files(GPU_MODULE, GPU_FILE)), "")


def _package_files(module: str, name: str) -> list[Path]:
    """Where the file lies in an installed package, which is not imported."""
    spec = util.find_spec(module)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return [path for path in (Path(folder) / name for folder in folders) if path.is_file()]


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
