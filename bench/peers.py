"""One measurement of one runtime, in a process of its own: `python peers.py JOB.json` writes its answer to job["out"].

A job: {"peer", "model", "threads", "backend", "n_prompt", "n_gen", "n_depth", "kv_dtype", "cache", "out"}; one of
n_prompt and n_gen is 0. The answer: {"seconds", "load_seconds", "peak_rss_bytes"} for that many tokens. Every runtime
is warmed up first, by the same test or by filling the depth. All do the work of llama-bench: pseudo-random tokens,
logits for the last token of a prompt and for every generated one. Tandem also chooses its tokens (greedy), llama.cpp
is given them.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tandem_lm.memory import peak_rss_bytes

Answer = dict[str, float]
ALL_LAYERS = 999  # more than any model has


def tandem(job: dict[str, Any]) -> Answer:
    from tandem_lm.bench import BenchTest, run_tests
    from tandem_lm.cli.bench import open_bench_engine

    test = BenchTest(job["n_prompt"], job["n_gen"], job["n_depth"])
    options = (job["threads"], job["kv_dtype"], job.get("graph", "auto"), "off", job.get("backend", "cpu"))
    with open_bench_engine(job["model"], [test], *options) as engine:
        (result,) = run_tests(engine, [test], 1)
        return {"seconds": result.samples_s[0], "load_seconds": engine.info.load_seconds}


def tandem_drafting(job: dict[str, Any]) -> Answer:
    """With the bundle's drafter, at a simulated acceptance: 3 drafts a round, or the controller's choice when none is
    ever accepted."""
    from tandem_lm.bench import BenchTest, run_tests
    from tandem_lm.cli.bench import open_bench_engine
    from tandem_lm.types import SamplingParams

    test = BenchTest(job["n_prompt"], job["n_gen"], job["n_depth"])
    hopeless = not any(job["acceptance"])
    decoding = SamplingParams(
        simulate_acceptance=tuple(job["acceptance"]), draft_tokens=None if hopeless else len(job["acceptance"])
    )
    drafter = "auto" if hopeless else "on"
    with open_bench_engine(
        job["model"],
        [test],
        job["threads"],
        job["kv_dtype"],
        job.get("graph", "auto"),
        drafter,
        job.get("backend", "cpu"),
    ) as engine:
        (result,) = run_tests(engine, [test], 1, decoding=decoding)
        return {"seconds": result.samples_s[0], "load_seconds": engine.info.load_seconds}


def llama_cpp(job: dict[str, Any]) -> Answer:
    import llama_cpp as ll

    start = time.perf_counter()
    ll.llama_backend_init()
    silent = ll.llama_log_callback(lambda _level, _text, _user: None)
    ll.llama_log_set(silent, ctypes.c_void_p(0))
    model_params = ll.llama_model_default_params()
    on_gpu = job.get("backend", "cpu") != "cpu"
    if on_gpu and not ll.llama_supports_gpu_offload():
        raise RuntimeError("this llama-cpp-python was built without CUDA or Vulkan")
    model_params.n_gpu_layers = ALL_LAYERS if on_gpu else 0
    model = ll.llama_model_load_from_file(job["model"].encode(), model_params)
    if not model:
        raise RuntimeError("llama.cpp cannot load the model")
    depth, prompt, generated = job["n_depth"], job["n_prompt"], job["n_gen"]
    params = ll.llama_context_default_params()
    params.n_ctx = depth + max(prompt, generated, 1) + 1
    params.n_batch, params.n_ubatch = 2048, 512  # llama-bench's
    params.n_threads = params.n_threads_batch = job["threads"]
    params.type_k = params.type_v = {"f32": ll.GGML_TYPE_F32, "f16": ll.GGML_TYPE_F16}[job["kv_dtype"]]
    params.swa_full = False
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context")
    loaded = time.perf_counter() - start
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    random = np.random.default_rng(1)

    def decode(count: int) -> None:
        ids = (ctypes.c_int32 * count)(*random.integers(0, vocab, count).tolist())
        if ll.llama_decode(context, ll.llama_batch_get_one(ids, count)) != 0:
            raise RuntimeError(f"llama_decode of {count} tokens failed")

    def read(count: int) -> None:
        for at in range(0, count, params.n_batch):
            decode(min(params.n_batch, count - at))
        ll.llama_synchronize(context)

    def write(count: int) -> None:
        for _ in range(count):
            decode(1)
            ll.llama_synchronize(context)

    if depth:
        read(depth)
    else:
        read(prompt) if prompt else write(1)
        ll.llama_memory_clear(ll.llama_get_memory(context), True)
    begin = time.perf_counter()
    read(prompt) if prompt else write(generated)
    return {"seconds": time.perf_counter() - begin, "load_seconds": loaded}


def litert_lm(job: dict[str, Any]) -> Answer:
    """The package's own benchmark: a prompt, then decoding behind it. It cannot read a second prompt at a depth."""
    import litert_lm as lm

    if job["n_prompt"] and job["n_depth"]:
        raise RuntimeError("litert_lm's benchmark cannot read a prompt at a depth")
    lm.set_min_log_severity(lm.LogSeverity.ERROR)
    info = lm.Benchmark(
        model_path=job["model"],
        backend=lm.Backend.CPU(thread_count=job["threads"]) if job.get("backend", "cpu") == "cpu" else lm.Backend.GPU(),
        prefill_tokens=job["n_prompt"] or max(8, job["n_depth"]),
        decode_tokens=job["n_gen"] or 2,
        cache_dir=job["cache"],
    ).run()
    if job["n_prompt"]:
        count, wanted, speed = info.last_prefill_token_count, job["n_prompt"], info.last_prefill_tokens_per_second
    else:
        count, wanted, speed = info.last_decode_token_count, job["n_gen"], info.last_decode_tokens_per_second
    if abs(count - wanted) > 1 or speed <= 0:
        raise RuntimeError(f"litert_lm's benchmark ran {count} tokens instead of {wanted}")
    return {"seconds": wanted / speed, "load_seconds": info.init_time_in_second}


PEERS = {
    "Tandem": tandem,
    "Tandem, drafting": tandem_drafting,
    "Tandem, drafts rejected": tandem_drafting,
    "llama.cpp": llama_cpp,
    "LiteRT-LM": litert_lm,
}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    answer = PEERS[job["peer"]](job)
    answer["peak_rss_bytes"] = peak_rss_bytes()
    Path(job["out"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
