"""libtandem and the C example for Arm64: cross-compiled, and run under qemu with the aarch64 wheel's libLiteRt.so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from capi import ROOT, run
from test_arm64 import COMPILER, emulator
from test_capi_install import PROMPT, expected

BUILD = ROOT / "build" / "arm64"
C_COMPILER = "aarch64-linux-gnu-gcc"
LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")  # of the cross-compiler, the dynamic linker among them
# A Cortex-A76 as Linux describes it. Before version 8.2 qemu's user mode shows the host's /proc/cpuinfo, and LiteRT's
# reader of that file (cpuinfo, inside XNNPACK) reads through a null pointer when it finds no Arm processor in it.
CPUINFO = """processor\t: {0}
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd0b
CPU revision\t: 0

"""
CROSS = [
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_C_COMPILER={C_COMPILER}",
    f"-DCMAKE_CXX_COMPILER={COMPILER}",
]
# Before version 9.0 qemu computes SMOPA of SME wrongly (its issue 2083), with which XNNPACK multiplies int8.
CPU = "max,sme=off"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def qemu() -> str:
    found = emulator()
    if found is None or any(shutil.which(name) is None for name in (COMPILER, C_COMPILER, "cmake", "ninja")):
        pytest.skip("cmake, ninja, a cross-compiler and qemu are needed: apt install g++-aarch64-linux-gnu qemu-user")
    return found


@pytest.fixture(scope="module")
def litert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libLiteRt.so of the aarch64 wheel of the version that is installed here, or $TANDEM_ARM64_LITERT."""
    named = os.environ.get("TANDEM_ARM64_LITERT")
    if named:
        return Path(named)
    folder = tmp_path_factory.mktemp("wheel")
    wanted = f"ai-edge-litert=={metadata.version('ai-edge-litert')}"
    command = [sys.executable, "-m", "pip", "download", wanted, "--no-deps", "--only-binary", ":all:"]
    command += ["--platform", "manylinux_2_27_aarch64", "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{wanted} for aarch64 cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("ai_edge_litert/libLiteRt.so", folder))


@pytest.fixture(scope="module")
def program(qemu: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C example, built against an installed libtandem for Arm64 as anybody would."""
    assert qemu
    folder = tmp_path_factory.mktemp("arm64")
    build = Path(os.environ.get("TANDEM_ARM64_BUILD", BUILD))
    run(["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", "-DTANDEM_TESTS=OFF", "-DTANDEM_PYTHON=OFF", *CROSS])
    run(["cmake", "--build", build, "--target", "tandem", "tandem_static"])
    prefix, out = folder / "prefix", folder / "build"
    run(["cmake", "--install", build, "--prefix", prefix, "--component", "tandem"])
    example = ROOT / "csrc/examples/c_chat"
    run(["cmake", "-S", example, "-B", out, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}", *CROSS])
    run(["cmake", "--build", out])
    return out / "c_chat"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What qemu shows a program instead of this machine's files."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "lib").symlink_to(LIBRARIES)
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text("".join(CPUINFO.format(i) for i in range(os.cpu_count() or 1)))
    return folder


@pytest.mark.parametrize("kind", ["f32", "int8"])
def test_c_example_on_arm64(
    kind: str, qemu: str, program: Path, litert: Path, root: Path, bundle: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Greedy text as on this machine."""
    path = bundle("base", kind)
    done = subprocess.run(
        [qemu, "-cpu", CPU, "-L", root, program, path],
        input=f"{PROMPT}\n",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TANDEM_LITERT_LIBRARY": str(litert), "TANDEM_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == expected(path, PROMPT, 512)
