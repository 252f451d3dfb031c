"""Speculative decoding: the same tokens with and without drafts, and the drafter against the numpy reference."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from checkpoints import write_assistant, write_gemma3, write_gemma4
from sequences import media_prompt
from test_graph import load

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_converter.errors import ConversionError
from tandem_converter.recipe import Recipe

CONTEXT = 192
WINDOW = 8
# What makes a tiny model's text go on without repeating itself, so that drafts are rejected as well as accepted.
STYLES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "greedy, penalties": {"temperature": 0.0, "presence_penalty": 4.0, "repetition_penalty": 1.1},
    "greedy, frequency": {"temperature": 0.0, "frequency_penalty": 1.5, "suppress_ids": (7, 8)},
    "sampled": {"temperature": 4.0},
    "sampled, filters": {"temperature": 6.0, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "presence_penalty": 2.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speculation")
    write_gemma4(path / "target")
    write_assistant(path / "assistant", seed=5)
    write_gemma3(path / "gemma3")
    return path


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Path]:
    """With a drafter ("f32", "int8", "int4-channel") and without ("gemma3")."""
    made = {}
    for quant in ("f32", "int8", "int4-channel"):
        made[quant] = folder / f"{quant}.litertlm"
        convert(folder / "target", made[quant], quant=quant, context=CONTEXT, drafter=folder / "assistant")
    made["gemma3"] = folder / "gemma3.litertlm"
    convert(folder / "gemma3", made["gemma3"], quant="int8", context=CONTEXT)
    return made


def prompts(count: int, vocab: int, seed: int = 1) -> list[list[int]]:
    """Random ids, every third prompt one that repeats itself."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        ids = rng.integers(0, vocab - 16, int(rng.integers(2, 50))).tolist()
        out.append(ids + ids[: max(2, len(ids) // 2)] if i % 3 == 0 else ids)
    return out


def tokens(engine: tl.Engine, prompt: list[Any], **params: Any) -> tuple[list[tl.Token], tl.Stats]:
    session = engine.session()
    session.prefill(prompt)
    return list(session.generate(tl.SamplingParams(**{"stop_ids": (), "seed": 3, **params}))), session.stats()


def plain(found: list[tl.Token]) -> list[tuple[int, str, float]]:
    return [(t.id, t.text, t.logprob) for t in found]  # equal to the last bit


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["f32", "int8", "int4-channel", "gemma3"])
def test_tokens_are_the_same_with_and_without_drafts(bundles: dict[str, Path], name: str, threads: int) -> None:
    engine = tl.Engine(bundles[name], num_threads=threads)
    accepted = drafted = 0
    for i, prompt in enumerate(prompts(10, engine.info.vocab_size)):
        for j, style in enumerate(STYLES.values()):
            common = {**style, "max_tokens": 40, "logprobs": True}
            expected, _ = tokens(engine, prompt, drafter="off", **common)
            depth = 1 + (i + j) % 5
            found, stats = tokens(engine, prompt, draft_tokens=depth, **common)
            assert plain(found) == plain(expected), f"prompt {i}, {depth} drafts"
            assert [t.from_draft for t in found].count(True) == stats.accepted
            assert sum(stats.accepted_by_position) == stats.accepted <= stats.drafted <= depth * stats.verify_steps
            accepted, drafted = accepted + stats.accepted, drafted + stats.drafted
            for drafter in ("auto", "on"):
                found, stats = tokens(engine, prompt, drafter=drafter, **common)
                assert plain(found) == plain(expected)
                accepted, drafted = accepted + stats.accepted, drafted + stats.drafted
    assert 0 < accepted < drafted  # both ways out of a round were taken


def test_tokens_are_the_same_behind_media(bundles: dict[str, Path]) -> None:
    engine = tl.Engine(bundles["int8"], num_threads=1)
    accepted = drafted = 0
    for i in range(6):
        prompt = [*media_prompt(i), *[5, 6, 7, 8] * 4]
        common = {**list(STYLES.values())[i % 3], "max_tokens": 40, "logprobs": True}
        expected, _ = tokens(engine, prompt, drafter="off", **common)
        for wish in ({"drafter": "on"}, {"draft_tokens": 1 + i % 5}):
            found, stats = tokens(engine, prompt, **wish, **common)
            assert plain(found) == plain(expected), f"prompt {i}, {wish}"
            accepted, drafted = accepted + stats.accepted, drafted + stats.drafted
    assert 0 < accepted < drafted


@pytest.mark.parametrize("name", ["f32", "int8", "gemma3"])
def test_same_tokens_after_a_rewind(bundles: dict[str, Path], name: str) -> None:
    engine = tl.Engine(bundles[name])
    style: dict[str, Any] = {"presence_penalty": 4.0, "stop_ids": ()}
    for prompt in prompts(6, engine.info.vocab_size, seed=2):
        for back in (1, 2, 5, 20):
            found = []
            for depth in (None, 4):
                params = {"draft_tokens": depth} if depth else {"drafter": "off"}
                session = engine.session()
                session.prefill(prompt)
                run = session.generate(tl.SamplingParams(max_tokens=23, **style, **params))
                first = [next(run).id for _ in range(21)]  # leaves in the middle of a round
                session.rewind(session.position - back)
                second = [t.id for t in session.generate(tl.SamplingParams(max_tokens=9, **style, **params))]
                session.prefill([11])
                third = [t.id for t in session.generate(tl.SamplingParams(max_tokens=9, **style, **params))]
                found.append((first, second, third))
            assert found[0] == found[1], f"back {back}"


def test_limits_hold_inside_a_round(bundles: dict[str, Path]) -> None:
    engine = tl.Engine(bundles["gemma3"])
    prompt = [5, 6, 7, 8] * 4
    for limit in range(1, 9):
        found, stats = tokens(engine, prompt, max_tokens=limit, draft_tokens=5)
        assert len(found) == limit
        assert len(stats.depths) <= limit  # drafts that could not be used are not made
    expected, _ = tokens(engine, prompt, max_tokens=30, drafter="off")
    stop = expected[12].id
    for drafter in ("off", "on"):
        session = engine.session()
        session.prefill(prompt)
        run = session.generate(tl.SamplingParams(stop_ids=(stop,), drafter=drafter, draft_tokens=None))
        found = list(run)
        assert run.finish_reason == "stop" and found[-1].id == stop
        assert [t.id for t in found] == [t.id for t in expected[: len(found)]]
        assert session.position == len(prompt) + len(found)
    full = engine.session()
    full.prefill(prompts(1, engine.info.vocab_size)[0])
    run = full.generate(tl.SamplingParams(max_tokens=1000, stop_ids=(), draft_tokens=5))
    assert len(list(run)) and run.finish_reason == "context" and full.position == engine.info.max_context


def expected_drafts(folder: Path, recipe: Recipe | None, ids: list[int], count: int) -> list[int]:
    """The reference's chain after `ids`, of which the last is not in the cache yet; the clean window rule."""
    weights, config = load(folder / "target", recipe)
    assistant, own = load_assistant(folder / "assistant")
    inputs = reference.embed(weights, config, np.array(ids[:-1]))
    hidden, shared, _ = reference.text_forward(weights, config, inputs, return_all=True)
    shared[reference.SLIDING] = tuple(x[-WINDOW:] for x in shared[reference.SLIDING])

    def embedded(token: int) -> np.ndarray:
        row: np.ndarray = reference.embed(weights, config, np.array([token]))[0]
        return row

    drafts, _ = reference.draft_chain(assistant, own, embedded, ids[-1], hidden[-1], len(ids) - 1, shared, count)
    return [int(d) for d in drafts]


def load_assistant(folder: Path) -> tuple[dict[str, np.ndarray], reference.TextConfig]:
    config = json.loads((folder / "config.json").read_text())
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + at for at in entry["data_offsets"])
            weights[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights, reference.TextConfig.from_hf(config["text_config"])


@pytest.mark.parametrize("threads", [1, 2])
def test_drafts_equal_the_reference(folder: Path, bundles: dict[str, Path], threads: int) -> None:
    engine = tl.Engine(bundles["f32"], kv_dtype="f32", num_threads=threads)
    right = total = 0
    for prompt in prompts(8, engine.info.vocab_size, seed=4):
        session = engine.session()
        session.prefill(prompt)
        assert session._native.draft(4) == []  # no step has left a hidden state yet
        params = tl.SamplingParams(max_tokens=30, presence_penalty=4.0, stop_ids=(), draft_tokens=3)
        for i, _ in enumerate(session.generate(params)):
            if i % 7 == 6:
                continue
            got = session._native.draft(4)
            if not got:  # in the middle of a round the last token is in the cache already
                continue
            want = expected_drafts(folder, None, list(session.tokens), 4)
            right, total = right + sum(a == b for a, b in zip(got, want, strict=True)), total + 4
    assert total > 100
    assert right == total


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["f32", "int8", "int4-channel"])
def test_a_hundred_prompts(bundles: dict[str, Path], name: str, threads: int) -> None:
    """Every style, every depth, across the window's edge, behind media: 100 prompts of 64 tokens."""
    engine = tl.Engine(bundles[name], num_threads=threads)
    for i, ids in enumerate(prompts(100, engine.info.vocab_size, seed=9)):
        prompt: list[Any] = [*media_prompt(i), *ids[:20]] if i % 3 == 2 else list(ids)
        style = list(STYLES.values())[i % len(STYLES)] if i % 2 else STYLES["greedy"]
        expected, _ = tokens(engine, prompt, drafter="off", max_tokens=64, logprobs=True, **style)
        for depth in range(1, 6):
            found, _ = tokens(engine, prompt, draft_tokens=depth, max_tokens=64, logprobs=True, **style)
            assert plain(found) == plain(expected), f"prompt {i}, {depth} drafts"


def chance_of_more(chi: float, freedom: int) -> float:
    """The chance that a chi-square variable exceeds `chi` (Wilson and Hilferty's approximation)."""
    variance = 2 / (9 * freedom)
    z = ((chi / freedom) ** (1 / 3) - (1 - variance)) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def continuations(
    engine: tl.Engine, temperature: float, draws: int, first_seed: int, drafter: str
) -> tuple[Counter[Any], tl.Stats]:
    """How often the prompt goes on with which three tokens."""
    prompt = [7, 7, 7, 7]  # repeats itself: there is something to look up
    session = engine.session()
    session.prefill(prompt)
    counts: Counter[Any] = Counter()
    for seed in range(first_seed, first_seed + draws):
        session.rewind(len(prompt))
        params = tl.SamplingParams(
            temperature=temperature, top_k=5, max_tokens=3, seed=seed, stop_ids=(), drafter=drafter,
            draft_tokens=2 if drafter == "on" else None,
        )  # fmt: skip
        counts[tuple(t.id for t in session.generate(params))] += 1
    return counts, session.stats()


@pytest.mark.parametrize(("name", "temperature"), [("f32", 6.0), ("gemma3", 20.0)])  # the drafter's, looked up
@pytest.mark.parametrize("draws", [1500, pytest.param(20000, marks=pytest.mark.slow)])
def test_sampled_text_has_the_same_distribution(
    bundles: dict[str, Path], name: str, temperature: float, draws: int
) -> None:
    """Chi-square of three tokens together, drafts on against drafts off, over independent seeds."""
    engine = tl.Engine(bundles[name])
    off, _ = continuations(engine, temperature, draws, 10**6, "off")
    on, stats = continuations(engine, temperature, draws, 0, "on")
    assert 0 < stats.accepted < stats.drafted
    both = [(off[k], on[k]) for k in set(off) | set(on)]
    common = [pair for pair in both if sum(pair) >= 10]
    rest = [sum(p[i] for p in both if sum(p) < 10) for i in (0, 1)]
    if sum(rest):
        common.append((rest[0], rest[1]))
    chi = sum((a - b) ** 2 / (a + b) for a, b in common)
    assert len(common) > 5
    assert chance_of_more(chi, len(common) - 1) > 0.01


def test_a_drafter_takes_no_cache_of_its_own(bundles: dict[str, Path]) -> None:
    sizes = set()
    for drafter in ("off", "on"):
        engine = tl.Engine(bundles["f32"], drafter=drafter)
        session = engine.session()
        session.prefill([5, 6, 7, 8, 9])
        before = session.cache_bytes
        drafted = tokens(engine, [5, 6, 7], max_tokens=20)[1].drafted
        list(session.generate(tl.SamplingParams(max_tokens=20, stop_ids=())))
        assert (drafted > 0) == (drafter == "on")
        sizes |= {before, session.cache_bytes, engine.session().cache_bytes, engine.info.memory["cache"]}
    assert len(sizes) == 1


def test_the_engine_sums_up_its_sessions(bundles: dict[str, Path]) -> None:
    engine = tl.Engine(bundles["f32"], drafter="on")
    total = tl.Stats()
    for prompt in prompts(4, engine.info.vocab_size):
        total += tokens(engine, prompt, max_tokens=15)[1]
    found = engine.stats()
    assert replace(found, steps=0, step_rows=0, batch_sizes=()) == pytest.approx(total)
    assert found.steps == sum(total.depths) and found.step_rows == found.steps + total.drafted
    assert found.batch_sizes == (0, found.steps)  # never two at once
    assert total.drafted and total.decode_tokens == 60


@pytest.mark.parametrize("chances", [(1.0, 1.0, 1.0), (1.0, 0.0), (0.0,), (0.85, 0.75, 0.65)])
def test_simulated_acceptance(bundles: dict[str, Path], chances: tuple[float, ...]) -> None:
    engine = tl.Engine(bundles["f32"])
    found, stats = tokens(engine, [5, 6, 7], max_tokens=100, draft_tokens=3, simulate_acceptance=chances)
    assert len(found) == 100 and sum(t.from_draft for t in found) == stats.accepted
    reached = stats.verify_steps
    for accepted, chance in zip(stats.accepted_by_position, (*chances, 0.0, 0.0), strict=False):
        # The last round may be cut short by max_tokens.
        assert abs(accepted - reached * chance) <= 1 + 3 * math.sqrt(reached * chance * (1 - chance))
        reached = accepted
    with pytest.raises(tl.InvalidRequestError, match="drafter"):
        tokens(tl.Engine(bundles["gemma3"]), [5, 6], simulate_acceptance=chances)
    with pytest.raises(tl.InvalidRequestError, match="simulate_acceptance"):
        tl.SamplingParams(simulate_acceptance=(1.5,))


def test_a_drafter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    write_assistant(tmp_path / "wide", backbone=64)
    with pytest.raises(ConversionError, match="hidden size 64"):
        convert(folder / "target", tmp_path / "x.litertlm", drafter=tmp_path / "wide")
    with pytest.raises(ConversionError, match=r"cannot read the keys|hidden size|tokens"):
        convert(folder / "gemma3", tmp_path / "x.litertlm", drafter=folder / "assistant")
    with pytest.raises(ConversionError, match="no drafter"):
        convert(folder / "target", tmp_path / "x.litertlm", drafter=folder / "target")
    assert not (tmp_path / "x.litertlm").exists()


def test_options(bundles: dict[str, Path]) -> None:
    engine = tl.Engine(bundles["f32"], drafter="off")
    assert engine.info.has_drafter
    _, stats = tokens(engine, [5, 6, 5, 6, 5, 6], max_tokens=10)
    assert stats.drafted == stats.verify_steps == 0
    with pytest.raises(tl.InvalidRequestError, match="drafter"):
        tokens(engine, [5, 6], drafter="on")
    with pytest.raises(tl.InvalidRequestError, match="drafter"):
        tl.Engine(bundles["f32"], drafter="on", graph="portable")
    with pytest.raises(tl.InvalidRequestError, match="draft_tokens"):
        tl.SamplingParams(draft_tokens=0)
    portable = tl.Engine(bundles["f32"], graph="portable")
    assert tokens(portable, [5, 6, 5, 6, 5, 6], max_tokens=10)[1].drafted == 0
