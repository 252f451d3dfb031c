"""Tandem's own packing of weights: its file, scales of blocks in a byte where they fit, and damaged sources."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_lm import _native

HEADER = struct.Struct("<8sQ")
MATRIX = struct.Struct("<8Q")  # buffer, inputs, outputs, bits, block, wide, byte scales, offset
IDS = list(range(3, 40))


def packed(bundle: Path, folder: Path) -> Path:
    """The file that an engine leaves in the cache folder."""
    with tl.Engine(bundle, cache_dir=folder, kv_dtype="f32") as engine:
        if not engine.info.native_steps:
            pytest.skip("no native steps: another CPU, or shapes that they do not take")
    (path,) = folder.glob("*.packed")
    return path


def matrices(path: Path) -> list[tuple[int, ...]]:
    data = path.read_bytes()
    magic, count = HEADER.unpack_from(data)
    assert magic == b"TNDEMPW1"
    return [MATRIX.unpack_from(data, HEADER.size + MATRIX.size * i) for i in range(count)]


def logits(bundle: Path, folder: Path, graph: str = "auto") -> np.ndarray:
    with tl.Engine(bundle, cache_dir=folder, kv_dtype="f32", graph=graph) as engine:
        return engine.session().logits(IDS)


def has_amx() -> bool:
    return "amx_int8" in Path("/proc/cpuinfo").read_text()


def test_converted_blocks_have_scales_of_8_bits(bundle: Callable[[str, str], Path], tmp_path: Path) -> None:
    found = matrices(packed(bundle("gemma4", "int4-block32"), tmp_path))
    assert {(bits, block) for _, _, _, bits, block, _, _, _ in found} == {(8, 0), (4, 32)}
    with_bytes = {byte_scales for _, _, _, _, block, _, byte_scales, _ in found if block == 32}
    assert with_bytes == {1} or (with_bytes == {0} and has_amx())  # whose kernels take 16 bits
    assert not any(m[6] for m in found if m[4] == 0) and not any(m[7] % 64 for m in found)


def test_scales_of_another_maker_keep_16_bits(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Those of Q4_0 have all bits of a float16."""
    path = tmp_path / "q4_0.litertlm"
    convert(checkpoint("gemma4"), path, quant="int4-block32", qat="q4_0", context=64)
    found = matrices(packed(path, tmp_path))
    assert [m for m in found if m[4] == 32] and not any(m[6] for m in found)
    native, graph = logits(path, tmp_path), logits(path, tmp_path, "portable")
    assert np.median(np.abs(native - graph).max(axis=1)) < 5e-3 * np.abs(graph).max()


@pytest.mark.parametrize("quant", ["int8", "int4-channel", "int4-block32"])
def test_the_file_does_not_depend_on_threads(bundle: Callable[[str, str], Path], tmp_path: Path, quant: str) -> None:
    path = bundle("gemma4", quant)
    files = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        with tl.Engine(path, cache_dir=folder, num_threads=threads) as engine:
            if not engine.info.native_steps:
                pytest.skip("no native steps: another CPU, or shapes that they do not take")
        (file,) = folder.glob("*.packed")
        files.append(file.read_bytes())
    assert files[0] == files[1]


def test_scales_that_are_none_are_refused(bundle: Callable[[str, str], Path], tmp_path: Path) -> None:
    source = bundle("gemma4", "int4-block32")
    packed(source, tmp_path / "sound")  # skips where graphs run
    data = bytearray(source.read_bytes())
    at = first_block_scale(source)
    assert 0 < float(np.frombuffer(data[at : at + 2], np.float16)[0]) < 1
    data[at : at + 2] = np.float16(np.inf).tobytes()
    broken = tmp_path / "broken.litertlm"
    broken.write_bytes(data)
    folder = tmp_path / "packed"
    with pytest.raises(tl.BundleError, match="convert the model again"):
        tl.Engine(broken, cache_dir=folder)
    assert not list(folder.glob("*.packed")) and not list(folder.glob("*.tmp"))


def first_block_scale(bundle: Path) -> int:
    """Where a bundle's first scale of a block lies: behind the matrix that it belongs to, from a multiple of 64 on."""
    sections = {s["name"]: s["offset"] for s in json.loads(_native.inspect(str(bundle)))["sections"]}
    data = bundle.read_bytes()
    at = sections["tandem_weights"] + 8
    while True:
        _, _, block, _, _, offset, size = struct.unpack_from("<7Q", data, at)
        if block == 32:
            return int(sections["tf_lite_prefill_decode"] + (offset + size + 63) // 64 * 64)
        at += 56
