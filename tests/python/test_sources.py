"""Reading checkpoints: both families, every config layout and storage, and every way in which a file can lie."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from checkpoints import (
    bf16_round,
    decoder_tensors,
    gemma4_config,
    media_tensors,
    random_tensors,
    write_gemma3,
    write_gemma4,
    write_gguf,
    write_safetensors,
)

from tandem_converter.errors import ConversionError
from tandem_converter.family import ModelSpec, read_config
from tandem_converter.names import expected_shapes
from tandem_converter.safetensors import SafetensorsFile
from tandem_converter.source import open_source


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def load(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a model.safetensors by the checkpoint's names, through our reader."""
    file = SafetensorsFile(folder / "model.safetensors")
    return {name: file.read(name).reshape(entry.shape) for name, entry in file.entries.items()}


def refuses(path: Path, *words: str) -> None:
    """`path` is refused with one message that holds `words`, at opening or when everything is read."""
    with pytest.raises(ConversionError) as caught:
        source = open_source(path)
        for name in source.names():
            source.tensor(name)
    for word in words:
        assert word in str(caught.value), str(caught.value)


# ---------------------------------------------------------------------------------------------------- what comes out
@pytest.mark.parametrize("layout", ["old", "new"])
def test_gemma4_spec(tmp_path: Path, layout: str) -> None:
    spec = open_source(write_gemma4(tmp_path, layout=layout)).spec
    assert spec.family == "gemma4_unified" and spec.norm_offset == 0.0 and spec.attention_scale == 1.0
    assert [(y.head_dim, y.kv_heads, y.window, y.k_eq_v) for y in spec.layers] == [
        (32, 2, 8, False),
        (64, 1, 0, True),
        (32, 2, 8, False),
        (64, 1, 0, True),
    ]
    assert (spec.layers[0].rope.theta, spec.layers[0].rope.rotated) == (1e4, 16)
    assert (spec.layers[1].rope.theta, spec.layers[1].rope.rotated) == (1e6, 8)  # a quarter of 32 pairs
    assert spec.v_norm and spec.layer_scalar and spec.final_softcap == 30.0
    assert spec.eos_ids == (1, 16, 9) and spec.suppress_ids == (511, 509)
    assert spec.sampler == {"temperature": 1.0, "top_k": 64.0, "top_p": 0.95}
    assert spec.media["image_token_id"] == 505 and spec.media["eoa_token_id"] == 511 and spec.media["patch_size"] == 4


def test_gemma3_layouts_agree(tmp_path: Path) -> None:
    new = open_source(write_gemma3(tmp_path / "new")).spec
    assert new == open_source(write_gemma3(tmp_path / "old", layout="old")).spec
    assert [y.window for y in new.layers] == [8, 0, 8]  # the last layer stays sliding
    assert new.layers[1].rope.factor == 8.0 and new.layers[0].rope.factor == 1.0
    assert new.norm_offset == 1.0 and new.attention_scale == pytest.approx(24**-0.5) and new.final_softcap is None
    assert not new.v_norm and not new.layer_scalar and new.eos_ids == (1, 6)


def test_reads_what_was_written(tmp_path: Path) -> None:
    source = open_source(write_gemma4(tmp_path, seed=5))
    _, text = gemma4_config(512, 30.0, "old", 4)
    shapes = {**dict(decoder_tensors("model.language_model.", text, True)), **media_tensors(128, 4, 32, 640)}
    written = random_tensors(shapes, 5, 1.0)
    assert len(source.names()) == len(written) and source.dtype == "float32"
    pairs = {
        "embed.weight": "model.language_model.embed_tokens.weight",
        "layers.1.k.weight": "model.language_model.layers.1.self_attn.k_proj.weight",
        "layers.2.down.weight": "model.language_model.layers.2.mlp.down_proj.weight",
        "layers.0.pre_feedforward_norm.weight": "model.language_model.layers.0.pre_feedforward_layernorm.weight",
        "layers.3.scalar": "model.language_model.layers.3.layer_scalar",
        "norm.weight": "model.language_model.norm.weight",
        "media.pos_embedding": "model.vision_embedder.pos_embedding",
        "media.vision_projection.weight": "model.embed_vision.embedding_projection.weight",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(source.tensor(ours), written[theirs])
        assert source.shape(ours) == written[theirs].shape and source.tensor(ours).dtype == np.float32
    np.testing.assert_array_equal(source.rows("embed.weight", 100, 117), written[pairs["embed.weight"]][100:117])


@pytest.mark.parametrize(("dtype", "name"), [("BF16", "bfloat16"), ("F16", "float16")])
def test_half_precision(tmp_path: Path, dtype: str, name: str) -> None:
    full = open_source(write_gemma3(tmp_path / "full", seed=2))
    half = open_source(write_gemma3(tmp_path / "half", seed=2, dtype=dtype))
    assert half.dtype == name
    for key in ("embed.weight", "layers.1.gate.weight", "layers.0.q_norm.weight"):
        exact = full.tensor(key)
        rounded = bf16_round(exact) if dtype == "BF16" else exact.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(half.tensor(key), rounded)
    assert full.spec.embed_scale == float(np.float32(128**0.5))
    assert half.spec.embed_scale == 11.3125


@pytest.mark.parametrize(
    ("hidden", "scale"),
    [(3840, 62.0), (1536, 39.25), (2560, 50.5), (2816, 53.0), (5376, 73.5), (1024, 32.0), (640, 25.25), (1152, 34.0)],
)
def test_bfloat16_embedding_scale(hidden: int, scale: float) -> None:
    text = gemma4_config(512, 30.0, "old", 4)[1]
    config = {"model_type": "gemma4_unified_text", **{k: v for k, v in text.items() if k != "model_type"}}
    assert read_config({**config, "hidden_size": hidden}, {}, "bfloat16").embed_scale == scale


@pytest.mark.parametrize("writer", [write_gemma3, write_gemma4])
def test_shards_equal_one_file(tmp_path: Path, writer: Callable[..., Path]) -> None:
    one, many = open_source(writer(tmp_path / "one")), open_source(writer(tmp_path / "many", shards=3))
    assert sorted(one.names()) == sorted(many.names()) and one.spec == many.spec
    for name in one.names():
        np.testing.assert_array_equal(one.tensor(name), many.tensor(name))
    assert one.fingerprint != many.fingerprint


def test_agrees_with_reference_config(tmp_path: Path) -> None:
    for writer in (write_gemma3, write_gemma4):
        folder = writer(tmp_path / writer.__name__)
        config = json.loads((folder / "config.json").read_text())
        theirs, spec = reference.TextConfig.from_hf(config.get("text_config", config)), open_source(folder).spec
        for i, layer in enumerate(spec.layers):
            assert (layer.head_dim, layer.kv_heads) == theirs.geometry(i)
            frequencies = reference.inv_freq_for(theirs.rope_parameters[theirs.layer_types[i]], layer.head_dim)
            rope = layer.rope
            ours = rope.theta ** (-2.0 * np.arange(layer.head_dim // 2) / layer.head_dim) / rope.factor
            ours[rope.rotated :] = 0
            np.testing.assert_allclose(ours, frequencies, rtol=1e-5)


def test_published_12b_shapes() -> None:
    """The config of Gemma 4 12B Unified gives the published number of tensors and parameters."""
    text = gemma4_config(262144, 30.0, "old", 16)[1]
    text.update(
        hidden_size=3840, intermediate_size=15360, num_hidden_layers=48, layer_types=None, num_attention_heads=16,
        num_key_value_heads=8, head_dim=256, global_head_dim=512, sliding_window=1024,
    )  # fmt: skip
    config = {"model_type": "gemma4_unified", "text_config": text, "vision_config": {}, "audio_config": {}}
    shapes = expected_shapes(read_config(config, {}, "bfloat16"))
    assert len(shapes) == 677 and sum(int(np.prod(s)) for s in shapes.values()) == 11_959_730_224


def test_text_only_gemma4(tmp_path: Path) -> None:
    source = open_source(write_gemma4(tmp_path, media=False, softcap=None))
    assert source.spec.media == {} and source.spec.final_softcap is None
    assert not [n for n in source.names() if n.startswith("media.")]


def test_fingerprint_identifies_the_input(tmp_path: Path) -> None:
    first, again = open_source(write_gemma3(tmp_path / "a")), open_source(write_gemma3(tmp_path / "b"))
    assert first.fingerprint == again.fingerprint and len(first.fingerprint) == 64
    edit_json(tmp_path / "b" / "generation_config.json", lambda c: c.update(top_k=3))
    assert open_source(tmp_path / "b").fingerprint != first.fingerprint


def test_tokenizer_and_template(tmp_path: Path) -> None:
    four, three = open_source(write_gemma4(tmp_path / "4")), open_source(write_gemma3(tmp_path / "3"))
    assert json.loads(four.tokenizer_json)["model"]["byte_fallback"] is True
    assert four.chat_template is not None and "<|turn>" in four.chat_template
    assert three.chat_template is not None and "<start_of_turn>" in three.chat_template
    bare = open_source(write_gemma3(tmp_path / "bare", tokenizer=False))
    assert bare.chat_template is None
    with pytest.raises(ConversionError, match=r"tokenizer\.json is missing"):
        _ = bare.tokenizer_json


# ------------------------------------------------------------------------------------------------ what is not accepted
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_kv_shared_layers": 2}, ["share keys and values", "gemma4_unified"]),
        ({"hidden_size_per_layer_input": 256}, ["per-layer embeddings", "Supported"]),
        ({"enable_moe_block": True}, ["mixture of experts"]),
        ({"use_double_wide_mlp": True}, ["double-wide"]),
        ({"attention_bias": True}, ["attention_bias"]),
        ({"tie_word_embeddings": False}, ["untied"]),
        ({"use_bidirectional_attention": "all"}, ["bidirectional"]),
        ({"hidden_activation": "silu"}, ["silu", "gelu_pytorch_tanh"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "1024"]),
        ({"hidden_size": "128"}, ["hidden_size", "whole number"]),
        ({"hidden_size": True}, ["hidden_size"]),
        ({"head_dim": 31}, ["even"]),
        ({"num_attention_heads": 3}, ["multiple"]),
        ({"vocab_size": None}, ["vocab_size", "missing"]),
        ({"layer_types": ["sliding_attention"]}, ["layer_types", "4 entries"]),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}, ["full_attention"]),
        ({"rope_parameters": {k: {"rope_type": "yarn", "rope_theta": 1e4} for k in
                              ("sliding_attention", "full_attention")}}, ["yarn"]),
        ({"per_layer_config": {"9": {"head_dim": 64}}}, ["'9'"]),
        ({"per_layer_config": {"1": {"intermediate_size": 64}}}, ["intermediate_size", "differs"]),
        ({"sliding_window": None}, ["sliding_window", "missing"]),
    ],
)  # fmt: skip
def test_unsupported_configs(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    folder = write_gemma4(tmp_path, tokenizer=False, media=False)
    edit_json(folder / "config.json", lambda c: c["text_config"].update(change))
    refuses(folder, *words)


@pytest.mark.parametrize(
    ("kind", "word"),
    [("gemma4", "E2B"), ("gemma4_unified_assistant", "drafter"), ("llama", "Supported"), (None, "missing")],
)
def test_unsupported_families(tmp_path: Path, kind: str | None, word: str) -> None:
    folder = write_gemma4(tmp_path, tokenizer=False, media=False)
    edit_json(folder / "config.json", lambda c: c.update(model_type=kind))
    refuses(folder, word)
    whole = load(folder)  # the reason is the family, not the first tensor with a strange name
    write_safetensors(folder / "model.safetensors", {"pre_projection.weight": np.zeros((2, 2), np.float32), **whole})
    refuses(folder, word)


def test_token_outside_the_vocabulary(tmp_path: Path) -> None:
    folder = write_gemma3(tmp_path, tokenizer=False)
    edit_json(folder / "generation_config.json", lambda c: c.update(eos_token_id=[1, 512]))
    refuses(folder, "eos_token_id", "511")


def test_config_that_is_not_json(tmp_path: Path) -> None:
    folder = write_gemma3(tmp_path, tokenizer=False)
    for bad in (
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe{}",
        b'{"a": ' + b"[" * 100_000,
        b'{"a":1,"a":2}',
        b'{"a":' + b"9" * 9999 + b"}",
    ):
        (folder / "config.json").write_bytes(bad)
        refuses(folder, "config.json")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_nan_and_inf_name_the_tensor(tmp_path: Path, value: float, dtype: str) -> None:
    folder = write_gemma3(tmp_path, tokenizer=False)
    tensors = load(folder)
    tensors["model.layers.2.mlp.up_proj.weight"][17, 5] = value
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    refuses(folder, "model.layers.2.mlp.up_proj.weight", "NaN or Inf")


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    folder = write_gemma3(tmp_path, tokenizer=False)
    whole = load(folder)
    for name in ("model.norm.weight", "model.layers.1.self_attn.k_norm.weight", "model.embed_tokens.weight"):
        write_safetensors(folder / "model.safetensors", {k: v for k, v in whole.items() if k != name})
        refuses(folder, "missing")
    turned = {**whole, "model.layers.0.mlp.down_proj.weight": whole["model.layers.0.mlp.down_proj.weight"].T}
    write_safetensors(folder / "model.safetensors", turned)
    refuses(folder, "model.layers.0.mlp.down_proj.weight", "[256, 128]", "[128, 256]")
    write_safetensors(folder / "model.safetensors", {**whole, "model.layers.0.self_attn.q_proj.bias": np.zeros(128)})
    refuses(folder, "unexpected tensor", "q_proj.bias")
    write_safetensors(
        folder / "model.safetensors", {**whole, "model.layers.7.mlp.up_proj.weight": np.zeros((256, 128))}
    )
    refuses(folder, "layers.7", "config")
    write_safetensors(folder / "model.safetensors", {**whole, "lm_head.weight": whole["model.embed_tokens.weight"]})
    assert open_source(folder).spec.vocab_size == 512  # a tied head that was written out is ignored


def test_duplicate_tensors(tmp_path: Path) -> None:
    folder = write_gemma3(tmp_path / "alias", tokenizer=False)
    tensors = load(folder)
    tensors["model.language_model.norm.weight"] = tensors["model.norm.weight"]
    write_safetensors(folder / "model.safetensors", tensors)
    refuses(folder, "duplicate", "model.norm.weight")
    folder = write_gemma3(tmp_path / "shards", tokenizer=False, shards=2)
    write_safetensors(folder / "model-00002-of-00002.safetensors", tensors)
    refuses(folder, "duplicate")


def test_lying_index(tmp_path: Path) -> None:
    def fresh(name: str) -> tuple[Path, Path]:
        folder = write_gemma3(tmp_path / name, tokenizer=False, shards=2)
        return folder, folder / "model.safetensors.index.json"

    folder, index = fresh("gone")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuses(folder, "model-00002-of-00002.safetensors is missing")
    folder, index = fresh("extra")
    edit_json(index, lambda i: i["weight_map"].update(ghost="model-00001-of-00002.safetensors"))
    refuses(folder, "ghost")
    folder, index = fresh("unlisted")
    edit_json(index, lambda i: i["weight_map"].pop("model.norm.weight"))
    refuses(folder, "model.norm.weight", "not listed")
    folder, index = fresh("escape")
    edit_json(index, lambda i: i["weight_map"].update(ghost="../secret.safetensors"))
    refuses(folder, "../secret.safetensors")
    folder, index = fresh("empty")
    index.write_text('{"weight_map": []}')
    refuses(folder, "weight_map")


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "does not exist", "folder")
    refuses(tmp_path, "no config.json", "GGUF")
    refuses(write_gemma3(tmp_path / "m") / "model.safetensors", "give the folder")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    refuses(tmp_path / "m", "safetensors", "PyTorch")


# -------------------------------------------------------------------------------------------- the safetensors container
def raw_file(path: Path, header: Any, data: bytes = b"\0" * 16, length: int | None = None) -> Path:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_safetensors_good(tmp_path: Path) -> None:
    data = np.arange(4, dtype="<f4").tobytes()
    file = SafetensorsFile(raw_file(tmp_path / "f", {"a": entry(), "e": entry(shape=(0, 3), offsets=(16, 16))}, data))
    np.testing.assert_array_equal(file.read("a"), [0, 1, 2, 3])
    np.testing.assert_array_equal(file.read("a", 1, 2), [1, 2])
    assert file.read("e").size == 0


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"a": entry(offsets=(0, 12))}, "needs 16 bytes"),
        ({"a": entry(offsets=(16, 0))}, "needs 16 bytes"),
        ({"a": entry(offsets=(-16, 0))}, "whole numbers"),
        ({"a": entry(offsets=(0, 16, 32))}, "whole numbers"),
        ({"a": entry(shape=(2**62, 4), offsets=(0, 2**66))}, "truncated"),
        ({"a": entry(shape=(-4,))}, "whole numbers"),
        ({"a": entry(shape=(4.0,))}, "whole numbers"),
        ({"a": entry(shape=(True,) * 2)}, "whole numbers"),
        ({"a": entry(shape=(1,) * 9)}, "whole numbers"),
        ({"a": entry(dtype="F4")}, "F4"),
        ({"a": entry(dtype=7)}, "dtype"),
        ({"a": entry(shape=(8,), offsets=(0, 32))}, "truncated"),
        ({"a": entry(shape=(2,), offsets=(0, 8))}, "belong to no tensor"),
        ({"a": entry(), "b": entry()}, "overlaps"),
        ({"a": entry(shape=(3,), offsets=(0, 12)), "b": entry(shape=(2,), offsets=(8, 16))}, "overlaps"),
        ({"a": entry(shape=(2,), offsets=(8, 16))}, "gap"),
        ({"a": {"dtype": "F32"}}, "exactly"),
        ({"a": 5}, "exactly"),
        (b'{"a":1,"a":2}', "twice"),
        (b"[]", "object"),
        (b"{ ", "JSON"),
        (b"\xff\xff", "JSON"),
        (b"[" * 1_000_000, "JSON"),
    ],
)
def test_safetensors_lies(tmp_path: Path, header: Any, word: str) -> None:
    with pytest.raises(ConversionError, match=word):
        SafetensorsFile(raw_file(tmp_path / "f.safetensors", header))


@pytest.mark.parametrize("length", [0, 1, 10**8 + 1, 2**63, 2**64 - 1, 500])
def test_safetensors_header_length(tmp_path: Path, length: int) -> None:
    with pytest.raises(ConversionError):
        SafetensorsFile(raw_file(tmp_path / "f", {"a": entry()}, length=length))


def test_safetensors_cut_anywhere(tmp_path: Path) -> None:
    whole = raw_file(tmp_path / "f", {"a": entry()}).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "f").write_bytes(whole[:size])
        with pytest.raises(ConversionError):
            SafetensorsFile(tmp_path / "f")


def test_safetensors_shrinks_while_open(tmp_path: Path) -> None:
    file = SafetensorsFile(raw_file(tmp_path / "f", {"a": entry()}))
    with (tmp_path / "f").open("r+b") as f:
        f.truncate(20)
    with pytest.raises(ConversionError, match="truncated"):
        file.read("a")


def test_integer_weights(tmp_path: Path) -> None:
    folder = write_gemma3(tmp_path, tokenizer=False)
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw.replace(b'"dtype": "F32"', b'"dtype": "I32"', 3))
    refuses(folder, "I32", "BF16, F16 or F32")


# -------------------------------------------------------------------------------------------------------------- GGUF
def test_gguf_equals_hugging_face(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    gguf = open_source(write_gguf(tmp_path / "m.gguf", seed=4, template="{{ x }}"))
    hf = open_source(tmp_path / "m.gguf.hf")
    own = ("attention_scale", "sampler")  # stored as float32; not in the file
    for field in dataclasses.fields(ModelSpec):
        if field.name not in own:
            assert getattr(gguf.spec, field.name) == getattr(hf.spec, field.name), field.name
    assert gguf.spec.attention_scale == pytest.approx(hf.spec.attention_scale)
    assert gguf.dtype == "f32" and gguf.chat_template == "{{ x }}" and sorted(gguf.names()) == sorted(hf.names())
    for name in hf.names():
        np.testing.assert_allclose(gguf.tensor(name), hf.tensor(name), atol=1e-6 if "norm" in name else 0, rtol=0)
    ours, theirs = json.loads(gguf.tokenizer_json)["model"], json.loads(hf.tokenizer_json)["model"]
    assert ours["vocab"] == theirs["vocab"]


@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.006), ("Q4_0", 0.12), ("BF16", 0.003), ("F16", 0.001)])
def test_gguf_quantised(tmp_path: Path, kind: str, most: float) -> None:
    package = pytest.importorskip("gguf")
    source = open_source(write_gguf(tmp_path / "m.gguf", quantisation=kind))
    exact = open_source(tmp_path / "m.gguf.hf").tensor("layers.1.down.weight")
    assert source.dtype == kind.lower() and source.spec.embed_scale == 11.3125  # bfloat16's, as Gemma was trained
    got = source.tensor("layers.1.down.weight")
    assert 0 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < most
    np.testing.assert_array_equal(source.rows("layers.1.down.weight", 30, 77), got[30:77])
    theirs = {t.name: t for t in package.GGUFReader(tmp_path / "m.gguf").tensors}["blk.1.ffn_down.weight"]
    np.testing.assert_array_equal(got, package.quants.dequantize(theirs.data, theirs.tensor_type))


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    path = write_gguf(tmp_path / "m.gguf", quantisation="Q4_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    refuses(path, "pip install", "gguf")


def test_gguf_cut_anywhere(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 64), *range(64, len(whole), len(whole) // 150), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        refuses(cut, "cut.gguf")


def test_gguf_flipped_bits_never_crash(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    whole = bytearray(write_gguf(tmp_path / "m.gguf").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(whole)
        for at in rng.integers(0, 3000, 3):
            bad[at] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "bad.gguf").write_bytes(bad)
        try:
            spec = open_source(tmp_path / "bad.gguf").spec
        except ConversionError:
            continue
        assert isinstance(spec, ModelSpec)  # the flip hit something that does not matter here


def test_gguf_other_architecture(tmp_path: Path) -> None:
    package = pytest.importorskip("gguf")
    w = package.GGUFWriter(tmp_path / "l.gguf", "llama")
    w.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    refuses(tmp_path / "l.gguf", "'llama'", "gemma3")
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4" + bytes(100))
    refuses(tmp_path / "x.gguf", "not a GGUF file")
