"""Packed weights in the cache folder: reused when sound, rebuilt when not, absent when nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_assistant, write_gemma4

from tandem_converter.convert import convert
from tandem_lm import _native, library

IDS = list(range(3, 60))


def logits(bundle: Path, folder: str) -> tuple[np.ndarray, bool]:
    engine = _native.Engine(str(bundle), str(library.litert_library()), 1, 0, folder)
    return engine.session().logits(IDS), engine.info()["warm_start"]


@pytest.fixture
def warm(tiny_gemma4_int8: Path, tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A bundle, its filled cache folder, and the logits it should give."""
    expected, started_warm = logits(tiny_gemma4_int8, str(tmp_path))
    assert not started_warm
    return tiny_gemma4_int8, tmp_path, expected


def packed_files(folder: Path) -> list[Path]:
    """Ours, or XNNPACK's where graphs run the layers."""
    return [*folder.glob("*.packed"), *folder.glob("*.xnnpack")]


def packed(folder: Path) -> Path:
    (path,) = packed_files(folder)
    return path


def test_second_start_is_warm_and_equal(warm: tuple[Path, Path, np.ndarray]) -> None:
    bundle, folder, expected = warm
    before = packed(folder).stat()
    got, started_warm = logits(bundle, str(folder))
    assert started_warm
    assert packed(folder).stat().st_mtime_ns == before.st_mtime_ns
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("damage", ["flipped payload", "truncated", "empty", "no stamp", "other stamp"])
def test_damaged_cache_is_rebuilt(warm: tuple[Path, Path, np.ndarray], damage: str) -> None:
    bundle, folder, expected = warm
    path, stamp = packed(folder), Path(f"{packed(folder)}.stamp")
    data = bytearray(path.read_bytes())
    if damage == "flipped payload":
        data[len(data) // 2] ^= 0x10
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no stamp":
        stamp.unlink()
    else:
        stamp.write_text("1 2 3")
    got, started_warm = logits(bundle, str(folder))
    assert not started_warm
    np.testing.assert_array_equal(got, expected)
    assert logits(bundle, str(folder))[1], "the rebuilt cache is used"


def test_memory_when_nothing_can_be_written(warm: tuple[Path, Path, np.ndarray]) -> None:
    bundle, folder, expected = warm
    occupied = folder / "file"
    occupied.write_text("")
    for place in ("", str(occupied / "folder")):
        got, started_warm = logits(bundle, place)
        assert not started_warm
        np.testing.assert_array_equal(got, expected)


FULL_DISK = """
import resource, sys
from tandem_lm import _native, library
limit, bundle, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    engine = _native.Engine(bundle, str(library.litert_library()), 1, 0, folder)
    print(engine.session().logits([5, 6, 7]).shape)
except _native.NativeError as error:
    print(error.args)
"""


@pytest.mark.parametrize("in_folder", [True, False])
def test_file_size_limit_is_an_error_and_no_signal(tiny_gemma3_int8: Path, tmp_path: Path, in_folder: bool) -> None:
    """XNNPACK aborts when it cannot write its cache, and a write beyond the limit is a signal: neither happens."""
    command = [sys.executable, "-c", FULL_DISK, "50000", str(tiny_gemma3_int8), str(tmp_path) if in_folder else ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ulimit -f" in done.stdout
    assert not packed_files(tmp_path) and not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("kilobytes", [16, 100, 200, 400, 4000])
def test_disk_that_is_full(warm: tuple[Path, Path, np.ndarray], tmp_path: Path, kilobytes: int) -> None:
    bundle, folder, expected = warm
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        got, _ = logits(bundle, str(small))
        np.testing.assert_array_equal(got, expected)
        fits = packed(folder).stat().st_size < (kilobytes - 50) * 1024
        assert bool(packed_files(small)) == fits
        assert not list(small.glob("*.tmp"))
        assert logits(bundle, str(small))[1] == fits
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_file_descriptors_stay_level(tiny_gemma4_int8: Path, tmp_path: Path) -> None:
    """The library closes the descriptor it is given; a second close could hit somebody else's file."""
    logits(tiny_gemma4_int8, str(tmp_path / "first"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in range(4):
        logits(tiny_gemma4_int8, str(tmp_path / str(i)))
        logits(tiny_gemma4_int8, "")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


HELD = """
import sys
import numpy as np
from tandem_lm import _native, library
engine = _native.Engine(sys.argv[1], str(library.litert_library()), 1, 0, sys.argv[2])
engine.embed_image(np.full((9, 9, 3), 7, np.uint8), 70)
engine.embed_audio(np.ones(700, np.float32))
print(sum("memfd:tandem-weights" in line for line in open("/proc/self/maps")))
"""


@pytest.mark.parametrize("in_folder", [True, False])
def test_packed_weights_are_mapped_and_not_held(tmp_path: Path, in_folder: bool) -> None:
    """Those of drafter, images and sound too, also in the process that packed them: pages of a file can be dropped, the
    memory that they were built in cannot. Without a folder they stay in that memory."""
    target, drafter = write_gemma4(tmp_path / "target"), write_assistant(tmp_path / "assistant")
    convert(target, tmp_path / "model.litertlm", quant="int8", context=64, drafter=drafter)
    folder = tmp_path / "weights"
    command = [sys.executable, "-c", HELD, str(tmp_path / "model.litertlm"), str(folder) if in_folder else ""]
    folder.mkdir()
    held = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert (held == 0) == in_folder
    names = {path.stem.rpartition("-")[2] for path in folder.glob("*.xnnpack")}
    assert (names >= {"drafter", "vision", "audio"}) == in_folder


def test_other_graphs_leave_the_cache_alone(warm: tuple[Path, Path, np.ndarray]) -> None:
    """Those of the portable graphs have their own where the fast ones run without XNNPACK."""
    bundle, folder, _ = warm
    path = packed(folder)
    before, known = path.read_bytes(), [path]
    for graph in ("portable", "fast", "portable"):
        engine = _native.Engine(str(bundle), str(library.litert_library()), 1, 0, str(folder), "f32", graph)
        assert engine.info()["warm_start"] == (graph == "fast" or path.suffix == ".xnnpack" or len(known) > 1)
        engine.session().logits(IDS)
        known = packed_files(folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_engines_on_one_file_end_in_any_order(warm: tuple[Path, Path, np.ndarray], order: tuple[int, int]) -> None:
    """Each has its own view of the packed weights."""
    bundle, folder, expected = warm
    engines = {i: _native.Engine(str(bundle), str(library.litert_library()), 1, 0, str(folder)) for i in (0, 1)}
    for i in order:
        assert np.array_equal(engines[i].session().logits(IDS), expected)
        del engines[i]


def test_processes_that_start_together(tiny_gemma3_int8: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from tandem_lm import _native, library\n"
        "engine = _native.Engine(sys.argv[1], str(library.litert_library()), 1, 0, sys.argv[2])\n"
        "print(engine.session().logits(list(range(3, 60))).argmax(-1).tolist())"
    )
    command = [sys.executable, "-c", script, str(tiny_gemma3_int8), str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(outputs) == 1 and next(iter(outputs)).startswith("[")
    assert not list(tmp_path.glob("*.tmp"))
    assert logits(tiny_gemma3_int8, str(tmp_path))[1]
