"""Speech from espeak-ng: digits, one after another, and short commands, in several voices, speeds and pitches.

Words are spoken one by one, kept on disk, and put together with pauses, so that it is known where each one is. Needs
the program espeak-ng (`apt install espeak-ng`) where data is made; using the trained model needs it not.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import wave
from io import BytesIO
from pathlib import Path

import numpy as np

from . import words
from .items import Item, Sound, user

RATE, FRAME = 16000, 640
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m3")
SPEEDS = tuple(range(120, 201, 10))  # words per minute
PITCHES = tuple(range(30, 71, 10))
COMMANDS = """turn on the light|turn off the light|open the door|close the door|play some music|stop the music|
what time is it|good morning|good night|call me back|start the timer|stop the timer|tell me a story|
help me please|next song|louder please""".replace("\n", "").split("|")


class MissingSpeaker(RuntimeError):
    """espeak-ng is not installed."""


def held_out(speed: int, pitch: int) -> bool:
    """One combination of speed and pitch of five is kept for the examination."""
    return (SPEEDS.index(speed) + 2 * PITCHES.index(pitch)) % 5 == 2


def combinations(examined: bool) -> list[tuple[int, int]]:
    return [(s, p) for s in SPEEDS for p in PITCHES if held_out(s, p) == examined]


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """float [n] at `rate` -> at 16 kHz, by its spectrum."""
    count = round(len(samples) * RATE / rate)
    spectrum = np.fft.rfft(samples)[: count // 2 + 1]
    out: np.ndarray = np.fft.irfft(spectrum, count) * (count / len(samples))
    return out


class Speaker:
    """Speaks into a folder of recordings, `cache`: int16 at 16 kHz without silence around."""

    def __init__(self, cache: Path) -> None:
        program = shutil.which("espeak-ng")
        if program is None:
            raise MissingSpeaker("espeak-ng is not installed; run: apt install espeak-ng")
        self._program, self._cache = program, cache
        self._memory: dict[str, np.ndarray] = {}
        cache.mkdir(parents=True, exist_ok=True)

    def say(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """float32 [samples] at 16 kHz, trimmed."""
        key = f"{voice}-{speed}-{pitch}-{text.replace(' ', '_')}"
        if key not in self._memory:
            path = self._cache / f"{key}.npy"
            if not path.exists():
                np.save(path, self._speak(text, voice, speed, pitch))
            self._memory[key] = np.load(path)
        samples: np.ndarray = self._memory[key].astype(np.float32) / np.float32(32768)
        return samples

    def _speak(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        command = [self._program, "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
        done = subprocess.run(command, capture_output=True, check=True)
        with wave.open(BytesIO(done.stdout)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)
            rate = file.getframerate()
        loud = np.flatnonzero(np.abs(samples) > 200)
        samples = resampled(samples[loud[0] : loud[-1] + 1], rate)
        return np.clip(np.rint(samples), -32768, 32767).astype("<i2")


def _frames(samples: np.ndarray) -> int:
    return -(-len(samples) // FRAME)


def together(rng: random.Random, spoken: list[tuple[str, np.ndarray]]) -> Sound:
    """The words with pauses, at some loudness, with a little noise; a frame's label is the word that ended last (or
    that has three quarters behind it)."""
    noise = np.random.default_rng(rng.getrandbits(64))
    pieces, at, known = [], 0, []
    for word, samples in spoken:
        pause = round(rng.uniform(0.03, 0.20) * RATE)
        pieces += [np.zeros(pause, np.float32), samples]
        at += pause
        known.append((at + 0.75 * len(samples), word))
        at += len(samples)
    pieces.append(np.zeros(round(rng.uniform(0.04, 0.12) * RATE), np.float32))
    wave_ = np.concatenate(pieces) * rng.uniform(0.4, 1.2)
    wave_ = wave_ + noise.standard_normal(len(wave_)).astype(np.float32) * 10 ** rng.uniform(-4, -2.7)
    labels = []
    for i in range(_frames(wave_)):
        before = [word for end, word in known if end <= (i + 1) * FRAME]
        labels.append((f" {before[-1]}",) if before else ())
    return Sound(np.clip(wave_, -1, 1).astype(np.float32), tuple(labels))


ASKS = ("What do you hear?", "Write down what is said.", "Transcribe the sound.")


def digits(rng: random.Random, speaker: Speaker, examined: bool = False, most: int = 4) -> Item:
    """One to `most` spoken digits, and which they are."""
    speed, pitch = rng.choice(combinations(examined))
    voice = rng.choice(VOICES)
    said = [rng.choice(words.DIGITS) for _ in range(rng.randint(1, most))]
    sound = together(rng, [(word, speaker.say(word, voice, speed, pitch)) for word in said])
    return Item("digits", (user(rng.choice(ASKS), "audio"),), " ".join(said), " ".join(said), media=(sound,))


def command(rng: random.Random, speaker: Speaker, examined: bool = False) -> Item:
    """A spoken command, and its words."""
    speed, pitch = rng.choice(combinations(examined))
    text = rng.choice(COMMANDS)
    sound = together(rng, [(text.split()[-1], speaker.say(text, rng.choice(VOICES), speed, pitch))])
    return Item("command", (user(rng.choice(ASKS), "audio"),), text, text, media=(sound,))
