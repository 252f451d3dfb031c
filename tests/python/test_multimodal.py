"""Images and sound on random tiny models: embeddings and mixed prompts against the numpy reference with the official
mask, however a prompt is cut, on both kinds of graphs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from bundles import read_manifest, read_sections
from checkpoints import write_assistant, write_gemma4
from test_graph import load

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_lm.engine import native_module
from tandem_lm.types import SoftTokens

CONTEXT = 256  # of the portable graphs
PATCH = 12  # pixels: a quarter of the real one
IMAGE, AUDIO, VIDEO, BOI, EOI, BOA, EOA = range(505, 512)  # ids of the tiny vocabulary
TOLERANCE = 1e-3  # of the largest value of the reference

Prompt = list[int | SoftTokens]


@dataclass(frozen=True)
class Models:
    """A checkpoint with its weights by the reference's names, and bundles of it, one with a drafter."""

    checkpoint: Path
    bundle: Path
    drafted: Path
    weights: dict[str, np.ndarray]
    config: reference.TextConfig


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("media")
    checkpoint = write_gemma4(folder / "checkpoint", positions=1120)
    convert(checkpoint, folder / "plain.litertlm", quant="f32", context=CONTEXT)
    assistant = write_assistant(folder / "assistant")
    convert(checkpoint, folder / "drafted.litertlm", quant="f32", context=CONTEXT, drafter=assistant)
    weights, config = load(checkpoint)
    return Models(
        checkpoint,
        folder / "plain.litertlm",
        folder / "drafted.litertlm",
        {**weights, **reference.module_names(weights)},
        config,
    )


@pytest.fixture(scope="module", params=["fast", "portable"])
def engine(request: pytest.FixtureRequest, models: Models) -> Iterator[tl.Engine]:
    with tl.Engine(models.bundle, kv_dtype="f32", graph=request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def large(models: Models) -> Iterator[tl.Engine]:
    """With room for the largest image; only the fast graphs have it."""
    with tl.Engine(models.bundle, kv_dtype="f32", graph="fast", max_context=2048) as engine:
        yield engine


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def words(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(20, 490, count).tolist()


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def expected(models: Models, prompt: Prompt) -> np.ndarray:
    """The reference's logits after every token of a prompt, with the official mask; the embeddings as they are."""
    ids: list[int] = []
    types: list[int] = []
    for part in prompt:
        soft = isinstance(part, SoftTokens)
        ids += [part.token] * part.rows if isinstance(part, SoftTokens) else [part]
        types += [{"image": 1, "video": 2, "audio": 3}[part.kind]] * part.rows if soft else [0]
    embedded = reference.embed(models.weights, models.config, np.array(ids))
    at = 0
    for part in prompt:
        if isinstance(part, SoftTokens):
            embedded[at : at + part.rows] = part.native.values
            at += part.rows
        else:
            at += 1
    positions = np.arange(len(ids))
    blocks = reference.vision_blocks(types)
    masks = reference.masks_with_vision(positions, positions, models.config.sliding_window, blocks)
    hidden = reference.text_forward(models.weights, models.config, embedded, positions, masks)
    result: np.ndarray = reference.logits(models.weights, models.config, hidden)
    return result


def check_logits(models: Models, session: tl.Session, prompt: Prompt, tail: list[int]) -> None:
    """`session` holds `prompt`; what it says to `tail` is what the reference says."""
    want = expected(models, [*prompt, *tail])[-len(tail) :]
    assert deviation(session.logits(tail), want) <= TOLERANCE


def speech(engine: tl.Engine, samples: int = 9000) -> SoftTokens:
    return engine._soft_audio(tl.Audio(sound(samples), 16000))


def mixed(engine: tl.Engine) -> Prompt:
    """Text, two images, sound and a frame of a video, of several sizes."""
    first, second = engine._soft_image(picture(60, 84), 70), engine._soft_image(picture(90, 20, 1), 70)
    frame = engine._soft_image(picture(30, 30, 2), 70, video=True)
    return [
        2, *words(5), BOI, first, EOI, *words(3, 1), BOI, second, EOI, BOA, speech(engine), EOA, *words(2, 2),
        BOI, frame, EOI,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- embeddings
SIZES = [(1, 1), (3, 900), (900, 3), (224, 224), (108, 192), (7, 1000)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_embeddings_of_images_equal_the_reference(models: Models, large: tl.Engine, height: int, width: int) -> None:
    for budget in (70, 280, 1120):
        pixels = picture(height, width, budget)
        patches, positions, _ = native_module().prepare_image(pixels, budget, False, PATCH)
        assert deviation(
            large.embed_image(pixels, budget), reference.vision_embed(models.weights, patches, positions)
        ) <= TOLERANCE  # fmt: skip


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16000, 480_000])
def test_embeddings_of_sound_equal_the_reference(models: Models, large: tl.Engine, samples: int) -> None:
    wave = sound(samples)
    got = large.embed_audio(tl.Audio(wave, 16000))
    assert deviation(got, reference.audio_embed(models.weights, reference.audio_frames(wave))) <= TOLERANCE


def test_embeddings_and_logits_equal_transformers(models: Models, large: tl.Engine) -> None:
    torch = pytest.importorskip("torch", reason="transformers parity needs torch")
    transformers = pytest.importorskip("transformers", reason="transformers parity needs transformers")
    if not hasattr(transformers, "Gemma4UnifiedForConditionalGeneration"):
        pytest.skip("this transformers has no Gemma 4 Unified")
    loader = transformers.Gemma4UnifiedForConditionalGeneration
    oracle = loader.from_pretrained(models.checkpoint, dtype=torch.float32).eval()
    pixels, wave = picture(60, 84), sound(3000)
    patches, positions, _ = native_module().prepare_image(pixels, 70, False, PATCH)
    media = {
        "pixel_values": torch.tensor(patches)[None],
        "image_position_ids": torch.tensor(positions, dtype=torch.long)[None],
        "input_features": torch.tensor(reference.audio_frames(wave))[None],
        "input_features_mask": torch.ones(1, 5, dtype=torch.bool),
    }
    image, audio = large._soft_image(pixels, 70), speech(large, 3000)
    prompt: Prompt = [2, *words(4), BOI, image, EOI, BOA, audio, EOA, *words(6, 1)]
    ids = tl.engine._ids_of(large.session()._parts(prompt))
    types = torch.tensor([[{IMAGE: 1, AUDIO: 3}.get(i, 0) for i in ids]])
    tokens = torch.tensor([ids])
    with torch.no_grad():
        seen = oracle.model.get_image_features(media["pixel_values"], media["image_position_ids"], return_dict=True)
        heard = oracle.model.get_audio_features(media["input_features"], media["input_features_mask"], return_dict=True)
        masks = oracle.create_masks_for_generate(
            oracle.config, oracle.get_input_embeddings()(tokens), torch.ones_like(tokens), None,
            torch.arange(len(ids))[None], mm_token_type_ids=types,
        )  # fmt: skip
        want = oracle(input_ids=tokens, mm_token_type_ids=types, attention_mask=masks, **media).logits[0].numpy()
    assert deviation(image.native.values, seen.pooler_output[0].numpy()) <= TOLERANCE
    assert deviation(audio.native.values, heard.pooler_output[0].numpy()) <= TOLERANCE
    session = large.session()
    session.prefill(prompt[:-6])
    assert deviation(session.logits(prompt[-6:]), want[-6:]) <= 2 * TOLERANCE  # of float16 weights and of the rest


# ------------------------------------------------------------------------------------------------------ mixed prompts
@pytest.mark.parametrize("cut", ["whole", "parts", "pairs", "scored"])
def test_logits_of_mixed_prompts_equal_the_reference(models: Models, engine: tl.Engine, cut: str) -> None:
    prompt, tail = mixed(engine), words(12, 3)
    session = engine.session()
    if cut == "scored":  # text goes through another kind of step
        for part in prompt:
            if isinstance(part, SoftTokens):
                session.prefill([part])
            else:
                session.logits([part])
    else:
        size = {"whole": len(prompt), "parts": 1, "pairs": 2}[cut]
        for at in range(0, len(prompt), size):
            session.prefill(prompt[at : at + size])
    assert session.position == sum(part.rows if isinstance(part, SoftTokens) else 1 for part in prompt)
    check_logits(models, session, prompt, tail)


@pytest.mark.parametrize("seed", range(6))
def test_any_legal_cut_gives_the_same(models: Models, engine: tl.Engine, seed: int) -> None:
    """Cut at random places, a token or a part at a time and with rewinds to places that are not inside an image, scored
    and plain steps in turn."""
    rng = np.random.default_rng(seed)
    prompt = mixed(engine)
    session = engine.session()
    at = 0
    while at < len(prompt):
        until = int(rng.integers(at + 1, min(at + 12, len(prompt)) + 1))
        piece = prompt[at:until]
        if rng.random() < 0.5 and not any(isinstance(part, SoftTokens) for part in piece):
            session.logits(piece)
        else:
            session.prefill(piece)
        if rng.random() < 0.4:  # back to the end of an earlier part, and on from there
            until = int(rng.integers(max(0, until - 10), until + 1))
            session.rewind(sum(part.rows if isinstance(part, SoftTokens) else 1 for part in prompt[:until]))
        at = until
    check_logits(models, session, prompt, words(8, seed))


@pytest.mark.parametrize("before", [1, 31, 63, 65, 127, 180])
def test_an_image_where_steps_would_end(models: Models, engine: tl.Engine, before: int) -> None:
    """Steps have fixed sizes. Whatever text comes before an image, the image is never cut into two of them."""
    prompt: Prompt = [*words(before), engine._soft_image(picture(30, 20), 70), EOI]
    session = engine.session()
    session.prefill(prompt)
    check_logits(models, session, prompt, words(3, 1))


def test_an_image_sees_itself_and_sound_does_not(models: Models, engine: tl.Engine) -> None:
    """Were the mask causal for images too, the logits would be others."""
    values = np.random.default_rng(0).standard_normal((30, 128)).astype(np.float32)
    native = native_module()
    results = []
    for kind in ("image", "video", "audio"):
        made = native.SoftTokens(values, kind, "")
        part = SoftTokens(made, kind, 30, engine._native.placeholder(made), "")
        session = engine.session()
        session.prefill([2, *words(3), part])
        results.append(session.logits(words(4, 1)))
        check_logits(models, session, [2, *words(3), part, *words(4, 1)], words(4, 2))
    assert np.array_equal(results[0], results[1])
    assert deviation(results[2], results[0]) > 0.05


@pytest.mark.parametrize("before", [3, 600])
def test_the_largest_image(models: Models, large: tl.Engine, before: int) -> None:
    """It takes more rows than a step of text has, so that the rings of its session become wider."""
    image = large._soft_image(picture(300, 310), 1120)
    assert image.rows > 1000
    prompt: Prompt = [2, *words(before), BOI, image, EOI]
    session = large.session()
    ordinary = session.cache_bytes
    session.prefill(prompt)
    assert session.cache_bytes > ordinary
    check_logits(models, session, prompt, words(9, 1))


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "int8"])
def test_wider_rings_hold_what_was_there(models: Models, kv_dtype: str) -> None:
    with tl.Engine(models.bundle, kv_dtype=kv_dtype, graph="fast", max_context=2048) as engine:
        prompt: Prompt = [2, *words(50), BOI, engine._soft_image(picture(300, 310), 1120), EOI]
        results = []
        for wide in (False, True):
            session = engine.session()
            if wide:
                session.prefill(prompt[-2:-1])
                session.rewind(0)
            session.prefill(prompt[:40])
            session.prefill(prompt[40:])
            results.append(session.logits(words(5, 1)))
        assert np.array_equal(*results)


def test_greedy_with_and_without_a_drafter(models: Models) -> None:
    produced = {}
    for drafter in ("off", "on", "auto"):
        with tl.Engine(models.drafted, kv_dtype="f32", graph="fast", drafter=drafter) as engine:
            session = engine.session()
            session.prefill([*mixed(engine), *words(4, 5)])
            params = tl.SamplingParams(max_tokens=40, stop_ids=())
            produced[drafter] = [token.id for token in session.generate(params)]
            assert len(produced[drafter]) == 40
            assert drafter == "auto" or (session.stats().drafted > 0) == (drafter == "on")
    assert produced["on"] == produced["off"] == produced["auto"]


# --------------------------------------------------------------------------------------------------- rewind and reuse
def test_rewind_between_media(models: Models, engine: tl.Engine) -> None:
    prompt = mixed(engine)
    session = engine.session()
    session.prefill(prompt)
    images = [i for i, part in enumerate(prompt) if isinstance(part, SoftTokens) and part.kind != "audio"]
    inside = 7 + 10
    for position in (inside, 7 + 1):
        with pytest.raises(tl.InvalidRequestError, match=r"inside an image.*begin \(7\).*end \(70\)"):
            session.rewind(position)
    assert session.position == len(session.tokens)
    for keep in (images[1] + 1, images[1], images[0] + 1, images[0]):  # after and before an image
        position = sum(part.rows if isinstance(part, SoftTokens) else 1 for part in prompt[:keep])
        session.rewind(position)
        check_logits(models, session, prompt[:keep], words(6, keep))
        session.rewind(position)


def test_rewind_inside_sound(models: Models, engine: tl.Engine) -> None:
    audio = speech(engine)
    session = engine.session()
    session.prefill([2, BOA, audio, EOA])
    session.rewind(2 + 9)
    values = audio.native.values[:9]
    part = SoftTokens(native_module().SoftTokens(values, "audio", ""), "audio", 9, AUDIO, "")
    check_logits(models, session, [2, BOA, part], words(5))


def test_a_long_rewind_fills_the_cache_again(models: Models, large: tl.Engine) -> None:
    prompt: Prompt = [2, *words(5), BOI, large._soft_image(picture(60, 84), 70), EOI]
    session = large.session()
    session.prefill([*prompt, *words(900)])
    session.rewind(6 + 1 + 63 + 1)
    check_logits(models, session, prompt, words(6, 1))


def test_second_question_prefills_only_the_question(models: Models, engine: tl.Engine) -> None:
    before = engine.stats()
    first, second = [*mixed(engine), *words(4, 7)], [*mixed(engine), *words(6, 8)]
    done = engine.stats().since(before)
    assert done.media_embedded + done.media_reused == 8 and done.media_reused >= 4
    session = engine.session()
    session.prefill(first)
    session.logits(words(3, 9))
    common = session.common_prefix(second)
    assert common == len(session.tokens) - 4 - 3
    session.rewind(common)
    counted = session.stats()
    session.prefill(second[len(first) - 4 :])
    assert session.stats().since(counted).prefill_tokens == 6
    check_logits(models, session, second, words(5))
    other: Prompt = [*first[:7], engine._soft_image(picture(60, 84, 99), 70), *first[8:]]
    assert session.common_prefix(other) == 7


def test_a_cancelled_prompt_ends_between_steps(models: Models, large: tl.Engine) -> None:
    """Whatever was done by then is whole images, and the session goes on from there."""
    image, audio = large._soft_image(picture(60, 84), 70), speech(large)
    prompt: Prompt = [2]
    for _ in range(18):
        prompt += [BOI, image, EOI, BOA, audio, EOA]
    lengths = np.cumsum([part.rows if isinstance(part, SoftTokens) else 1 for part in prompt])
    session = large.session()
    for wait in np.geomspace(0.2, 0.005, 12):
        timer = threading.Timer(float(wait), session.cancel)
        timer.start()
        try:
            session.prefill(prompt)
        except tl.Cancelled:
            if session.position > 1:
                break
        finally:
            timer.cancel()
        session.rewind(0)
    else:
        pytest.skip("never cancelled in the middle of the prompt")
    kept = int(np.searchsorted(lengths, session.position, side="right"))
    rest = session.position - (lengths[kept - 1] if kept else 0)
    done = prompt[:kept]
    if rest:
        values = audio.native.values[:rest]
        assert prompt[kept] is audio
        done = [*done, SoftTokens(native_module().SoftTokens(values, "audio", ""), "audio", rest, AUDIO, "")]
    check_logits(models, session, done, words(5))


def test_threads_share_the_embedders(models: Models) -> None:
    pictures = [picture(40 + i, 60, i) for i in range(6)]
    with tl.Engine(models.bundle, graph="fast") as engine:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda pixels: engine.embed_image(pixels, 70).copy(), pictures * 2))
        assert engine.stats().media_embedded + engine.stats().media_reused == 12
    with tl.Engine(models.bundle, graph="fast") as engine:
        for pixels, got in zip(pictures * 2, together, strict=True):
            assert np.array_equal(engine.embed_image(pixels, 70), got)


# ------------------------------------------------------------------------------------------------------------- errors
def test_errors_leave_the_session_as_it_was(models: Models, engine: tl.Engine) -> None:
    image = engine._soft_image(picture(60, 84), 70)
    native = native_module()
    prompt: Prompt = [2, *words(5), BOI, image, EOI]
    session = engine.session()
    session.prefill(prompt)
    position = session.position

    def made(values: np.ndarray, kind: str = "image") -> SoftTokens:
        return SoftTokens(native.SoftTokens(values, kind, ""), kind, len(values), IMAGE, "")

    with pytest.raises(tl.ContextLengthError):
        session.prefill([2, image, image, image, image])
    with pytest.raises(tl.InvalidRequestError, match=r"\[rows, 128\]"):
        session.prefill([2, made(np.zeros((3, 64), np.float32))])
    with pytest.raises(tl.InvalidRequestError, match="at least one row"):
        session.prefill([2, made(np.zeros((0, 128), np.float32))])
    with pytest.raises(tl.InvalidRequestError, match="media kind"):
        native_call(lambda: native.SoftTokens(np.zeros((3, 128), np.float32), "smell", ""))
    with pytest.raises(tl.InvalidRequestError, match="token ids and text"):
        session.logits([image])
    if engine.info.graph == "portable":
        block = made(np.zeros((65, 128), np.float32))
        with pytest.raises(tl.InvalidRequestError, match="graph='fast'"):
            session.prefill([*words(9), block, *words(70)])
    assert session.position == position
    check_logits(models, session, prompt, words(4))


def native_call(call: Any) -> None:
    from tandem_lm.errors import translated

    with translated():
        call()


def test_a_generation_needs_a_token_after_media(engine: tl.Engine) -> None:
    session = engine.session()
    session.prefill([2, engine._soft_image(picture(20, 20), 70)])
    with pytest.raises(tl.InvalidRequestError, match="ends with an image or sound"):
        list(session.generate(tl.SamplingParams(max_tokens=2)))
    session.prefill([EOI])
    assert len(list(session.generate(tl.SamplingParams(max_tokens=2, stop_ids=())))) == 2


def test_sound_that_does_not_fit_the_memory(large: tl.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    large.embed_audio(sound_part(1))  # the model is there already
    monkeypatch.setenv("TANDEM_MEMORY_LIMIT", "200000")
    with pytest.raises(tl.OutOfMemoryError, match="sound of 60 seconds needs"):
        large.embed_audio(sound_part(60))


def sound_part(seconds: int) -> tl.Audio:
    return tl.Audio(sound(16000 * seconds), 16000)


def test_media_that_the_model_refuses(large: tl.Engine, tiny_gemma3: Path) -> None:
    with pytest.raises(tl.InvalidRequestError, match="budgets are 70, 140, 280, 560, 1120"):
        large.embed_image(picture(9, 9), 100)
    with pytest.raises(tl.InvalidRequestError):
        large.embed_audio(tl.Audio(np.zeros(0, np.float32), 16000))
    with tl.Engine(tiny_gemma3) as text:
        assert text.info.modalities == ("text",) and not text.info.media
        with pytest.raises(tl.InvalidRequestError, match="takes no images"):
            text.embed_image(picture(9, 9))
        with pytest.raises(tl.InvalidRequestError, match="takes no sound"):
            text.embed_audio(tl.Audio(sound(900), 16000))
        with pytest.raises(tl.InvalidRequestError, match="takes no image"):
            text.session().prefill([large._soft_image(picture(9, 9), 70)])


def test_an_image_with_more_columns_than_the_model_tells_apart(tiny_gemma4: Path) -> None:
    with tl.Engine(tiny_gemma4) as engine, pytest.raises(tl.InvalidRequestError, match="too long for this model"):
        engine.embed_image(picture(3, 900), 70)


# ------------------------------------------------------------------------------------------------------------- bundle
def test_bundles_say_what_they_take(models: Models, tmp_path: Path) -> None:
    media = read_manifest(models.bundle)["media"]
    assert media["image"]["patch"] == PATCH and media["image"]["soft_tokens"] == [70, 140, 280, 560, 1120]
    assert (media["image"]["token"], media["image"]["video_token"], media["audio"]["token"]) == (IMAGE, VIDEO, AUDIO)
    names = [section.model_type for section in read_sections(models.bundle)]
    assert "tf_lite_vision_encoder" in names and "tf_lite_audio_encoder_hw" in names

    text = write_gemma4(tmp_path / "text", media=False)
    convert(text, tmp_path / "text.litertlm", quant="f32", context=64)
    assert "media" not in read_manifest(tmp_path / "text.litertlm")
    names = [section.model_type for section in read_sections(tmp_path / "text.litertlm")]
    assert not any("vision" in name or "audio" in name for name in names)


def test_the_report_says_how_media_weights_are_stored(models: Models, tmp_path: Path) -> None:
    convert(models.checkpoint, tmp_path / "m.litertlm", quant="int8", context=64, report=tmp_path / "report.json")
    lines = {line["name"]: line for line in json.loads((tmp_path / "report.json").read_text())["tensors"]}
    for name in ("patch_dense.weight", "vision_projection.weight", "audio_projection.weight"):
        line = lines[f"media.{name}"]
        assert line["scheme"] == "f16" and 0 < line["rel_rms"] < 5e-4
    assert lines["media.pos_embedding"]["scheme"] == "f32"
