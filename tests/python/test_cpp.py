"""Builds the C++ unit tests (tests/cpp) and runs every one of them as a test of its own."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp-tests"


def programs() -> list[str]:
    return sorted(path.stem for path in (ROOT / "tests" / "cpp").glob("*_test.cc"))


@functools.cache
def build() -> str:
    """Configures and builds all test programs once per run; an empty string, or the compiler's output."""
    commands = [
        [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(BUILD),
            "-G",
            "Ninja",
            "-DTANDEM_PYTHON=OFF",
            "-DCMAKE_BUILD_TYPE=Release",
        ],
        ["cmake", "--build", str(BUILD)],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return done.stdout + done.stderr
    return ""


@pytest.mark.timeout(1200)  # the first one builds everything
@pytest.mark.parametrize("program", programs())
def test_program(program: str) -> None:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are needed to build the C++ tests: pip install '.[test]'")
    problem = build()
    assert not problem, problem
    environment = dict(os.environ, TANDEM_TEST_DATA=str(ROOT / "tests" / "data"))
    done = subprocess.run([str(BUILD / program)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
