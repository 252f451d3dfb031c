"""What others build against: an installed prefix, by find_package(tandem) or pkg-config alone; and the examples."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import capi
import pytest
from capi import ROOT, run

import tandem_lm as tl
from tandem_lm.library import litert_library

PROMPT = "The quick brown fox"
EXAMPLES = ROOT / "csrc/examples"
pytestmark = pytest.mark.timeout(1200)  # the first one builds the library

# C++ through tandem.hpp: BUNDLE PROMPT FILE-FOR-A-SESSION; prints the text.
CPP = """
#include <iostream>
#include <tandem/tandem.hpp>
int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const tandem::Engine engine(argv[1]);
  tandem::Session session = engine.session();
  session.prefill(engine.encode(argv[2], true));
  const std::int64_t start = session.position();
  tandem::Sampling sampling;
  sampling.max_tokens = 8;
  try {
    session.generate(sampling, [](const tandem::Token&) -> bool { throw 7; });
  } catch (int seven) {
    if (seven != 7 || session.position() != start + 1) return 3;
  }
  session.rewind(start);
  std::string streamed, stepped;
  const tandem_finish finish = session.generate(sampling, [&](const tandem::Token& token) {
    streamed += token.text;
    return true;
  });
  session.rewind(start);
  session.begin(sampling);
  for (tandem::Token token; token.finish == TANDEM_FINISH_NONE; stepped += token.text) token = session.step();
  session.rewind(start);
  tandem::Session clone = session.clone();
  clone.save(argv[3]);
  tandem::Session woken = engine.restore(argv[3]);
  for (tandem::Session* other : {&clone, &woken}) {
    if (other->tokens() != session.tokens() || other->position() != start) return 6;
    std::string text;
    other->set_prefill_timeout(60);
    other->generate(sampling, [&](const tandem::Token& token) {
      text += token.text;
      return true;
    });
    other->rewind(start, false);
    if (text != streamed) return 7;
  }
  if (engine.prefix_stats().lookups != 0) return 8;
  session.rewind(0);
  const auto logits = session.logits(engine.encode("a"), engine.info().vocab_size);
  if (finish != TANDEM_FINISH_LENGTH || stepped != streamed || logits.empty()) return 4;
  if (engine.info().takes_images) {
    const std::vector<std::uint8_t> black(8 * 8 * 3);
    tandem_image image{};
    image.rgb = black.data();
    image.width = image.height = 8;
    image.max_soft_tokens = 70;
    const auto rows = engine.embed_image(image).size() / engine.info().hidden_size;
    session.rewind(0);
    if (session.prefill_image(image) != std::int64_t(rows) || session.position() != std::int64_t(rows) + 2) return 5;
  }
  try {
    session.rewind(-1);
  } catch (const tandem::Error& error) {
    if (error.status() == TANDEM_INVALID_REQUEST) std::cout << streamed;
  }
}
"""
PROJECT = """
cmake_minimum_required(VERSION 3.22)
project(user LANGUAGES CXX)
find_package(tandem REQUIRED)
add_executable(user user.cc)
target_compile_features(user PRIVATE cxx_std_17)
target_compile_options(user PRIVATE -Wall -Wextra -Wpedantic -Werror)
target_link_libraries(user PRIVATE tandem::TARGET)
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("prefix")
    run(["cmake", "--install", capi.build(), "--prefix", where, "--component", "tandem"])
    return where


def wheel_prefix() -> Path:
    """Where a wheel keeps libtandem."""
    return Path(tl.__file__).parent


def build(source: Path, prefix: Path, out: Path) -> Path:
    """Builds a project that knows nothing but where libtandem is installed."""
    run(["cmake", "-S", source, "-B", out, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", out])
    return out


def expected(bundle: Path, prompt: str, tokens: int) -> str:
    with tl.Engine(bundle) as engine, engine.session() as session:
        session.prefill(engine.tokenizer.encode(prompt, add_bos=True))
        return "".join(token.text for token in session.generate(tl.SamplingParams(max_tokens=tokens)))


def chat(program: Path, bundle: Path, lines: str) -> str:
    done = subprocess.run(
        [program, bundle],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TANDEM_LITERT_LIBRARY": str(litert_library())},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["installed", "wheel"])
def test_c_example(kind: str, prefix: Path, tiny_base: Path, tmp_path: Path) -> None:
    where = prefix if kind == "installed" else wheel_prefix()
    if not (where / "lib/cmake/tandem/tandemConfig.cmake").is_file():
        pytest.skip("tandem_lm runs from the source tree: there is no wheel to build against")
    program = build(EXAMPLES / "c_chat", where, tmp_path / "build") / "c_chat"
    # A base model has no turns: the text is just continued, up to the context or an end token.
    text = chat(program, tiny_base, f"{PROMPT}\n").rstrip("\n")
    assert text == expected(tiny_base, PROMPT, 512)


def test_c_example_with_turns(prefix: Path, tiny_gemma4: Path, tmp_path: Path) -> None:
    program = build(EXAMPLES / "c_chat", prefix, tmp_path / "build") / "c_chat"
    prompt = f"<|turn>user\n{PROMPT}<turn|>\n<|turn>model\n"
    with tl.Engine(tiny_gemma4) as engine, engine.session() as session:
        session.prefill(engine.tokenizer.encode(prompt, add_bos=True, parse_special=True))
        answer = "".join(token.text for token in session.generate(tl.SamplingParams(max_tokens=512)))
    assert chat(program, tiny_gemma4, f"{PROMPT}\n") == answer + "\n"


@pytest.mark.parametrize("target", ["tandem", "tandem_static"])
def test_cpp_program(target: str, prefix: Path, tiny_gemma4: Path, tmp_path: Path) -> None:
    (tmp_path / "user.cc").write_text(CPP)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT.replace("TARGET", target))
    program = build(tmp_path, prefix, tmp_path / "build") / "user"
    text = run([program, tiny_gemma4, PROMPT, tmp_path / "session"], TANDEM_LITERT_LIBRARY=str(litert_library()))
    assert text == expected(tiny_gemma4, PROMPT, 8)


def test_pkg_config(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        pytest.skip("pkg-config and cc are needed")
    source = tmp_path / "user.c"
    source.write_text("#include <stdio.h>\n#include <tandem/tandem.h>\nint main(void) { puts(tandem_version()); }\n")
    (folder,) = {path.parent for path in prefix.rglob("tandem.pc")}
    flags = run(["pkg-config", "--cflags", "--libs", "tandem"], PKG_CONFIG_PATH=str(folder)).split()
    strict = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    run(["cc", *strict, source, *flags, "-o", tmp_path / "user"])
    assert run([tmp_path / "user"], LD_LIBRARY_PATH=str(folder.parent)).strip() == tl.__version__


def test_java_example(prefix: Path, tiny_gemma4: Path, tmp_path: Path) -> None:
    if shutil.which("javac") is None or shutil.which("java") is None:
        pytest.skip("a JDK is needed: apt install default-jdk-headless")
    out = build(EXAMPLES / "java", prefix, tmp_path / "build")
    java = ["java", f"-Djava.library.path={out}", "-cp", str(out), "org.tandemlm.Demo"]
    text = run([*java, tiny_gemma4, PROMPT, "8"], TANDEM_LITERT_LIBRARY=str(litert_library()))
    assert text == expected(tiny_gemma4, PROMPT, 8) + "\n"
    with pytest.raises(AssertionError, match="cannot open"):
        run([*java, "no/such.litertlm", PROMPT])
