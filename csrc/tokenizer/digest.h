// The pre-digested tokenizer section: named constants, bounds-checked views of its tables. converter/tokenizer.py
// writes it and describes the layout. Opening checks the header, every section's place and a checksum; reading checks
// every index again, so that a forged file gives wrong tokens at worst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/status.h"

namespace tandem::digest {

inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kNone = 0xFFFFFFFF;
inline constexpr uint32_t kMaxVocabulary = 1u << 22;
inline constexpr uint32_t kMaxMerges = 1u << 24;
inline constexpr uint32_t kMaxBucketBits = 26;
inline constexpr uint32_t kMaxBucket = 64;  // merges that may share a bucket
inline constexpr uint32_t kMaxAdded = 1u << 17;
inline constexpr uint32_t kMaxAddedBytes = 1024;
inline constexpr uint32_t kPageIndexSize = 0x1100;  // code points / 256
inline constexpr uint32_t kPageSize = 256;
inline constexpr uint64_t kMaxTextSection = uint64_t{1} << 30;

enum Flag : uint32_t { kNormalizeSpaces = 1, kByteFallback = 2, kFuseUnk = 4, kDecodeSpaces = 8 };
enum TokenFlag : uint8_t { kPresent = 1, kSpecial = 2 };

// An unaligned little-endian table of u32; at() beyond the end is kNone.
class Words {
 public:
  Words() = default;
  explicit Words(std::span<const std::byte> bytes) : data_(bytes.data()), size_(bytes.size() / 4) {}
  size_t size() const { return size_; }
  uint32_t at(size_t index) const {
    if (index >= size_) return kNone;
    uint32_t value;
    std::memcpy(&value, data_ + index * 4, sizeof value);
    return value;
  }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

struct Merge {
  uint32_t rank = kNone;  // kNone: the pair does not merge
  uint32_t id = kNone;
};

struct AddedToken {
  uint32_t id = kNone;
  std::string_view content;
  bool special = false;
};

// Added tokens sorted by content.
class AddedTable {
 public:
  AddedTable() = default;
  AddedTable(Words rows, std::string_view text) : rows_(rows), text_(text) {}
  size_t size() const { return rows_.size() / 4; }
  AddedToken at(size_t index) const;
  // The longest token that `text` starts with; id is kNone when there is none.
  AddedToken longest_prefix(std::string_view text) const;

 private:
  std::string_view content(size_t index) const;
  Words rows_;
  std::string_view text_;
};

// Views into the section's bytes, which must outlive it.
struct Digest {
  uint32_t flags = 0;
  uint32_t vocab_size = 0;
  int32_t bos = -1, eos = -1, pad = -1, unk = -1;
  uint32_t bucket_bits = 1;
  Words pieces, bytes, page_index, pages, buckets, merges;
  std::span<const std::byte> token_flags;
  std::string_view text;
  AddedTable added_raw, added_normalized;

  static Result<Digest> open(std::span<const std::byte> section);

  bool has(Flag flag) const { return (flags & flag) != 0; }
  uint8_t flags_of(uint32_t id) const {
    return id < token_flags.size() ? std::to_integer<uint8_t>(token_flags[id]) : 0;
  }
  std::string_view piece(uint32_t id) const;
  // Token of a single character or of a byte, kNone when the vocabulary has none.
  uint32_t character(char32_t code_point) const;
  uint32_t byte(uint8_t value) const { return checked(bytes.at(value)); }
  Merge merge(uint32_t left, uint32_t right) const;

 private:
  uint32_t checked(uint32_t id) const { return id < vocab_size ? id : kNone; }
};

// The checksum that open() compares (tests repair it to reach the checks behind it).
uint64_t checksum(std::span<const std::byte> data);
inline constexpr size_t kChecksumOffset = 24;
inline constexpr size_t kChecksummedFrom = 32;

}  // namespace tandem::digest
