// Writes small tokenizer sections for tests, after the layout in converter/tokenizer.py.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/digest_section.h"

namespace digest_test {

struct Added {
  uint32_t id;
  std::string content;
  bool special, normalized;
};

struct Spec {
  std::vector<std::string> pieces;                          // by id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<Added> added;                                 // of pieces, or of ids behind them
  uint32_t flags = tandem::digest::kNormalizeSpaces | tandem::digest::kByteFallback | tandem::digest::kFuseUnk |
                   tandem::digest::kDecodeSpaces;
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
};

inline void put(std::string* out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}
inline std::string number(uint32_t value) {
  std::string out;
  for (; value > 0x7F; value >>= 7) put(&out, (value & 0x7F) | 0x80, 1);
  put(&out, value, 1);
  return out;
}
inline std::span<const std::byte> as_span(const std::string& text) { return std::as_bytes(std::span(text)); }

// Makes the checksum fit again after a change.
inline void repair(std::string* section) {
  if (section->size() < tandem::digest::kChecksummedFrom) return;
  const uint64_t sum = tandem::digest::checksum(as_span(*section).subspan(tandem::digest::kChecksummedFrom));
  std::memcpy(section->data() + tandem::digest::kChecksumOffset, &sum, sizeof sum);
}

// A section in parts, so that a test can forge one of them.
struct Parts {
  uint32_t flags = 0, vocab_size = 0;
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
  uint32_t merges = 0, text_bytes = 0;
  std::string tokens, pieces, runs, pairs;

  std::string section() const {
    std::string body;
    for (const uint32_t value : {flags, vocab_size, static_cast<uint32_t>(bos), static_cast<uint32_t>(eos),
                                 static_cast<uint32_t>(pad), static_cast<uint32_t>(unk), merges, text_bytes,
                                 static_cast<uint32_t>(tokens.size()), static_cast<uint32_t>(pieces.size()),
                                 static_cast<uint32_t>(runs.size()), static_cast<uint32_t>(pairs.size())}) {
      put(&body, value, 4);
    }
    const size_t header = tandem::digest::kChecksummedFrom + body.size();
    body += tokens + pieces + runs + pairs;
    std::string out = "TANDTOKN";
    put(&out, tandem::digest::kVersion, 4);
    put(&out, header, 4);
    put(&out, tandem::digest::kChecksummedFrom + body.size(), 8);
    put(&out, 0, 8);
    out += body;
    repair(&out);
    return out;
  }
};

// The table of pairs.
inline std::string pairs(const std::vector<std::pair<uint32_t, uint32_t>>& ids, uint32_t vocab_size) {
  const unsigned bits = tandem::digest::id_bits(vocab_size);
  std::string out((ids.size() * 2 * bits + 7) / 8 + 7, '\0');
  size_t at = 0;
  for (const auto& [left, right] : ids) {
    for (const uint32_t id : {left, right}) {
      for (unsigned bit = 0; bit < bits; ++bit, ++at) {
        if ((id >> bit & 1) != 0) out[at / 8] = static_cast<char>(out[at / 8] | 1 << at % 8);
      }
    }
  }
  return out;
}

// A run of `merges` merges that give `merged`, where `expected` is the token after the last run's.
inline std::string run(uint32_t merges, uint32_t merged, uint32_t expected) {
  const auto jump = static_cast<int32_t>(merged - expected);
  std::string out = number(2 * (merges - 1) + (jump != 0 ? 1 : 0));
  if (jump != 0) out += number(static_cast<uint32_t>(jump > 0 ? 2 * jump : -2 * jump - 1));
  return out;
}

inline Parts parts(const Spec& spec) {
  Parts out;
  out.flags = spec.flags;
  out.bos = spec.bos;
  out.eos = spec.eos;
  out.pad = spec.pad;
  out.unk = spec.unk;
  std::vector<std::string> texts = spec.pieces;
  for (const auto& one : spec.added) texts.resize(std::max<size_t>(texts.size(), one.id + 1));
  out.vocab_size = static_cast<uint32_t>(texts.size());
  std::map<std::string, uint32_t> ids;
  std::vector<uint8_t> kinds(texts.size(), 0);
  for (uint32_t id = 0; id < spec.pieces.size(); ++id) {
    ids.emplace(texts[id], id);
    kinds[id] = tandem::digest::kPresent | tandem::digest::kInVocabulary | tandem::digest::kStored;
  }
  for (const auto& [left, right] : spec.merges) kinds[ids.at(left + right)] &= ~tandem::digest::kStored;
  for (const auto& one : spec.added) {
    texts[one.id] = one.content;
    if (kinds[one.id] == 0) kinds[one.id] = tandem::digest::kPresent | tandem::digest::kStored;
    kinds[one.id] |= one.normalized ? tandem::digest::kAddedNormalized : tandem::digest::kAddedRaw;
    if (one.special) kinds[one.id] |= tandem::digest::kSpecial;
  }
  for (uint32_t id = 0; id < texts.size(); ++id) {
    out.text_bytes += static_cast<uint32_t>(texts[id].size());
    put(&(out.tokens += number(1)), kinds[id], 1);
    if ((kinds[id] & tandem::digest::kStored) == 0) continue;
    out.pieces += number(static_cast<uint32_t>(texts[id].size())) + texts[id];
  }
  std::vector<std::pair<uint32_t, uint32_t>> list;
  uint32_t expected = 0;
  for (size_t i = 0; i < spec.merges.size();) {
    const auto& [left, right] = spec.merges[i];
    const uint32_t merged = ids.at(left + right);
    uint32_t same = 0;
    for (; i < spec.merges.size() && spec.merges[i].first + spec.merges[i].second == left + right; ++i, ++same) {
      list.emplace_back(ids.at(spec.merges[i].first), ids.at(spec.merges[i].second));
    }
    out.runs += run(same, merged, expected);
    expected = merged + 1;
  }
  out.merges = static_cast<uint32_t>(list.size());
  out.pairs = pairs(list, out.vocab_size);
  return out;
}

inline std::string write(const Spec& spec) { return parts(spec).section(); }

using Ids = std::vector<int32_t>;

// The tokens of small_spec(); <pad>, <eos>, <bos>, <unk> and <|turn> come first.
enum Id : int32_t {
  kByte0 = 5 /* <0x00> */,
  kA = kByte0 + 256,
  kB,
  kC,
  kSpace,
  kAB,
  kBC,
  kABC,
  kSpace2,
  kE,
  kPlain,
  kPhrase
};

inline Spec small_spec() {
  Spec spec;
  spec.pieces = {"<pad>", "<eos>", "<bos>", "<unk>", "<|turn>"};
  for (int i = 0; i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", i);
    spec.pieces.push_back(name);
  }
  for (const char* piece : {"a", "b", "c", "▁", "ab", "bc", "abc", "▁▁", "é"}) spec.pieces.push_back(piece);
  spec.merges = {{"b", "c"}, {"▁", "▁"}, {"a", "b"}, {"a", "bc"}, {"ab", "c"}};
  for (uint32_t id = 0; id < 5; ++id) spec.added.push_back({id, spec.pieces[id], true, false});
  spec.added.push_back({kPlain, "<b>", false, false});
  spec.added.push_back({kPhrase, "a▁a", false, true});
  spec.bos = 2;
  spec.eos = 1;
  spec.pad = 0;
  spec.unk = 3;
  return spec;
}

}  // namespace digest_test
