"""Bad input through the command line: exit status 1, one line that names the trouble, no signal, no file left behind.

The readers' own tests (tests/cpp/bundle_*, test_bundle, test_sources) go deeper; here each kind meets the command.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from bundles import read_sections
from checkpoints import write_gemma3, write_safetensors
from test_sources import load

from tandem_converter import bundle as bundle_format
from tandem_converter.convert import convert
from tandem_lm.cli import main

WEIGHTS = "model.safetensors"
Edit = Callable[[Path], object]


def refused(capsys: pytest.CaptureFixture[str], words: str, *arguments: object) -> None:
    capsys.readouterr()
    status = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert status == 1 and out == "", (status, out, err)
    lines = err.splitlines()
    assert lines and all(line.startswith("tandem: ") for line in lines) and "Traceback" not in err
    assert re.search(words, err), err


def in_a_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """`code` runs first and may prepare the process; then the command does."""
    program = f"import sys\n{code}\nfrom tandem_lm.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *(str(a) for a in arguments)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------ damaged bundles
def test_bundle_cut_at_every_section_edge(
    capsys: pytest.CaptureFixture[str], tiny_gemma3_int8: Path, tmp_path: Path
) -> None:
    whole = tiny_gemma3_int8.read_bytes()
    edges = {0, 8, 32}
    for section in read_sections(tiny_gemma3_int8):
        edges |= {section.begin - 1, section.begin, section.begin + 1, section.end - 1, section.end}
    edges.discard(len(whole))
    path = tmp_path / "cut.litertlm"
    for edge in sorted(edges):
        path.write_bytes(whole[:edge])
        for command in (("inspect",), ("verify",), ("run", "-p", "x"), ("tokenize", "x")):
            refused(capsys, "cut", command[0], path, *command[1:])
    assert left_over(tmp_path) == ["cut.litertlm"]


@pytest.mark.parametrize(("at", "value", "words"), [(0, 0x4D, "not a .litertlm|magic|tandem convert"), (8, 2, "newer")])
def test_wrong_magic_and_newer_version(
    capsys: pytest.CaptureFixture[str], tiny_gemma3_int8: Path, tmp_path: Path, at: int, value: int, words: str
) -> None:
    data = bytearray(tiny_gemma3_int8.read_bytes())
    data[at] = value
    path = tmp_path / "odd.litertlm"
    path.write_bytes(data)
    for command in (("inspect",), ("verify",), ("run", "-p", "x")):
        refused(capsys, words, command[0], path, *command[1:])


def test_bundle_damaged_while_it_looks_whole(tiny_gemma3_int8: Path, tmp_path: Path) -> None:
    """Flipped bits in header and manifest, in a process of its own: whatever happens, it is no signal."""
    whole = tiny_gemma3_int8.read_bytes()
    manifest = read_sections(tiny_gemma3_int8)[-1]
    path = tmp_path / "flipped.litertlm"
    for seed in range(6):
        chosen = np.random.default_rng(seed)
        at = int(chosen.integers(0, 800) if seed % 2 else chosen.integers(manifest.begin, manifest.end))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << seed]) + whole[at + 1 :])
        process = in_a_process("", "run", path, "-p", "x")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1 and out == "" and "flipped.litertlm" in err, err


def test_bundle_without_a_tokenizer(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    add = bundle_format.BundleWriter.add

    def all_but_it(self: bundle_format.BundleWriter, kind: int, name: str, data: bytes) -> None:
        if name != bundle_format.TOKENIZER:
            add(self, kind, name, data)

    monkeypatch.setattr(bundle_format.BundleWriter, "add", all_but_it)
    path = tmp_path / "mute.litertlm"
    convert(checkpoint("gemma3"), path, context=64)
    for command in (("run", "-p", "x"), ("tokenize", "x")):
        refused(capsys, "mute.litertlm.*tandem_tokenizer", command[0], path, *command[1:])


# ------------------------------------------------------------------------------------------------ bad checkpoints
def rewrite(change: Callable[[dict[str, np.ndarray]], object]) -> Edit:
    def edit(folder: Path) -> None:
        tensors = load(folder)
        change(tensors)
        write_safetensors(folder / WEIGHTS, tensors)

    return edit


def poison(value: float) -> Edit:
    """In the last matrix that is written, so that the output file has long been begun."""
    return rewrite(lambda t: t["model.layers.2.mlp.down_proj.weight"].__setitem__((1, 1), value))


def replace(old: bytes, new: bytes) -> Edit:
    def edit(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        assert old in data and len(old) == len(new)
        (folder / WEIGHTS).write_bytes(data.replace(old, new))

    return edit


BAD: dict[str, tuple[Edit, str]] = {
    "missing tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
    "missing config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "missing tensor": (rewrite(lambda t: t.pop("model.layers.2.mlp.up_proj.weight")), "missing"),
    "duplicate tensor": (
        rewrite(lambda t: t.update({"model.language_model.norm.weight": t["model.norm.weight"]})),
        "duplicate",
    ),
    "wrong shape": (
        rewrite(lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:-1]})),
        r"model\.norm\.weight",
    ),
    "wrong dtype": (replace(b'"F32"', b'"I32"'), "I32"),
    "unknown dtype": (replace(b'"F32"', b'"F37"'), "F37"),
    "NaN": (poison(np.nan), "NaN or Inf"),
    "infinity": (poison(-np.inf), "NaN or Inf"),
    "truncated": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 1), WEIGHTS),
    "header that lies about its length": (
        lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 7 + (f / WEIGHTS).read_bytes()[7:]),
        WEIGHTS,
    ),
    "header that is not JSON": (lambda f: (f / WEIGHTS).write_bytes(b"\x08" + bytes(7) + b"{{{{{{{{"), WEIGHTS),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_checkpoints_that_cannot_be_converted(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    edit, words = BAD[kind]
    folder = write_gemma3(tmp_path / "source")
    edit(folder)
    (tmp_path / "out").mkdir()
    report = tmp_path / "out" / "report.json"
    refused(capsys, words, "convert", folder, tmp_path / "out" / "m.litertlm", "--context", 64, "--report", report)
    assert left_over(tmp_path / "out") == []


# ------------------------------------------------------------------------------------------------ the machine refuses
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where not even root can make a file")
def test_folders_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Callable[[str], Path],
    tiny_gemma3: Path,
) -> None:
    refused(capsys, "/proc", "convert", checkpoint("gemma3"), "/proc/m.litertlm", "--context", 64)
    monkeypatch.setenv("TANDEM_CACHE_DIR", "/proc/tandem")
    refused(capsys, "cache folder .*TANDEM_CACHE_DIR", "run", tiny_gemma3, "-p", "x")


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize("size", [0, 100, 20_000, 200_000])
def test_full_disk(checkpoint: Callable[[str], Path], tmp_path: Path, size: int) -> None:
    """A limit on file sizes stands for it."""
    process = in_a_process(LIMIT.format(size), "convert", checkpoint("gemma3"), tmp_path / "m.litertlm")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == "" and "space" in err and "Traceback" not in err, err
    assert left_over(tmp_path) == []


SMALL_DISK = """
mount -t tmpfs -o size=$1k tmpfs "$2" || exit 77
shift
export TANDEM_CACHE_DIR=$1
shift
"$@"
"""


@pytest.mark.parametrize("kilobytes", [16, 2000, 4000])
def test_full_disk_under_the_cache_costs_only_the_cache(tiny_gemma3: Path, tmp_path: Path, kilobytes: int) -> None:
    """On a file system of its own, which takes a user namespace: no room at all, too little, and just enough."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a small file system")
    run = [sys.executable, "-m", "tandem_lm", "run", str(tiny_gemma3), "-p", "the fox", "-n", "5"]
    small = ["unshare", "--mount", "--map-root-user", "sh", "-c", SMALL_DISK, "sh", str(kilobytes), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    limited = subprocess.run([*small, *run], capture_output=True, text=True, env=env, timeout=60, check=False)
    if limited.returncode == 77 or limited.stderr.startswith("unshare"):
        pytest.skip(f"no small file system can be mounted here: {limited.stderr.strip()}")
    free = subprocess.run(run, capture_output=True, text=True, env=env, timeout=60, check=True)
    assert limited.returncode == 0, limited.stderr
    assert limited.stdout == free.stdout


SLOW = """
import time
from pathlib import Path
from tandem_converter import bundle
write = bundle.BundleWriter.write
def slow(*a, **k):
    write(*a, **k)
    Path({mark!r}).touch()
    time.sleep(0.2)
bundle.BundleWriter.write = slow
"""


@pytest.mark.parametrize(
    ("number", "status", "rest"),
    [(signal.SIGINT, 130, 0), (signal.SIGTERM, 130, 0), (signal.SIGKILL, -signal.SIGKILL, 1)],
)
def test_interrupted_conversion(
    checkpoint: Callable[[str], Path], tmp_path: Path, number: signal.Signals, status: int, rest: int
) -> None:
    out, mark = tmp_path / "out", tmp_path / "mark"
    out.mkdir()
    arguments: Sequence[object] = ("convert", checkpoint("gemma3"), out / "m.litertlm", "--context", 64)
    process = in_a_process(SLOW.format(mark=str(mark)), *arguments)
    end = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in err, err
    assert "m.litertlm" not in left_over(out)
    assert len(left_over(out)) == rest
    process = in_a_process("", *arguments)  # what a killed writer left is no obstacle
    process.communicate(timeout=60)
    assert process.returncode == 0 and left_over(out) == ["m.litertlm"]
