"""The Python API: engine, session, generation, parameters, errors; everything that is refused is refused clearly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tandem_lm as tl
from tandem_lm import errors, library
from tandem_lm._interrupt import interruptible

TEXT = "the quick brown fox jumps over the lazy dog"
FREE = tl.SamplingParams(max_tokens=6, stop_ids=())  # greedy, and nothing but its length ends it


@pytest.fixture(scope="module")
def engine(tiny_gemma4: Path) -> Iterator[tl.Engine]:
    with tl.Engine(tiny_gemma4, num_threads=1) as engine:
        yield engine


@pytest.fixture
def session(engine: tl.Engine) -> Iterator[tl.Session]:
    with engine.session() as session:
        yield session


def greedy(session: tl.Session, params: tl.SamplingParams = FREE) -> list[int]:
    return [token.id for token in session.generate(params)]


# ------------------------------------------------------------------------------------------------ what it does
def test_info(engine: tl.Engine, tiny_gemma3: Path) -> None:
    info = engine.info
    assert info.family == "gemma4_unified"
    assert (info.vocab_size, info.max_context, info.quantization) == (512, 128, "f32")
    assert info.bos_id == 2 and info.eos_ids[0] == 1 and info.chat_template
    assert info.suppress_ids and not info.has_drafter and info.modalities == ("text", "image", "audio", "video")
    with pytest.raises(FrozenInstanceError):
        info.layers = 3  # type: ignore[misc]
    with tl.Engine(tiny_gemma3, num_threads=1, max_context=32) as other:
        assert other.info.modalities == ("text",)
        assert other.info.family == "gemma3_text" and other.info.max_context == 32 and other.info.num_threads == 1


def test_tokenizer(engine: tl.Engine) -> None:
    ids = engine.tokenizer.encode(TEXT)
    assert engine.tokenizer.decode(ids) == TEXT
    assert engine.tokenizer.encode(TEXT, add_bos=True) == [2, *ids]
    assert engine.tokenizer.encode("<bos>", parse_special=True) == [2]
    assert 2 not in engine.tokenizer.encode("<bos>")
    assert engine.tokenizer.decode(engine.tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert engine.tokenizer.decode(engine.tokenizer.encode("a\0b")) == "a\0b"


def test_prefill_logits_generate(session: tl.Session, engine: tl.Engine) -> None:
    ids = engine.tokenizer.encode(TEXT, add_bos=True)
    session.prefill(ids[:-1])
    assert session.position == len(ids) - 1
    logits = session.logits(ids[-1:])
    assert logits.shape == (1, engine.info.vocab_size) and logits.dtype == np.float32
    assert session.position == len(ids) and session.tokens == tuple(ids)
    allowed = np.delete(logits[0], list(engine.info.suppress_ids))
    tokens = list(session.generate(FREE))
    assert logits[0, tokens[0].id] == allowed.max()
    assert session.position == len(ids) + 6 and session.tokens == (*ids, *(t.id for t in tokens))


def test_rewind_gives_the_same_again(session: tl.Session) -> None:
    session.prefill([2, 30, 31, 32])
    first = greedy(session)
    session.rewind(4)
    assert session.position == 4
    assert greedy(session) == first
    session.rewind(0)
    session.prefill([2, 30])
    session.prefill([31, 32])
    assert greedy(session) == first


def test_parts_are_text_and_ids(session: tl.Session, engine: tl.Engine) -> None:
    session.prefill([2, "the <bos>", np.int64(30)])
    assert session.tokens == (2, *engine.tokenizer.encode("the <bos>"), 30)
    session.rewind(0)
    session.prefill("fox")
    assert session.tokens == tuple(engine.tokenizer.encode("fox"))


def test_text_of_the_tokens_is_the_text(session: tl.Session, engine: tl.Engine) -> None:
    special = (*range(17), *range(505, 512))
    session.prefill([2, TEXT])
    tokens = list(session.generate(tl.SamplingParams(max_tokens=40, stop_ids=(), suppress_ids=special)))
    assert len(tokens) == 40 and not {t.id for t in tokens} & set(special)
    assert "".join(t.text for t in tokens) == engine.tokenizer.decode([t.id for t in tokens])


def test_finish_reasons(session: tl.Session, engine: tl.Engine) -> None:
    session.prefill([2, 30, 31])
    generation = session.generate(FREE)
    ids = [token.id for token in generation]
    assert generation.finish_reason == "length"
    session.rewind(3)
    generation = session.generate(tl.SamplingParams(max_tokens=50, stop_ids=(ids[2],)))
    stopped = [token.id for token in generation]
    assert generation.finish_reason == "stop" and stopped == ids[: ids.index(ids[2]) + 1]
    session.rewind(3)
    generation = session.generate(tl.SamplingParams(max_tokens=1000, stop_ids=()))
    assert len(list(generation)) == engine.info.max_context - 3
    assert generation.finish_reason == "context" and session.position == engine.info.max_context


def test_generation_is_closable(session: tl.Session) -> None:
    session.prefill([2, 30, 31])
    whole = greedy(session)
    session.rewind(3)
    with session.generate(FREE) as generation:
        assert next(generation).id == whole[0]
    assert generation.finish_reason == "cancelled" and list(generation) == []
    assert session.position == 4
    for token in session.generate(FREE):
        assert token.id == whole[1]
        break
    session.rewind(3)  # ends the generation that was left
    assert greedy(session) == whole


def test_cancel_from_another_thread(session: tl.Session) -> None:
    session.prefill([2, 30, 31])
    generation = session.generate(tl.SamplingParams(max_tokens=1000, stop_ids=()))
    next(generation)
    thread = threading.Thread(target=session.cancel)
    thread.start()
    thread.join()
    assert list(generation) == [] and generation.finish_reason == "cancelled"
    assert len(greedy(session)) == 6  # usable again


def test_stats(session: tl.Session) -> None:
    session.prefill([2, 30, 31])
    greedy(session)
    stats = session.stats()
    assert stats.prefill_tokens == 3 and stats.decode_tokens == 6
    assert stats.decode_seconds > 0 and stats.decode_tokens_per_second > 0
    assert 0 <= stats.accepted <= stats.drafted and sum(stats.accepted_by_position) == stats.accepted


def test_sampling_repeats_with_its_seed(session: tl.Session) -> None:
    session.prefill([2, 30, 31])
    runs = []
    for seed in (7, 7, 8):  # the temperature is high because a random model is very sure of itself
        session.rewind(3)
        params = tl.SamplingParams(temperature=50.0, seed=seed, max_tokens=20, stop_ids=())
        runs.append(greedy(session, params))
    assert runs[0] == runs[1] != runs[2]


def test_sessions_do_not_mix(engine: tl.Engine) -> None:
    with engine.session() as a, engine.session() as b:
        a.prefill([2, 30, 31])
        alone = greedy(a)
        a.rewind(3)
        b.prefill([2, 99, 98, 97])
        mixed = []
        for left, _ in zip(a.generate(FREE), b.generate(FREE), strict=True):
            mixed.append(left.id)
        assert mixed == alone


def test_perplexity_is_what_the_logits_say(engine: tl.Engine, session: tl.Session) -> None:
    text = TEXT * 8
    ids = [2, *engine.tokenizer.encode(text)]
    n = 32
    result = tl.measure_perplexity(engine, text, context=n)
    losses: list[float] = []
    for start in range(0, len(ids) - n + 1, n):
        window = [2, *ids[start + 1 : start + n]]
        session.rewind(0)
        rows = session.logits(window).astype(np.float64)
        wide = rows - rows.max(-1, keepdims=True)
        logs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
        losses += [-logs[i, window[i + 1]] for i in range(n // 2, n - 1)]
    assert result.windows >= 2 and result.tokens == len(losses)
    assert result.nll == pytest.approx(np.mean(losses), rel=1e-4)
    spread = np.std(losses, ddof=1) / len(losses) ** 0.5
    assert result.standard_error == pytest.approx(result.perplexity * spread, rel=1e-3)
    assert tl.measure_perplexity(engine, text, context=n, score="all").tokens == (n - 1) * result.windows


# ------------------------------------------------------------------------------------------------ what it refuses
@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "1"},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"presence_penalty": float("inf")},
        {"seed": -1},
        {"stop_strings": "end"},
        {"stop_strings": ["a", ""]},
        {"stop_strings": [1]},
        {"stop_ids": 5},
        {"suppress_ids": ["x"]},
    ],
)
def test_bad_sampling_params(values: dict[str, Any]) -> None:
    with pytest.raises(tl.InvalidRequestError, match=next(iter(values))):
        tl.SamplingParams(**values)


def test_sampling_params_are_greedy_and_frozen() -> None:
    params = tl.SamplingParams(stop_strings=["a"])  # type: ignore[arg-type]
    assert params.temperature == 0 and params.stop_strings == ("a",)
    with pytest.raises(FrozenInstanceError):
        params.top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "npu"},
        {"fallback": "gpu"},
        {"kv_dtype": "q3"},
        {"graph": "slow"},
        {"drafter": "yes"},
        {"num_threads": 0},
        {"max_context": 0},
        {"max_context": 10_000},
    ],
)
def test_options_that_cannot_be_honoured(tiny_gemma4: Path, options: dict[str, Any]) -> None:
    with pytest.raises(tl.InvalidRequestError, match=next(iter(options))):
        tl.Engine(tiny_gemma4, **options)


def test_verbs_of_later_versions(engine: tl.Engine) -> None:
    for call in (
        lambda: engine.conversation(tools=[print]),
        lambda: engine.conversation(thinking=True),
    ):
        with pytest.raises(tl.InvalidRequestError, match="not supported by this version"):
            call()


@pytest.mark.parametrize("prompt", [[], "", [""], [-1], [512], [2, None], [1.0], [True], b"abc"])
def test_bad_prompts(session: tl.Session, prompt: Any) -> None:
    session.prefill([2, 30])
    for verb in (session.prefill, session.logits):
        with pytest.raises(tl.InvalidRequestError):
            verb(prompt)
    assert session.tokens == (2, 30) and session.position == 2


def test_prompt_longer_than_the_context(session: tl.Session, engine: tl.Engine) -> None:
    session.prefill([2, 30])
    for verb in (session.prefill, session.logits):
        for prompt in ([30] * (engine.info.max_context - 1), "a" * 4_000_000):
            with pytest.raises(tl.ContextLengthError):
                verb(prompt)
    assert session.tokens == (2, 30) and session.position == 2
    session.prefill([30] * (engine.info.max_context - 2))  # what just fits, fits


def test_bad_calls(session: tl.Session, engine: tl.Engine) -> None:
    with pytest.raises(tl.InvalidRequestError, match="empty"):
        session.generate(FREE)
    session.prefill([2, 30])
    for position in (-1, 3, 1.0):
        with pytest.raises(tl.InvalidRequestError, match="position"):
            session.rewind(position)  # type: ignore[arg-type]
    for field in ("stop_ids", "suppress_ids"):
        with pytest.raises(tl.InvalidRequestError, match=field):
            session.generate(tl.SamplingParams(**{field: (512,)}))  # type: ignore[arg-type]
    with pytest.raises(tl.InvalidRequestError):
        engine.tokenizer.decode([-1])
    with pytest.raises(tl.InvalidRequestError):
        engine.tokenizer.encode(b"x")  # type: ignore[arg-type]
    assert session.position == 2


def test_closed_things_say_so(tiny_gemma4: Path) -> None:
    engine = tl.Engine(tiny_gemma4, num_threads=1)
    session = engine.session()
    engine.close()
    session.prefill([2, 30])  # an open session outlives the engine's handle
    assert len(greedy(session)) == 6
    with pytest.raises(tl.InvalidRequestError, match="closed"):
        engine.session()
    session.close()
    session.close()
    with pytest.raises(tl.InvalidRequestError, match="closed"):
        session.prefill([2])


def test_files_that_are_no_bundles(tmp_path: Path) -> None:
    junk = tmp_path / "junk.litertlm"
    junk.write_bytes(b"\0" * 100_000)
    empty = tmp_path / "empty.litertlm"
    empty.touch()
    for path in (junk, empty, tmp_path, tmp_path / "missing.litertlm"):
        with pytest.raises(tl.BundleError, match=path.name):
            tl.Engine(path)


def test_cache_folder_that_cannot_be_written(
    tiny_gemma4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(tl.FileError, match="cache folder"):
        tl.Engine(tiny_gemma4, cache_dir=blocked / "sub")
    monkeypatch.delenv("TANDEM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert library.engine_cache_dir(None) == ""
    with tl.Engine(tiny_gemma4, num_threads=1) as engine, engine.session() as session:  # caches in memory
        session.prefill([2, 30])
        assert len(greedy(session)) == 6


def test_cache_folder_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path / "named"))
    assert library.writable_cache_dir() == tmp_path / "named"
    monkeypatch.delenv("TANDEM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.default_cache_dir() == tmp_path / "tandem"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert library.default_cache_dir() == tmp_path / ".cache" / "tandem"


def test_litert_is_found_and_its_version_checked() -> None:
    assert library.litert_library().name == "libLiteRt.so"
    for version in ("2.3.0", "2.3.7"):
        library.check_version(version)
    for version in ("2.2.9", "2.4.0", "3.0", "1", "unknown"):
        with pytest.raises(tl.BackendError, match="pip install"):
            library.check_version(version)


# ------------------------------------------------------------------------------------------------ errors, interrupts
def test_native_codes_become_classes() -> None:
    native = type("NativeError", (Exception,), {"__module__": "tandem_lm._native"})
    classes = [
        tl.InvalidRequestError,
        tl.BundleError,
        tl.ContextLengthError,
        tl.OutOfMemoryError,
        tl.BackendError,
        tl.Cancelled,
        tl.FileError,
        tl.TandemError,
    ]
    for code, kind in enumerate(classes, start=1):
        with pytest.raises(tl.TandemError, match=r"^why$") as caught, errors.translated():
            raise native(code, "why")
        assert type(caught.value) is kind
    with pytest.raises(KeyError), errors.translated():
        raise KeyError("not ours")


def test_conversion_errors_are_this_packages() -> None:
    from tandem_converter.errors import ConversionError

    with pytest.raises(tl.ConversionError, match=r"^why$") as caught, errors.translated():
        raise ConversionError("why")
    assert isinstance(caught.value, tl.TandemError)


def test_ctrl_c_cancels_a_native_call() -> None:
    started, cancelled = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        assert cancelled.wait(20)

    def interrupt() -> None:
        started.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(call, cancelled.set)
    assert cancelled.is_set()
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, cancelled.set)
    assert interruptible(lambda: 5, cancelled.set) == 5
