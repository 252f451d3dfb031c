"""GPUs: which there are, and whether their drivers can be let into this process.

A driver runs inside the process that uses it, and a broken one ends it. So a child process asks first, once per set of
environment variables; its end, whatever it is, becomes a reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import BackendError, InvalidRequestError

_SECONDS = 60  # a driver that needs longer to tell its name hangs
# What decides which drivers there are.
_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES", "LD_LIBRARY_PATH")
_MANIFESTS = ("/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d")
_CHILD = """
import json, sys
from tandem_lm import _native
try:
    print(json.dumps({"devices": _native.vulkan_devices()}))
except _native.NativeError as error:
    print(json.dumps({"error": str(error.args[-1])}))
"""

_asked: dict[tuple[str | None, ...], list[Device] | str] = {}
_chosen: str | None = None  # the name that this process has settled on: a driver that was loaded stays


@dataclass(frozen=True)
class Device:
    """A GPU that Vulkan offers."""

    name: str
    kind: str  # "discrete", "integrated", "virtual", "cpu" (a program that plays GPU) or "other"
    memory_bytes: int

    @property
    def hardware(self) -> bool:
        return self.kind in ("discrete", "integrated", "virtual")


def devices() -> list[Device]:
    """The GPUs of this machine. BackendError says why there are none to be seen."""
    found = _ask(dict(os.environ))
    if isinstance(found, str):
        raise BackendError(found)
    return found


def checked_backend(backend: object) -> str:
    """The backend as the native module wants it; the variable TANDEM_GPU names the GPU where the argument does not."""
    known = isinstance(backend, str) and (
        backend in ("cpu", "gpu", "auto") or (len(backend) > 4 and backend[:4] == "gpu:")
    )
    if not known:
        raise InvalidRequestError(f"backend is {backend!r}; give 'cpu', 'gpu', 'gpu:NAME' or 'auto'")
    named = os.environ.get("TANDEM_GPU", "")
    return f"gpu:{named}" if backend == "gpu" and named else str(backend)


def prepare(backend: str) -> str:
    """Makes sure that the GPU of this backend can be used here. Returns why it cannot, or ""."""
    name = backend[4:] if backend.startswith("gpu:") else ""
    found = _ask(dict(os.environ))
    if isinstance(found, str):
        return found
    if not found:
        return "there is no GPU: Vulkan has no driver; install the GPU's"
    if name and found[0].name.find(name) < 0:
        return _choose(name, found)
    return ""


def _choose(name: str, found: list[Device]) -> str:
    """Hides the drivers of other GPUs from this process: LiteRT takes the first GPU that it sees."""
    global _chosen
    if _chosen is not None and _chosen != name:
        return f"this process uses the GPU {_chosen!r} already; use another process for {name!r}"
    for manifest in _manifests():
        one = _ask({**os.environ, "VK_DRIVER_FILES": manifest, "VK_ICD_FILENAMES": manifest})
        if not isinstance(one, str) and one and name in one[0].name:
            os.environ["VK_DRIVER_FILES"] = os.environ["VK_ICD_FILENAMES"] = manifest
            _chosen = name
            return ""
    names = ", ".join(f"{device.name} ({device.kind})" for device in found)
    return f"no GPU whose name contains {name!r} is the first of its driver; there are: {names}"


def _manifests() -> list[str]:
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    if named:
        return [part for part in named.split(os.pathsep) if part]
    return [str(file) for folder in _MANIFESTS for file in sorted(Path(folder).glob("*.json"))]


def _ask(environment: dict[str, str]) -> list[Device] | str:
    """The GPUs that a process with these variables sees, or why it sees none."""
    key = tuple(environment.get(variable) for variable in _VARIABLES)
    if key not in _asked:
        _asked[key] = _ask_child(environment)
    return _asked[key]


def _ask_child(environment: dict[str, str]) -> list[Device] | str:
    search = os.pathsep.join([str(Path(__file__).parent.parent), environment.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            env={**environment, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the GPU's driver hangs (no answer in {_SECONDS} s); reinstall it"
    except OSError as error:
        return f"no process can be started to look for GPUs ({error.strerror})"
    if done.returncode < 0:
        return f"the GPU's driver crashed when it was asked what there is (signal {-done.returncode}); reinstall it"
    try:
        answer = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        return f"the search for GPUs failed (exit status {done.returncode}); reinstall the driver"
    if "error" in answer:
        return str(answer["error"])
    return [Device(**device) for device in answer["devices"]]
