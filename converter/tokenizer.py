"""The tokenizer on its way into a bundle: a Hugging Face tokenizer.json becomes the digest from which
csrc/tokenizer/digest.cc builds its tables in milliseconds; a GGUF's tokenizer.ggml.* becomes a tokenizer.json first.

Layout of a digest, version 2, little-endian (the C++ reader names the same constants). It holds only what cannot be
derived from the rest; a *number* is LEB128: seven bits a byte, the lowest first, the eighth set where more follow.

    header  8s magic | u32 version | u32 header bytes | u64 total bytes | u64 checksum of everything after it |
            u32 flags | u32 vocabulary | i32 bos, eos, pad, unk (-1: none) | u32 merges | u32 bytes of all pieces |
            u32 bytes of each table below; the tables follow one another without gaps
    TOKENS  (number ids in a row, u8 their flags) up to the end of the vocabulary; flags: 1 present, 2 special, 4 in
            the model's vocabulary, 8 in PIECES, 16 added and found in the raw text, 32 added and found once normalised
    PIECES  (number bytes, the bytes) of the tokens with flag 8, by id
    RUNS    the merges by rank, those in a row that give the same token as one: number 2 * (merges - 1) + jump. The
            token is the one after the last run's (0 for the first); where jump is 1, a zigzag number that is added to
            it follows
    PAIRS   (left, right) of each merge, by rank: as many bits each as the largest id needs, filled from the lowest bit
            of each byte; then zero bits up to a whole byte and 7 zero bytes, so that a reader may always take eight

A piece that is not in PIECES is left + right of the first merge that gives it and whose parts are known by then.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from .errors import ConversionError
from .metadata import varint

Merge: TypeAlias = tuple[int, int, int]  # ids: left, right, merged

MAGIC = b"TANDTOKN"
VERSION = 2
HEADER = struct.Struct("<8sIIQQ")  # then BODY; the checksum covers all that follows HEADER
BODY = struct.Struct("<IIiiiiIIIIII")

FLAG_NORMALIZE_SPACES, FLAG_BYTE_FALLBACK, FLAG_FUSE_UNK, FLAG_DECODE_SPACES = 1, 2, 4, 8
PRESENT, SPECIAL, IN_VOCABULARY, STORED, ADDED_RAW, ADDED_NORMALIZED = 1, 2, 4, 8, 16, 32

MAX_JSON_BYTES = 64 << 20  # and so the pieces are not longer together, on which the reader relies
MAX_VOCABULARY = 1 << 20
MAX_PIECE_BYTES = 0xFFFF
MAX_MERGES = 1 << 24
MAX_ADDED = 1 << 17
MAX_ADDED_BYTES = 1024
METASPACE = "▁"

# tokenizer.ggml.token_type
GGUF_CONTROL, GGUF_USER_DEFINED = 3, 4


# ------------------------------------------------------------------------------------- reading tokenizer.json
@dataclass(frozen=True)
class _Added:
    id: int
    content: bytes
    special: bool
    normalized: bool


def _fail(what: str) -> ConversionError:
    return ConversionError(f"tokenizer.json: {what}. Supported is Gemma's form: BPE with byte fallback over ' ' -> '▁'")


def _utf8(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise _fail(f"{where} is not a string")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _fail(f"{where} is not valid Unicode") from None


def _id(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_VOCABULARY:
        raise _fail(f"{where} has id {value!r}, not a number from 0 to {MAX_VOCABULARY - 1}")
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _fail(f"{where} is missing or not an object")
    return value


def _steps(component: object, key: str, where: str) -> list[dict[str, Any]]:
    """A component as a flat list: null is empty, a Sequence is its members."""
    if component is None:
        return []
    one = _object(component, where)
    if one.get("type") != "Sequence":
        return [one]
    members = one.get(key)
    if not isinstance(members, list):
        raise _fail(f"{where} is a Sequence without {key!r}")
    return [step for member in members for step in _steps(member, key, where)]


def _is_replace(step: Mapping[str, Any], old: str, new: str) -> bool:
    return step.get("type") == "Replace" and step.get("pattern") == {"String": old} and step.get("content") == new


def _read_flags(config: Mapping[str, Any], model: Mapping[str, Any]) -> int:
    flags = 0
    normalizer = _steps(config.get("normalizer"), "normalizers", "normalizer")
    if len(normalizer) == 1 and _is_replace(normalizer[0], " ", METASPACE):
        flags |= FLAG_NORMALIZE_SPACES
    elif normalizer:
        raise _fail(f"unknown normalizer {[s.get('type') for s in normalizer]}")

    # A split at spaces after every space became '▁' never splits, whatever its behaviour.
    for step in _steps(config.get("pre_tokenizer"), "pretokenizers", "pre_tokenizer"):
        at_spaces = step.get("type") == "Split" and step.get("pattern") == {"String": " "} and not step.get("invert")
        if not (at_spaces and flags & FLAG_NORMALIZE_SPACES):
            raise _fail(f"unknown pre_tokenizer {step.get('type')!r}")

    decoder = _steps(config.get("decoder"), "decoders", "decoder")
    if decoder and _is_replace(decoder[0], METASPACE, " "):
        flags |= FLAG_DECODE_SPACES
        decoder = decoder[1:]
    if [s.get("type") for s in decoder] != ["ByteFallback", "Fuse"]:
        raise _fail("unknown decoder; it must be [Replace '▁' -> ' ',] ByteFallback, Fuse")

    if model.get("type", "BPE") != "BPE":
        raise _fail(f"model type {model.get('type')!r}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            raise _fail(f"model.{key} = {model[key]!r}")
    flags |= FLAG_BYTE_FALLBACK if model.get("byte_fallback") else 0
    return flags | (FLAG_FUSE_UNK if model.get("fuse_unk") else 0)


def _read_vocab(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = _object(model.get("vocab"), "model.vocab")
    if not vocab:
        raise _fail("model.vocab is empty")
    seen: dict[int, str] = {}
    for piece, value in vocab.items():
        other = seen.setdefault(_id(value, f"piece {piece!r}"), piece)
        if other != piece:
            raise _fail(f"pieces {other!r} and {piece!r} share id {value}")
    return vocab


def _read_added(config: Mapping[str, Any], vocab: Mapping[str, int], pieces: Mapping[int, str]) -> list[_Added]:
    listed = config.get("added_tokens") or []
    if not isinstance(listed, list) or len(listed) > MAX_ADDED:
        raise _fail(f"added_tokens is not a list of at most {MAX_ADDED}")
    added: dict[int, _Added] = {}
    contents: dict[bytes, int] = {}
    for entry in listed:
        one = _object(entry, "an added token")
        text = one.get("content")
        content = _utf8(text, "the content of an added token")
        token = _id(one.get("id"), f"added token {text!r}")
        if not content:
            continue  # Hugging Face ignores these
        if len(content) > MAX_ADDED_BYTES:
            raise _fail(f"added token {token} is longer than {MAX_ADDED_BYTES} bytes")
        for flag in ("single_word", "lstrip", "rstrip"):
            if one.get(flag):
                raise _fail(f"added token {text!r} has {flag}")
        expected = vocab.get(str(text), token)
        if expected != token or pieces.get(token, text) != text or contents.setdefault(content, token) != token:
            raise _fail(f"added token {text!r} has id {token}, which the vocabulary or another token contradicts")
        normalized = bool(one.get("normalized"))
        if added.setdefault(token, new := _Added(token, content, bool(one.get("special")), normalized)) != new:
            raise _fail(f"added token {text!r} repeats id {token} with another meaning")
    return list(added.values())


def _read_merges(model: Mapping[str, Any], vocab: Mapping[str, int]) -> list[Merge]:
    """By rank; a pair listed twice has its last rank, as in Hugging Face."""
    listed = model.get("merges")
    if not isinstance(listed, list) or len(listed) > MAX_MERGES:
        raise _fail(f"model.merges is not a list of at most {MAX_MERGES}")
    merges: dict[tuple[int, int], int] = {}
    for rank, merge in enumerate(listed):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise _fail(f"merge {rank} is not a pair of pieces")
        try:
            ids, merged = (vocab[pair[0]], vocab[pair[1]]), vocab[pair[0] + pair[1]]
        except KeyError as missing:
            raise _fail(f"merge {rank} needs the piece {missing.args[0]!r}, which is not in the vocabulary") from None
        merges.pop(ids, None)
        merges[ids] = merged
    return [(*ids, merged) for ids, merged in merges.items()]


# ------------------------------------------------------------------------------------------ writing the digest
def checksum(data: bytes) -> int:
    """Sum of mixed 64-bit words: each word passes a bijection that depends on its place, so that no change of one
    word goes unseen. Made for speed at start-up, not against forgery (the manifest's sha256 is for that)."""
    words = np.frombuffer(data + b"\0" * (-len(data) % 8), "<u8").copy()
    words += np.arange(1, len(words) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(32)
    words *= np.uint64(0xD6E8FEB86659FD93)
    words ^= words >> np.uint64(29)
    return (int(np.add.reduce(words)) + len(data)) & 0xFFFFFFFFFFFFFFFF


def _derivable(vocab: Mapping[str, int], merges: Sequence[Merge]) -> set[int]:
    """The tokens whose pieces a reader of the merges, by rank, can put together from the others."""
    made = {merged for _, _, merged in merges}
    known = set(vocab.values()) - made
    for left, right, merged in merges:
        if left in known and right in known:
            known.add(merged)
    return known & made


def _token_runs(flags: Sequence[int]) -> bytes:
    return b"".join(varint(len(list(run))) + bytes([value]) for value, run in groupby(flags))


def _merge_runs(merges: Sequence[Merge]) -> bytes:
    out = bytearray()
    expected = 0
    for merged, run in groupby(merge[2] for merge in merges):
        jump = merged - expected
        out += varint(2 * (len(list(run)) - 1) + (jump != 0))
        if jump:
            out += varint(2 * jump if jump > 0 else -2 * jump - 1)
        expected = merged + 1
    return bytes(out)


def _pairs(merges: Sequence[Merge], size: int) -> bytes:
    width = max(1, (size - 1).bit_length())
    ids = np.array([merge[:2] for merge in merges], np.uint32).reshape(-1, 1)
    bits = (ids >> np.arange(width, dtype=np.uint32) & 1).astype(np.uint8)
    return np.packbits(bits, bitorder="little").tobytes() + bytes(7)


def _named(vocab: Mapping[str, int], size: int, given: int | None, *names: str) -> int:
    """The id given (negative: none), or that of the first name there is."""
    token = given if given is not None else next((vocab[name] for name in names if name in vocab), -1)
    if token >= size:
        raise _fail(f"id {token} of the model's {names[0]} token is outside the vocabulary of {size}")
    return max(token, -1)


def digest(
    tokenizer_json: bytes, *, bos_id: int | None = None, eos_id: int | None = None, pad_id: int | None = None
) -> bytes:
    """The section for csrc/tokenizer. Ids that are not given are those of <bos>, <eos> and <pad> (or <s>, </s>)."""
    if len(tokenizer_json) > MAX_JSON_BYTES:
        raise ConversionError(f"tokenizer.json is larger than {MAX_JSON_BYTES >> 20} MiB")
    try:
        config = _object(json.loads(tokenizer_json), "the file")
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"tokenizer.json is not JSON: {error}") from None
    model = _object(config.get("model"), "model")
    flags = _read_flags(config, model)
    vocab = _read_vocab(model)
    pieces = {token: piece for piece, token in vocab.items()}
    added = _read_added(config, vocab, pieces)
    everything = vocab | {one.content.decode(): one.id for one in added}

    unk_name, unk = model.get("unk_token"), -1
    if unk_name is not None:
        if unk_name not in vocab:
            raise _fail(f"model.unk_token {unk_name!r} is not in the vocabulary")
        unk = vocab[unk_name]
    size = max(everything.values()) + 1
    bos = _named(everything, size, bos_id, "<bos>", "<s>")
    eos = _named(everything, size, eos_id, "<eos>", "</s>")
    pad = _named(everything, size, pad_id, "<pad>")

    merges = _read_merges(model, vocab)
    texts = [b""] * size
    kinds = [0] * size
    derivable = _derivable(vocab, merges)
    for piece, token in vocab.items():
        texts[token] = _utf8(piece, f"piece {token}")
        if len(texts[token]) > MAX_PIECE_BYTES:
            raise _fail(f"piece {token} is longer than {MAX_PIECE_BYTES} bytes")
        kinds[token] = PRESENT | IN_VOCABULARY | (0 if token in derivable else STORED)
    for one in added:
        texts[one.id] = one.content  # the same, where the vocabulary has it too
        kinds[one.id] = kinds[one.id] or PRESENT | STORED
        kinds[one.id] |= (SPECIAL if one.special else 0) | (ADDED_NORMALIZED if one.normalized else ADDED_RAW)
    tables = (
        _token_runs(kinds),
        b"".join(varint(len(text)) + text for text, kind in zip(texts, kinds, strict=True) if kind & STORED),
        _merge_runs(merges),
        _pairs(merges, size),
    )
    body = BODY.pack(flags, size, bos, eos, pad, unk, len(merges), sum(map(len, texts)), *map(len, tables))
    rest = body + b"".join(tables)
    head = HEADER.size + len(body)
    return HEADER.pack(MAGIC, VERSION, head, HEADER.size + len(rest), checksum(rest)) + rest


# ----------------------------------------------------------------------------------------------- from a GGUF file
def implied_merges(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to cut a piece into two others, best score first, then longer left and right parts first.

    This is the order in which transformers writes the merges of a SentencePiece model; it gives the published Gemma 4
    list to the last entry."""
    found: list[tuple[float, int, int, str, str]] = []
    for piece, score in scores.items():
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        cuts.sort(key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
        found += [(score, len(left), len(right), left, right) for left, right in cuts]
    found.sort(key=lambda cut: cut[:3], reverse=True)
    return [cut[3:] for cut in found]


def _field(fields: Mapping[str, Any], name: str, default: Any = None) -> Any:
    value = fields.get(f"tokenizer.ggml.{name}", default)
    return value.contents() if hasattr(value, "contents") else value  # a gguf.ReaderField or a plain value


def _gguf_tokens(fields: Mapping[str, Any]) -> list[str]:
    """The tokens as the file spells them."""
    raw = _field(fields, "tokens")
    if raw is None or not 0 < len(raw) <= MAX_VOCABULARY:
        raise ConversionError("GGUF: tokenizer.ggml.tokens is missing or empty; convert from the Hugging Face folder")
    return [t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for t in raw]


def gguf_tokenizer_json(fields: Mapping[str, Any]) -> bytes:
    """A Hugging Face tokenizer.json from a GGUF's tokenizer.ggml.* (Gemma's: SentencePiece BPE or "gemma4"), equal to
    what transformers builds from the same file.

    Merges that the file does not list follow the order of the tokens, not their scores: llama.cpp gives the runs of
    newlines and spaces the worst score, although they merge first. Control tokens become special added tokens,
    user-defined ones plain added tokens, except runs of spaces, which the merges make."""
    kind = _field(fields, "model")
    if kind not in ("llama", "gemma4"):
        raise ConversionError(f"GGUF: tokenizer.ggml.model is {kind!r}; only 'llama' and 'gemma4' are supported")
    if kind == "llama" and _field(fields, "add_space_prefix", True):
        raise ConversionError("GGUF: tokenizer.ggml.add_space_prefix is set; only Gemma's tokenizer is supported")
    stored = _gguf_tokens(fields)
    # llama.cpp stores the tokens for runs of spaces with real spaces; merges need the form the normaliser makes.
    tokens = [METASPACE * len(t) if t and not t.strip(" ") else t for t in stored]
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ConversionError("GGUF: tokenizer.ggml.tokens has a token twice; convert from the Hugging Face folder")
    types = _field(fields, "token_type")
    if types is None or len(types) != len(tokens):
        raise ConversionError("GGUF: tokenizer.ggml.token_type is missing or does not match tokenizer.ggml.tokens")

    listed = _field(fields, "merges")
    if listed is not None and len(listed):
        merges = [(m.decode("utf-8", "replace") if isinstance(m, bytes) else str(m)).split(" ") for m in listed]
    else:
        merges = [list(m) for m in implied_merges(vocab, {token: -i for i, token in enumerate(tokens)})]

    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": int(types[i]) == GGUF_CONTROL,
        }
        for i, token in enumerate(tokens)
        if token and token == stored[i] and int(types[i]) in (GGUF_CONTROL, GGUF_USER_DEFINED)
    ]
    unk = int(_field(fields, "unknown_token_id", 3))
    if not 0 <= unk < len(tokens):
        raise ConversionError(f"GGUF: tokenizer.ggml.unknown_token_id {unk} is outside the vocabulary")
    config = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unk],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
