"""What quantising the drafter costs: how many of its drafts the model takes, by scheme.

    python bench/drafter.py -n 60           # nano, the model in the package; minutes

A drafter cannot make a text worse, only its guesses: its acceptance is its quality. Its weights are those of the bundle
in the package, int8, taken as exact and quantised again; the model beside it stays as it is, to the byte. What was read
is checked: rebuilt at int8 the drafter has the same values. Greedy text on held-out items, three drafts a round, the
share of each among the rounds that got that far (`tandem_converter.nano.examine`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

import tandem_lm as tl
from tandem_converter import bundle, drafter
from tandem_converter.convert import _Meter, _write_model
from tandem_converter.family import Layer, ModelSpec, Rope
from tandem_converter.nano.examine import Drafting, draft
from tandem_converter.recipe import Recipe
from tandem_converter.report import Report
from tandem_lm import _native
from tandem_lm.nano_demo import packaged_bundle

SCHEMES = ("int8", "int4-block32", "int4-channel")
KINDS = ("story", "tool", "json")
LAYER_VECTORS = ("input_norm.weight", "post_attention_norm.weight", "pre_feedforward_norm.weight",
                 "post_feedforward_norm.weight", "scalar")  # fmt: skip
DATA_TYPES = {"llm_metadata": bundle.LLM_METADATA, "hf_tokenizer": bundle.HF_TOKENIZER, "tf_lite_model": bundle.TFLITE}


class ShippedDrafter:
    """The drafter in a bundle, as what `drafter.Drafter` wants for its source; no head of centroids."""

    head = None

    def __init__(self, model: bytes, manifest: dict[str, Any]) -> None:
        self.backbone_size: int = manifest["backbone_size"]
        self.fingerprint, self.dtype = manifest["source"]["fingerprint"], manifest["source"]["dtype"]
        self.spec = spec_of(manifest["model"])
        self._values = read_drafter(model, len(self.spec.layers))

    def names(self) -> list[str]:
        return list(self._values)

    def tensor(self, name: str) -> np.ndarray:
        return self._values[name]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._values[name][start:stop]


def spec_of(fields: dict[str, Any]) -> ModelSpec:
    layers = tuple(Layer(**{**layer, "rope": Rope(**layer["rope"])}) for layer in fields["layers"])
    listed = {name: tuple(fields[name]) for name in ("eos_ids", "suppress_ids")}
    return ModelSpec(**{**fields, **listed, "layers": layers})


def read_drafter(data: bytes, layers: int) -> dict[str, np.ndarray]:
    """Matrices by their names; vectors by their place in the graph `tandem_draft`, where each layer multiplies by its
    norms and its scalar in the order of LAYER_VECTORS, and its attention takes q_norm."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    (graph,) = [g for g in model.subgraphs if g.name == b"tandem_draft"]

    def raw(tensor: Any) -> np.ndarray | None:
        buffer = model.buffers[tensor.buffer]
        if buffer.offset:
            return np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        return buffer.data

    out: dict[str, np.ndarray] = {}
    for tensor in graph.tensors:
        if tensor.type == schema.TensorType.INT8 and (stored := raw(tensor)) is not None:
            scales = np.asarray(tensor.quantization.scale, np.float32)
            out[tensor.name.decode()] = stored.view(np.int8).reshape(tensor.shape) * scales[:, None]
    order = [f"layers.{i}.{name}" for i in range(layers) for name in LAYER_VECTORS] + ["norm.weight"]
    found = [value for kind, value in factors(model, graph, raw) if kind == schema.BuiltinOperator.MUL]
    queries = [value for kind, value in factors(model, graph, raw) if kind == schema.BuiltinOperator.CUSTOM]
    out |= dict(zip(order, found, strict=True))
    return out | {f"layers.{i}.q_norm.weight": value for i, value in zip(range(layers), queries, strict=True)}


def factors(model: Any, graph: Any, raw: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The kind and the constant second input of every operator that has one of float32."""
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        if len(op.inputs) < 2:
            continue
        tensor = graph.tensors[op.inputs[1]]
        stored = raw(tensor)
        if tensor.type == schema.TensorType.FLOAT32 and stored is not None:
            yield max(code.builtinCode, code.deprecatedBuiltinCode), np.asarray(stored).view(np.float32)


def rebuild(shipped: Path, quant: str, out: Path) -> float:
    """The bundle with its drafter at another scheme. Returns megabytes of the drafter."""
    info = json.loads(_native.inspect(str(shipped)))
    data, manifest = shipped.read_bytes(), info["manifest"]
    sections = {s["name"]: s for s in info["sections"]}

    def content(name: str) -> bytes:
        return data[sections[name]["offset"] :][: sections[name]["bytes"]]

    source: Any = ShippedDrafter(content(drafter.MODEL_TYPE), manifest["drafter"])
    helper = drafter.Drafter(source, tuple(manifest["drafter"]["reads"]), Recipe.load(quant))
    graph = drafter.build(helper, manifest["context"])
    _, size = graph.model.layout()
    with bundle.BundleWriter(out) as writer:
        written: dict[str, tuple[bundle.Section, int]] = {}
        for name, section in sections.items():
            if name == bundle.MANIFEST:
                continue
            kind = DATA_TYPES.get(section["type"], bundle.BINARY)
            model_type = "" if kind in (bundle.LLM_METADATA, bundle.HF_TOKENIZER) else name
            hosts = [w for w, at in written.values() if at <= section["offset"] < at + w.size]
            if hosts:  # the embedder lies inside of the model
                writer.nest(kind, model_type, hosts[0], section["offset"] - written[hosts[0].name][1], section["bytes"])
            elif name == drafter.MODEL_TYPE:
                place = writer.reserve(kind, model_type, size)
                _write_model(source, graph, writer, place, Report(quant), _Meter(None, 0), "")
            else:
                place = writer.reserve(kind, model_type, section["bytes"])
                writer.write(place, 0, content(name))
                written[name] = (place, section["offset"])
        kept = {key: value for key, value in manifest.items() if key not in ("sections", "header_sha256")}
        kept["drafter"] = {**manifest["drafter"], "quantization": quant}
        writer.finish(kept, {"generator": manifest["generator"]})
    return size / 1e6


def same_values(one: Path, other: Path) -> bool:
    """Whether two bundles' drafters agree: a vector's values to the bit, a matrix's to a step of int8."""
    first, second = (read_shipped(path) for path in (one, other))
    return first.keys() == second.keys() and all(
        np.abs(first[name] - second[name]).max() <= (0 if first[name].ndim == 1 else np.abs(first[name]).max() / 127)
        for name in first
    )


def read_shipped(path: Path) -> dict[str, np.ndarray]:
    info = json.loads(_native.inspect(str(path)))
    (place,) = [s for s in info["sections"] if s["name"] == drafter.MODEL_TYPE]
    model = path.read_bytes()[place["offset"] :][: place["bytes"]]
    return read_drafter(model, len(info["manifest"]["drafter"]["model"]["layers"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--items", type=int, default=60, help="of every kind (default: %(default)s)")
    args = parser.parse_args()
    print("| drafter | MB | task | tokens per verify | accepted by position |\n| --- | ---: | --- | ---: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for quant in SCHEMES:
            path = Path(folder) / f"{quant}.litertlm"
            megabytes = rebuild(packaged_bundle(), quant, path)
            if quant == "int8" and not same_values(packaged_bundle(), path):
                raise SystemExit("the drafter rebuilt at int8 is not the one in the package: the weights were misread")
            with tl.Engine(path, drafter="on") as engine:
                for kind in KINDS:
                    print(row(quant, megabytes, draft(engine, kind, args.items)), flush=True)


def row(quant: str, megabytes: float, drafted: Drafting) -> str:
    shares = ", ".join(f"{share:.3f}" for share in drafted.accepted_by_position)
    if not drafted.same_text:
        raise SystemExit(f"{quant}, {drafted.kind}: the drafter changed the text")
    return f"| {quant} | {megabytes:.2f} | {drafted.kind} | {drafted.tokens_per_verify:.2f} | {shares} |"


if __name__ == "__main__":
    main()
