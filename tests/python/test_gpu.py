"""The GPU backend against the CPU, on SwiftShader or whatever GPU there is: logits, text, drafts, media, transfers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vulkan
from ai_edge_litert.schema_py_generated import BuiltinOperator
from checkpoints import write_assistant, write_gemma4
from rewritten import rewrite_model

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_converter.quantize import dequantize, quantize
from tandem_converter.recipe import Recipe
from tandem_converter.source import Source, open_source
from tandem_lm import gpu, library
from tandem_lm.cli import main

CONTEXT = 128
TOLERANCE = 1e-2  # of the largest logit; measured: below 2e-4
Bundles = Callable[[str, str], Path]


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> Iterator[None]:
    before = dict(os.environ)
    vulkan.use_swiftshader()
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def pair(tiny_gemma4: Path) -> Iterator[tuple[tl.Engine, tl.Engine]]:
    """The same bundle on CPU and GPU."""
    with tl.Engine(tiny_gemma4, kv_dtype="f32") as cpu, tl.Engine(tiny_gemma4, backend="gpu") as on_gpu:
        yield cpu, on_gpu


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tl.Engine, tl.Engine]]:
    folder = tmp_path_factory.mktemp("drafting")
    model, assistant = write_gemma4(folder / "model"), write_assistant(folder / "assistant")
    convert(model, folder / "model.litertlm", quant="f32", context=CONTEXT, drafter=assistant)
    path = folder / "model.litertlm"
    with tl.Engine(path, kv_dtype="f32", drafter="on") as cpu, tl.Engine(path, backend="gpu", drafter="on") as on_gpu:
        yield cpu, on_gpu


def prompt(engine: tl.Engine, length: int, seed: int = 0) -> list[int]:
    """Random ids below the media placeholders, which stand at the end of a tiny vocabulary."""
    return np.random.default_rng(seed).integers(0, engine.info.vocab_size - 16, length).tolist()


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def choose_library(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """LiteRT for the GPU: the one that shares weights between graphs, or the CPU's, which cannot."""
    monkeypatch.delenv("TANDEM_GPU_LIBRARY", raising=False)
    if not shared:
        monkeypatch.setenv("TANDEM_GPU_LIBRARY", "")
    elif not library.gpu_library():
        pytest.skip("litert-lm-api is not installed (or another version than the tested one)")


def text(engine: tl.Engine, ids: list[int], count: int, drafter: str = "off") -> list[int]:
    session = engine.session()
    session.prefill(ids)
    params = tl.SamplingParams(temperature=0.0, max_tokens=count, stop_ids=(), drafter=drafter)
    return [token.id for token in session.generate(params)]


@pytest.mark.parametrize("cut", [[100], [64, 36], [1, 7, 8, 48, 36], [70, 1, 1, 28]], ids=str)
def test_logits_equal_those_of_the_cpu(pair: tuple[tl.Engine, tl.Engine], cut: list[int]) -> None:
    cpu, on_gpu = pair
    ids = prompt(cpu, sum(cut))
    expected = cpu.session().logits(ids)
    session = on_gpu.session()
    at = 0
    for i, size in enumerate(cut):
        piece = ids[at : at + size]
        if i % 2 == 0 and len(cut) > 1:
            session.prefill(piece)  # without logits: what follows shows whether the cache is right
        else:
            assert difference(session.logits(piece[:20]), expected[at : at + size][:20]) < TOLERANCE
            session.prefill(piece[20:]) if piece[20:] else None
        at += size


def test_another_family(tiny_gemma3: Path) -> None:
    with tl.Engine(tiny_gemma3, kv_dtype="f32") as cpu, tl.Engine(tiny_gemma3, backend="gpu") as on_gpu:
        ids = prompt(cpu, 50)
        session = on_gpu.session()
        session.prefill(ids[:40])
        assert difference(session.logits(ids[40:]), cpu.session().logits(ids)[40:]) < TOLERANCE


class Dequantised:
    """A checkpoint as a recipe leaves it: every matrix quantised and turned back."""

    def __init__(self, source: Source, recipe: Recipe) -> None:
        self._source, self._recipe = source, recipe

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def tensor(self, name: str) -> np.ndarray:
        values = self._source.tensor(name)
        scheme = self._recipe.scheme(name)
        if values.ndim != 2 or scheme.bits == 32:
            return values
        return dequantize(quantize(values, scheme))

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.tensor(name)[start:stop]


@pytest.mark.parametrize(
    ("quant", "shared"),
    [("int8", True), ("int8", False), ("int4-channel", True), ("int4-channel", False), ("int4-block32", True)],
)
def test_quantised_weights(
    tmp_path: Path,
    checkpoint: Callable[[str], Path],
    bundle: Bundles,
    monkeypatch: pytest.MonkeyPatch,
    quant: str,
    shared: bool,
) -> None:
    """Against the CPU in float32 with the very same weights; with int8 it would quantise the activations as well."""
    choose_library(monkeypatch, shared)
    convert(Dequantised(open_source(checkpoint("gemma4")), Recipe.load(quant)), tmp_path / "f32.litertlm", quant="f32",
            context=CONTEXT)  # fmt: skip
    exact = tl.Engine(tmp_path / "f32.litertlm", kv_dtype="f32")
    with exact as cpu, tl.Engine(bundle("gemma4", quant), backend="gpu") as on_gpu:
        ids = prompt(cpu, 24)
        session = on_gpu.session()
        session.prefill(ids[:20])
        assert difference(session.logits(ids[20:]), cpu.session().logits(ids)[20:]) < TOLERANCE
        assert on_gpu.info.gpu_shares_weights == shared


def test_rewind_then_another_continuation(pair: tuple[tl.Engine, tl.Engine]) -> None:
    cpu, on_gpu = pair
    first, second = prompt(cpu, 60), prompt(cpu, 40, seed=9)
    session = on_gpu.session()
    session.prefill(first)
    session.rewind(31)
    expected = cpu.session().logits(first[:31] + second[31:])[31:]
    assert difference(session.logits(second[31:]), expected) < TOLERANCE


def test_sessions_keep_apart(pair: tuple[tl.Engine, tl.Engine]) -> None:
    cpu, on_gpu = pair
    a, b = prompt(cpu, 30, seed=1), prompt(cpu, 30, seed=2)
    one, two = on_gpu.session(), on_gpu.session()
    one.prefill(a[:25])
    two.prefill(b[:20])
    assert difference(one.logits(a[25:]), cpu.session().logits(a)[25:]) < TOLERANCE
    assert difference(two.logits(b[20:]), cpu.session().logits(b)[20:]) < TOLERANCE


def test_a_clone_goes_its_own_way(pair: tuple[tl.Engine, tl.Engine]) -> None:
    cpu, on_gpu = pair
    ids, other = prompt(cpu, 40), prompt(cpu, 10, seed=8)
    session = on_gpu.session()
    session.prefill(ids[:30])
    clone = session.clone()
    assert difference(clone.logits(other), cpu.session().logits(ids[:30] + other)[30:]) < TOLERANCE
    assert difference(session.logits(ids[30:]), cpu.session().logits(ids)[30:]) < TOLERANCE


def test_a_saved_session_goes_on_as_if_it_had_stayed(pair: tuple[tl.Engine, tl.Engine], tmp_path: Path) -> None:
    _, on_gpu = pair
    ids = prompt(on_gpu, 40)
    session = on_gpu.session()
    session.prefill(ids[:30])
    session.save(tmp_path / "session")
    expected = session.logits(ids[30:])
    with on_gpu.restore(tmp_path / "session") as back:
        assert back.position == 30
        np.testing.assert_array_equal(back.logits(ids[30:]), expected)


def test_a_saved_session_of_another_engine_is_refused(
    pair: tuple[tl.Engine, tl.Engine], bundle: Bundles, tmp_path: Path
) -> None:
    cpu, on_gpu = pair
    for engine, name in ((cpu, "cpu"), (on_gpu, "gpu")):
        session = engine.session()
        session.prefill(prompt(engine, 20))
        session.save(tmp_path / name)
    with pytest.raises(tl.InvalidRequestError, match="layers are not those"):
        on_gpu.restore(tmp_path / "cpu")
    with (
        tl.Engine(bundle("gemma4", "int8"), backend="gpu") as other,
        pytest.raises(tl.InvalidRequestError, match="another bundle"),
    ):
        other.restore(tmp_path / "gpu")
    damaged = bytearray((tmp_path / "gpu").read_bytes())
    damaged[-1000] ^= 1
    (tmp_path / "gpu").write_bytes(damaged)
    with pytest.raises(tl.FileError, match=r"damaged|checksum"):
        on_gpu.restore(tmp_path / "gpu")


def test_beginnings_are_shared(pair: tuple[tl.Engine, tl.Engine], tiny_gemma4: Path, tmp_path: Path) -> None:
    cpu, _ = pair
    ids, other = prompt(cpu, 60), prompt(cpu, 10, seed=4)
    expected = cpu.session().logits(ids[:50] + other)[50:]
    for again in (False, True):  # the second engine finds them in the folder
        with tl.Engine(tiny_gemma4, backend="gpu", prefix_cache_dir=tmp_path) as engine:
            if not again:
                engine.session().prefill(ids)
            session = engine.session()
            session.prefill(ids[:50] + other[:1])
            stats = engine.prefix_stats()
            assert stats is not None
            assert (stats.hits, stats.disk_hits) == (1, int(again))
            assert stats.tokens_reused == 50
            assert 0 < stats.bytes < session.cache_bytes * 2  # kept once, and not on the device
            assert difference(session.logits(other[1:]), expected[1:]) < TOLERANCE


def test_greedy_text_to_the_end_of_the_context(pair: tuple[tl.Engine, tl.Engine]) -> None:
    cpu, on_gpu = pair
    for seed, length in ((3, 20), (4, CONTEXT - 12)):
        ids = prompt(cpu, length, seed)
        assert text(on_gpu, ids, 24) == text(cpu, ids, 24)


@pytest.mark.slow
def test_greedy_text_of_forty_prompts(pair: tuple[tl.Engine, tl.Engine]) -> None:
    """At least 95 % are the same; where one differs, the two tokens had nearly equal logits."""
    cpu, on_gpu = pair
    same = 0
    for seed in range(40):
        ids = prompt(cpu, 8 + seed, seed)
        expected, got = text(cpu, ids, 64), text(on_gpu, ids, 64)
        same += expected == got
        if expected != got:
            at = next(i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
            row = cpu.session().logits(ids + expected[:at])[-1]
            assert abs(row[expected[at]] - row[got[at]]) < 1e-2
    assert same >= 38


def test_a_decode_step_moves_ids_positions_mask_and_logits_only(pair: tuple[tl.Engine, tl.Engine]) -> None:
    _, on_gpu = pair
    session = on_gpu.session()
    session.prefill(prompt(on_gpu, 30))
    steps = 10
    generation = session.generate(tl.SamplingParams(temperature=1.0, seed=5, max_tokens=steps + 2, stop_ids=()))
    next(generation)
    before = on_gpu.transfers()
    assert before is not None
    for _ in range(steps):
        next(generation)
    after = on_gpu.transfers()
    assert after is not None
    moved = after.since(before)
    assert moved.runs == steps
    assert moved.uploads == 3 * steps  # the id, its position, the mask
    assert moved.upload_bytes == steps * (4 + 4 + 4 * CONTEXT)
    assert moved.downloads == steps
    assert moved.download_bytes == steps * 4 * on_gpu.info.vocab_size


def test_a_prompt_brings_nothing_back(pair: tuple[tl.Engine, tl.Engine]) -> None:
    _, on_gpu = pair
    session = on_gpu.session()
    before = on_gpu.transfers()
    session.prefill(prompt(on_gpu, 60))
    after = on_gpu.transfers()
    assert before is not None and after is not None
    moved = after.since(before)
    assert (moved.runs, moved.downloads) == (1, 0)
    assert moved.upload_bytes == 64 * (4 * on_gpu.info.hidden_size + 4 + 4 * CONTEXT)  # embeddings, positions, mask


def test_the_cache_has_two_sides(pair: tuple[tl.Engine, tl.Engine]) -> None:
    _, on_gpu = pair
    # Sliding layers: 2 heads of 32; full ones: 1 head of 64. Keys and values of 4 layers, float32.
    assert on_gpu.session().cache_bytes == 2 * 2 * 4 * 4 * 64 * CONTEXT


def test_steps_with_drafts(drafting: tuple[tl.Engine, tl.Engine]) -> None:
    cpu, on_gpu = drafting
    ids = prompt(cpu, 50)
    session = on_gpu.session()
    session.prefill(ids[:10])
    assert difference(session.logits(ids[10:]), cpu.session().logits(ids)[10:]) < TOLERANCE
    for seed, length in ((1, 12), (2, CONTEXT - 20)):  # the second runs into the end of the context
        ids = prompt(cpu, length, seed)
        assert text(on_gpu, ids, 40, "on") == text(cpu, ids, 40)
    assert on_gpu.stats().drafted > 0
    assert on_gpu.stats().accepted > 0


def test_drafts_are_those_of_the_cpu(drafting: tuple[tl.Engine, tl.Engine]) -> None:
    made = []
    for engine in drafting:
        session = engine.session()
        session.prefill(prompt(engine, 20))
        next(session.generate(tl.SamplingParams(temperature=0.0, max_tokens=5, stop_ids=(), drafter="off")))
        made.append(session._native.draft(3))
    assert len(made[0]) == 3
    assert made[0] == made[1]


def test_images_and_sound(drafting: tuple[tl.Engine, tl.Engine]) -> None:
    cpu, on_gpu = drafting
    random = np.random.default_rng(0)
    image = tl.Image(random.integers(0, 255, (40, 40, 3), dtype=np.uint8), max_soft_tokens=70)
    sound = tl.Audio(0.1 * random.standard_normal(16000).astype(np.float32), 16000)
    ids = prompt(cpu, 16)
    logits = []
    for engine in (cpu, on_gpu):
        session = engine.session()
        session.prefill([*ids[:2], image, ids[2], sound, *ids[3:8]])
        logits.append(session.logits(ids[8:]))
    assert difference(logits[1], logits[0]) < TOLERANCE


def test_a_decode_step_with_a_drafter_moves_no_cache(drafting: tuple[tl.Engine, tl.Engine]) -> None:
    _, on_gpu = drafting
    session = on_gpu.session()
    session.prefill(prompt(on_gpu, 20))
    before = on_gpu.transfers()
    drafted, depths = on_gpu.stats().drafted, on_gpu.stats().depths
    list(session.generate(tl.SamplingParams(temperature=0.0, max_tokens=20, stop_ids=(), draft_tokens=3, drafter="on")))
    after = on_gpu.transfers()
    assert before is not None and after is not None
    moved = after.since(before)
    drafts = on_gpu.stats().drafted - drafted
    made = [new - old for new, old in zip_longest(on_gpu.stats().depths, depths, fillvalue=0)]  # steps by their drafts
    steps, rounds = sum(made), sum(made[1:])
    vocab, hidden = on_gpu.info.vocab_size, on_gpu.info.hidden_size
    assert moved.runs >= drafts + steps
    again = moved.runs - drafts - steps  # steps whose logits were those of the step before run twice
    assert moved.download_bytes == drafts * 4 * (vocab + hidden) + 4 * 4 * ((steps + again) * vocab + steps * hidden)
    step_up = 4 * (4 * hidden + 4 + 4 * CONTEXT)  # embeddings, positions and masks of four rows
    draft_up = 4 * 2 * hidden  # an embedding and a hidden state; once a round, position and mask
    poison = 4 * 4 * vocab  # before a step runs again
    expected = steps * step_up + rounds * (4 + 4 * CONTEXT) + drafts * draft_up + again * (step_up + poison)
    assert moved.upload_bytes == expected


# ----------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("block", ["int4-block32", "int4-block128"])
def test_weights_in_blocks_are_refused(
    tmp_path: Path, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    """One such matrix ends the process in LiteRT's accelerator where it does not share weights, so this test would not
    end if one came through."""
    choose_library(monkeypatch, shared=False)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({r"layers\.2\.down\.weight": block, "default": "int8"}))
    path = tmp_path / "model.litertlm"
    convert(checkpoint("gemma4"), path, quant=str(recipe), context=CONTEXT)
    with pytest.raises(tl.BundleError, match=r"blocks.*layers\.2\.down.*--quant int4-channel"):
        tl.Engine(path, backend="gpu")
    with tl.Engine(path, backend="gpu", fallback="cpu") as engine:
        assert engine.info.backend == "cpu"
        assert "blocks" in engine.info.backend_reason


def test_an_operator_that_was_not_tried_is_refused(tiny_gemma4: Path, tmp_path: Path) -> None:
    """Not even one may run elsewhere: the cache would come and go in every step."""

    def change(model: Any) -> None:
        codes = [code.builtinCode for code in model.operatorCodes]
        code = model.operatorCodes[codes.index(BuiltinOperator.TANH)]
        code.builtinCode = code.deprecatedBuiltinCode = BuiltinOperator.SQUARE

    rewrite_model(tiny_gemma4, tmp_path / "model.litertlm", change)
    with pytest.raises(tl.BundleError, match=f"operator {BuiltinOperator.SQUARE} was not tried.*convert the model"):
        tl.Engine(tmp_path / "model.litertlm", backend="gpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "gpu:"}, "backend is 'gpu:'"),
        ({"backend": "tpu"}, "'cpu', 'gpu', 'gpu:NAME' or 'auto'"),
        ({"backend": "gpu", "fallback": "gpu"}, "fallback"),
        ({"backend": "gpu", "graph": "fast"}, "graph='fast' runs on the CPU"),
        ({"backend": "gpu", "max_context": CONTEXT + 1}, f"at most {CONTEXT} on the GPU"),
        ({"backend": "gpu", "drafter": "on"}, "needs a bundle with a drafter"),
    ],
)
def test_bad_options(tiny_gemma4: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(tl.InvalidRequestError, match=words):
        tl.Engine(tiny_gemma4, **options)  # type: ignore[arg-type]


def test_an_image_that_fits_no_step(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    path = tmp_path / "model.litertlm"
    convert(checkpoint("gemma4"), path, quant="f32", context=256)  # its steps for images have 64 rows
    with tl.Engine(path, backend="gpu") as engine:
        session = engine.session()
        session.prefill(prompt(engine, 20))
        with pytest.raises(tl.InvalidRequestError, match="does not fit into one step"):
            session.prefill([tl.Image(np.zeros((96, 96, 3), np.uint8), max_soft_tokens=140), 5])
        assert session.position == 20


def test_results_that_are_no_numbers(tmp_path: Path) -> None:
    """Weights that overflow float32: an error, not noise."""
    folder = write_gemma4(tmp_path / "checkpoint", media=False, softcap=None)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin, end = header["model.language_model.norm.weight"]["data_offsets"]
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + begin : start + end] = np.full((end - begin) // 4, 3e38, "<f4").tobytes()
    file.write_bytes(data)
    convert(folder, tmp_path / "model.litertlm", quant="f32", context=CONTEXT)
    with pytest.raises(tl.BackendError, match=r"results cannot be right.*backend='cpu'"):
        tl.Engine(tmp_path / "model.litertlm", backend="gpu")


# ------------------------------------------------------------------------------------------------------------- devices
def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [device["name"] for device in listed] == [device.name for device in gpu.devices()]
    assert main(["devices"]) == 0
    assert listed[0]["name"] in capsys.readouterr().out


def test_the_gpu_is_chosen_by_name(tiny_gemma4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tl.BackendError, match="no GPU whose name contains 'Voodoo'"):
        tl.Engine(tiny_gemma4, backend="gpu:Voodoo")
    name = gpu.devices()[0].name
    monkeypatch.setenv("TANDEM_GPU", name[:6])
    with tl.Engine(tiny_gemma4, backend="gpu") as engine:
        assert engine.info.backend == "gpu"
        assert name in engine.info.backend_reason


def test_run_on_the_gpu(tiny_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = []
    for backend in ("cpu", "gpu"):
        assert main(["run", str(tiny_base), "--raw", "-p", "the cat", "-n", "4", "--backend", backend]) == 0
        captured = capfd.readouterr()
        out.append(captured.out)
        assert "INFO" not in captured.err
    assert out[0] == out[1]
