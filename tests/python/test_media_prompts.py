"""Images, sound and films as parts of prompts and of conversations: markers, times, order, what a second question
costs, progress and cancellation, the command line."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_gemma4

import tandem_lm as tl
from tandem_converter.convert import convert
from tandem_lm.chat import ChatTemplate
from tandem_lm.cli import main

IMAGE, AUDIO, VIDEO, BOI, EOI, BOA, EOA = range(505, 512)  # ids of the tiny vocabulary
SHORT = tl.SamplingParams(max_tokens=4, stop_ids=(), suppress_ids=tuple(range(505, 512)))
FRAMES = 5


@pytest.fixture(scope="module")
def media_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    convert(write_gemma4(folder / "checkpoint", positions=1120), folder / "m.litertlm", quant="f32", context=1024)
    return folder / "m.litertlm"


@pytest.fixture(scope="module", params=["fast", "portable"])
def engine(request: pytest.FixtureRequest, media_bundle: Path) -> Iterator[tl.Engine]:
    with tl.Engine(media_bundle, num_threads=1, kv_dtype="f32", graph=request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def fast(media_bundle: Path) -> Iterator[tl.Engine]:
    with tl.Engine(media_bundle, num_threads=1, kv_dtype="f32") as engine:
        yield engine


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(height: int, width: int, seed: int = 0) -> tl.Image:
    return tl.Image(pixels(height, width, seed), max_soft_tokens=70)


def speech(samples: int = 3000, seed: int = 0) -> tl.Audio:
    return tl.Audio((0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32), 16000)


def film(rate: float = 0.04) -> tl.Video:
    """Frames at 0, 25, 50, 75 and 100 seconds."""
    return tl.Video(np.stack([pixels(30, 40, i) for i in range(FRAMES)]), frame_rate=rate)


def encode(engine: tl.Engine, text: str, special: bool = False) -> list[int]:
    return engine.tokenizer.encode(text, parse_special=special)


def image_ids(rows: int, token: int = IMAGE) -> list[int]:
    return [BOI, *[token] * rows, EOI]


def film_ids(engine: tl.Engine) -> list[int]:
    rows = engine.embed_image(pixels(30, 40), 70).shape[0]
    ids = []
    for i, time in enumerate(("00:00", "00:25", "00:50", "01:15", "01:40")):
        ids += [*encode(engine, f"{' ' if i else ''}{time} "), *image_ids(rows, VIDEO)]
    return ids


# ------------------------------------------------------------------------------------------------------------ prefill
def test_parts_bring_their_markers(engine: tl.Engine) -> None:
    session, by_hand = engine.session(), engine.session()
    session.prefill([2, "the fox ", picture(60, 84), "and ", speech(), " now"])
    soft, sound = engine._soft_image(picture(60, 84)), engine._soft_audio(speech())
    assert (soft.rows, sound.rows) == (63, 5)
    by_hand.prefill([2, "the fox ", BOI, soft, EOI, "and ", BOA, sound, EOA, " now"])
    assert session.tokens == by_hand.tokens
    assert list(session.tokens) == [
        2, *encode(engine, "the fox "), *image_ids(63), *encode(engine, "and "), BOA, *[AUDIO] * 5, EOA,
        *encode(engine, " now"),
    ]  # fmt: skip
    assert np.array_equal(session.logits([20, 21]), by_hand.logits([20, 21]))


def test_a_film_is_frames_with_their_times(engine: tl.Engine) -> None:
    session = engine.session()
    session.prefill([2, film()])
    assert list(session.tokens) == [2, *film_ids(engine)]


def test_a_film_with_its_sound(fast: tl.Engine) -> None:
    pytest.importorskip("av", reason="decoding films needs av")
    from media_files import film as film_file

    session = fast.session()
    session.prefill([2, tl.Video(film_file(50, sound="aac"), num_frames=3, audio=True)])
    tokens = list(session.tokens)
    assert tokens.count(VIDEO) == 3 * 63 and tokens.count(BOI) == 3 and tokens[-1] == EOA
    assert tokens.count(AUDIO) in range(50, 54) and tokens.count(BOA) == 1  # two seconds, 40 ms each
    with pytest.raises(tl.InvalidRequestError, match="has no sound track"):
        fast.session().prefill([2, tl.Video(film_file(50), num_frames=3, audio=True)])


def test_image_budgets(fast: tl.Engine) -> None:
    session = fast.session()
    session.prefill([tl.Image(pixels(60, 60), max_soft_tokens=140)])
    assert session.position == 121 + 2
    assert fast.embed_image(tl.Image(pixels(60, 60), max_soft_tokens=140), 280).shape == (256, 128)
    assert fast.embed_image(pixels(60, 60)).shape == (256, 128)


# ------------------------------------------------------------------------------------------------------- conversations
def turn(engine: tl.Engine, role: str, *content: str | list[int]) -> list[int]:
    """A turn of the tiny template. Text that lies between two special tokens is read as one."""
    ids: list[int] = encode(engine, f"<|turn>{role}", special=True)
    text = "\n"
    for part in content:
        if isinstance(part, str):
            text += part
        else:
            ids += encode(engine, text) + part
            text = ""
    return [*ids, *encode(engine, text), *encode(engine, "<turn|>", special=True)]


def rendered(engine: tl.Engine, *turns: list[int]) -> list[int]:
    ids = [2]
    for one in turns:
        ids += [*one, *encode(engine, "\n")]
    return [*ids, *encode(engine, "<|turn>model\n", special=True)]


def test_media_stand_where_the_template_puts_them(engine: tl.Engine) -> None:
    with engine.conversation(system="be brief") as chat:
        chat.send("what <|image|> is this<image|>", SHORT, images=[picture(60, 84), pixels(24, 24)], audio=[speech()])
        rows = engine.embed_image(pixels(24, 24)).shape[0]
        content = [image_ids(63) + image_ids(rows), "what <|image|> is this<image|>", [BOA, *[AUDIO] * 5, EOA]]
        expected = rendered(engine, turn(engine, "system", "be brief"), turn(engine, "user", *content))
        assert list(chat.session.tokens[: len(expected)]) == expected
        assert chat.session.position == len(expected) + 4


def test_order_of_a_content_is_kept(fast: tl.Engine) -> None:
    with fast.conversation() as chat:
        content = [
            {"type": "text", "text": "first "}, {"type": "audio", "audio": speech()}, {"type": "text", "text": "then"},
            {"type": "image", "image": picture(60, 84)},
        ]  # fmt: skip
        chat.history = [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]
        chat.send("the film:", SHORT, videos=[film()])
        frames = film_ids(fast)
        first = len(encode(fast, "00:00 "))
        user = turn(fast, "user", "first ", [BOA, *[AUDIO] * 5, EOA], "then", image_ids(63))
        # "\n" of the turn and the first time are one text.
        asked = [*encode(fast, "<|turn>user", special=True), *encode(fast, "\n00:00 "), *frames[first:],
                 *encode(fast, "the film:"), *encode(fast, "<turn|>", special=True)]  # fmt: skip
        expected = rendered(fast, user, turn(fast, "model", "yes"), asked)
        assert list(chat.session.tokens[: len(expected)]) == expected


def test_a_second_question_reads_only_its_text(engine: tl.Engine) -> None:
    looked = film()
    with engine.conversation() as chat:
        first = chat.send("what is this?", SHORT, images=[picture(60, 84, 5)], videos=[looked], audio=[speech(seed=5)])
        before, embedded = chat.session.stats(), engine.stats()
        second = chat.send("and now?", SHORT)
        assert chat.session.stats().since(before).prefill_tokens < 40
        done = engine.stats().since(embedded)
        assert (done.media_embedded, done.media_reused) == (0, 0)  # not even looked up
        history = chat.history[:2]
        assert history[1]["content"] == first
    with engine.conversation() as other:  # the same content in other objects: remembered by the engine
        before = engine.stats()
        answer = other.send(
            "what is this?", SHORT, images=[picture(60, 84, 5)], videos=[film()], audio=[speech(seed=5)]
        )
        done = engine.stats().since(before)
        assert answer == first
        assert (done.media_embedded, done.media_reused) == (0, 2 + FRAMES)
        assert other.send("and now?", SHORT) == second


def test_another_image_in_the_history_is_read(fast: tl.Engine) -> None:
    with fast.conversation() as chat, fast.conversation() as fresh:
        chat.send("what is this?", SHORT, images=[picture(60, 84, 1)])
        chat.history[0]["content"][0]["image"] = picture(60, 84, 2)
        answer = chat.send("sure?", SHORT)
        fresh.history = chat.history[:2]
        assert fresh.send("sure?", SHORT) == answer
        assert chat.session.tokens == fresh.session.tokens


# ------------------------------------------------------------------------------------------------------------- errors
def test_more_than_the_context(fast: tl.Engine) -> None:
    session = fast.session()
    session.prefill([2, picture(60, 84)])
    position = session.position
    before = fast.stats()
    with pytest.raises(tl.ContextLengthError, match="take more than the 958 tokens"):
        session.prefill([tl.Video(np.stack([pixels(30, 40, 100 + i) for i in range(32)]), frame_rate=1)])
    assert session.position == position
    assert fast.stats().since(before).media_embedded < 20  # it does not read on after the context is full
    with fast.conversation() as chat:
        with pytest.raises(tl.ContextLengthError):
            chat.send("what is this?", images=[tl.Image(pixels(60, 84, i), max_soft_tokens=280) for i in range(4)])
        assert chat.history == [] and chat.session.position == 0
        assert chat.send("hello", SHORT) is not None


def test_what_cannot_fit_is_not_computed(fast: tl.Engine) -> None:
    """Minutes of sound and films of thousands of frames are refused by their length."""
    session, before = fast.session(), fast.stats()
    with pytest.raises(tl.ContextLengthError, match="take more than the 1024 tokens"):
        session.prefill([speech(16000 * 60, seed=60)])
    assert fast.stats().since(before).media_embedded == 0
    many = np.broadcast_to(pixels(30, 40, 60), (5000, 30, 40, 3))
    with pytest.raises(tl.ContextLengthError, match="of a film, fewer frames"):
        session.prefill([tl.Video(many, frame_rate=25, num_frames=4096)])
    assert fast.stats().since(before).media_embedded == 1  # the first frame says how many tokens each takes
    assert session.position == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": "cat.png"}, "image input must be a list"),
        ({"images": pixels(9, 9)}, "image input must be a list"),
        ({"audio": [3]}, "audio must be a path"),
        ({"videos": [pixels(9, 9)]}, "video array"),
        ({"images": [np.zeros((3, 3))]}, "uint8"),
    ],
)
def test_what_is_no_media(fast: tl.Engine, arguments: dict[str, Any], words: str) -> None:
    with fast.conversation() as chat, pytest.raises(tl.InvalidRequestError, match=words):
        chat.stream("what is this?", SHORT, **arguments)


@pytest.mark.parametrize("content", [3, None, [3], [{"type": "smell"}], [{"type": "image"}], [{"type": "text"}]])
def test_contents_that_mean_nothing(fast: tl.Engine, content: Any) -> None:
    with fast.conversation() as chat:
        chat.history = [{"role": "user", "content": content}]
        with pytest.raises(tl.InvalidRequestError, match="content must be str, or a list"):
            chat.send("hello", SHORT)


@pytest.mark.parametrize(("template", "words"), [("x", "no place for image"), ("<|image|><|image|>", "a place for")])
def test_templates_that_do_not_fit(fast: tl.Engine, template: str, words: str) -> None:
    with fast.conversation() as chat:
        chat._template = ChatTemplate(template)
        with pytest.raises(tl.InvalidRequestError, match=words):
            chat.send("what is this?", SHORT, images=[picture(60, 84)])


def test_a_model_without_eyes(tiny_gemma3: Path) -> None:
    with tl.Engine(tiny_gemma3, num_threads=1) as engine, engine.conversation() as chat:
        for arguments in ({"images": [picture(9, 9)]}, {"audio": [speech()]}, {"videos": [film()]}):
            with pytest.raises(tl.InvalidRequestError, match="takes no"):
                chat.send("what is this?", SHORT, **arguments)
        with pytest.raises(tl.InvalidRequestError, match="takes no images"):
            engine.session().prefill([2, picture(9, 9)])


# --------------------------------------------------------------------------------------------- progress, cancellation
def test_progress(fast: tl.Engine) -> None:
    seen: list[tuple[str, int, int]] = []
    session = fast.session()
    session.prefill([2, film(), *range(20, 80)], lambda *step: seen.append(step))
    assert [step for step in seen if step[0] == "video frames"] == [
        ("video frames", i, FRAMES) for i in range(1, FRAMES + 1)
    ]
    steps = [step for step in seen if step[0] == "prompt tokens"]
    assert steps[-1] == ("prompt tokens", session.position - 1, session.position)


def test_what_progress_raises_ends_the_work(fast: tl.Engine) -> None:
    class Enough(Exception):
        pass

    def stop(what: str, done: int, _total: int) -> None:
        if what == "video frames" and done == 3:
            raise Enough

    session = fast.session()
    with pytest.raises(Enough):
        session.prefill([2, film()], stop)
    assert session.position == 0 and session.tokens == ()


def test_cancel_while_media_are_read(fast: tl.Engine) -> None:
    session = fast.session()
    with pytest.raises(tl.Cancelled):
        session.prefill([2, film()], lambda _what, done, _total: session.cancel() if done == 2 else None)
    assert session.position == 0
    session.prefill([2, film()])  # the next call is not cancelled
    with fast.conversation() as chat:
        thread = threading.Timer(0.0, chat.session.cancel)
        thread.start()
        thread.join()
        assert chat.send("what is this?", SHORT, images=[picture(60, 84)]) is not None


# ------------------------------------------------------------------------------------------------------ command line
def test_run_and_chat(
    media_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL", reason="decoding pictures needs Pillow")
    pytest.importorskip("soundfile", reason="decoding recordings needs soundfile")
    from media_files import picture as picture_file
    from media_files import recording

    image, sound = tmp_path / "a picture.png", tmp_path / "sound.wav"
    image.write_bytes(picture_file(pixels(60, 84), "PNG"))
    sound.write_bytes(recording(speech().pcm(), 16000, subtype="FLOAT"))
    media = ["--image", str(image), "--audio", str(sound), "--image-tokens", "70"]

    def tandem(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    with tl.Engine(media_bundle) as engine:
        with engine.conversation() as chat:
            params = tl.SamplingParams(max_tokens=5)
            answer = chat.send("what is this?", params, images=[picture(60, 84)], audio=[speech()])
        session = engine.session()
        session.prefill([2, picture(60, 84), "the fox", speech()])
        raw = "".join(token.text for token in session.generate(params))
    assert tandem("run", media_bundle, "-p", "what is this?", *media, "-n", 5) == (0, answer + "\n", "")
    assert tandem("run", media_bundle, "-p", "the fox", "--raw", *media, "-n", 5) == (0, raw + "\n", "")
    lines = f"/image {image}\n/audio {sound}\nwhat is this?\n"
    assert tandem("chat", media_bundle, "--temperature", 0, "-n", 5, stdin=lines)[0] == 0
    status, out, err = tandem("chat", media_bundle, stdin=f"/image {tmp_path / 'none.png'}\n")
    assert (status, out) == (1, "") and "cannot read image" in err
    status, out, err = tandem("run", media_bundle, "-p", "x", "--image", image, "--image-tokens", 71)
    assert (status, out) == (1, "") and "max_soft_tokens is 71" in err
