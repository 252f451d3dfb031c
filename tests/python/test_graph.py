"""The authored graphs, run by LiteRT, against the numpy reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import reference
from bundles import Runner, section_bytes

from tandem_converter.convert import convert
from tandem_converter.names import from_hugging_face
from tandem_converter.quantize import Scheme, dequantize, quantize
from tandem_converter.recipe import Recipe
from tandem_converter.source import open_source

FAMILIES = {"gemma4": checkpoints.write_gemma4, "gemma3": checkpoints.write_gemma3}
TOKENS = 24


def load(folder: Path, recipe: Recipe | None = None) -> tuple[dict[str, np.ndarray], reference.TextConfig]:
    """The checkpoint as the reference wants it; with a recipe, matrices as they come back from their quantised form."""
    config = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    weights = {}
    for name, entry in header.items():
        begin, end = (8 + size + at for at in entry["data_offsets"])
        raw = data[begin:end]
        half = entry["dtype"] == "BF16"
        wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16 if half else np.frombuffer(raw, "<u4")
        value = wide.astype("<u4").view("<f4").reshape(entry["shape"])
        canonical = from_hugging_face(name)
        if recipe is not None and value.ndim == 2 and canonical is not None and not canonical.startswith("media"):
            value = dequantize(quantize(value, recipe.scheme(canonical)))
        weights[name.replace("language_model.", "")] = value
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights, reference.TextConfig.from_hf(config.get("text_config", config))


def expected(
    weights: dict[str, np.ndarray], config: reference.TextConfig, ids: np.ndarray, first: int = 0
) -> np.ndarray:
    positions = np.arange(first, first + len(ids))
    masks = {
        reference.FULL: reference.mask_causal(positions, positions),
        reference.SLIDING: reference.mask_sliding(positions, positions, config.sliding_window),
    }
    hidden = reference.text_forward(weights, config, reference.embed(weights, config, ids), positions, masks)
    result: np.ndarray = reference.logits(weights, config, hidden)
    return result


def run(runner: Runner, ids: np.ndarray, first: int = 0) -> np.ndarray:
    """Two padded prefill chunks, then decode: the logits of all tokens from the 16th on."""
    at = 0
    for size, count in ((64, 11), (8, 5)):
        runner.call(f"prefill_{size}", size, ids[at : at + count].tolist(), first + at, first)
        at += count
    return np.stack([runner.decode(int(t), first + at + i, first) for i, t in enumerate(ids[at:])])


def difference(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("first", [0, 40])
def test_float_graph_equals_the_reference(tmp_path: Path, family: str, first: int) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    convert(folder, tmp_path / "m.litertlm", quant="f32", context=256)
    weights, config = load(folder)
    ids = np.random.default_rng(3).integers(0, 512, TOKENS)
    got = run(Runner(tmp_path / "m.litertlm"), ids, first)
    assert difference(got, expected(weights, config, ids, first)[16:]) < 2e-5


def test_positions_beyond_32000_stay_exact(tmp_path: Path, family: str) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    config_file = folder / "config.json"
    config_json = json.loads(config_file.read_text())
    config_json.get("text_config", config_json)["max_position_embeddings"] = 40000
    config_file.write_text(json.dumps(config_json))
    convert(folder, tmp_path / "m.litertlm", quant="f32", context=33000)
    weights, config = load(folder)
    ids = np.random.default_rng(4).integers(0, 512, TOKENS)
    got = run(Runner(tmp_path / "m.litertlm"), ids, 32700)
    assert difference(got, expected(weights, config, ids, 32700)[16:]) < 2e-5


@pytest.mark.parametrize("quant", ["int8", "int4-channel", "int4-block32", "int4-block64", "int4-block128"])
def test_quantised_graph_equals_the_reference_with_its_weights(tmp_path: Path, family: str, quant: str) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    convert(folder, tmp_path / "m.litertlm", quant=quant, context=256)
    weights, config = load(folder, Recipe.load(quant))
    ids = np.random.default_rng(5).integers(0, 512, TOKENS)
    got = run(Runner(tmp_path / "m.litertlm"), ids)
    # Activations are 8-bit in XNNPACK. Wrong scales or nibbles would give differences near 1.
    assert difference(got, expected(weights, config, ids)[16:]) < 0.03


def test_every_matrix_product_is_delegated(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    folder = checkpoints.write_gemma4(tmp_path / "model")
    convert(folder, tmp_path / "m.litertlm", quant="int4-block32", context=64)
    interpreter = Interpreter(model_content=section_bytes(tmp_path / "m.litertlm", 3, "tf_lite_prefill_decode"))
    interpreter.allocate_tensors()
    ops: list[dict[str, Any]] = interpreter._get_ops_details()
    delegates = [op for op in ops if op["op_name"] == "DELEGATE"]
    taken = {int(t) for op in delegates for t in op["inputs"]}
    products = [op for op in ops if op["op_name"] == "FULLY_CONNECTED"]
    assert len(products) == 7 + 6 + 7 + 1, "sliding layers 7, full ones 6 (no v), and of the last one only k"
    assert all(int(op["inputs"][1]) in taken for op in products)
    assert len(delegates) <= 5, "one partition per layer and one before"
    left = {op["op_name"] for op in ops if op["op_name"] != "DELEGATE" and taken & {int(t) for t in op["outputs"]}}
    assert left >= {"EMBEDDING_LOOKUP", "DYNAMIC_UPDATE_SLICE"}


def test_signatures_share_every_weight(tmp_path: Path) -> None:
    """A second signature may cost its ops, never another copy of weights, norms or scales."""
    folder = checkpoints.write_gemma4(tmp_path / "model")
    spec = open_source(folder).spec
    sizes = []
    for context in (16, 64):  # 16: prefill_8 and decode; 64: prefill_64 too
        convert(folder, tmp_path / "m.litertlm", quant="f32", context=context)
        sizes.append(len(section_bytes(tmp_path / "m.litertlm", 3, "tf_lite_prefill_decode")))
    assert sizes[1] - sizes[0] < 4 * spec.hidden_size * spec.vocab_size / 2
    assert Scheme.parse("f32").bits == 32
