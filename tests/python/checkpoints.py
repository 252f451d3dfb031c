"""Tiny random checkpoints for the tests: Hugging Face folders of every supported family, written with numpy alone.

Each has every layer kind of its family, random norms and layer scalars (a mistake in any of them shows), a window that
is shorter than a test prompt, and sizes that int4 blocks of 32, 64 and 128 divide. `write_*` returns the folder.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

SLIDING, FULL = "sliding_attention", "full_attention"
TINY_TOKENS = 512  # size of the tokenizer; a model's vocabulary may be larger
MEDIA_TOKENS = ("<|image|>", "<|audio|>", "<|video|>", "<|image>", "<image|>", "<|audio>", "<audio|>")  # the last ids
MARKERS = {
    "gemma4": ["<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
               "<|think|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>"],
    "gemma3": ["<start_of_turn>", "<end_of_turn>"],
}  # fmt: skip
PROSE = (
    "the quick brown fox jumps over the lazy dog and then it runs back to the river where the other animals were "
    "waiting for a story about the sun and the moon hello world this is a test of the tokenizer that we use for the "
    "model"
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ 'OPEN' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<|' + part['type'] + '|>' }}{% endfor %}{% endif %}"
    "{{ 'CLOSE\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'OPENmodel\\n' }}{% endif %}"
)

Shape = tuple[int, ...]


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of the nearest bfloat16 (ties to even)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_round(values: np.ndarray) -> np.ndarray:
    """float32 -> float32 that a bfloat16 can hold."""
    return (bf16_bits(values).astype(np.uint32) << 16).view(np.float32)


def random_tensors(tensors: dict[str, Shape], seed: int, norm_centre: float) -> dict[str, np.ndarray]:
    """Weights that keep activations near 1 and logits far from flat."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in tensors.items():
        if name.endswith("layer_scalar"):
            value = rng.uniform(0.7, 1.1, shape)
        elif name.endswith(("q_norm.weight", "k_norm.weight")) and norm_centre:
            value = 0.6 + 0.2 * rng.standard_normal(shape)  # Gemma 4 has no other scale on its attention scores
        elif name.endswith(("norm.weight", "ln1.weight", "ln2.weight")):
            value = norm_centre + 0.2 * rng.standard_normal(shape)
        elif len(shape) == 1:
            value = 0.2 * rng.standard_normal(shape)
        elif "embed_tokens" in name:
            value = 0.5 * rng.standard_normal(shape)
        else:
            value = shape[-1] ** -0.5 * rng.standard_normal(shape)
        out[name] = value.astype(np.float32)
    return out


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32") -> None:
    """`tensors` as float32; stored as F32, F16 or BF16. Those of int64 stay what they are."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, value in tensors.items():
        kind = "I64" if value.dtype == np.int64 else dtype
        blob = {
            "I64": lambda v: v.astype("<i8"),
            "F32": lambda v: v.astype("<f4"),
            "F16": lambda v: v.astype("<f2"),
            "BF16": lambda v: bf16_bits(v),
        }[kind](value).tobytes()
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(blobs))


def write_weights(folder: Path, tensors: dict[str, np.ndarray], dtype: str, shards: int) -> None:
    """One model.safetensors, or several with their index."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return
    names = list(tensors)
    where = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i::shards]
        write_safetensors(folder / file, {n: tensors[n] for n in part}, dtype)
        where.update(dict.fromkeys(part, file))
    total = sum(v.size for v in tensors.values()) * (4 if dtype == "F32" else 2)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# ------------------------------------------------------------------------------------------------------ the tokenizer
def learn_merges(words: list[str], count: int) -> list[tuple[str, str]]:
    """Plain byte-pair encoding over `words`: the `count` most frequent pairs, one after another."""
    pieces, merges = [list(w) for w in words], []
    while len(merges) < count:
        pairs: dict[tuple[str, str], int] = {}
        for word in pieces:
            for pair in pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        for word in pieces:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def token_list(family: str, size: int = TINY_TOKENS) -> tuple[list[str], list[tuple[str, str]]]:
    """All tokens by id, and the merges. Bytes, printable ASCII and a few other letters are always there."""
    head = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *MARKERS[family]]
    tail = list(MEDIA_TOKENS)
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = [chr(i) for i in range(33, 127)] + list("▁\n\téüßñ日本")
    room = size - len(head) - len(bytes_) - len(letters) - len(tail)
    if room < 0:
        raise ValueError(f"a tiny tokenizer needs {size - room} tokens, the vocabulary has {size}")
    candidates = [("▁", "▁"), ("\n", "\n"), ("é", "▁"), *learn_merges(["▁" + w for w in PROSE.split()], 3 * room)]
    made: list[str] = []
    merges = []
    for pair in candidates:
        if "".join(pair) in made or len(made) == room:
            continue
        made.append("".join(pair))
        merges.append(pair)
    unused = [f"<unused{i}>" for i in range(room - len(made))]
    return [*head, *bytes_, *letters, *made, *unused, *tail], merges


def tokenizer_json(family: str, size: int = TINY_TOKENS) -> dict[str, Any]:
    """A tokenizer.json in the form Gemma publishes: BPE with byte fallback over ' ' -> '▁'."""
    tokens, merges = token_list(family, size)
    ids = {t: i for i, t in enumerate(tokens)}
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *MARKERS[family], *MEDIA_TOKENS]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    sequences = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": [bos, sequences[0]],
        "pair": [bos, *sequences],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [ids["<bos>"]], "tokens": ["<bos>"]}},
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[t], "content": t, **flags} for t in sorted(special, key=ids.__getitem__)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": template if family == "gemma3" else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [list(m) for m in merges],
        },
    }


def write_tokenizer(folder: Path, family: str, size: int) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template (Gemma 4: its own file, Gemma 3: in the config)."""
    turn = MARKERS[family][-2:]
    chat = TEMPLATE.replace("OPEN", turn[0]).replace("CLOSE", turn[1])
    names = {f"{n}_token": f"<{n}>" for n in ("bos", "eos", "pad", "unk")}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    if family == "gemma3":
        config["chat_template"] = chat
    else:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    body = json.dumps(tokenizer_json(family, size), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(body, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- the families
def decoder_tensors(prefix: str, t: dict[str, Any], gemma4: bool) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the decoder, the embedding first."""
    h, inter, heads = t["hidden_size"], t["intermediate_size"], t["num_attention_heads"]
    yield prefix + "embed_tokens.weight", (t["vocab_size"], h)
    for i, kind in enumerate(t["layer_types"]):
        full = gemma4 and kind == FULL
        d = t["global_head_dim"] if full else t["head_dim"]
        kv = t["num_global_key_value_heads"] if full else t["num_key_value_heads"]
        n = f"{prefix}layers.{i}."
        yield n + "self_attn.q_proj.weight", (heads * d, h)
        yield n + "self_attn.k_proj.weight", (kv * d, h)
        if not full:
            yield n + "self_attn.v_proj.weight", (kv * d, h)
        yield n + "self_attn.o_proj.weight", (h, heads * d)
        yield n + "self_attn.q_norm.weight", (d,)
        yield n + "self_attn.k_norm.weight", (d,)
        yield n + "mlp.gate_proj.weight", (inter, h)
        yield n + "mlp.up_proj.weight", (inter, h)
        yield n + "mlp.down_proj.weight", (h, inter)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield n + norm + "_layernorm.weight", (h,)
        if gemma4:
            yield n + "layer_scalar", (1,)
    yield prefix + "norm.weight", (h,)


def media_tensors(h: int, patch_size: int, positions: int, frame: int) -> dict[str, Shape]:
    """The encoder-free vision and audio embedders of Gemma 4 Unified."""
    patch, v = (3 * patch_size) ** 2 * 3, "model.vision_embedder."
    return {
        v + "patch_ln1.weight": (patch,), v + "patch_ln1.bias": (patch,),
        v + "patch_dense.weight": (h, patch), v + "patch_dense.bias": (h,),
        v + "patch_ln2.weight": (h,), v + "patch_ln2.bias": (h,),
        v + "pos_embedding": (positions, 2, h),
        v + "pos_norm.weight": (h,), v + "pos_norm.bias": (h,),
        "model.embed_vision.embedding_projection.weight": (h, h),
        "model.embed_audio.embedding_projection.weight": (h, frame),
    }  # fmt: skip


def gemma4_config(
    vocab: int, softcap: float | None, layout: str, patch_size: int, positions: int = 32
) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and its text part in the old layout; layout "new" is what transformers 5.15 and later write."""
    text: dict[str, Any] = {
        "model_type": "gemma4_unified_text", "vocab_size": vocab, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "num_global_key_value_heads": 1,
        "head_dim": 32, "global_head_dim": 64, "layer_types": [SLIDING, FULL, SLIDING, FULL], "sliding_window": 8,
        "attention_k_eq_v": True, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True, "attention_bias": False, "max_position_embeddings": 4096, "pad_token_id": 0,
        "eos_token_id": 1, "bos_token_id": 2, "use_bidirectional_attention": "vision", "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0, "enable_moe_block": False, "final_logit_softcapping": softcap,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
            FULL: {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
        },
    }  # fmt: skip
    stored = dict(text)
    if layout == "new":
        del stored["global_head_dim"], stored["num_global_key_value_heads"]
        stored["per_layer_config"] = {"01": {"head_dim": 64, "num_key_value_heads": 1},
                                      "3": {"head_dim": 64, "num_key_value_heads": 1}}  # fmt: skip
    first = min(vocab, TINY_TOKENS) - len(MEDIA_TOKENS)
    keys = ("image_token_id", "audio_token_id", "video_token_id", "boi_token_id", "eoi_token_id", "boa_token_id",
            "eoa_token_index")  # fmt: skip
    config = {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"], "model_type": "gemma4_unified",
        "tie_word_embeddings": True, "text_config": stored,
        "vision_config": {
            "model_type": "gemma4_unified_vision", "patch_size": patch_size, "pooling_kernel_size": 3,
            "mm_embed_dim": 128, "mm_posemb_size": positions, "output_proj_dims": 128, "rms_norm_eps": 1e-6,
        },
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 640, "rms_norm_eps": 1e-6},
        **{k: first + i for i, k in enumerate(keys)},
    }  # fmt: skip
    return config, text


def write_gemma4(folder: Path, *, seed: int = 0, softcap: float | None = 30.0, vocab: int = TINY_TOKENS,
                 dtype: str = "F32", tokenizer: bool = True, layout: str = "old", shards: int = 1, media: bool = True,
                 patch_size: int = 4, positions: int = 32) -> Path:  # fmt: skip
    """A `gemma4_unified` checkpoint (text only with media=False): sliding and full layers, K = V in the full ones.

    `layout`: "old" or "new" form of config.json. `patch_size` 16 gives image patches of the real size, `positions` is
    how many columns and rows of them the model tells apart."""
    folder.mkdir(parents=True, exist_ok=True)
    config, text = gemma4_config(vocab, softcap, layout, patch_size, positions)
    config["dtype"] = "bfloat16" if dtype == "BF16" else "float32"
    shapes = dict(decoder_tensors("model.language_model.", text, True))
    if media:
        shapes.update(media_tensors(128, patch_size, positions, 640))
    else:
        del config["vision_config"], config["audio_config"]
    write_weights(folder, random_tensors(shapes, seed, 1.0), dtype, shards)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    turn = 5 + MARKERS["gemma4"].index("<turn|>")
    response = 5 + MARKERS["gemma4"].index("<|tool_response>")
    generation = {
        "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1, turn, response], "do_sample": True,
        "temperature": 1.0, "top_k": 64, "top_p": 0.95,
        "suppress_tokens": [config["eoa_token_index"], config["eoi_token_id"]],
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer:
        write_tokenizer(folder, "gemma4", min(vocab, TINY_TOKENS))
    return folder


def write_gemma3(folder: Path, *, seed: int = 0, vocab: int = TINY_TOKENS, dtype: str = "F32", tokenizer: bool = True,
                 layout: str = "new", shards: int = 1) -> Path:  # fmt: skip
    """A `gemma3_text` checkpoint whose last layer is sliding, with linear rope scaling on the full one.

    `layout` "old" has rope_theta, rope_local_base_freq, rope_scaling and sliding_window_pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    text: dict[str, Any] = {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": vocab, "hidden_size": 128,
        "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 32, "layer_types": [SLIDING, FULL, SLIDING], "sliding_window": 8, "query_pre_attn_scalar": 24,
        "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
        "max_position_embeddings": 2048, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": "bfloat16" if dtype == "BF16" else "float32",
    }  # fmt: skip
    shapes = dict(decoder_tensors("model.", text, False))
    write_weights(folder, random_tensors(shapes, seed, 0.0), dtype, shards)
    if layout == "old":
        del text["layer_types"], text["rope_parameters"]
        text["torch_dtype"] = text.pop("dtype")
        text.update(rope_theta=1000000.0, rope_local_base_freq=10000.0, sliding_window_pattern=2,
                    rope_scaling={"rope_type": "linear", "factor": 8.0})  # fmt: skip
    (folder / "config.json").write_text(json.dumps(text, indent=1))
    turn = 5 + MARKERS["gemma3"].index("<end_of_turn>")
    generation = {"bos_token_id": 2, "eos_token_id": [1, turn], "pad_token_id": 0, "do_sample": True, "top_k": 64,
                  "top_p": 0.95}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer:
        write_tokenizer(folder, "gemma3", min(vocab, TINY_TOKENS))
    return folder


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def write_gguf(path: Path, *, seed: int = 0, quantisation: str = "F32", template: str | None = "x") -> Path:
    """The model of `write_gemma3` (same seed, same weights) as llama.cpp stores it. Matrices get `quantisation` (a ggml
    type), the rest stays F32. Needs the gguf package."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    folder = write_gemma3(path.parent / (path.name + ".hf"), seed=seed)
    text = json.loads((folder / "config.json").read_text())
    w = gguf.GGUFWriter(path, "gemma3")
    w.add_context_length(text["max_position_embeddings"])
    w.add_embedding_length(text["hidden_size"])
    w.add_block_count(text["num_hidden_layers"])
    w.add_feed_forward_length(text["intermediate_size"])
    w.add_head_count(text["num_attention_heads"])
    w.add_head_count_kv(text["num_key_value_heads"])
    w.add_layer_norm_rms_eps(text["rms_norm_eps"])
    w.add_key_length(text["head_dim"])
    w.add_value_length(text["head_dim"])
    w.add_rope_freq_base(1e6)
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(8.0)
    w.add_sliding_window(text["sliding_window"])
    w.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    w.add_float32("gemma3.attention.scale", text["query_pre_attn_scalar"] ** -0.5)
    tokens, merges = token_list("gemma3")
    ranks = {"".join(m): -float(i) for i, m in enumerate(merges)}
    special = {"<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *MARKERS["gemma3"], *MEDIA_TOKENS}
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([ranks.get(t, -1e6) for t in tokens])
    control, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    w.add_token_types([control if t in special else byte if t.startswith("<0x") else normal for t in tokens])
    w.add_bos_token_id(2)
    w.add_eos_token_id(1)
    w.add_pad_token_id(0)
    w.add_unk_token_id(3)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(False)
    if template is not None:
        w.add_chat_template(template)
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, value in random_tensors(dict(decoder_tensors("model.", text, False)), seed, 0.0).items():
        short = name.removeprefix("model.").removesuffix(".weight")
        if short.startswith("layers."):
            _, index, part = short.split(".", 2)
            short = f"blk.{index}.{GGUF_NAMES[part]}"
        short = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(short, short) + ".weight"
        if value.ndim == 1:
            w.add_tensor(short, value + np.float32(1))  # llama.cpp stores Gemma 3 norms as 1 + w
        elif quantisation == "F32":
            w.add_tensor(short, value)
        else:
            w.add_tensor(short, gguf.quants.quantize(value, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def write_assistant(folder: Path, *, seed: int = 0, vocab: int = TINY_TOKENS, dtype: str = "F32", layers: int = 4,
                    backbone: int = 128, centroids: int = 0, active: int = 0) -> Path:  # fmt: skip
    """The MTP assistant (`gemma4_unified_assistant`) of the model that `write_gemma4` makes: sliding layers and a full
    one at the end, queries only. With `centroids`, in the layout of `gemma4_assistant`: a head that looks at the tokens
    of the `active` best of so many clusters."""
    folder.mkdir(parents=True, exist_ok=True)
    _, text = gemma4_config(vocab, None, "old", 4)
    h, inter, heads = 64, 128, text["num_attention_heads"]
    types = [SLIDING] * (layers - 1) + [FULL]
    text.update(hidden_size=h, intermediate_size=inter, num_hidden_layers=layers, layer_types=types,
                num_kv_shared_layers=layers)  # fmt: skip
    shapes: dict[str, Shape] = {
        "pre_projection.weight": (h, 2 * backbone),
        "post_projection.weight": (backbone, h),
        "model.embed_tokens.weight": (vocab, h),
        "model.norm.weight": (h,),
    }
    for i, kind in enumerate(types):
        d, n = text["global_head_dim" if kind == FULL else "head_dim"], f"model.layers.{i}."
        shapes[n + "self_attn.q_proj.weight"] = (heads * d, h)
        shapes[n + "self_attn.o_proj.weight"] = (h, heads * d)
        shapes[n + "self_attn.q_norm.weight"] = (d,)
        shapes[n + "mlp.gate_proj.weight"] = shapes[n + "mlp.up_proj.weight"] = (inter, h)
        shapes[n + "mlp.down_proj.weight"] = (h, inter)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[n + norm + "_layernorm.weight"] = (h,)
        shapes[n + "layer_scalar"] = (1,)
    config = {
        "architectures": ["Gemma4UnifiedAssistantForCausalLM"], "model_type": "gemma4_unified_assistant",
        "backbone_hidden_size": backbone, "use_ordered_embeddings": False, "tie_word_embeddings": True,
        "text_config": text, "dtype": "bfloat16" if dtype == "BF16" else "float32",
    }  # fmt: skip
    if centroids:
        shapes["masked_embedding.centroids.weight"] = (centroids, h)
        text.update(model_type="gemma4_text", vocab_size_per_layer_input=0)
        config.update(architectures=["Gemma4AssistantForCausalLM"], model_type="gemma4_assistant",
                      use_ordered_embeddings=True, num_centroids=centroids,
                      centroid_intermediate_top_k=active)  # fmt: skip
    tensors = random_tensors(shapes, seed, 1.0)
    if centroids:
        tensors["masked_embedding.token_ordering"] = np.random.default_rng(seed).permutation(vocab)
    write_weights(folder, tensors, dtype, 1)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder
