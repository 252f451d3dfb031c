"""The MTP assistant of Gemma 4: a small model that drafts tokens for its target, from the target's own cache.

Its layers have queries only; each reads the keys and values of the target's last layer of its kind. Two signatures
over the same weights, both from activations [1,1,2H] (the target's embedding of a token, scaled, then its hidden state
before that token or the last projection; H is the target's hidden size) to logits [1,1,V] and projected_activations
[1,1,H]:
  mtp_drafter   portable, as LiteRT-LM wants it: also input_pos int32 [1], mask [1,1,1,C] and the cache of the layers
                that it reads, kv_cache_{k,v}_<target's layer>
  tandem_draft  for Tandem's own runtime, attention an operator of the host. `tandem.attend` takes the raw queries
                [1,Hq*D], the factors of the q norm [D] and the layer's index; it norms, rotates and attends.
The position stays the same for all drafts of a round.

The head is the embedding as a matrix, or, with `use_ordered_embeddings`, looks at some clusters of tokens only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConversionError
from .family import MAX_VOCAB, ModelSpec, read_config
from .fields import Fields
from .graph import Graph, PlannedWeight, SignatureBuilder, plan_weight
from .huggingface import HuggingFaceSource
from .names import Shape, from_hugging_face
from .quantize import SCHEMES, Scheme
from .recipe import Recipe
from .source import Source
from .tflite import F32, I32, Array, Model, Tensor

MODEL_TYPE = "tf_lite_mtp_drafter"
ASSISTANTS = ("gemma4_unified_assistant", "gemma4_assistant")
VERIFY_ROWS = 4  # of the portable `verify`: LiteRT-LM drafts one token fewer
_ORDERING = "masked_embedding.token_ordering"
_CENTROIDS = "masked_embedding.centroids.weight"
_OWN = {"pre_projection.weight": "pre_projection.weight", "post_projection.weight": "post_projection.weight",
        _CENTROIDS: "centroids.weight", _ORDERING: None}  # fmt: skip
_NORMS = ("input_norm", "post_attention_norm", "pre_feedforward_norm", "post_feedforward_norm", "q_norm")


@dataclass(frozen=True)
class CentroidHead:
    """A head in two steps: the `active` clusters whose centroids fit best, then the tokens in them. `tokens`
    [clusters, V / clusters]: which they are."""

    tokens: Array
    active: int


class AssistantSource(HuggingFaceSource):
    """An assistant's checkpoint folder; `spec` describes its own layers. embed.weight is its LM head."""

    backbone_size: int
    head: CentroidHead | None

    def _describe(self, config: dict[str, Any]) -> None:
        top = Fields(config, "config.json")
        kind = top.text("model_type")
        text = top.table("text_config")
        if kind not in ASSISTANTS or text is None:
            raise ConversionError(
                f"{self.folder}: model_type {kind!r} is no drafter; give a {' or '.join(ASSISTANTS)} checkpoint"
            )
        self.backbone_size = top.integer("backbone_hidden_size", low=1)
        # All its layers share the target's keys and values; the rest is described as in any model.
        changes = {"model_type": "gemma4_unified_text", "num_kv_shared_layers": 0, "final_logit_softcapping": None}
        self.spec = read_config({**text.values, **changes}, {}, self.dtype)
        self.head = self._centroid_head(top) if top.flag("use_ordered_embeddings") else None

    def _centroid_head(self, top: Fields) -> CentroidHead:
        vocab = self.spec.vocab_size
        clusters = top.integer("num_centroids", 2048, low=1, high=MAX_VOCAB)
        active = top.integer("centroid_intermediate_top_k", 32, low=1, high=clusters)
        if vocab % clusters:
            raise ConversionError(f"config.json: {clusters} num_centroids do not divide {vocab} tokens")
        if _ORDERING not in self._home:
            raise ConversionError(f"{self.folder}: the tensor {_ORDERING} is missing; download the checkpoint again")
        file = self._home[_ORDERING]
        entry = file.entries[_ORDERING]
        if (entry.dtype, entry.shape) != ("I64", (vocab,)):
            raise ConversionError(
                f"{file.path.name}: {_ORDERING} is {entry.dtype} {list(entry.shape)}, expected I64 [{vocab}]"
            )
        order = file.file.read_array(entry.begin, vocab, np.dtype("<i8"))
        if not np.array_equal(np.sort(order), np.arange(vocab)):
            raise ConversionError(
                f"{file.path.name}: {_ORDERING} does not name every token once; download the checkpoint again"
            )
        return CentroidHead(order.astype(np.int32).reshape(clusters, -1), active)

    def _canonical(self, name: str) -> str | None:
        return _OWN[name] if name in _OWN else from_hugging_face(name)

    def _expected(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = dict(matrix_shapes(self))
        for i, layer in enumerate(self.spec.layers):
            for norm in _NORMS:
                size = layer.head_dim if norm == "q_norm" else self.spec.hidden_size
                shapes[f"layers.{i}.{norm}.weight"] = (size,)
            shapes[f"layers.{i}.scalar"] = (1,)
        shapes["norm.weight"] = (self.spec.hidden_size,)
        return shapes


@dataclass(frozen=True)
class Drafter:
    """A drafter that fits its target. `reads`: per layer the target's layer whose keys and values it reads."""

    source: AssistantSource
    reads: tuple[int, ...]
    recipe: Recipe

    def scheme(self, name: str) -> Scheme:
        """As the recipe says; but a plain head is no lookup table, so it may have any scheme."""
        if name == "embed.weight" and self.source.head is None and self.recipe.name in SCHEMES:
            return self.recipe.default
        return self.recipe.scheme(name)

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


def matrix_shapes(source: AssistantSource) -> dict[str, tuple[int, int]]:
    """Canonical name -> [out, in] of every matrix, in file order."""
    spec, backbone = source.spec, source.backbone_size
    h, inter = spec.hidden_size, spec.intermediate_size
    shapes = {"embed.weight": (spec.vocab_size, h)}
    if source.head is not None:
        shapes["centroids.weight"] = (source.head.tokens.shape[0], h)
    shapes["pre_projection.weight"] = (h, 2 * backbone)
    for i, layer in enumerate(spec.layers):
        q = spec.num_heads * layer.head_dim
        shapes[f"layers.{i}.q.weight"] = (q, h)
        shapes[f"layers.{i}.o.weight"] = (h, q)
        shapes[f"layers.{i}.gate.weight"] = (inter, h)
        shapes[f"layers.{i}.up.weight"] = (inter, h)
        shapes[f"layers.{i}.down.weight"] = (h, inter)
    shapes["post_projection.weight"] = (backbone, h)
    return shapes


def build(drafter: Drafter, context: int) -> Graph:
    """Authors the drafter's model; `context`: the cache length of the target's portable graphs."""
    source = drafter.source
    shapes = matrix_shapes(source)
    small = {name: source.tensor(name) for name in source.names() if name not in shapes}
    model = Model("drafter by tandem")
    weights: list[PlannedWeight] = [
        plan_weight(model, name, shape, drafter.scheme(name)) for name, shape in shapes.items()
    ]
    by_name = {w.name: w.weight for w in weights}
    # LiteRT-LM takes the first signature, whatever its name.
    for kind, key in ((_PortableDraft, "mtp_drafter"), (_FastDraft, "tandem_draft")):
        kind(model.subgraph(key), source.spec, by_name, small, context, 1).author_draft(drafter)
    return Graph(model, weights)


class _Draft(SignatureBuilder):
    """Authors one draft step; how it attends is up to the subclasses."""

    def author_draft(self, drafter: Drafter) -> None:
        g, backbone = self._g, drafter.source.backbone_size
        activations = g.input("activations", (1, 1, 2 * backbone))
        self._begin(drafter)
        h = self._linear(self._reshape(activations, (1, 2 * backbone)), "pre_projection")
        for i in range(len(self._spec.layers)):
            x = self._norm(h, f"layers.{i}.input_norm")
            h = self._after_attention(i, h, self._attend_target(i, x))
        h = self._norm(h, "norm")
        head = drafter.source.head
        if head is None:
            self._logits(h)
        else:
            self._centroid_logits(h, head)
        g.output("projected_activations", self._reshape(self._linear(h, "post_projection"), (1, 1, backbone)))

    def _begin(self, drafter: Drafter) -> None:
        """Declares the inputs after `activations`."""

    def _attend_target(self, i: int, x: Tensor) -> Tensor:
        """[1, H] -> [1, Hq * D]."""
        raise NotImplementedError

    def _centroid_logits(self, h: Tensor, head: CentroidHead) -> None:
        """[1, H] -> the output `logits`: those of the tokens in the active clusters, and for all others the smallest of
        them less 1."""
        g, (width, vocab) = self._g, (self._spec.hidden_size, self._spec.vocab_size)
        count = head.active * head.tokens.shape[1]
        scores = self._linear(h, "centroids")
        active = g.constant(np.array(head.active, np.int32))
        pair = (1, head.active)
        _, best = g.op_with_outputs("TOPK_V2", [scores, active], [(pair, F32), (pair, I32)], ("TopKV2Options", {}))
        best = self._reshape(best, (head.active,), I32)
        shape = (head.active, head.tokens.shape[1])
        ids = g.op("GATHER", [g.constant(head.tokens), best], shape, ("GatherOptions", {"axis": 0}), dtype=I32)
        table = g.weight(self._weights["embed.weight"])
        rows = g.op("EMBEDDING_LOOKUP", [self._reshape(ids, (count,), I32), table], (count, width), version=4)
        rows, query = self._reshape(rows, (1, count, width)), self._reshape(h, (1, 1, width))
        some = g.op("BATCH_MATMUL", [query, rows], (1, 1, count), ("BatchMatMulOptions", {"adjY": True}))
        some = self._reshape(some, (count,))
        smallest = g.op("REDUCE_MIN", [some, self._i32(0)], (1,), ("ReducerOptions", {"keepDims": True}))
        rest = self._sub(smallest, self._f32(1.0), (1,))
        # Each logit is a sum with a zero, so that the chosen ones stay what they are to the last bit.
        places = self._reshape(ids, (count, 1), I32)
        chosen = self._scatter(places, some)
        others = self._sub(self._f32(1.0), self._scatter(places, g.constant(np.ones(count, np.float32))), (vocab,))
        logits = self._add(chosen, self._mul(others, rest, (vocab,)), (vocab,))
        g.output("logits", self._reshape(logits, (1, 1, vocab)))

    def _scatter(self, places: Tensor, values: Tensor) -> Tensor:
        """[V], `values` at `places` and 0 elsewhere."""
        size = (self._spec.vocab_size,)
        return self._g.op("SCATTER_ND", [places, values, self._i32(*size)], size, ("ScatterNdOptions", {}))


class _PortableDraft(_Draft):
    """As LiteRT-LM drives it: `input_pos` is the last position with keys, one before that of the newest token."""

    def _begin(self, drafter: Drafter) -> None:
        g = self._g
        self._positions = g.input("input_pos", (1,), I32)
        self._mask = g.input("mask", (1, 1, 1, self._context))
        shapes = dict(zip(drafter.reads, self._spec.layers, strict=True))
        caches = {i: self._cache_inputs(i, shapes[i]) for i in sorted(shapes)}
        self._caches = [caches[i] for i in drafter.reads]
        # Windows end with the last key; the queries stand one further, with the newest token.
        self._measure_distances()
        self._pos = self._add(self._pos, self._f32(1.0), self._pos.shape)

    def _attend_target(self, i: int, x: Tensor) -> Tensor:
        return self._attend(i, self._spec.layers[i], x, *self._caches[i])


class _FastDraft(_Draft):
    def _attend_target(self, i: int, x: Tensor) -> Tensor:
        index: Array = np.array([i], np.int32)
        q_norm = self._factor(f"layers.{i}.q_norm", self._spec.attention_scale)
        q = self._linear(x, f"layers.{i}.q")
        return self._g.custom("tandem.attend", [q, q_norm, self._g.constant(index)], q.shape, f"attended_{i}")
