"""The demo on nano, the small model inside the package: a story, a picture, a film, a clip, a tool, and figures."""

from __future__ import annotations

import re
import struct
import wave
import zlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ._quiet import without_greeting
from .chat import ChatTemplate
from .engine import Engine, Session
from .errors import BundleError
from .library import writable_cache_dir
from .media import Audio, Image, Video
from .memory import peak_rss_bytes, reset_peak_rss
from .types import SamplingParams, Stats

DATA = Path(__file__).parent / "data"
BUNDLE, CLIP = "nano.litertlm", "spoken.wav"
DRAFTS = 3  # per round where the drafter is measured
STORIES = ("fox", "owl", "bear", "duck")
NEEDED = ("text", "image", "audio", "video")
NEXT = """Next
  tandem convert path/to/gemma-4-12B-it model.litertlm --quant int4-block32 --drafter path/to/assistant
  tandem chat model.litertlm
  tandem demo --model gemma3-270m        (text by a larger model, from the package registry)"""


def run_nano_demo(bundle: Path | None = None, num_threads: int | None = None) -> None:
    """Writes to stdout. `bundle`: None is the one inside the package."""
    path = bundle if bundle is not None else packaged_bundle()
    reset_peak_rss()
    with without_greeting():
        engine = Engine(path, num_threads=num_threads)
    with engine:
        _check(engine)
        info = engine.info
        print(f"nano: {path.stat().st_size / 1e6:.1f} MB, {info.quantization}, loaded in {info.load_seconds:.2f} s")
        tell_story(engine)
        look(engine, drawing_path("picture.png"))
        watch(engine, drawing_path("film.png"))
        listen(engine, path.with_name(CLIP))
        use_tool(engine)
        measure(engine)
    print(NEXT)


def nano_is_packaged() -> bool:
    return (DATA / BUNDLE).exists()


def packaged_bundle() -> Path:
    path = DATA / BUNDLE
    if not path.exists():
        raise BundleError(
            f"{path}: this build has no nano model; train one (python -m tandem_converter.nano.train FOLDER) and use "
            f"tandem demo --model FOLDER/{BUNDLE}, or use tandem demo --model gemma3-270m"
        )
    return path


def drawing_path(name: str) -> Path:
    folder = writable_cache_dir() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _check(engine: Engine) -> None:
    missing = [kind for kind in NEEDED if kind not in engine.info.modalities]
    if engine.info.chat_template is None:
        missing.append("a chat template")
    if not engine.info.has_drafter:
        missing.append("a drafter")
    if missing:
        raise BundleError(f"{engine.path} is no nano bundle, it lacks {', '.join(missing)}; use tandem chat with it")


# ----------------------------------------------------------------------------------------------------------- the parts
def tell_story(engine: Engine) -> None:
    _title("A story")
    with engine.conversation() as chat:
        _ask("Tell me a story about a fox.")
        _stream(chat.stream("Tell me a story about a fox.", SamplingParams(max_tokens=200)))


def look(engine: Engine, path: Path) -> None:
    """Draws two shapes, saves them, and asks what they are."""
    from tandem_converter.nano.drawing import CELL, COLOURS, blank, draw

    _title(f"A picture: {path}")
    pixels = blank()
    draw(pixels, "circle", COLOURS["red"], 2 * CELL, 2 * CELL, 40)
    draw(pixels, "star", COLOURS["blue"], 6 * CELL, 6 * CELL, 40)
    write_png(path, pixels)
    with engine.conversation() as chat:
        _ask("What is in the picture?")
        _stream(chat.stream("What is in the picture?", SamplingParams(max_tokens=32), images=[Image(pixels)]))


def watch(engine: Engine, path: Path) -> None:
    """Draws a film of four frames, saves them side by side, and asks where it goes."""
    from tandem_converter.nano.drawing import CELL, COLOURS, blank, draw

    _title(f"A film: {path}")
    frames = []
    for i in range(4):
        frames.append(blank())
        draw(frames[-1], "triangle", COLOURS["green"], (1.5 + 1.4 * i) * CELL, 4 * CELL, 36)
    write_png(path, np.concatenate(frames, axis=1))
    film = Video(np.stack(frames), frame_rate=1, num_frames=len(frames))
    with engine.conversation() as chat:
        _ask("Which way does the triangle move?")
        _stream(chat.stream("Which way does the triangle move?", SamplingParams(max_tokens=32), videos=[film]))


def listen(engine: Engine, clip: Path) -> None:
    """Writes down the recording that lies beside the bundle."""
    if not clip.exists():
        raise BundleError(f"{clip}: the recording that belongs to the bundle is missing; install the package again")
    _title(f"A recording: {clip}")
    samples, rate = read_clip(clip)
    with engine.conversation() as chat:
        _ask("What do you hear?")
        _stream(chat.stream("What do you hear?", SamplingParams(max_tokens=32), audio=[Audio(samples, rate)]))


def read_clip(path: Path) -> tuple[np.ndarray, int]:
    """int16 [samples] of a WAV file of one channel, and their rate in Hz."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Start a timer.",
        "parameters": {
            "type": "object",
            "properties": {"minutes": {"type": "integer", "description": "Minutes"}},
            "required": ["minutes"],
        },
    },
}
CALL = re.compile(r"<\|tool_call>call:set_timer\{minutes:(\d{1,4})\}<tool_call\|>")


def use_tool(engine: Engine) -> None:
    """One call: the model writes it, this process does it, the model says what was done."""
    _title("A tool: set_timer(minutes)")
    question: dict[str, Any] = {"role": "user", "content": "Set a timer for 12 minutes."}
    _ask(question["content"])
    with engine.session() as session:
        said = _complete(engine, session, [question])
        print(f"  the model calls: {said}")
        match = CALL.search(said)
        if match is None:
            print("  that is no call of the tool, so nothing was done")
            return
        minutes = int(match[1])
        ends = datetime.now() + timedelta(minutes=minutes)
        print(f"  the tool returns: ok (the timer would ring at {ends:%H:%M})")
        done = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "set_timer", "arguments": {"minutes": minutes}}}],
            "tool_responses": [{"name": "set_timer", "response": "ok"}],
        }
    with engine.session() as session:
        print(f"  {_complete(engine, session, [question, done])}")


def _complete(engine: Engine, session: Session, messages: list[dict[str, Any]]) -> str:
    """The model's greedy continuation of the messages, markers of calls included."""
    info, tokenizer = engine.info, engine.tokenizer
    template = ChatTemplate(info.chat_template or "", bos_token=tokenizer.decode([info.bos_id]))
    session.prefill(tokenizer.encode(template.render(messages, tools=[TIMER]), parse_special=True))
    ids = [token.id for token in session.generate(SamplingParams(max_tokens=64))]
    return tokenizer.decode([token for token in ids if token not in info.eos_ids])


# --------------------------------------------------------------------------------------------------------- the figures
def measure(engine: Engine) -> None:
    """The same stories with the drafter and without: equal text, and what it saves."""
    _title("The drafter")
    ways = {
        "without": SamplingParams(max_tokens=120, drafter="off"),
        "with": SamplingParams(max_tokens=120, drafter="on", draft_tokens=DRAFTS),
        "auto": SamplingParams(max_tokens=120, drafter="auto"),
    }
    totals = {name: Stats() for name in ways}
    equal = True
    for animal in STORIES:
        texts = []
        for name, params in ways.items():
            with engine.conversation() as chat:
                texts.append(chat.send(f"Tell me a story about a {animal}.", params))
                totals[name] += chat.session.stats()
        equal = equal and len(set(texts)) == 1
    on, off, chosen = totals["with"], totals["without"], totals["auto"]
    share = [f"{a / n:.2f}" for a, n in zip(on.accepted_by_position, _reached(on), strict=False) if n]
    print(f"  {len(STORIES)} stories, {off.decode_tokens} tokens, the same text with it and without: {_yes(equal)}")
    print(f"  accepted            {on.accepted} of {on.drafted} drafts; first, second, ... draft: {', '.join(share)}")
    print(f"  tokens per verify   {on.tokens_per_verify:.2f}")
    print(f"  speed               {off.decode_tokens_per_second:.0f} tokens/s without, "
          f"{on.decode_tokens_per_second:.0f} with {DRAFTS} drafts per round, "
          f"{chosen.decode_tokens_per_second:.0f} as Tandem chooses")  # fmt: skip
    print("                      (drafts pay where a step of the model costs much more than a draft; nano's does not)")
    print(f"  peak memory         {peak_rss_bytes() / 2**20:.0f} MiB, all of Python and LiteRT included")
    print()


def _reached(stats: Stats) -> list[int]:
    """How many rounds had a draft at each position."""
    depths = list(stats.depths)
    return [sum(depths[i + 1 :]) for i in range(len(depths) - 1)]


def write_png(path: Path, pixels: np.ndarray) -> None:
    """uint8 [H, W, 3] as a PNG file."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _title(text: str) -> None:
    print(f"\n{text}")


def _ask(question: str) -> None:
    print(f"> {question}")


def _stream(pieces: Iterable[str]) -> None:
    print("  ", end="")
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
