"""The embedder: the model's embedding as a model of its own, over the same bytes, for runtimes that want rows of it.

LiteRT-LM's drafting loop looks tokens up here. The section lies inside the main model's section, between its flatbuffer
and its first weight, the embedding table, and ends where the table ends: it costs a flatbuffer with the table's scales,
not a second table. One signature:
  embedder  token_ids int32 [1,1] -> embeddings [1,1,H], scaled
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .bundle import BLOCK
from .family import ModelSpec
from .graph import Graph, SignatureBuilder
from .tflite import Model, Weight, align

MODEL_TYPE = "tf_lite_embedder"
_TABLE = "embed.weight"


@dataclass(frozen=True)
class Embedder:
    """The embedder's model and its place: `size` bytes at `offset` of the main model, the shared table at their end."""

    model: Model
    weight: Weight
    offset: int
    size: int

    def serialize(self, table: Weight) -> bytes:
        """The flatbuffer, with the scales of the main model's table."""
        self.weight.scales = table.scales
        flatbuffer = self.model.serialize()
        room = self.model.buffers[self.weight.buffer].offset
        if len(flatbuffer) > room:
            raise AssertionError(f"the embedder grew to {len(flatbuffer)} bytes; its table begins at {room}")
        return flatbuffer


def lay_out(main: Graph, spec: ModelSpec) -> tuple[Embedder, int]:
    """Lays the main model out with an embedder in it; returns the embedder and the main model's length."""
    table = main.weights[0].weight
    if table.name != _TABLE:
        raise AssertionError(f"the first weight is {table.name}, not {_TABLE}")
    model = Model("embedder by tandem")
    own = dataclasses.replace(table, buffer=model.external(main.model.buffers[table.buffer].size), scales=None)
    SignatureBuilder(model.subgraph("embedder"), spec, {_TABLE: own}, {}, 0, 1).author_lookup("token_ids")
    size, _ = model.layout()
    end, total = main.model.layout(size, BLOCK)
    offset = align(end, BLOCK)
    place = model.buffers[own.buffer]
    place.offset = main.model.buffers[table.buffer].offset - offset
    return Embedder(model, own, offset, place.offset + place.size), total
