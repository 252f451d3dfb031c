"""The MTP assistant of Gemma 4 Unified: a small model that drafts tokens for its target, from the target's own cache.

Its layers have queries only; each reads the keys and values of the target's last layer of its kind. One signature:
  tandem_draft  activations [1,1,2H] (the target's embedding of a token, scaled, then its hidden state before that token
                or the last projection; H is the target's hidden size) -> logits [1,1,V], projected_activations [1,1,H]
`tandem.attend` takes the raw queries [1,Hq*D], the factors of the q norm [D] and the layer's index; it norms, rotates
and attends. The position stays the same for all drafts of a round.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError
from .family import ModelSpec, read_config
from .fields import Fields
from .graph import Graph, PlannedWeight, SignatureBuilder, plan_weight
from .huggingface import HuggingFaceSource
from .names import Shape, from_hugging_face
from .quantize import SCHEMES, Scheme
from .recipe import Recipe
from .source import Source
from .tflite import Array, Model, Tensor

MODEL_TYPE = "tf_lite_mtp_drafter"
ASSISTANT = "gemma4_unified_assistant"
_PROJECTIONS = {name: name for name in ("pre_projection.weight", "post_projection.weight")}
_NORMS = ("input_norm", "post_attention_norm", "pre_feedforward_norm", "post_feedforward_norm", "q_norm")


class AssistantSource(HuggingFaceSource):
    """An assistant's checkpoint folder; `spec` describes its own layers. embed.weight is its LM head."""

    backbone_size: int

    def _describe(self, config: dict[str, Any]) -> None:
        top = Fields(config, "config.json")
        kind = top.text("model_type")
        text = top.table("text_config")
        if kind != ASSISTANT or text is None:
            raise ConversionError(f"{self.folder}: model_type {kind!r} is no drafter; give a {ASSISTANT} checkpoint")
        if top.flag("use_ordered_embeddings"):
            raise ConversionError(
                f"{self.folder}: a drafter with a centroid head (use_ordered_embeddings): unsupported"
            )
        self.backbone_size = top.integer("backbone_hidden_size", low=1)
        # All its layers share the target's keys and values; the rest is described as in any model.
        inner = {**text.values, "num_kv_shared_layers": 0, "final_logit_softcapping": None}
        self.spec = read_config({"model_type": "gemma4_unified_text", **inner}, {}, self.dtype)

    def _canonical(self, name: str) -> str | None:
        return _PROJECTIONS.get(name) or from_hugging_face(name)

    def _expected(self) -> dict[str, Shape]:
        spec = self.spec
        shapes: dict[str, Shape] = dict(matrix_shapes(spec, self.backbone_size))
        for i, layer in enumerate(spec.layers):
            for norm in _NORMS:
                shapes[f"layers.{i}.{norm}.weight"] = (layer.head_dim if norm == "q_norm" else spec.hidden_size,)
            shapes[f"layers.{i}.scalar"] = (1,)
        shapes["norm.weight"] = (spec.hidden_size,)
        return shapes


@dataclass(frozen=True)
class Drafter:
    """A drafter that fits its target. `reads`: per layer the target's layer whose keys and values it reads."""

    source: AssistantSource
    reads: tuple[int, ...]
    recipe: Recipe

    def scheme(self, name: str) -> Scheme:
        """As the recipe says; but the head is no lookup table, so it may have any scheme."""
        return (
            self.recipe.default if name == "embed.weight" and self.recipe.name in SCHEMES else self.recipe.scheme(name)
        )

    def manifest(self, target: Source) -> dict[str, Any]:
        return {
            "model": dataclasses.asdict(self.source.spec),
            "backbone_size": self.source.backbone_size,
            "reads": list(self.reads),
            "quantization": self.recipe.name,
            "source": {"fingerprint": self.source.fingerprint, "dtype": self.source.dtype},
            "target": target.fingerprint,
        }


def open_drafter(path: str | Path, target: ModelSpec, recipe: Recipe) -> Drafter:
    """Reads an assistant and checks that it was made for a target of this shape."""
    path = Path(path)
    if not (path / "config.json").exists():
        raise ConversionError(f"{path}: no config.json; give the drafter's checkpoint folder")
    source = AssistantSource(path)
    spec = source.spec
    if source.backbone_size != target.hidden_size:
        raise ConversionError(
            f"{path}: this drafter is for a model of hidden size {source.backbone_size}, the model's is "
            f"{target.hidden_size}; give the drafter of this very model"
        )
    if spec.vocab_size != target.vocab_size:
        raise ConversionError(
            f"{path}: the drafter has {spec.vocab_size} tokens, the model {target.vocab_size}; give the drafter of "
            "this very model"
        )
    reads = []
    for i, layer in enumerate(spec.layers):
        same_kind = [j for j, other in enumerate(target.layers) if (other.window > 0) == (layer.window > 0)]
        donor = target.layers[same_kind[-1]] if same_kind else None
        if donor is None or (donor.head_dim, donor.kv_heads, donor.window, donor.rope) != (
            layer.head_dim, layer.kv_heads, layer.window, layer.rope
        ):  # fmt: skip
            raise ConversionError(
                f"{path}: layer {i} of the drafter cannot read the keys and values of this model; give the drafter of "
                "this very model"
            )
        reads.append(same_kind[-1])
    return Drafter(source, tuple(reads), recipe)


def matrix_shapes(spec: ModelSpec, backbone: int) -> dict[str, tuple[int, int]]:
    """Canonical name -> [out, in] of every matrix, in file order."""
    h, inter = spec.hidden_size, spec.intermediate_size
    shapes = {"embed.weight": (spec.vocab_size, h), "pre_projection.weight": (h, 2 * backbone)}
    for i, layer in enumerate(spec.layers):
        q = spec.num_heads * layer.head_dim
        shapes[f"layers.{i}.q.weight"] = (q, h)
        shapes[f"layers.{i}.o.weight"] = (h, q)
        shapes[f"layers.{i}.gate.weight"] = (inter, h)
        shapes[f"layers.{i}.up.weight"] = (inter, h)
        shapes[f"layers.{i}.down.weight"] = (h, inter)
    shapes["post_projection.weight"] = (backbone, h)
    return shapes


def build(drafter: Drafter) -> Graph:
    """Authors the drafter's model."""
    source = drafter.source
    shapes = matrix_shapes(source.spec, source.backbone_size)
    small = {name: source.tensor(name) for name in source.names() if name not in shapes}
    model = Model(f"{ASSISTANT} by tandem")
    weights: list[PlannedWeight] = [
        plan_weight(model, name, shape, drafter.scheme(name)) for name, shape in shapes.items()
    ]
    by_name = {w.name: w.weight for w in weights}
    builder = _DraftSignature(model.subgraph("tandem_draft"), source.spec, by_name, small, 0, 1)
    builder.author_draft(source.backbone_size)
    return Graph(model, weights)


class _DraftSignature(SignatureBuilder):
    """Authors one draft step."""

    def author_draft(self, backbone: int) -> None:
        g, spec = self._g, self._spec
        activations = g.input("activations", (1, 1, 2 * backbone))
        h = self._linear(self._reshape(activations, (1, 2 * backbone)), "pre_projection")
        for i in range(len(spec.layers)):
            h = self._after_attention(i, h, self._attend_target(i, h))
        h = self._norm(h, "norm")
        self._logits(h)
        g.output("projected_activations", self._reshape(self._linear(h, "post_projection"), (1, 1, backbone)))

    def _attend_target(self, i: int, h: Tensor) -> Tensor:
        q = self._linear(self._norm(h, f"layers.{i}.input_norm"), f"layers.{i}.q")
        index: Array = np.array([i], np.int32)
        inputs = [q, self._factor(f"layers.{i}.q_norm", self._spec.attention_scale), self._g.constant(index)]
        return self._g.custom("tandem.attend", inputs, q.shape, f"attended_{i}")
