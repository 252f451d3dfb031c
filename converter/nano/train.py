"""Trains nano, its drafter, and makes the bundle: `python -m tandem_converter.nano.train OUT`.

Everything is generated from the seed. A run that was stopped goes on where it last saved when it is started again with
the same folder. OUT then holds: tokenizer.json, log.jsonl, target/ and assistant/ (Hugging Face folders),
nano.litertlm, and spoken.wav (a held-out clip) with spoken.json (what it says).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import wave
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from . import architecture, export, mixture, tokenizer
from .batches import Encoder
from .drafter import DRAFTS, Acceptance, DrafterTrainer
from .items import Sound
from .schedule import Schedule
from .speech import MissingSpeaker, Speaker
from .target import Tally, TargetTrainer

EXAMINED = ("story", "reading", "arithmetic", "json", "tool", "scene", "shape_colour", "counting", "number", "word",
            "movement", "digits", "command")  # fmt: skip
ENGLISH = Path(__file__).parents[1] / "calibrate" / "data" / "english.txt"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tandem_converter.nano.train", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("nano"), help="folder (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a minute: a few steps of everything, for tests")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=3600, help="of the target's training (default: %(default)s)")
    parser.add_argument("--drafter-steps", type=int, default=600, help="of the drafter's (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="length of the target's training by the clock, not in steps")
    parser.add_argument("--drafter-minutes", type=float, help="likewise, of the drafter's")
    parser.add_argument("--items", type=int, default=32, help="per step (default: %(default)s)")
    parser.add_argument("--peak", type=float, default=2e-3, help="largest rate of Adam (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile the layers: a fifth faster after a minute")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=200, help="steps between reports and saves (default: %(default)s)")
    parser.add_argument("--examine", type=int, default=48, help="held-out items of a kind (default: %(default)s)")
    parser.add_argument("--speech-cache", type=Path, help="folder of spoken words (default: OUT/speech)")
    parser.add_argument("--without-speech", action="store_true", help="no sound: espeak-ng is then not needed")
    return parser


class Log:
    """log.jsonl and one line each on stderr."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: str, **values: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 1), **values}) + "\n")
        kinds = values.pop("kinds", {})
        shown = [f"{key} {value}" for key, value in values.items() if value is not None]
        shown += [f"{kind} {score['loss']:.2f}/{score['right']:.2f}" for kind, score in kinds.items()]
        print(event, *shown, file=sys.stderr, flush=True)


def learn_tokenizer(path: Path, seed: int, items: int = 6000) -> dict[str, Any]:
    """tokenizer.json from texts like the run's and some English; made once."""
    if not path.exists():
        drawn = islice(mixture.training_items(seed, None), items)
        texts = ["".join(text for text, _ in item.segments()) for item in drawn]
        body = tokenizer.learn([*texts, ENGLISH.read_text(encoding="utf-8")])
        path.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def keep(path: Path, state: dict[str, Any]) -> None:
    """Never a half-written state."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def train_target(args: argparse.Namespace, body: dict[str, Any], speaker: Speaker | None, log: Log) -> Any:
    """The trained Gemma4UnifiedForConditionalGeneration."""
    encoder = Encoder(Tokenizer.from_str(json.dumps(body)))
    model = architecture.new_target(architecture.target_config(body["model"]["vocab"]), args.seed)
    trainer = TargetTrainer(model, encoder, speaker, args.seed, args.items, args.peak)
    path, done = args.out / "target.pt", {"seconds": 0.0, "finished": False}
    if path.exists():
        stored = torch.load(path, weights_only=True)
        trainer.load(stored["trainer"])
        done = stored["done"]
    log("target", step=trainer.step, parameters=sum(p.numel() for p in model.parameters()))
    if not done["finished"]:
        schedule = Schedule(args.steps, args.minutes, done["seconds"])
        if args.compile:
            torch._dynamo.config.recompile_limit = 64  # kinds of layers, times training and examination
            for layer in model.model.language_model.layers:
                layer.compile(dynamic=True)
        kinds = [kind for kind in EXAMINED if speaker or kind not in ("digits", "command")]

        def report(step: int, tally: Tally) -> None:
            log("step", step=step, seconds=round(schedule.seconds), **tally.summary())
            if step % (5 * args.every) == 0:
                log("held-out", step=step, **trainer.examine(kinds, args.examine).summary())

        def save(finished: bool = False) -> None:
            keep(path, {"trainer": trainer.state(), "done": {"seconds": schedule.seconds, "finished": finished}})

        trainer.run(schedule, args.every, report, save)
        log("held-out", step=trainer.step, **trainer.examine(kinds, args.examine).summary())
        save(finished=True)
    model.eval()
    return model


def train_drafter(
    args: argparse.Namespace, body: dict[str, Any], target: Any, speaker: Speaker | None, log: Log
) -> Any:
    """The trained Gemma4UnifiedAssistantForCausalLM."""
    encoder = Encoder(Tokenizer.from_str(json.dumps(body)))
    model = architecture.new_assistant(architecture.assistant_config(len(body["model"]["vocab"])), target, args.seed)
    trainer = DrafterTrainer(model, target, encoder, speaker, args.seed, args.items, args.peak)
    path, done = args.out / "drafter.pt", {"seconds": 0.0, "finished": False}
    if path.exists():
        stored = torch.load(path, weights_only=True)
        trainer.load(stored["trainer"])
        done = stored["done"]
    log("drafter", step=trainer.step, parameters=sum(p.numel() for p in model.parameters()))
    if not done["finished"]:
        schedule = Schedule(args.drafter_steps, args.drafter_minutes, done["seconds"])

        def report(step: int, seen: Acceptance) -> None:
            loss = round(seen.loss / max(1, seen.count), 4)
            log("draft step", step=step, seconds=round(schedule.seconds), loss=loss, accepted=seen.rates())

        def save(finished: bool = False) -> None:
            keep(path, {"trainer": trainer.state(), "done": {"seconds": schedule.seconds, "finished": finished}})

        trainer.run(schedule, args.every, report, save)
        for kind in ("story", "json", "tool", "arithmetic"):
            log("draft held-out", of=kind, drafts=DRAFTS, accepted=trainer.examine(kind, args.examine).rates())
        save(finished=True)
    return model.eval()


def write_clip(path: Path, speaker: Speaker, seed: int) -> str:
    """A held-out recording of four digits as a WAV file, and what it says beside it, as JSON. Returns that."""
    rng_items = (
        item for item in mixture.examination("digits", 64, seed + 1, speaker) if len(item.expected.split()) == 4
    )
    item = next(rng_items)
    sound = item.media[0]
    assert isinstance(sound, Sound)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.rint(sound.samples * 32767).astype("<i2").tobytes())
    path.with_suffix(".json").write_text(json.dumps({"said": item.expected}) + "\n")
    return item.expected


def main(given: list[str] | None = None) -> int:
    args = arguments().parse_args(given)
    if args.smoke:
        args.steps, args.drafter_steps, args.items, args.every, args.examine = 40, 16, 12, 8, 8
        args.minutes = args.drafter_minutes = None
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    log, start = Log(args.out / "log.jsonl"), time.monotonic()
    speaker = None
    if not args.without_speech:
        try:
            speaker = Speaker(args.speech_cache or args.out / "speech")
        except MissingSpeaker as error:
            print(f"error: {error}; or train --without-speech", file=sys.stderr)
            return 1
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    log("start", **versions, settings=settings)
    body = learn_tokenizer(args.out / "tokenizer.json", args.seed)
    target = train_target(args, body, speaker, log)
    assistant = train_drafter(args, body, target, speaker, log)
    export.save(args.out, target, assistant, body)
    export.bundle(args.out, args.out / "nano.litertlm")
    if speaker is not None:
        log("clip", said=write_clip(args.out / "spoken.wav", speaker, args.seed))
    size = (args.out / "nano.litertlm").stat().st_size
    log("done", seconds=round(time.monotonic() - start), bundle_bytes=size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
