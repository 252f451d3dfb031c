"""The C++ reader against what the converter writes: inspect, verify, and files that are damaged or not ours."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import read_manifest, read_sections

native = pytest.importorskip("tandem_lm._native", reason="the C++ module is not built: pip install .")

BUNDLE = 2  # tandem::Code::kBundle
BLOCK = 16384


def refusal(path: Path) -> str:
    """The message with which opening fails."""
    with pytest.raises(native.NativeError) as caught:
        native.inspect(str(path))
    code, message = caught.value.args
    assert code == BUNDLE
    assert str(path) in message
    return str(message)


@pytest.fixture
def damaged(tiny_gemma3_int8: Path, tmp_path: Path) -> Callable[[Callable[[bytearray], object]], Path]:
    """A copy of a sound bundle after an edit of its bytes."""

    def make(edit: Callable[[bytearray], object]) -> Path:
        data = bytearray(tiny_gemma3_int8.read_bytes())
        edit(data)
        path = tmp_path / "damaged.litertlm"
        path.write_bytes(data)
        return path

    return make


def flip(data: bytearray, at: int) -> None:
    data[at] ^= 1 << at % 8


@pytest.mark.parametrize("kind", ["gemma4", "gemma3"])
@pytest.mark.parametrize("quant", ["f32", "int8", "int4-channel", "int4-block32"])
def test_converted_bundles_are_sound(bundle: Callable[[str, str], Path], kind: str, quant: str) -> None:
    assert native.verify(str(bundle(kind, quant))) == []


def test_inspect_agrees_with_an_independent_reader(tiny_bundle: Path) -> None:
    found = json.loads(native.inspect(str(tiny_bundle)))
    assert found["manifest"] == read_manifest(tiny_bundle)
    expected = [(s.begin, s.end - s.begin) for s in read_sections(tiny_bundle)]
    assert [(s["offset"], s["bytes"]) for s in found["sections"]] == expected
    senses = ["tf_lite_vision_encoder", "tf_lite_audio_encoder_hw"] if found["manifest"].get("media") else []
    assert [s["name"] for s in found["sections"]] == [
        "llm_metadata",
        "hf_tokenizer",
        "tf_lite_prefill_decode",
        *senses,
        "tandem_weights",
        "tandem_tokenizer",
        "tandem_manifest",
    ]
    assert found["totals"]["file"] == tiny_bundle.stat().st_size


def test_verify_names_the_damaged_section(
    tiny_gemma3_int8: Path, damaged: Callable[[Callable[[bytearray], object]], Path]
) -> None:
    for section in read_sections(tiny_gemma3_int8)[:-1]:
        at = random.Random(section.begin).randrange(section.begin, section.end)
        path = damaged(lambda data, at=at: flip(data, at))
        name = next(
            s["name"] for s in json.loads(native.inspect(str(path)))["sections"] if s["offset"] == section.begin
        )
        (problem,) = native.verify(str(path))
        assert f"section '{name}' is damaged" in problem


def test_damaged_header_or_manifest_is_refused(
    tiny_gemma3_int8: Path, damaged: Callable[[Callable[[bytearray], object]], Path]
) -> None:
    manifest = read_sections(tiny_gemma3_int8)[-1]
    for seed in range(100):
        chosen = random.Random(seed)
        places = [chosen.randrange(BLOCK), chosen.randrange(manifest.begin, manifest.end)]
        for at in places:
            assert refusal(damaged(lambda data, at=at: flip(data, at)))


def test_truncated_bundles_are_refused(
    tiny_gemma3_int8: Path, damaged: Callable[[Callable[[bytearray], object]], Path]
) -> None:
    for section in read_sections(tiny_gemma3_int8):
        for length in (section.begin - 1, section.begin, section.begin + 1, section.end - 1):
            refusal(damaged(lambda data, length=length: data.__delitem__(slice(length, None))))


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    assert "tandem convert" in refusal(path)
    assert "No such file" in refusal(tmp_path / "absent.litertlm")


def test_bundle_of_the_official_builder(tmp_path: Path) -> None:
    builder = pytest.importorskip("litert_lm_builder")
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    stream = io.BytesIO()
    writer = builder.LitertLmFileBuilder()
    writer.add_system_metadata(builder.Metadata(key="Authors", value="nobody", dtype=builder.DType.STRING))
    writer.add_hf_tokenizer(str(tokenizer))
    writer.build(stream)
    path = tmp_path / "official.litertlm"
    path.write_bytes(stream.getvalue())
    assert "not written by `tandem convert`" in refusal(path)
