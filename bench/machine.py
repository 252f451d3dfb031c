"""Facts about the machine that a result needs to be read, and its measured limits."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

RATES = Path(__file__).with_name("rates.cc")
PACKAGES = ("tandem-lm", "ai-edge-litert", "llama-cpp-python", "litert-lm-api", "numpy")
FEATURES = ("avx2", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def rates(threads: int) -> dict[str, float]:
    """bytes_per_second and int8_macs_per_second of `threads` threads, measured; empty without a C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "rates"
        build = [compiler, "-std=c++20", "-O3", "-march=native", "-pthread", str(RATES), "-o", str(program)]
        subprocess.run(build, check=True)
        done = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def facts(threads: int) -> dict[str, Any]:
    cpu = _fields(Path("/proc/cpuinfo"))
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "features": [f for f in FEATURES if f in flags],
        "cpus": len(os.sched_getaffinity(0)),
        "l3": _read("/sys/devices/system/cpu/cpu0/cache/index3/size"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_average": os.getloadavg()[0],
        "rates": rates(threads),
    }


def _fields(path: Path) -> dict[str, str]:
    """The first record of a file of "name : value" lines."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text().strip() if file.exists() else ""
