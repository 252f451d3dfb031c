"""A GPU for tests: SwiftShader, a program that plays one (Debian's chromium-common has it), and one that fails.

$TANDEM_SWIFTSHADER names the folder with vk_swiftshader_icd.json, libvk_swiftshader.so and, where the system has no
Vulkan loader, libvulkan.so.1. Without the variable /usr/lib/chromium is looked at, then whatever GPU there is.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tandem_lm import gpu
from tandem_lm.errors import BackendError

FOLDER = Path(os.environ.get("TANDEM_SWIFTSHADER", "/usr/lib/chromium"))
MANIFEST, DRIVER = FOLDER / "vk_swiftshader_icd.json", FOLDER / "libvk_swiftshader.so"
SOURCE = Path(__file__).parent.parent / "data/faulty_vulkan.c"


def use_swiftshader() -> None:
    """Makes SwiftShader the GPU of this process and its children; skips the test where there is no GPU at all."""
    if MANIFEST.is_file() and DRIVER.is_file():
        os.environ["VK_DRIVER_FILES"] = os.environ["VK_ICD_FILENAMES"] = str(MANIFEST)
        loader = FOLDER / "libvulkan.so.1"
        if loader.is_file():
            ctypes.CDLL(str(loader))  # later, the library is found by its name
            if str(FOLDER) not in os.environ.get("LD_LIBRARY_PATH", ""):
                os.environ["LD_LIBRARY_PATH"] = f"{FOLDER}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    try:
        found = gpu.devices()
    except BackendError as error:
        pytest.skip(f"no GPU for tests: no SwiftShader in {FOLDER} (TANDEM_SWIFTSHADER), and {error}")
    if not found:
        pytest.skip(f"no GPU for tests: no SwiftShader in {FOLDER} (TANDEM_SWIFTSHADER), and no other driver")


class FaultyGpu:
    """SwiftShader behind a driver that fails as it is told (tests/data/faulty_vulkan.c)."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or not DRIVER.is_file():
            pytest.skip("a faulty GPU needs a C compiler and SwiftShader")
        library = folder / "libfaulty.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self._manifest = folder / "faulty.json"
        icd = {"library_path": str(library), "api_version": "1.0.5"}
        self._manifest.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))

    def run(
        self, fault: str, code: str, *arguments: str, cache: Path | None = None, memory: Path | None = None
    ) -> tuple[int, list[str], str]:
        """Runs Python code in a process with this GPU; its exit status, the lines of stdout that begin with "> ", and
        stderr. The file `memory` says meanwhile how many bytes of device memory are taken, and the most so far."""
        variables = {"VK_DRIVER_FILES": str(self._manifest), "VK_ICD_FILENAMES": str(self._manifest)}
        variables |= {"FAULTY_VULKAN_REAL": str(DRIVER), "FAULTY_VULKAN_FAULT": fault}
        if memory is not None:
            variables["FAULTY_VULKAN_MEMORY"] = str(memory)
        if cache is not None:
            variables["TANDEM_CACHE_DIR"] = str(cache)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        told = [line[2:] for line in done.stdout.splitlines() if line.startswith("> ")]
        return done.returncode, told, done.stderr
