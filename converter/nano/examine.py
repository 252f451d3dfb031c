"""Examines a nano bundle through the product: `python -m tandem_converter.nano.examine BUNDLE`.

Held-out items of every kind, greedy: how many answers are right, with a 95 % interval, beside the floor that the
project keeps; how many tokens a verify step gives with three drafts, and whether the text stays the same; and, with the
folder of the checkpoint, the loss and the logits beside transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import mixture, product
from .items import Item
from .speech import MissingSpeaker, Speaker

if TYPE_CHECKING:
    from tandem_lm import Engine

FLOORS = {"shape_colour": 0.95, "number": 0.90, "digits": 0.90, "movement": 0.90, "tool": 0.95, "arithmetic": 0.80}
OTHERS = ("json", "reading", "scene", "counting", "word", "command", "tool_answer")
VERIFY_FLOORS = {"story": 2.2, "tool": 2.8, "json": 2.8}
DRAFTS = 3
SPOKEN = ("digits", "command")
SEED = 20


@dataclass(frozen=True)
class Mark:
    """`right` of `count`; digits are counted one by one, everything else as whole answers."""

    kind: str
    right: int
    count: int
    floor: float | None = None

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson, 95 %."""
        z, n, p = 1.96, self.count, self.share
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def passed(self) -> bool:
        return self.floor is None or self.share >= self.floor


@dataclass(frozen=True)
class Drafting:
    """With three drafts per round, over all items of a kind."""

    kind: str
    tokens_per_verify: float
    accepted_by_position: tuple[float, ...]  # of the rounds that got that far
    same_text: bool
    floor: float


def held_out(kind: str, count: int, speaker: Speaker | None) -> list[Item]:
    """`count` items; tool calls and their answers come from one source and are told apart here."""
    if kind not in ("tool", "tool_answer"):
        return mixture.examination(kind, count, SEED, speaker)
    return [item for item in mixture.examination("tool", 4 * count, SEED, speaker) if item.kind == kind][:count]


def examine(engine: Engine, kind: str, count: int, speaker: Speaker | None) -> Mark:
    right = total = 0
    for item in held_out(kind, count, speaker):
        said = product.answer(engine, item).text
        if kind == "digits":
            heard, spoken = product.visible(said).split(), item.expected.split()
            right += len(spoken) - min(len(spoken), errors(spoken, heard))
            total += len(spoken)
        else:
            right += product.right(item, said)
            total += 1
    return Mark(kind, right, total, FLOORS.get(kind))


def errors(expected: list[str], said: list[str]) -> int:
    """Words to replace, insert or leave out."""
    row = list(range(len(said) + 1))
    for i, wanted in enumerate(expected, 1):
        before, row[0] = row[0], i
        for j, word in enumerate(said, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (wanted != word))
    return row[-1]


def draft(engine: Engine, kind: str, count: int) -> Drafting:
    """Needs an engine with its drafter on."""
    import tandem_lm as tl

    same, stats = True, tl.Stats()
    for item in held_out(kind, count, None):
        drafted = product.answer(engine, item, draft_tokens=DRAFTS)
        same = same and drafted.text == product.answer(engine, item, drafter="off").text
        stats += drafted.stats
    reached = [sum(stats.depths[i + 1 :]) for i in range(DRAFTS)]
    before = [reached[0], *stats.accepted_by_position]
    shares = tuple(
        round(a / min(n, r), 4) if min(n, r) else 0.0
        for a, n, r in zip(stats.accepted_by_position, before, reached, strict=False)
    )
    return Drafting(kind, stats.tokens_per_verify, shares, same, VERIFY_FLOORS[kind])


def beside_transformers(bundle: Path, folder: Path, count: int, speaker: Speaker | None) -> dict[str, Any]:
    """Largest relative difference of logits, and the ratio of perplexities on stories. `folder`: of the target."""
    import torch
    from tokenizers import Tokenizer
    from transformers import Gemma4UnifiedForConditionalGeneration

    import tandem_lm as tl

    from . import parity
    from .batches import Encoder

    model = Gemma4UnifiedForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    worst: dict[str, float] = {}
    loss = reference = 0.0
    tokens = 0
    with tl.Engine(bundle, kv_dtype="f32") as engine:
        for kind in [*VERIFY_FLOORS, *FLOORS, *OTHERS]:
            if kind in SPOKEN and speaker is None:
                continue
            for item in held_out(kind, count, speaker):
                one = parity.compare(engine, model, encoder, item)
                worst[kind] = max(worst.get(kind, 0.0), one.worst)
                if kind == "story":
                    loss, reference = loss + one.loss * one.tokens, reference + one.reference_loss * one.tokens
                    tokens += one.tokens
    return {
        "largest_difference": {kind: round(value, 7) for kind, value in worst.items()},
        "story_perplexity": round(math.exp(loss / tokens), 4),
        "story_perplexity_transformers": round(math.exp(reference / tokens), 4),
        "perplexity_ratio": round(math.exp((loss - reference) / tokens), 5),
    }


def report(bundle: Path, count: int, speaker: Speaker | None, say: Callable[[str], None]) -> dict[str, Any]:
    import tandem_lm as tl

    marks, drafting = [], []
    with tl.Engine(bundle, drafter="on") as engine:
        for kind in [*FLOORS, *OTHERS]:
            if kind in SPOKEN and speaker is None:
                say(f"{kind:14} not examined: espeak-ng is not installed")
                continue
            mark = examine(engine, kind, count, speaker)
            low, high = mark.interval
            floor = "" if mark.floor is None else f"   floor {mark.floor:.2f}{'' if mark.passed else '  MISSED'}"
            say(f"{kind:14} {mark.right:4} of {mark.count:4}  {mark.share:.3f}  [{low:.3f}, {high:.3f}]{floor}")
            marks.append({"kind": kind, "right": mark.right, "count": mark.count, "low": low, "high": high,
                          "floor": mark.floor, "passed": mark.passed})  # fmt: skip
        for kind in VERIFY_FLOORS:
            one = draft(engine, kind, count)
            text = "same text" if one.same_text else "ANOTHER TEXT"
            missed = "" if one.tokens_per_verify >= one.floor else "  MISSED"
            shares = ", ".join(f"{share:.2f}" for share in one.accepted_by_position)
            say(f"{kind:14} {one.tokens_per_verify:.2f} tokens per verify, accepted {shares}, {text}, "
                f"floor {one.floor}{missed}")  # fmt: skip
            drafting.append(vars(one))
    return {"bundle_bytes": bundle.stat().st_size, "items": count, "marks": marks, "drafting": drafting}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tandem_converter.nano.examine", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--items", type=int, default=200, help="of each kind (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="folder of the target, to compare with transformers")
    parser.add_argument("--f32", type=Path, help="an f32 bundle of the same checkpoint, for the comparison of logits")
    parser.add_argument("--compared", type=int, default=50, help="items of a kind to compare (default: %(default)s)")
    parser.add_argument("--speech-cache", type=Path, default=Path("nano/speech"), help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, help="write everything as JSON")
    args = parser.parse_args(given)
    try:
        speaker: Speaker | None = Speaker(args.speech_cache)
    except MissingSpeaker:
        speaker = None
    made = report(args.bundle, args.items, speaker, print)
    if args.checkpoint is not None:
        for name, bundle in (("int8", args.bundle), ("f32", args.f32)):
            if bundle is not None:
                made[name] = beside_transformers(bundle, args.checkpoint, args.compared, speaker)
                print(name, json.dumps(made[name]))
    if args.output is not None:
        args.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    missed = [mark["kind"] for mark in made["marks"] if not mark["passed"]]
    missed += [
        one["kind"] for one in made["drafting"] if one["tokens_per_verify"] < one["floor"] or not one["same_text"]
    ]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
