"""What the library writes to the process's streams: nothing but the one line of XNNPACK that has no switch, and the
commands not even that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GREETING = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
USE = """
import sys
import numpy as np
import tandem_lm as tl
for _ in range(2):
    with tl.Engine(sys.argv[1], drafter="on") as engine, engine.session() as session:
        engine.embed_audio(tl.Audio(np.ones(700, np.float32), 16000))
        session.prefill([2, tl.Image(np.zeros((9, 9, 3), np.uint8), max_soft_tokens=70), 5, 6, 7])
        list(session.generate(tl.SamplingParams(max_tokens=3)))
        session.rewind(2)
        try:
            session.prefill([10**9])
        except tl.InvalidRequestError:
            pass
"""


def run(*arguments: object, folder: Path) -> tuple[str, str]:
    """stdout and stderr, descriptors and all, of a Python process that must succeed."""
    environment = {**os.environ, "TANDEM_CACHE_DIR": str(folder)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    return done.stdout, done.stderr


@pytest.mark.parametrize("warm", [False, True])
def test_an_engine_writes_one_line_at_most(tiny_gemma4: Path, tmp_path: Path, warm: bool) -> None:
    """Opened, used and closed, twice in a process. LiteRT's own log is off (kOptionMinLoggerSeverity); the line comes
    from TensorFlow Lite's logger, once per process, for which libLiteRt.so exports nothing and reads no variable."""
    if warm:
        run("-c", USE, tiny_gemma4, folder=tmp_path)
    out, err = run("-c", USE, tiny_gemma4, folder=tmp_path)
    assert out == "" and err in ("", GREETING)


def test_commands_write_only_their_own(tiny_gemma4: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="decoding pictures needs Pillow")
    from media_files import picture

    image = tmp_path / "picture.png"
    image.write_bytes(picture(np.zeros((9, 9, 3), np.uint8), "PNG"))
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 4)
    command = ["-m", "tandem_lm", "run", tiny_gemma4, "-p", "what is this", "--image", image, "--image-tokens", 70]
    for _ in range(2):  # the first packs the weights
        assert run(*command, "-n", 3, folder=tmp_path / "cache")[1] == ""
    for command in (["perplexity", tiny_gemma4, text, "-c", 32], ["bench", tiny_gemma4, "-p", 8, "-n", 4, "-r", 1]):
        assert GREETING not in run("-m", "tandem_lm", *command, folder=tmp_path / "cache")[1]
