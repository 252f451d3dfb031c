"""Long use leaves nothing behind: bench/soak.py at a tenth of its length, and the same through the C ABI."""

from __future__ import annotations

import os
from pathlib import Path

import capi
import pytest
from soak import Found, Holdings, converse, in_tenths, request

import tandem_lm as tl

MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
# Sanitizers keep what was freed for a while.
LIMIT = 32 * MIB if "san" not in os.environ.get("LD_PRELOAD", "") else 2**40


def test_tenths() -> None:
    parts = in_tenths(25)
    assert len(parts) == 10 and [i for part in parts for i in part] == list(range(25))


def test_what_grows_is_told() -> None:
    before = Holdings(memory=100 * MIB, files=9, threads=4)
    assert Found("turns", 10, 1.0, (before, before)).problems(0) == []
    found = Found("turns", 10, 1.0, (before, before, Holdings(memory=140 * MIB, files=10, threads=3)))
    assert found.problems(32 * MIB) == [
        "turns: memory grew by 40.0 MiB",
        "turns: 9 files became 10",
        "turns: 4 threads became 3",
    ]
    assert found.problems(40 * MIB) == found.problems(32 * MIB)[1:]
    assert "(+40.0)" in str(found)


@linux
@pytest.mark.slow
def test_a_conversation_and_requests(tiny_gemma4_int8: Path) -> None:
    with tl.Engine(tiny_gemma4_int8, num_threads=1, max_context=512, prefix_cache=2 * MIB) as engine:
        for found in (converse(engine, 100), request(engine, 1000, 4)):
            assert found.problems(LIMIT) == [], found


@linux
@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first one builds the library
def test_sessions_of_the_c_abi(tiny_gemma4_int8: Path, tmp_path: Path) -> None:
    engine = capi.open_engine(tiny_gemma4_int8)

    def cycle() -> None:
        session = capi.new_session(engine, [2, 30, 31])
        capi.save(session, tmp_path / "a")
        copies = [capi.clone(session), capi.restore(engine, tmp_path / "a")]
        texts = [capi.generate(one, max_tokens=3) for one in (session, *copies)]
        assert texts[0] == texts[1] == texts[2]
        capi.close(session, *copies)

    for _ in range(20):
        cycle()
    before = Holdings.now()
    for _ in range(200):
        cycle()
    assert Found("cycles", 200, 0.0, (before, Holdings.now())).problems(LIMIT // 4) == []
    capi.check(capi.library().tandem_engine_close(engine))
