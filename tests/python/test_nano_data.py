"""Nano's exercises: reproducible, held out where they say so, in the published chat format, with media in place."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_converter.nano import examine, mixture, pictures, speech, tasks, tokenizer
from tandem_converter.nano.drawing import SHAPES, blank, draw
from tandem_converter.nano.items import Item, Picture, Sound, chat_template, user

needs_speaker = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def same(a: Item, b: Item) -> bool:
    def values(one: Picture | Sound) -> np.ndarray:
        return one.pixels if isinstance(one, Picture) else one.samples

    if a.segments() != b.segments() or len(a.media) != len(b.media):
        return False
    return all(np.array_equal(values(x), values(y)) for x, y in zip(a.media, b.media, strict=True))


def test_items_depend_on_seed_and_index_alone() -> None:
    pytest.importorskip("PIL")
    first = mixture.training_items(5, None)
    one = [next(first) for _ in range(30)]
    later = mixture.training_items(5, None, start=20)
    assert all(same(item, next(later)) for item in one[20:])
    other = next(mixture.training_items(6, None))
    assert not same(one[0], other)
    assert len({item.kind for item in one}) > 6


def test_examined_sums_are_never_trained() -> None:
    rng = random.Random(0)

    def pair(item: Item) -> tuple[int, ...]:
        return tuple(sorted(int(word) for word in item.messages[0]["content"].rstrip("?").split() if word.isdigit()))

    trained = {pair(tasks.arithmetic(rng)) for _ in range(3000)}
    examined = {pair(tasks.arithmetic(rng, held_out=True)) for _ in range(500)}
    assert len(trained) > 1000 and len(examined) > 200 and all(len(p) == 2 for p in trained | examined)
    assert not trained & examined


def test_arithmetic_is_right_and_so_is_its_thought() -> None:
    rng = random.Random(1)
    for _ in range(300):
        item = tasks.arithmetic(rng)
        words = item.messages[0]["content"].replace("?", "").replace("What is ", "").split()
        a, sign, b = int(words[0]), words[1], int(words[2])
        result = a + b if sign in ("+", "plus") else a - b
        assert item.expected == str(result) and result >= 0
        thought = item.answer.removeprefix("<|channel>thought\n").partition("\n<channel|>")[0]
        assert thought.endswith(f"So {result}.")
        for equation in thought.replace(",", ".").split("."):
            if "=" in equation:
                left, right = equation.strip().split("=")
                assert eval(left, {"__builtins__": {}}) == int(right)


def test_json_answers_parse_and_name_what_was_asked() -> None:
    rng = random.Random(2)
    for _ in range(100):
        item = tasks.extraction(rng)
        asked = item.messages[0]["content"].rpartition("Give ")[2].removesuffix(" as JSON.").split(", ")
        assert list(json.loads(item.answer)) == asked


def test_chat_template_prints_the_published_format() -> None:
    """The examples of the format's description, and a tool's result in both forms."""
    render = chat_template().render
    assert render(messages=[user("Hi")], bos_token="<bos>", add_generation_prompt=True) == (
        "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    )
    messages: list[dict[str, Any]] = [{"role": "system", "content": " Be brief. "}, user("What is this?", "image")]
    shown = render(messages=messages, bos_token="<bos>", add_generation_prompt=True, enable_thinking=True)
    assert shown == (
        "<bos><|turn>system\n<|think|>\nBe brief.<turn|>\n<|turn>user\n<|image|>What is this?<turn|>\n<|turn>model\n"
    )
    schema = {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["C", "F"]},
            "location": {"type": "string", "description": "City"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["location", "unit"],
    }
    tool = {"function": {"name": "get_weather", "description": "Weather.", "parameters": schema}}
    declared = render(messages=[user("x")], tools=[tool], bos_token="<bos>")
    q = '<|"|>'
    assert declared == (
        f"<bos><|turn>system\n<|tool>declaration:get_weather{{description:{q}Weather.{q},parameters:{{properties:{{"
        f"location:{{description:{q}City{q},type:{q}STRING{q}}},tags:{{items:{{type:{q}STRING{q}}},type:{q}ARRAY{q}}},"
        f"unit:{{enum:[{q}C{q},{q}F{q}],type:{q}STRING{q}}}}},required:[{q}location{q},{q}unit{q}],type:{q}OBJECT{q}}}}}"
        "<tool|><turn|>\n<|turn>user\nx<turn|>\n"
    )
    call = {"id": "1", "function": {"name": "f", "arguments": {"b": [1, True], "a": {"k": "v"}}}}
    asked = [user("x"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    opened = render(messages=asked, bos_token="", add_generation_prompt=True)
    assert opened == (
        f"<|turn>user\nx<turn|>\n<|turn>model\n<|tool_call>call:f{{a:{{k:{q}v{q}}},b:[1,true]}}<tool_call|>"
        "<|tool_response>"
    )
    result = {"role": "tool", "tool_call_id": "1", "content": "ok"}
    answered = render(messages=[*asked, result], bos_token="", add_generation_prompt=True)
    inner = {**asked[1], "tool_responses": [{"name": "f", "response": "ok"}]}
    assert answered == render(messages=[asked[0], inner], bos_token="", add_generation_prompt=True)
    assert answered == opened.removesuffix("<|tool_response>") + (
        f"<|tool_response>response:f{{value:{q}ok{q}}}<tool_response|>"
    )
    said = [user("x"), {"role": "assistant", "content": "<|channel>thought\nhm<channel|>yes"}, user("y")]
    assert render(messages=said, bos_token="") == (
        "<|turn>user\nx<turn|>\n<|turn>model\nyes<turn|>\n<|turn>user\ny<turn|>\n"
    )


def test_shapes_are_drawn_apart_and_inside_their_radius() -> None:
    masks = []
    for shape in SHAPES:
        pixels = blank()
        draw(pixels, shape, (0, 0, 0), 100, 100, 40)
        dark = np.argwhere((pixels < 128).all(-1))
        assert np.abs(dark - 100).max() <= 41
        masks.append((pixels < 128).all(-1))
        assert 0.2 < masks[-1].sum() / (np.pi * 40**2) < 1.1
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert (one ^ other).sum() > 300


def test_pictures_say_what_lies_where() -> None:
    pytest.importorskip("PIL")
    item = pictures.number(random.Random(4))
    (shown,) = item.media
    assert isinstance(shown, Picture) and shown.pixels.shape == (384, 384, 3)
    assert "".join(words[0] for words in shown.labels if words) == item.expected
    ground = shown.pixels[0, 0].astype(int) if not shown.labels[0] else shown.pixels[-1, -1].astype(int)
    for at, words in enumerate(shown.labels):
        row, column = divmod(at, 8)
        patch = shown.pixels[row * 48 : row * 48 + 48, column * 48 : column * 48 + 48].astype(int)
        assert bool(words) == bool((np.abs(patch - ground).max(-1) > 30).sum() > 20)


@pytest.mark.parametrize("way", sorted(pictures.WAYS))
def test_films_move_the_way_they_say(way: str) -> None:
    item = next(i for i in (pictures.movement(random.Random(n)) for n in range(200)) if i.expected == way)
    (film,) = item.media
    assert isinstance(film, Picture)
    ground = film.pixels[0, 0, 0].astype(int)
    centres = [np.argwhere(np.abs(frame.astype(int) - ground).max(-1) > 30).mean(0) for frame in film.pixels]
    (dy, dx), (vx, vy) = centres[-1] - centres[0], pictures.WAYS[way]
    assert dx * vx + dy * vy > 100 and abs(dx * vy) + abs(dy * vx) < 5
    assert len(film.labels) == 64 * len(film.pixels)


@needs_speaker
def test_speech_is_held_out_by_speed_and_pitch(tmp_path: Path) -> None:
    trained, examined = speech.combinations(False), speech.combinations(True)
    assert not set(trained) & set(examined) and len(examined) * 3 < len(trained) + len(examined)
    assert {speed for speed, _ in examined} <= {speed for speed, _ in trained}
    speaker = speech.Speaker(tmp_path)
    item = speech.digits(random.Random(3), speaker)
    again = speech.digits(random.Random(3), speech.Speaker(tmp_path))
    assert same(item, again)
    (sound,) = item.media
    assert isinstance(sound, Sound) and np.abs(sound.samples).max() > 0.05
    heard = [words[0].strip() for words in sound.labels if words]
    assert [w for i, w in enumerate(heard) if i == 0 or heard[i - 1] != w] == [
        w for i, w in enumerate(item.expected.split()) if i == 0 or item.expected.split()[i - 1] != w
    ]


def test_tokenizer_has_gemmas_form() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    body = tokenizer.learn(["the fox and the box 12 12 12", "the fox <|turn>user\n"] * 5, size=512)
    ids = body["model"]["vocab"]
    assert len(ids) == 512 and sorted(ids.values()) == list(range(512))
    library = tokenizers.Tokenizer.from_str(json.dumps(body))
    text = "the fox 1212 sits, naïve 猫\n\n\tok"
    assert library.decode(library.encode(text).ids, skip_special_tokens=False) == text
    assert library.encode("the fox<turn|>12").tokens == ["the", "▁fox", "<turn|>", "1", "2"]
    assert [ids[name] for name in ("<pad>", "<eos>", "<bos>")] == [0, 1, 2]
    with pytest.raises(ValueError, match="no room"):
        tokenizer.learn([], size=100)


def test_errors_between_words() -> None:
    assert examine.errors(["one", "two", "three"], ["one", "two", "three"]) == 0
    assert examine.errors(["one", "two", "three"], ["one", "three"]) == 1
    assert examine.errors(["one", "two"], ["two", "one", "nine"]) == 2
    assert examine.errors(["one"], []) == 1
    low, high = examine.Mark("x", 95, 100).interval
    assert low == pytest.approx(0.888, abs=1e-3) and high == pytest.approx(0.978, abs=1e-3)
