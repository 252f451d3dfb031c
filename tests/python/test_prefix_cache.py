"""The prefix cache: text is the same with and without it, and what is reused is counted; memory, files, media."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sequences import LONG, STYLE, begun, greedy, picture, random_ids, write_bundles

import tandem_lm as tl
from tandem_lm.cli import main

BUDGET = 64 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundles(tmp_path_factory.mktemp("prefixes"))


@pytest.fixture(params=["f32", "int4-channel", "gemma3"])
def bundle(request: pytest.FixtureRequest, folder: Path) -> Path:
    return folder / f"{request.param}.litertlm"


@pytest.fixture
def cached(folder: Path) -> Iterator[tl.Engine]:
    with tl.Engine(folder / "f32.litertlm", max_context=LONG, prefix_cache=BUDGET) as engine:
        yield engine


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_the_text_is_that_of_a_fresh_session(bundle: Path, count: int) -> None:
    rng = np.random.default_rng(4)
    with (
        tl.Engine(bundle, max_context=LONG) as fresh,
        tl.Engine(bundle, max_context=LONG, prefix_cache=BUDGET) as cached,
    ):
        systems = [random_ids(int(rng.integers(20, 90)), seed) for seed in range(3)]
        reused = 0
        for i in range(count):
            drafter = ("off", "on")[i % 2]
            prompt: list[Any] = [*systems[i % 3], *random_ids(int(rng.integers(1, 40)), 10 + i)]
            if i % 4 == 3 and "image" in fresh.info.modalities:
                prompt = [*systems[i % 3], picture(i % 3), *random_ids(9, i)]
            found, expected = begun(cached, prompt), begun(fresh, prompt)
            assert greedy(found, 16, drafter) == greedy(expected, 16, drafter), f"prompt {i}"
            for session in (found, expected):  # the next turn
                session.prefill(random_ids(5, i))
            assert greedy(found, 16, drafter) == greedy(expected, 16, drafter)
            stats = found.stats()
            assert stats.prefill_tokens + stats.reused_tokens == expected.stats().prefill_tokens
            assert stats.reused_tokens == 0 or stats.reused_tokens >= 16
            reused += stats.reused_tokens
        assert reused == cached.stats().reused_tokens > 20 * (count - 3)


def test_what_is_reused(cached: tl.Engine) -> None:
    system = random_ids(100, 0)
    one = begun(cached, [*system, 5, 6, 7])
    answer = greedy(one)
    assert one.stats().reused_tokens == 0
    two = begun(cached, [*system, 8, 9])
    assert two.stats().reused_tokens == 100 and two.stats().prefill_tokens == 2
    turn = begun(cached, [*system, 5, 6, 7, *answer, 11, 12])  # a later turn of the first, by another session
    assert turn.stats().reused_tokens >= 100 + 3 + len(answer) - 1
    same = begun(cached, [*system, 8, 9])
    assert same.stats().reused_tokens == 101  # the last token runs for its logits
    other = begun(cached, random_ids(50, 1))
    assert other.stats().reused_tokens == 0
    short = begun(cached, system[:10])
    assert short.stats().reused_tokens == 0  # not worth it
    found = cached.prefix_stats()
    assert found is not None and found.lookups == 6 and found.hits == 3
    assert found.tokens_reused == cached.stats().reused_tokens == 100 + turn.stats().reused_tokens + 101
    assert 0 < found.bytes <= found.budget == BUDGET and found.entries >= 3 and found.disk_entries == 0


def test_a_lost_window_is_found_again(cached: tl.Engine, folder: Path) -> None:
    """A rewind beyond the ring begins at what another session had there."""
    system = random_ids(300, 0)
    begun(cached, [*system, 5])
    session = begun(cached, [*system, *random_ids(1200, 1)])
    before = session.stats()
    session.rewind(310)
    session.prefill([7, 8])
    added = session.stats().since(before)
    assert added.reused_tokens == 300 and added.prefill_tokens == 2
    with tl.Engine(folder / "f32.litertlm", max_context=LONG) as fresh:
        assert greedy(session) == greedy(begun(fresh, [*session.tokens]))


def test_media_count_by_content(cached: tl.Engine) -> None:
    def reused(*prompt: Any) -> int:
        return begun(cached, list(prompt)).stats().reused_tokens

    soft = begun(cached, [*random_ids(20, 0), picture(0), *random_ids(9, 1)])
    length = soft.position - 9
    greedy(soft)
    assert reused(*random_ids(20, 0), picture(0), *random_ids(9, 2)) == length
    assert 20 <= reused(*random_ids(20, 0), picture(1), *random_ids(9, 1)) <= 21  # and the marker before it
    assert reused(*random_ids(20, 0), soft.tokens[21], *random_ids(9, 1)) == 20
    small = tl.Image(np.asarray(picture(0).rgb()), max_soft_tokens=140)
    assert 20 <= reused(*random_ids(20, 0), small, *random_ids(9, 1)) <= 21


def test_budget(folder: Path) -> None:
    with tl.Engine(folder / "f32.litertlm", max_context=LONG, prefix_cache=BUDGET) as engine:
        begun(engine, random_ids(100, 0))
        stats = engine.prefix_stats()
        assert stats is not None
        one = stats.bytes
        assert engine.info.memory["prefixes"] == BUDGET
    with tl.Engine(folder / "f32.litertlm", max_context=LONG, prefix_cache=3 * one) as engine:
        for seed in range(5):
            begun(engine, random_ids(100, seed))
        stats = engine.prefix_stats()
        assert stats is not None and stats.entries == 3 and stats.evictions == 2 and stats.bytes <= 3 * one
        assert begun(engine, random_ids(100, 0)).stats().reused_tokens == 0
        assert begun(engine, random_ids(100, 4)).stats().reused_tokens == 99
    with tl.Engine(folder / "f32.litertlm", max_context=LONG) as engine:
        assert engine.prefix_stats() is None
        for _ in range(2):
            assert begun(engine, random_ids(100, 0)).stats().reused_tokens == 0
    with pytest.raises(tl.OutOfMemoryError):
        tl.Engine(folder / "f32.litertlm", prefix_cache=2**60)
    with pytest.raises(tl.InvalidRequestError, match="prefix_cache"):
        tl.Engine(folder / "f32.litertlm", prefix_cache=-1)
    with pytest.raises(tl.InvalidRequestError, match="prefix_cache_dir"):
        tl.Engine(folder / "f32.litertlm", prefix_cache=0, prefix_cache_dir=folder / "x")
    with pytest.raises(tl.InvalidRequestError, match="prefix_cache_dir"):
        tl.Engine(folder / "f32.litertlm", graph="portable", prefix_cache_dir=folder / "x")


def test_on_the_portable_graphs(folder: Path) -> None:
    with tl.Engine(folder / "f32.litertlm", graph="portable", prefix_cache=BUDGET) as engine:
        system = random_ids(60, 0)
        expected = greedy(begun(engine, [*system, 5, 6]))
        other = begun(engine, [*system, 7])
        assert other.stats().reused_tokens == 60
        again = begun(engine, [*system, 5, 6])
        assert again.stats().reused_tokens == 61 and greedy(again) == expected


def test_many_threads(cached: tl.Engine, folder: Path) -> None:
    systems = [random_ids(50, seed) for seed in range(3)]
    found: dict[int, list[int]] = {}

    def work(i: int) -> None:
        found[i] = greedy(begun(cached, [*systems[i % 3], *random_ids(6, i)]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with tl.Engine(folder / "f32.litertlm", max_context=LONG) as fresh:
        for i in range(24):
            assert found[i] == greedy(begun(fresh, [*systems[i % 3], *random_ids(6, i)]))


ANOTHER = """
import json, sys
import tandem_lm as tl
prompt, params = json.loads(sys.stdin.read())
with tl.Engine(sys.argv[1], max_context=int(sys.argv[2]), prefix_cache_dir=sys.argv[3]) as engine:
    session = engine.session()
    session.prefill(prompt)
    text = [t.id for t in session.generate(tl.SamplingParams(**params))]
    print(json.dumps([text, session.stats().reused_tokens, engine.prefix_stats().disk_hits]))
"""


def test_files_serve_another_process(folder: Path, tmp_path: Path) -> None:
    path = folder / "f32.litertlm"
    params = {**STYLE, "max_tokens": 24, "drafter": "off"}

    def another(prompt: list[int]) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-c", ANOTHER, str(path), str(LONG), str(tmp_path)],
            input=json.dumps([prompt, params]), capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: list[Any] = json.loads(done.stdout)
        return found

    system = random_ids(700, 0)  # beyond the ring
    with tl.Engine(path, max_context=LONG) as fresh:
        expected = [greedy(begun(fresh, [*system, seed])) for seed in (5, 6)]
    with tl.Engine(path, max_context=LONG, prefix_cache=BUDGET, prefix_cache_dir=tmp_path) as engine:
        begun(engine, [*system, 5])
        assert not list(tmp_path.rglob("*.tandem-prefix"))
    files = list(tmp_path.rglob("*.tandem-prefix"))
    assert len(files) == 1 and files[0].stat().st_mode & 0o777 == 0o600
    assert another([*system, 5]) == [expected[0], 700, 1]
    assert another([*system, 6]) == [expected[1], 700, 1]
    with tl.Engine(path, max_context=1024, prefix_cache_dir=tmp_path) as engine:  # other caches, other files
        assert begun(engine, [*system, 5]).stats().reused_tokens == 0
    with tl.Engine(folder / "int4-channel.litertlm", max_context=LONG, prefix_cache_dir=tmp_path) as engine:
        assert begun(engine, [*system, 5]).stats().reused_tokens == 0


def test_damaged_files_are_passed_over(folder: Path, tmp_path: Path) -> None:
    path = folder / "f32.litertlm"
    prompt = [*random_ids(100, 0), picture(0), *random_ids(20, 1)]
    options: dict[str, Any] = {"max_context": LONG, "prefix_cache": BUDGET, "prefix_cache_dir": tmp_path}
    with tl.Engine(path, **options) as engine:
        expected = greedy(begun(engine, prompt))
    rng = np.random.default_rng(0)
    for i in range(20):
        (file,) = tmp_path.rglob("*.tandem-prefix")
        data = bytearray(file.read_bytes())
        if i % 2:
            data = data[: int(rng.integers(0, len(data)))]
        else:
            data[int(rng.integers(0, len(data)))] ^= 8
        file.write_bytes(data)
        with tl.Engine(path, **options) as engine:
            session = begun(engine, prompt)
            assert session.stats().reused_tokens == 0 and greedy(session) == expected
        with tl.Engine(path, **options) as engine:  # it was written again
            session = begun(engine, prompt)
            assert session.stats().reused_tokens == session.position - 1


def test_files_keep_to_the_budget(folder: Path, tmp_path: Path) -> None:
    path = folder / "f32.litertlm"
    with tl.Engine(path, max_context=LONG, prefix_cache=BUDGET, prefix_cache_dir=tmp_path) as engine:
        begun(engine, random_ids(1000, 0))
    (one,) = tmp_path.rglob("*.tandem-prefix")
    stranger = one.parent / "notes.txt"
    stranger.write_text("mine")
    budget = 4 * one.stat().st_size
    for seed in range(1, 8):
        with tl.Engine(path, max_context=LONG, prefix_cache=budget, prefix_cache_dir=tmp_path) as engine:
            begun(engine, random_ids(1000, seed))
    files = list(tmp_path.rglob("*.tandem-prefix"))
    assert 2 <= len(files) <= 4 and sum(f.stat().st_size for f in files) <= budget and stranger.exists()
    with tl.Engine(path, max_context=LONG, prefix_cache=budget, prefix_cache_dir=tmp_path) as engine:
        assert begun(engine, random_ids(1000, 7)).stats().reused_tokens == 999
        assert begun(engine, random_ids(1000, 0)).stats().reused_tokens == 0


def test_a_folder_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(tl.FileError, match="prefix cache"):
        tl.Engine(folder / "f32.litertlm", prefix_cache_dir=tmp_path / "file")
    engine = tl.Engine(folder / "f32.litertlm", max_context=LONG, prefix_cache_dir=tmp_path / "made")
    begun(engine, random_ids(100, 0))
    for made in (tmp_path / "made").iterdir():
        made.rename(tmp_path / "elsewhere")
    with pytest.raises(tl.FileError, match="prefix cache"):
        engine.close()
    engine.close()


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["run", str(folder / "f32.litertlm"), "-n", "8", "--stats", "json"]
    found = []
    for extra in ([], ["--prefix-cache", str(tmp_path)], ["--prefix-cache", str(tmp_path)]):
        assert main([*options, "-p", "the quick brown fox jumps over the lazy dog and then it runs back", *extra]) == 0
        out = capsys.readouterr()
        found.append((out.out, json.loads(out.err.splitlines()[-1])["reused_tokens"]))
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][1] == found[1][1] == 0 and found[2][1] > 16
