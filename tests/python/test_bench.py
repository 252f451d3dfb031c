"""`tandem bench` and the arithmetic of bench/: names, counts, formats; speed itself is nothing to test."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tandem_lm as tl
from tandem_lm.bench import BenchTest, plan_tests, run_tests
from tandem_lm.cli import main

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))


def test_names_are_those_of_llama_bench() -> None:
    tests = plan_tests([512, 0], [128], [0, 4096])
    assert [t.name for t in tests] == ["pp512", "tg128", "pp512 @ d4096", "tg128 @ d4096"]
    with pytest.raises(tl.InvalidRequestError, match="nothing to measure"):
        plan_tests([0], [0], [0])


@pytest.mark.parametrize("graph", ["fast", "portable"])
def test_each_repetition_does_the_work(tiny_gemma3: Path, graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[int] = []  # positions at which something was appended
    original = tl.Session.prefill

    def prefill(session: tl.Session, ids: Any) -> None:
        before.append(session.position)
        original(session, ids)

    monkeypatch.setattr(tl.Session, "prefill", prefill)
    with tl.Engine(tiny_gemma3, graph=graph) as engine:
        (prompt,) = run_tests(engine, [BenchTest(12, 0, 0)], repetitions=3)
        assert len(prompt.samples_s) == 3 and min(prompt.samples_s) > 0
        assert prompt.avg_ts == pytest.approx(sum(12 / s for s in prompt.samples_s) / 3) and prompt.stddev_ts > 0
        assert before == [0, 0, 0, 0]  # fresh sessions, a warm-up first
        assert prompt.stats.decode_tokens == 3

        before.clear()
        (deep,) = run_tests(engine, [BenchTest(12, 0, 20)], repetitions=2, warm_up=False)
        assert before == [0, 20, 20] and deep.test.name == "pp12 @ d20"  # one session, filled once

        before.clear()
        (decode,) = run_tests(engine, [BenchTest(0, 9, 20)], repetitions=2)
        assert before == [0] and decode.stats.decode_tokens == 18


def test_the_context_must_suffice(tiny_gemma3: Path) -> None:
    with tl.Engine(tiny_gemma3, max_context=16) as engine, pytest.raises(tl.TandemError):
        list(run_tests(engine, [BenchTest(0, 8, 12)]))


def test_formats(tiny_gemma3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["bench", str(tiny_gemma3), "-p", "8,16", "-n", "4", "-d", "0,8", "-r", "2", "-t", "1"]
    assert main(options) == 0
    table = capsys.readouterr().out
    for words in ("| pp8 |", "| pp16 @ d8 |", "| tg4 |", " ± ", "load ", "time to first token ", "peak RSS "):
        assert words in table
    assert main([*options, "-o", "json", "--kv-dtype", "f32", "--drafter", "on"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] == 1 and found["kv_dtype"] == "f32" and found["load_seconds"] > 0
    assert [r["test"] for r in found["results"]] == ["pp8", "pp16", "tg4", "pp8 @ d8", "pp16 @ d8", "tg4 @ d8"]
    assert all(len(r["samples_ns"]) == 2 and r["avg_ts"] > 0 and r["peak_rss_bytes"] > 0 for r in found["results"])
    assert main([*options, "-o", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 6 and rows[2]["n_gen"] == "4" and rows[3]["n_depth"] == "8"


def test_wrong_usage(tiny_gemma3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["-p", "x"], ["-d", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main(["bench", str(tiny_gemma3), *wrong])
        assert ended.value.code == 2
    assert main(["bench", str(tiny_gemma3), "-r", "0"]) == 1
    assert main(["bench", str(tiny_gemma3), "-d", str(2**30)]) == 1
    assert "max_context" in capsys.readouterr().err


def test_roofline() -> None:
    from roofline import layer_macs, roofline

    layers = [
        {"head_dim": 8, "kv_heads": 2, "window": 4, "k_eq_v": False},
        {"head_dim": 16, "kv_heads": 1, "window": 0, "k_eq_v": True},
    ]
    model = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "vocab_size": 100, "layers": layers}
    macs = 32 * (32 + 16 + 16 + 32 + 3 * 64) + 32 * (64 + 16 + 64 + 3 * 64)
    assert layer_macs(model) == macs

    rates = {"bytes_per_second": 1000.0, "int8_macs_per_second": 1e9}
    decode = roofline(model, 5000, 0, 2, 10, "f16", rates)
    assert decode is not None and decode.macs == 2 * (macs + 3200) and decode.bound == "memory"
    assert decode.bytes == 2 * 5000 + 2 * (2 * 4 * 2 * 8 * 2) + 2 * 16 * 2 * (11 + 12)
    assert decode.seconds == decode.bytes / 1000

    prompt = roofline(model, 5000, 513, 0, 0, "f16", {**rates, "int8_macs_per_second": 10.0})
    assert prompt is not None and prompt.bytes == 10000 and prompt.bound == "int8"
    assert prompt.seconds == (513 * macs + 3200) / 10
    assert roofline(model, 5000, 512, 0, 0, "f16", {}) is None


def test_sessions(tiny_gemma3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sessions

    out = tmp_path / "out.json"
    options = ["-d", "100", "-r", "2", "--folder", str(tmp_path), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["sessions.py", str(tiny_gemma3), *options])
    sessions.main()
    found = json.loads(out.read_text())
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found["samples"].values())
    assert found["formula_bytes"] == pytest.approx(found["file_bytes"], rel=0.1)  # the header of a tiny file counts
    assert list(tmp_path.iterdir()) == [out]
