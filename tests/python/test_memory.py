"""The memory plan: what inspect --memory says, and the refusal of what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tandem_lm as tl
from tandem_lm.cli import main
from tandem_lm.memory import plan_memory


def test_plan_is_that_of_the_engine(tiny_gemma4: Path) -> None:
    plan = plan_memory(tiny_gemma4, 64)
    assert plan.fits and plan.context == 64 and plan.graph == "fast"
    assert plan.total == sum(plan.parts.values()) and plan.largest_context >= 64
    with tl.Engine(tiny_gemma4, max_context=64) as engine:
        assert engine.info.memory == plan.parts
    assert plan_memory(tiny_gemma4, 64, "f32").parts["cache"] == 2 * plan.parts["cache"]
    assert plan_memory(tiny_gemma4, 32).parts["cache"] < plan.parts["cache"]
    portable = plan_memory(tiny_gemma4, graph="portable")
    assert portable.graph == "portable" and portable.kv_dtype == "f32"
    for wrong in ({"context": 0}, {"context": 2**30}, {"kv_dtype": "int3"}, {"graph": "fats"}):
        with pytest.raises(tl.InvalidRequestError):
            plan_memory(tiny_gemma4, **wrong)


def test_refuses_what_does_not_fit(tiny_gemma4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = plan_memory(tiny_gemma4, 50)
    monkeypatch.setenv("TANDEM_MEMORY_LIMIT", str(edge.total))
    assert plan_memory(tiny_gemma4, 50).largest_context == 50
    tl.Engine(tiny_gemma4, max_context=50, drafter="off").close()
    with pytest.raises(tl.OutOfMemoryError, match=r"the largest context that fits is 50\b"):
        tl.Engine(tiny_gemma4, max_context=51)
    monkeypatch.setenv("TANDEM_MEMORY_LIMIT", "1000")
    with pytest.raises(tl.OutOfMemoryError, match="no context fits"):
        tl.Engine(tiny_gemma4)


def test_inspect_memory(tiny_gemma4: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["inspect", str(tiny_gemma4), "--memory", "--context", "50"]
    assert main(options) == 0
    text = capsys.readouterr().out
    for word in ("weights", "cache", "total", "available", "50 tokens", "fits; the largest context that does is"):
        assert word in text
    assert main([*options, "--json", "--kv-dtype", "f32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["context"] == 50 and found["kv_dtype"] == "f32" and found["fits"] is True
    monkeypatch.setenv("TANDEM_MEMORY_LIMIT", str(found["total"] // 2))
    assert main(options) == 0
    assert "does not fit" in capsys.readouterr().out
