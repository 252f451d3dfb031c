"""Time and memory of calibrating one layer of a large model, on random weights of its shape.

    python bench/calibration.py --tokens 16384 --quant int4-channel

The layers of Gemma 4 12B: hidden 3840, feedforward 15360, 16 heads; 40 sliding layers (head 256, 8 KV heads) and 8 full
ones (head 512, 1 KV head, K = V). Random weights cost what trained ones do. Prints the seconds of the layer, those of
all 48, and the process's peak memory; the residual stream is on disk and its pages in memory are the system's to take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from tandem_converter.calibrate.sequential import Calibration
from tandem_converter.calibrate.state import State
from tandem_converter.calibrate.text import TOKENS, WINDOW
from tandem_converter.family import Layer, ModelSpec, Rope
from tandem_converter.quantize import Scheme

LAYERS = {
    "sliding": (Layer(256, 8, 1024, Rope(1e4, 1.0, 128), False), 40),
    "full": (Layer(512, 1, 0, Rope(1e6, 1.0, 64), True), 8),
}
HIDDEN, FEEDFORWARD, HEADS, VOCAB = 3840, 15360, 16, 4096  # the vocabulary plays no part in a layer


def spec_of(layer: Layer) -> ModelSpec:
    return ModelSpec(
        family="gemma4_unified", vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FEEDFORWARD, num_heads=HEADS,
        layers=(layer,), rms_norm_eps=1e-6, norm_offset=0.0, attention_scale=1.0, v_norm=True, layer_scalar=True,
        final_softcap=30.0, embed_scale=HIDDEN**0.5, max_context=4096, bos_id=2, eos_ids=(1,), pad_id=0,
    )  # fmt: skip


class RandomLayer:
    """A source of one layer: every tensor made anew when it is read, the same each time."""

    dtype, fingerprint, tokenizer_json, chat_template = "float32", "random", b"", None

    def __init__(self, layer: Layer) -> None:
        self.spec = spec_of(layer)
        d = layer.head_dim
        rows = {"q": HEADS * d, "k": layer.kv_heads * d, "gate": FEEDFORWARD, "up": FEEDFORWARD}
        if not layer.k_eq_v:
            rows["v"] = layer.kv_heads * d
        shapes: dict[str, tuple[int, ...]] = {f"{part}.weight": (size, HIDDEN) for part, size in rows.items()}
        shapes |= {"o.weight": (HIDDEN, HEADS * d), "down.weight": (HIDDEN, FEEDFORWARD), "scalar": (1,)}
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[f"{norm}_norm.weight"] = (HIDDEN,)
        shapes |= {"q_norm.weight": (d,), "k_norm.weight": (d,)}
        self._shapes = {f"layers.0.{name}": shape for name, shape in shapes.items()} | {"embed.weight": (VOCAB, HIDDEN)}

    def names(self) -> list[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def tensor(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
        values *= np.float32(shape[1] ** -0.5)
        return values

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        rng = np.random.default_rng(start)  # of the table only, a row at a time
        return rng.standard_normal((stop - start, self._shapes[name][1]), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--quant", default="int4-channel", help="a scheme (default: %(default)s)")
    parser.add_argument("--layer", choices=tuple(LAYERS), default="sliding")
    parser.add_argument("--folder", type=Path, help="where the stream is spilled (default: the system's temporary one)")
    args = parser.parse_args()
    layer, count = LAYERS[args.layer]
    windows = np.random.default_rng(0).integers(0, VOCAB, (max(1, args.tokens // WINDOW), WINDOW)).tolist()
    scheme = Scheme.parse(args.quant)

    began, times = time.perf_counter(), dict[str, float]()

    def progress(done: int, total: int, name: str) -> None:  # noqa: ARG001
        times[name or "end"] = round(time.perf_counter() - began, 1)

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        state = State(Path(folder) / "state", "layer")
        Calibration(RandomLayer(layer), lambda _: scheme, windows, state, progress).run()
    seconds = time.perf_counter() - began
    facts = {
        "layer": args.layer,
        "quant": args.quant,
        "tokens": len(windows) * WINDOW,
        "threads": os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count()),
        "load_average": os.getloadavg()[0],
        "reached_at_s": times,
        "layer_s": round(seconds, 1),
        "layer_cpu_s": round(time.process_time(), 1),
        f"hours_for_{count}_such_layers": round(seconds * count / 3600, 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
