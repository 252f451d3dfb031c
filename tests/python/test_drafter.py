"""The drafter's side of a bundle: its portable graphs and the target's `verify` against the numpy reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import reference
from bundles import HIDDEN, read_manifest, read_sections, section_bytes
from test_graph import difference, load

from tandem_converter.convert import convert
from tandem_converter.errors import ConversionError
from tandem_converter.quantize import Scheme, dequantize, quantize

CONTEXT, WINDOW, VOCAB = 64, 8, 512
CENTROIDS, ACTIVE = 32, 4  # of the tiny centroid head
HEADS: dict[str, tuple[int, int] | None] = {"dense": None, "centroids": (CENTROIDS, ACTIVE)}
LAYERS = {reference.SLIDING: 2, reference.FULL: 3}  # of the target: the last of each kind, which the drafter reads
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A target with its assistant, both f32, and the bundle made of them."""

    target: Path
    assistant: Path
    head: tuple[int, int] | None
    bundle: Path


def write_assistant(folder: Path, head: tuple[int, int] | None) -> Path:
    if head is None:
        return checkpoints.write_assistant(folder, seed=5)
    return checkpoints.write_assistant(folder, seed=5, centroids=head[0], active=head[1])


@pytest.fixture(scope="module", params=sorted(HEADS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    head = HEADS[request.param]
    target = checkpoints.write_gemma4(folder / "target")
    assistant = write_assistant(folder / "assistant", head)
    convert(target, folder / "m.litertlm", quant="f32", context=CONTEXT, drafter=assistant)
    return Case(target, assistant, head, folder / "m.litertlm")


def load_assistant(folder: Path, scheme: str | None = None) -> tuple[Arrays, reference.TextConfig]:
    """The assistant as the reference wants it; with a scheme, matrices as they come back from their quantised form."""
    config = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights: Arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = (start + at for at in entry["data_offsets"])
        kind = {"F32": "<f4", "I64": "<i8"}[entry["dtype"]]
        value = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
        if scheme is not None and value.ndim == 2 and "centroids" not in name:
            value = dequantize(quantize(value, Scheme.parse(scheme)))
        weights[name] = value
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights, reference.TextConfig.from_hf(config["text_config"])


class Target:
    """The reference's target after `ids`: its last hidden state and its cache, in the portable graphs' layout too."""

    def __init__(self, folder: Path, ids: list[int]) -> None:
        self.weights, self.config = load(folder)
        self.cache: dict[Any, Any] = {}
        inputs = reference.embed(self.weights, self.config, np.array(ids))
        hidden, self.shared, _ = reference.text_forward(
            self.weights, self.config, inputs, cache=self.cache, return_all=True
        )
        self.hidden: np.ndarray = hidden[-1]

    def embed(self, token: int) -> np.ndarray:
        row: np.ndarray = reference.embed(self.weights, self.config, np.array([token]))[0]
        return row

    def clean(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What a drafter sees of the cache: of a sliding layer its last `window` entries."""
        k, v = self.shared[reference.SLIDING]
        return {reference.FULL: self.shared[reference.FULL], reference.SLIDING: (k[-WINDOW:], v[-WINDOW:])}

    def tensors(self, layers: list[int]) -> Arrays:
        out: Arrays = {}
        for i in layers:
            k, v = self.cache[i]
            room = ((0, CONTEXT - len(k)), (0, 0), (0, 0))
            # Not zero: what lies behind the mask must not matter.
            out[f"kv_cache_k_{i}"] = np.pad(k, room, constant_values=3).transpose(1, 0, 2)[None]
            out[f"kv_cache_v_{i}"] = np.pad(v, room, constant_values=3).transpose(1, 2, 0)[None]
        return {name: np.ascontiguousarray(value, np.float32) for name, value in out.items()}


def interpreter(bundle: Path, model_type: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=section_bytes(bundle, 3, model_type))


def mask(rows: int, first: int) -> np.ndarray:
    """Causal, for queries at first, first + 1, ..."""
    visible = np.arange(CONTEXT)[None] <= first + np.arange(rows)[:, None]
    return np.where(visible, np.float32(0), HIDDEN)[None, None]


def draft(runner: Any, target: Target, last: int, position: int, count: int) -> tuple[list[int], np.ndarray]:
    """`count` drafts after the token `last` as LiteRT-LM makes them: `position` is the last one with keys."""
    token, state = last, target.hidden
    tokens, rows = [], []
    for _ in range(count):
        out = runner(
            activations=np.concatenate([target.embed(token), state])[None, None],
            input_pos=np.array([position], np.int32),
            mask=mask(1, position),
            **target.tensors(sorted(LAYERS.values())),
        )
        rows.append(out["logits"][0, 0])
        state = out["projected_activations"][0, 0]
        token = int(rows[-1].argmax())
        tokens.append(token)
    return tokens, np.stack(rows)


def random_ids(count: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, VOCAB, count).tolist()
    return ids


@pytest.mark.parametrize("length", [2, 9, 40])  # around the window's edge, and far beyond
def test_portable_drafts_equal_the_reference(case: Case, length: int) -> None:
    runner = interpreter(case.bundle, "tf_lite_mtp_drafter").get_signature_runner("mtp_drafter")
    assistant, config = load_assistant(case.assistant)
    for seed in range(3):
        ids = random_ids(length, seed)
        target = Target(case.target, ids[:-1])
        got, rows = draft(runner, target, ids[-1], length - 2, 4)
        common = (assistant, config, target.embed, ids[-1], target.hidden)
        want, expected = reference.draft_chain(*common, length - 1, target.clean(), 4, case.head)
        assert got == want
        assert difference(rows, expected) < 2e-5
        # The position that LiteRT-LM names would not do: the queries stand one further. (One key is always taken.)
        _, shifted = reference.draft_chain(*common, length - 2, target.clean(), 4, case.head)
        assert length == 2 or difference(rows, shifted) > 1e-3


def test_drafts_equal_transformers(case: Case) -> None:
    torch = pytest.importorskip("torch", reason="transformers parity needs torch")
    transformers = pytest.importorskip("transformers", reason="transformers parity needs transformers")
    name = json.loads((case.assistant / "config.json").read_text())["architectures"][0]
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    try:
        oracle = getattr(transformers, name).from_pretrained(case.assistant, dtype=torch.float32).eval()
    except ValueError as error:  # releases from 5.23 on: no layer of an assistant produces a cache
        pytest.skip(f"this transformers cannot build an assistant: {error}")
    ids = random_ids(30, 7)
    target = Target(case.target, ids[:-1])
    # [1, heads, keys, D]; at most a window of keys, so that all are visible whatever its rule.
    shared = {
        kind: tuple(torch.tensor(np.ascontiguousarray(x.transpose(1, 0, 2)))[None] for x in pair)
        for kind, pair in target.clean().items()
    }
    inputs = np.concatenate([target.embed(ids[-1]), target.hidden])[None, None]
    with torch.no_grad():
        out = oracle(
            inputs_embeds=torch.tensor(inputs), position_ids=torch.tensor([[len(ids) - 1]]), shared_kv_states=shared
        )
    runner = interpreter(case.bundle, "tf_lite_mtp_drafter").get_signature_runner("mtp_drafter")
    _, rows = draft(runner, target, ids[-1], len(ids) - 2, 1)
    assert difference(rows, out.logits[0].numpy()) < 2e-5


def test_fast_drafts_of_a_centroid_head_equal_the_reference(tmp_path: Path) -> None:
    tl = pytest.importorskip("tandem_lm")
    head = HEADS["centroids"]
    target_folder = checkpoints.write_gemma4(tmp_path / "target")
    folder = write_assistant(tmp_path / "assistant", head)
    convert(target_folder, tmp_path / "m.litertlm", quant="f32", context=CONTEXT, drafter=folder)
    assistant, config = load_assistant(folder)
    checked = 0
    with tl.Engine(tmp_path / "m.litertlm", kv_dtype="f32") as engine, engine.session() as session:
        session.prefill(random_ids(11, 3))
        params = tl.SamplingParams(max_tokens=14, presence_penalty=4.0, stop_ids=(), draft_tokens=3)
        for _ in session.generate(params):
            got = session._native.draft(4)
            if not got:  # in the middle of a round the last token is in the cache already
                continue
            ids = list(session.tokens)
            target = Target(target_folder, ids[:-1])
            want, _ = reference.draft_chain(
                assistant, config, target.embed, ids[-1], target.hidden, len(ids) - 1, target.clean(), 4, head
            )
            assert got == want
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("length", [5, 30])
def test_verify_equals_the_reference(case: Case, length: int) -> None:
    """Four embedded tokens behind a filled cache; the looked-up rows come from the bundle's embedder."""
    ids, more = random_ids(length, 1), random_ids(4, 2)
    target = Target(case.target, ids)
    lookup = interpreter(case.bundle, "tf_lite_embedder").get_signature_runner("embedder")
    rows = np.concatenate([lookup(token_ids=np.array([[i]], np.int32))["embeddings"] for i in more], axis=1)
    assert np.array_equal(rows[0], np.stack([target.embed(i) for i in more]))
    runner = interpreter(case.bundle, "tf_lite_prefill_decode").get_signature_runner("verify")
    out = runner(
        embeddings=rows,
        input_pos=np.arange(length, length + 4, dtype=np.int32),
        mask=mask(4, length),
        **target.tensors([0, 1, 2, 3]),
    )
    longer = Target(case.target, [*ids, *more])
    inputs = reference.embed(target.weights, target.config, np.array(more))
    hidden = reference.text_forward(target.weights, target.config, inputs, cache=target.cache)
    assert difference(out["activations"][0], hidden) < 2e-5
    assert difference(out["logits"][0], reference.logits(target.weights, target.config, hidden)) < 2e-5
    for name, value in longer.tensors([0, 1, 2, 3]).items():
        assert difference(out[name], value) < 2e-5, name


@pytest.mark.parametrize("room", [1, 2, 3])
def test_verify_at_the_end_of_the_context(case: Case, room: int) -> None:
    """Drafts that do not fit are not kept, and nothing that is in the cache gets lost."""
    at = CONTEXT - room
    ids, more = random_ids(at, 1), random_ids(4, 2)
    target = Target(case.target, ids)
    out = interpreter(case.bundle, "tf_lite_prefill_decode").get_signature_runner("verify")(
        embeddings=np.stack([target.embed(i) for i in more])[None],
        input_pos=np.arange(at, at + 4, dtype=np.int32),
        mask=mask(4, at),
        **target.tensors([0, 1, 2, 3]),
    )
    longer = Target(case.target, [*ids, *more[:room]])
    for name, value in longer.tensors([0, 1, 2, 3]).items():
        assert difference(out[name], value) < 2e-5, name
    inputs = reference.embed(target.weights, target.config, np.array(more[:room]))
    hidden = reference.text_forward(target.weights, target.config, inputs, cache=target.cache)
    assert difference(out["activations"][0, :room], hidden) < 2e-5


@pytest.mark.parametrize(
    ("head", "quant"),
    [("dense", "int8"), ("dense", "int4-channel"), ("dense", "int4-block32"), ("centroids", "int4-channel"),
     ("centroids", "int4-block32")],
)  # fmt: skip
def test_the_drafter_has_a_recipe_of_its_own(tmp_path: Path, head: str, quant: str) -> None:
    target_folder = checkpoints.write_gemma4(tmp_path / "target")
    folder = write_assistant(tmp_path / "assistant", HEADS[head])
    out = tmp_path / "m.litertlm"
    report = convert(target_folder, out, quant="f32", context=CONTEXT, drafter=folder, drafter_quant=quant)
    schemes = {line["name"]: line["scheme"] for line in report.tensors}
    assert {v for k, v in schemes.items() if not k.startswith(("drafter.", "media."))} == {"f32"}
    # A head of centroids is a table that rows are looked up in, which has no block form.
    table = "int8" if head == "centroids" and quant == "int4-block32" else quant
    assert schemes.pop("drafter.embed.weight") == table
    assert schemes.pop("drafter.centroids.weight", "f32") == "f32"
    assert {v for k, v in schemes.items() if k.startswith("drafter.")} == {quant}
    assert read_manifest(out)["drafter"]["quantization"] == quant

    assistant, config = load_assistant(folder, quant)
    if table != quant:
        assistant["lm_head.weight"] = dequantize(
            quantize(load_assistant(folder)[0]["lm_head.weight"], Scheme.parse(table))
        )
    ids = random_ids(20, 6)
    target = Target(target_folder, ids[:-1])
    runner = interpreter(out, "tf_lite_mtp_drafter").get_signature_runner("mtp_drafter")
    _, rows = draft(runner, target, ids[-1], len(ids) - 2, 1)
    _, expected = reference.draft_chain(
        assistant, config, target.embed, ids[-1], target.hidden, len(ids) - 1, target.clean(), 1, HEADS[head]
    )
    if head == "dense":
        # Activations are 8-bit in XNNPACK. Wrong scales or nibbles would give differences near 1.
        assert difference(rows, expected) < 0.04
    else:  # another cluster may come fourth; the tokens that both look at are the bulk
        both = (rows > rows.min()) & (expected > expected.min())
        assert both.sum() >= (ACTIVE - 1) * VOCAB // CENTROIDS
        assert difference(rows[both], expected[both]) < 0.04


def test_a_recipe_file_for_the_drafter(tmp_path: Path) -> None:
    recipe = tmp_path / "head4.json"
    recipe.write_text(json.dumps({r"embed\.weight": "int4-channel", r"layers\.0\..*": "f32", "default": "int8"}))
    target = checkpoints.write_gemma4(tmp_path / "target")
    out = tmp_path / "m.litertlm"
    folder = write_assistant(tmp_path / "assistant", None)
    report = convert(target, out, context=CONTEXT, drafter=folder, drafter_quant=str(recipe))
    schemes = {line["name"]: line["scheme"] for line in report.tensors}
    assert schemes["drafter.embed.weight"] == "int4-channel"
    assert schemes["drafter.layers.0.q.weight"] == "f32"
    assert schemes["drafter.layers.1.q.weight"] == schemes["embed.weight"] == "int8"


@pytest.mark.parametrize("quant", ["f32", "int8"])
def test_drafter_graphs_and_embedder_add_no_second_table(tmp_path: Path, quant: str) -> None:
    target = checkpoints.write_gemma4(tmp_path / "target", vocab=4096)
    assistant = checkpoints.write_assistant(tmp_path / "assistant", vocab=4096)
    plain, drafting = tmp_path / "plain.litertlm", tmp_path / "drafting.litertlm"
    convert(target, plain, quant=quant, context=CONTEXT)
    convert(target, drafting, quant=quant, context=CONTEXT, drafter=assistant)
    found = {s.model_type: s for s in read_sections(drafting) if s.data_type == 3}
    main, embedder = found["tf_lite_prefill_decode"], found["tf_lite_embedder"]
    assert main.begin < embedder.begin < embedder.end < main.end
    table = 4096 * 128 * (4 if quant == "f32" else 1)
    assert embedder.end - embedder.begin > table
    before = next(s for s in read_sections(plain) if s.data_type == 3)
    own = (main.end - main.begin) - (before.end - before.begin)
    assert own < 200_000 + (0 if quant == "f32" else 12 * 4096)  # graphs; per row a scale and a zero point
    keys = {m: list(interpreter(drafting, m).get_signature_list()) for m in found}
    assert keys["tf_lite_mtp_drafter"] == ["mtp_drafter", "tandem_draft"]  # LiteRT-LM takes the first
    assert "verify" in keys["tf_lite_prefill_decode"]
    assert keys["tf_lite_embedder"] == ["embedder"]


def test_the_bundle_is_sound_for_the_reader(case: Case) -> None:
    """The overlap of embedder and model is accepted, checked and counted once."""
    native = pytest.importorskip("tandem_lm._native")
    assert native.verify(str(case.bundle)) == []
    found = json.loads(native.inspect(str(case.bundle)))
    nested = next(s["bytes"] for s in found["sections"] if s["name"] == "tf_lite_embedder")
    assert found["totals"]["sections"] == sum(s["bytes"] for s in found["sections"]) - nested
    assert 0 <= found["totals"]["padding"] < 16384 * len(found["sections"])


# ------------------------------------------------------------------------------------------------------------ refusals
def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_tensor(folder: Path, name: str, value: np.ndarray) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    begin, end = (start + at for at in json.loads(data[8:start])[name]["data_offsets"])
    assert end - begin == value.nbytes
    data[begin:end] = value.tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_centroids": 30}, "30 num_centroids do not divide 512 tokens"),
        ({"num_centroids": 64}, r"\[32, 64\], the config asks for"),
        ({"centroid_intermediate_top_k": 33}, "centroid_intermediate_top_k"),
        ({"use_ordered_embeddings": False}, "describes no centroids.weight"),
        ({"model_type": "gemma4_text"}, "'gemma4_text' is no drafter"),
    ],
)
def test_unusable_centroid_heads_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    target = checkpoints.write_gemma4(tmp_path / "target")
    assistant = write_assistant(tmp_path / "assistant", HEADS["centroids"])
    edit_config(assistant, **values)
    with pytest.raises(ConversionError, match=message):
        convert(target, tmp_path / "m.litertlm", context=CONTEXT, drafter=assistant)


def test_unusable_token_orders_are_refused(tmp_path: Path) -> None:
    target = checkpoints.write_gemma4(tmp_path / "target")
    assistant = write_assistant(tmp_path / "assistant", HEADS["centroids"])
    name = "masked_embedding.token_ordering"
    for bad in (np.zeros(VOCAB, "<i8"), np.arange(1, VOCAB + 1, dtype="<i8"), np.full(VOCAB, -1, "<i8")):
        edit_tensor(assistant, name, bad)
        with pytest.raises(ConversionError, match="does not name every token once"):
            convert(target, tmp_path / "m.litertlm", context=CONTEXT, drafter=assistant)
    dense = write_assistant(tmp_path / "dense", None)
    edit_config(dense, use_ordered_embeddings=True, num_centroids=CENTROIDS)
    with pytest.raises(ConversionError, match="token_ordering is missing"):
        convert(target, tmp_path / "m.litertlm", context=CONTEXT, drafter=dense)
    assert not (tmp_path / "m.litertlm").exists()
