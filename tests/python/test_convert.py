"""The whole conversion: layout and checksums of the bundle, repeatability, and that a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import checkpoints
import pytest
from bundles import read_manifest, read_sections, section_bytes

from tandem_converter import bundle, metadata
from tandem_converter.convert import convert
from tandem_converter.errors import ConversionError
from tandem_converter.source import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write_gemma4(tmp_path_factory.mktemp("source") / "model", dtype="BF16")


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_layout_and_checksums(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.litertlm"
    convert(folder, out, quant="int4-block32", context=64)
    assert left_over(tmp_path) == ["m.litertlm"]
    sections = read_sections(out)
    assert [(s.data_type, s.model_type) for s in sections] == [
        (5, ""), (6, ""), (3, "tf_lite_prefill_decode"), (3, "tf_lite_vision_encoder"), (3, "tf_lite_audio_encoder_hw"),
        (1, "tandem_weights"), (1, "tandem_tokenizer"), (1, "tandem_manifest"),
    ]  # fmt: skip
    assert all(s.begin % 16384 == 0 for s in sections)
    assert sections[-1].end == out.stat().st_size
    data = out.read_bytes()
    manifest = read_manifest(out)
    assert manifest["header_sha256"] == hashlib.sha256(data[:16384]).hexdigest()
    names = ("llm_metadata", "hf_tokenizer", *(s.model_type for s in sections[2:-1]))
    for section, name in zip(sections[:-1], names, strict=True):
        content = data[section.begin : section.end]
        assert manifest["sections"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(manifest["sections"]) == set(names)
    stored = section_bytes(out, 1, "tandem_manifest")
    assert stored[16:48] == hashlib.sha256(stored[48:]).digest()
    tokenizer = section_bytes(out, 6)
    raw = zlib.decompress(tokenizer[8:])
    assert struct.unpack("<Q", tokenizer[:8])[0] == len(raw)
    assert raw == (folder / "tokenizer.json").read_bytes()


def test_manifest_says_what_the_checkpoint_says(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "m.litertlm", context=64)
    manifest = read_manifest(tmp_path / "m.litertlm")
    spec = open_source(folder).spec
    assert manifest["format"] == 1
    assert manifest["quantization"] == "int8"
    assert manifest["context"] == 64
    assert manifest["prefill_sizes"] == [8, 64]
    assert manifest["tokens"]["eos"] == list(spec.eos_ids)
    assert manifest["tokens"]["suppress"] == list(spec.suppress_ids) != []
    assert [layer["window"] for layer in manifest["model"]["layers"]] == [8, 0, 8, 0]
    assert manifest["chat_template"] == (folder / "chat_template.jinja").read_text()


def test_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    digests = set()
    for name in ("a.litertlm", "b.litertlm"):
        convert(folder, tmp_path / name, quant="int4-channel", context=32)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).digest())
    assert len(digests) == 1


@pytest.mark.parametrize("context", [0, 15, 4097])
def test_impossible_context_is_refused(folder: Path, tmp_path: Path, context: int) -> None:
    with pytest.raises(ConversionError, match="16 to 4096"):
        convert(folder, tmp_path / "m.litertlm", context=context)
    assert left_over(tmp_path) == []


def test_missing_output_folder_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no such folder"):
        convert(folder, tmp_path / "nowhere" / "m.litertlm")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x")])
def test_interrupt_leaves_nothing_and_keeps_the_old_file(folder: Path, tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "m.litertlm"
    out.write_bytes(b"an older bundle")

    def stop(done: int, total: int, name: str) -> None:
        assert 0 < done <= total
        if name == "layers.1.up.weight":
            assert left_over(tmp_path) == [".m.litertlm.part", "m.litertlm"]
            raise error

    with pytest.raises(type(error)):
        convert(folder, out, progress=stop, context=32)
    assert left_over(tmp_path) == ["m.litertlm"]
    assert out.read_bytes() == b"an older bundle"


def test_full_disk_is_an_error_with_a_remedy(folder: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk; it is set in a process of its own."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from tandem_converter.convert import convert
from tandem_converter.errors import ConversionError
try:
    convert(sys.argv[1], sys.argv[2], context=32)
except ConversionError as error:
    print(error)
    sys.exit(7)
"""
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "m.litertlm")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 7, done.stderr
    assert "free some space" in done.stdout
    assert left_over(tmp_path) == []


def test_too_little_space_is_seen_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = bundle.shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(bundle.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConversionError, match=r"needs .* GB, but only 0.00 GB are free"):
        convert(folder, tmp_path / "m.litertlm", context=32, progress=lambda *_: pytest.fail("work was begun"))
    assert left_over(tmp_path) == []


def test_enospc_on_close_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="full"), bundle.BundleWriter(tmp_path / "m.litertlm") as writer:
        writer.add(5, "", b"x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert left_over(tmp_path) == []


def test_a_dead_writer_is_replaced_and_a_living_one_respected(tmp_path: Path) -> None:
    out = tmp_path / "m.litertlm"
    (tmp_path / ".m.litertlm.part").write_bytes(b"x" * 100_000)
    with bundle.BundleWriter(out) as writer:
        writer.add(bundle.LLM_METADATA, "", b"hello")
        with pytest.raises(ConversionError, match="another conversion"), bundle.BundleWriter(out):
            pass
        writer.finish({}, {})
    assert left_over(tmp_path) == ["m.litertlm"]
    assert section_bytes(out, 5) == b"hello"
    assert out.stat().st_size < 100_000


def test_unwritten_section_is_not_published(tmp_path: Path) -> None:
    with contextlib.suppress(ValueError), bundle.BundleWriter(tmp_path / "m.litertlm") as writer:
        writer.reserve(bundle.TFLITE, "x", 100)
        writer.finish({}, {})
    assert left_over(tmp_path) == []


def test_header_that_outgrows_its_block_is_refused() -> None:
    sections = [bundle.Section(1, f"part_{i}", 16384 * i, 10) for i in range(400)]
    with pytest.raises(ConversionError, match="16384"):
        bundle.encode_header(sections, {})


def test_varints() -> None:
    assert metadata.varint(0) == b"\0"
    assert metadata.varint(300) == b"\xac\x02"
    assert metadata.integer(5, 4096) == b"\x28\x80\x20"


def test_template_with_get_is_kept_from_the_official_engine() -> None:
    assert metadata.portable_template("{{ m.get('x') }}") is None
    assert metadata.portable_template("{{ m['x'] }}") == "{{ m['x'] }}"
