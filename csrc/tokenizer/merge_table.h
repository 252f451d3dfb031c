// What a pair of tokens becomes, and how early: a hash table of 8 bytes a merge, built at load.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/digest_section.h"

namespace tandem::digest {

struct Merged {
  uint32_t rank = kNone;  // kNone: the pair does not merge
  uint32_t id = kNone;
};

class MergeTable {
 public:
  static Result<MergeTable> build(uint32_t vocab_size, std::span<const Merge> merges);

  // Of two ids inside the vocabulary.
  Merged find(uint32_t left, uint32_t right) const {
    const Place place = locate(left, right);
    for (uint32_t i = first_[place.bucket], end = first_[place.bucket + 1]; i < end; ++i) {
      const uint64_t entry = entries_[i];
      if (entry >> (kIdBits + kRankBits) == place.rest) {
        return {static_cast<uint32_t>(entry >> kIdBits) & (kMaxMerges - 1),
                static_cast<uint32_t>(entry) & (kMaxVocabulary - 1)};
      }
    }
    return {};
  }

 private:
  static constexpr unsigned kIdBits = 20, kRankBits = 24, kRestBits = 20;  // of an entry, from the lowest
  static_assert(kMaxVocabulary == 1u << kIdBits && kMaxMerges == 1u << kRankBits);

  struct Place {
    uint32_t bucket, rest;
  };
  // The key is scrambled without loss: the bucket is its upper part, and the entry holds the rest of it instead of the
  // pair.
  Place locate(uint32_t left, uint32_t right) const {
    uint64_t key = uint64_t{left} << id_bits_ | right;
    key = key * 0x9E3779B97F4A7C15 & key_mask_;
    key ^= key >> id_bits_;
    key = key * 0xD6E8FEB86659FD93 & key_mask_;
    return {static_cast<uint32_t>(key >> rest_bits_), static_cast<uint32_t>(key) & ((1u << rest_bits_) - 1)};
  }

  unsigned id_bits_ = 1, rest_bits_ = 1;
  uint64_t key_mask_ = 3;
  std::vector<uint32_t> first_ = {0, 0, 0};  // [buckets + 1]: where a bucket's entries begin
  std::vector<uint64_t> entries_;            // by bucket, then by rank
};

}  // namespace tandem::digest
