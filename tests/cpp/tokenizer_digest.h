// Writes small tokenizer sections for tests, after the layout in converter/tokenizer.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/digest.h"
#include "tokenizer/utf8.h"

namespace digest_test {

struct Added {
  uint32_t id;
  std::string content;
  bool special, normalized;
};

struct Spec {
  std::vector<std::string> pieces;                          // by id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<Added> added;                                 // contents as they are searched for
  uint32_t flags = tandem::digest::kNormalizeSpaces | tandem::digest::kByteFallback | tandem::digest::kFuseUnk |
                   tandem::digest::kDecodeSpaces;
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
};

inline void put(std::string* out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}
inline std::string words(const std::vector<uint32_t>& values) {
  std::string out;
  for (const uint32_t value : values) put(&out, value, 4);
  return out;
}
inline std::span<const std::byte> as_span(const std::string& text) { return std::as_bytes(std::span(text)); }

// Makes the checksum fit again after a change.
inline void repair(std::string* section) {
  if (section->size() < tandem::digest::kChecksummedFrom) return;
  const uint64_t sum = tandem::digest::checksum(as_span(*section).subspan(tandem::digest::kChecksummedFrom));
  std::memcpy(section->data() + tandem::digest::kChecksumOffset, &sum, sizeof sum);
}

inline std::string write(const Spec& spec) {
  std::map<std::string, uint32_t> ids;
  uint32_t size = 0;
  for (const auto& piece : spec.pieces) ids.emplace(piece, size++);
  for (const auto& one : spec.added) size = std::max(size, one.id + 1);

  std::string text, flags(size, '\0');
  std::vector<uint32_t> offsets = {0}, bytes(256, tandem::digest::kNone);
  std::vector<uint32_t> page_index(tandem::digest::kPageIndexSize, tandem::digest::kNone), pages;
  for (uint32_t id = 0; id < size; ++id) {
    std::string piece;
    if (id < spec.pieces.size()) piece = spec.pieces[id], flags[id] = 1;
    for (const auto& one : spec.added) {
      if (one.id == id) piece = one.content, flags[id] = static_cast<char>(one.special ? 3 : 1);
    }
    text += piece;
    offsets.push_back(static_cast<uint32_t>(text.size()));
    if (piece.size() == 6 && piece.starts_with("<0x")) bytes[std::stoul(piece.substr(3, 2), nullptr, 16)] = id;
    if (id >= spec.pieces.size() || piece.empty()) continue;
    if (const auto one = tandem::utf8::decode(piece); one.valid && one.bytes == piece.size()) {
      uint32_t& page = page_index[one.code_point / 256];
      if (page == tandem::digest::kNone) {
        page = static_cast<uint32_t>(pages.size() / 256);
        pages.resize(pages.size() + 256, tandem::digest::kNone);
      }
      pages[page * 256 + one.code_point % 256] = id;
    }
  }
  std::array<std::vector<uint32_t>, 2> added;
  auto sorted = spec.added;
  std::ranges::sort(sorted, {}, &Added::content);
  for (const auto& one : sorted) {
    const auto at = static_cast<uint32_t>(text.size()), bytes_of = static_cast<uint32_t>(one.content.size());
    added[one.normalized].insert(added[one.normalized].end(), {one.id, at, bytes_of, one.special ? 2u : 0u});
    text += one.content;
  }
  // One bit, two buckets: small tests hold few merges.
  std::array<std::vector<uint32_t>, 2> buckets;
  for (uint32_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    uint32_t x = ids.at(left) * 0x9E3779B1u + ids.at(right) * 0x85EBCA6Bu;
    x = (x ^ (x >> 15)) * 0x2C1B3C6Du;
    auto& bucket = buckets[x >> 31];
    bucket.insert(bucket.end(), {ids.at(left), ids.at(right), rank, ids.at(left + right)});
  }
  const auto first = static_cast<uint32_t>(buckets[0].size() / 4), all = static_cast<uint32_t>(spec.merges.size());
  const std::vector<std::string> parts = {words(offsets),
                                          flags,
                                          text,
                                          words(bytes),
                                          words(page_index),
                                          words(pages),
                                          words({0, first, all}),
                                          words(buckets[0]) + words(buckets[1]),
                                          words(added[0]),
                                          words(added[1])};

  const size_t header = 32 + 48 + 16 * parts.size();
  std::string body, payload;
  for (const uint32_t value : {spec.flags, size, static_cast<uint32_t>(spec.bos), static_cast<uint32_t>(spec.eos),
                               static_cast<uint32_t>(spec.pad), static_cast<uint32_t>(spec.unk), all, 1u,
                               static_cast<uint32_t>(pages.size() / 256), static_cast<uint32_t>(added[0].size() / 4),
                               static_cast<uint32_t>(added[1].size() / 4), 0u}) {
    put(&body, value, 4);
  }
  for (const auto& part : parts) {
    put(&body, header + payload.size(), 8);
    put(&body, part.size(), 8);
    payload += part;
  }
  std::string out = "TANDTOKN";
  put(&out, tandem::digest::kVersion, 4);
  put(&out, header, 4);
  put(&out, header + payload.size(), 8);
  put(&out, 0, 8);
  out += body + payload;
  repair(&out);
  return out;
}

}  // namespace digest_test
