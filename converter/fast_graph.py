"""The fast graphs, for Tandem's own runtime: the same layers over the same weights, attention an operator of the host.

Five stages, each a signature per number of rows:
  tandem_embed_T  tokens int32 [1,T]    -> embeddings [1,T,H], scaled
  tandem_body_T   embeddings [1,T,H]    -> hidden [1,T,H] after the final norm
  tandem_fill_T   embeddings [1,T,H]    -> attended [1,T,Hq*D]: for the cache only, the last layer ends at attention
  tandem_block_T  as fill: for an image that needs more rows at once than any fill has
  tandem_head_T   hidden [1,T,H]        -> logits [1,T,V]

`tandem.attention` takes the raw projections q [T,Hq*D], k and v [T,Hkv*D], the factors of the q and k norms [D] (the
attention scale is part of the first) and the layer's index; it norms, rotates, appends to the session's cache, attends.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .family import ModelSpec
from .graph import SignatureBuilder
from .tflite import Array, Model, Tensor, Weight

EMBED_ROWS = (1, 32, 512)  # padding a lookup is cheap
BODY_ROWS = (1, 2, 3, 4, 5, 8, 16, 32)  # steps whose logits are wanted: decode, verify, scoring
FILL_ROWS = (8, 16, 32, 64, 128, 256, 512)  # prefill
HEAD_ROWS = BODY_ROWS


def author(
    model: Model, spec: ModelSpec, weights: Mapping[str, Weight], small: Mapping[str, Array], block_rows: int = 0
) -> None:
    """Adds all fast signatures to the model. `block_rows`: soft tokens of the largest image, 0 = there are none."""
    blocks = (block_rows,) if block_rows else ()
    stages = {"embed": EMBED_ROWS, "body": BODY_ROWS, "fill": FILL_ROWS, "head": HEAD_ROWS, "block": blocks}
    for stage, sizes in stages.items():
        for rows in sizes:
            builder = _FastSignature(model.subgraph(f"tandem_{stage}_{rows}"), spec, weights, small, 0, rows)
            builder.author_stage(stage)


class _FastSignature(SignatureBuilder):
    """Authors one stage for a fixed number of rows."""

    def author_stage(self, stage: str) -> None:
        g, spec, t = self._g, self._spec, self._t
        shape = (1, t, spec.hidden_size)
        if stage == "embed":
            self.author_lookup("tokens")
        elif stage == "head":
            self._logits(self._reshape(g.input("hidden", shape), shape[1:]))
        else:
            h = self._reshape(g.input("embeddings", shape), shape[1:])
            last = len(spec.layers) - 1
            for i in range(len(spec.layers)):
                attended = self._attention(i, h)
                if stage in ("fill", "block") and i == last:
                    g.output("attended", self._reshape(attended, (1, *attended.shape)))
                    return
                h = self._after_attention(i, h, attended)
            g.output("hidden", self._reshape(self._norm(h, "norm"), shape))

    def _attention(self, i: int, h: Tensor) -> Tensor:
        layer = self._spec.layers[i]
        x = self._norm(h, f"layers.{i}.input_norm")
        k = self._linear(x, f"layers.{i}.k")
        inputs = [
            self._linear(x, f"layers.{i}.q"),
            k,
            k if layer.k_eq_v else self._linear(x, f"layers.{i}.v"),
            self._factor(f"layers.{i}.q_norm", self._spec.attention_scale),
            self._factor(f"layers.{i}.k_norm"),
            self._g.constant(np.array([i], np.int32)),
        ]
        return self._g.custom("tandem.attention", inputs, inputs[0].shape, f"attended_{i}")
