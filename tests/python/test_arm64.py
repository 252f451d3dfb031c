"""The kernels' C++ tests, cross-compiled for Arm64 (NEON) and run under qemu's user-mode emulation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = "aarch64-linux-gnu-g++"
FLAGS = ["-std=c++20", "-O2", "-static", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-Wno-restrict"]


def emulator() -> str | None:
    return shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", sorted(path.stem for path in (ROOT / "tests/cpp").glob("kernels_*_test.cc")))
def test_kernels_on_neon(program: str, tmp_path: Path) -> None:
    run = emulator()
    if shutil.which(COMPILER) is None or run is None:
        pytest.skip(f"{COMPILER} and qemu-aarch64 are needed: apt install g++-aarch64-linux-gnu qemu-user")
    sources = [f"tests/cpp/{program}.cc", "csrc/base/cpu_features.cc"]
    sources += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc/kernels").glob("*.cc"))]
    command = [COMPILER, *FLAGS, "-Icsrc", "-Itests/cpp", *sources, "-o", str(tmp_path / program)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([run, str(tmp_path / program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
